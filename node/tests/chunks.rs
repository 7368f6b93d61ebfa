//! How the input is cut changes nothing, and no input at all breaks anything.

use magent_node::{Next, Session, Store, StoreConfig, Time};
use proptest::prelude::*;

/// Feeds `input` in pieces of these lengths, over and over.
fn answers(input: &[u8], lens: &[usize]) -> (Vec<u8>, Next) {
    let mut store = Store::new(StoreConfig::default());
    let mut session = Session::new();
    let mut out = Vec::new();
    let mut rest = input;
    let mut next = Next::Continue;
    for len in lens.iter().cycle() {
        let (piece, later) = rest.split_at((*len).min(rest.len()));
        next = session.receive(&mut store, Time(0), piece, &mut out);
        rest = later;
        if rest.is_empty() {
            break;
        }
    }
    (out, next)
}

fn command() -> impl Strategy<Value = Vec<u8>> {
    let value = proptest::collection::vec(any::<u8>(), 0..40);
    let key = proptest::sample::select(vec!["a", "b", "Zm9v"]);
    prop_oneof![
        (key.clone(), value.clone()).prop_map(|(key, value)| {
            let header = format!("set {key} 0 0 {}\r\n", value.len());
            [header.as_bytes(), &value, b"\r\n"].concat()
        }),
        (key.clone(), value.clone()).prop_map(|(key, value)| {
            let header = format!("ms {key} {} b c k MA\n", value.len());
            [header.as_bytes(), &value, b"\r\n"].concat()
        }),
        (key.clone(), value.clone()).prop_map(|(key, value)| {
            let header = format!("set {key} 0 0 2000000 noreply\r\nx{}", value.len());
            [header.as_bytes(), &value].concat()
        }),
        key.clone()
            .prop_map(|key| format!("get {key} {key}\r\n").into_bytes()),
        key.clone()
            .prop_map(|key| format!("mg {key} v c k q\r\nmn\r\n").into_bytes()),
        key.clone()
            .prop_map(|key| format!("incr {key} 5\n").into_bytes()),
        key.prop_map(|key| format!("delete {key} noreply\r\nquit{key}\r\n").into_bytes()),
        value,
        Just(b"quit\r\n".to_vec()),
    ]
}

proptest! {
    #[test]
    fn any_cutting_gives_the_same_bytes(
        commands in proptest::collection::vec(command(), 1..30),
        lens in proptest::collection::vec(1_usize..60, 1..10),
    ) {
        let input = commands.concat();
        prop_assert_eq!(answers(&input, &[usize::MAX]), answers(&input, &lens));
        prop_assert_eq!(answers(&input, &[usize::MAX]), answers(&input, &[1]));
    }
}

#[test]
fn a_large_value_in_small_pieces() {
    let value = vec![b'v'; 1_000_000];
    let input = [b"set a 0 0 1000000\r\n", &*value, b"\r\nget a\r\n"].concat();
    let (whole, _) = answers(&input, &[usize::MAX]);
    assert!(whole.starts_with(b"STORED\r\nVALUE a 0 1000000\r\n"));
    assert_eq!(answers(&input, &[7, 1500]).0, whole);
}

#[test]
fn a_large_multiget_in_small_pieces() {
    let input = [&b"get "[..], &b"nope ".repeat(200_000), b"\r\nmn\r\n"].concat();
    assert_eq!(
        answers(&input, &[1460]),
        (b"END\r\nMN\r\n".to_vec(), Next::Continue)
    );
}

#[test]
fn a_line_without_end_is_not_kept() {
    for (start, closes) in [
        ("set ", true),
        ("mg ", true),
        ("gat 0 ", true),
        ("get ", false),
    ] {
        let input = [start.as_bytes(), &[b'k'; 3_000]].concat();
        let (out, next) = answers(&input, &[1460]);
        assert_eq!((&*out, next == Next::Close), (&b""[..], closes), "{start}");
    }
    let endless = [&b"get "[..], &vec![b'k'; 40 << 20]].concat();
    let expected = b"SERVER_ERROR out of memory reading request\r\n".to_vec();
    assert_eq!(answers(&endless, &[1 << 16]), (expected, Next::Close));
}

#[test]
fn nothing_is_answered_after_the_end() {
    let mut store = Store::new(StoreConfig::default());
    let mut session = Session::new();
    let mut out = Vec::new();
    let next = session.receive(&mut store, Time(0), b"quit\r\nversion\r\n", &mut out);
    assert_eq!(next, Next::Close);
    let next = session.receive(&mut store, Time(0), b"version\r\n", &mut out);
    assert_eq!((next, &*out), (Next::Close, &b""[..]));
}
