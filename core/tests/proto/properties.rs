//! Valid requests, built from parts: what was built is what is parsed.

use magent_core::proto::response::{Line, parse_line, value_of};
use magent_core::proto::{
    GetVerb, Meta, MetaVerb, Parsed, Request, Store, StoreVerb, encode_decimal, meta,
};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::find;

/// Any bytes but those that end a key.
fn key() -> impl Strategy<Value = Vec<u8>> {
    let byte = any::<u8>().prop_map(|byte| if b"\0 \n".contains(&byte) { b'k' } else { byte });
    vec(byte, 1..=250)
}

fn blanks() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![6 => Just(1), 1 => 2..5_usize].prop_map(|count| vec![b' '; count])
}

fn line_end() -> impl Strategy<Value = &'static [u8]> {
    // A key may end in CR, so LF alone would take that away: see `a_key_may_end_in_cr`.
    Just(&b"\r\n"[..])
}

fn number(number: impl Into<i128>) -> Vec<u8> {
    number.into().to_string().into_bytes()
}

/// A meta flag that every server takes, by letter.
fn flag(letter: u8) -> BoxedStrategy<Vec<u8>> {
    let with = move |token: Vec<u8>| [&[letter][..], &token].concat();
    match letter {
        b'T' | b'N' | b'R' => any::<i32>()
            .prop_map(move |time| with(number(time)))
            .boxed(),
        b'F' => any::<u32>()
            .prop_map(move |flags| with(number(flags)))
            .boxed(),
        b'C' | b'E' | b'D' | b'J' => any::<u64>().prop_map(move |n| with(number(n))).boxed(),
        b'O' => vec(b'!'..=b'~', 0..=meta::OPAQUE_LEN_MAX)
            .prop_map(with)
            .boxed(),
        b'L' | b'P' => vec(b'!'..=b'~', 0..40).prop_map(with).boxed(),
        _ => Just(vec![letter]).boxed(),
    }
}

fn flags() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let letters: Vec<u8> = b"cfhklqstuvxCDEFIJLNOPRT".to_vec();
    proptest::sample::subsequence(letters, 0..=16)
        .prop_shuffle()
        .prop_flat_map(|letters| letters.into_iter().map(flag).collect::<Vec<_>>())
}

proptest! {
    #[test]
    fn gets(gets in any::<bool>(), list in vec((blanks(), key()), 1..20), end in line_end()) {
        let mut input = if gets { b"gets".to_vec() } else { b"get".to_vec() };
        for (blanks, key) in &list {
            input.extend([&blanks[..], key].concat());
        }
        input.extend(end);
        let Parsed::Item { item: Request::Get { verb, keys }, used } = find(&input) else {
            panic!("{:?}", find(&input));
        };
        prop_assert_eq!(used, input.len());
        prop_assert_eq!(verb, if gets { GetVerb::Gets } else { GetVerb::Get });
        prop_assert!(keys.eq(list.iter().map(|(_, key)| &key[..])));
    }

    #[test]
    fn stores(
        verb in select(vec![StoreVerb::Set, StoreVerb::Add, StoreVerb::Append, StoreVerb::Cas]),
        key in key(),
        client_flags in any::<u32>().prop_map(number),
        exptime in any::<i64>().prop_map(number),
        value_len in 0..=1_000_000_u32,
        unique in any::<u64>().prop_map(number),
        noreply in any::<bool>(),
        blank in blanks(),
        end in line_end(),
    ) {
        let len = number(value_len);
        let cas = if verb == StoreVerb::Cas { &unique[..] } else { b"" };
        let mut args = vec![verb.wire(), &key, &client_flags, &exptime, &len];
        args.extend((!cas.is_empty()).then_some(cas));
        args.extend(noreply.then_some(&b"noreply"[..]));
        let input = [&args.join(&blank[..])[..], end].concat();
        let store = Store {
            verb, key: &key, client_flags: &client_flags, exptime: &exptime, value_len, cas, noreply,
        };
        prop_assert_eq!(
            find(&input),
            Parsed::Item { item: Request::Store(store), used: input.len() }
        );
    }

    #[test]
    fn metas(
        verb in select(vec![MetaVerb::Get, MetaVerb::Set, MetaVerb::Delete, MetaVerb::Arith]),
        key in key(),
        flags in flags(),
        value_len in 0..=1_000_000_u32,
        blank in blanks(),
        end in line_end(),
    ) {
        let len = number(value_len);
        let mut args = vec![verb.wire(), &key[..]];
        let value_len = if verb == MetaVerb::Set { args.push(&len); value_len } else { 0 };
        args.extend(flags.iter().map(|flag| &flag[..]));
        let input = [&args.join(&blank[..])[..], end].concat();
        let Parsed::Item { item: Request::Meta(meta), used } = find(&input) else {
            panic!("{:?}", find(&input));
        };
        prop_assert_eq!(used, input.len());
        prop_assert_eq!((meta.verb, meta.key, meta.value_len), (verb, &key[..], value_len));
        prop_assert!(meta.meta_flags().eq(flags.iter().map(|flag| (flag[0], &flag[1..]))));
        for flag in &flags {
            prop_assert_eq!(meta.token(flag[0]), Some(&flag[1..]));
        }

        let mut line = Vec::new();
        meta::encode_forward(&meta, &mut line);
        args.retain(|arg| arg[0] != b'q' || *arg == key);
        prop_assert_eq!(line, [&args.join(&b' ')[..], b"\r\n"].concat());
    }

    /// However a key is spelled, it is placed by its bytes.
    #[test]
    fn base64_keys(key in vec(any::<u8>(), 1..=186)) {
        use base64::Engine as _;
        let mut token = [0; 250];
        let len = base64::engine::general_purpose::STANDARD.encode_slice(&key, &mut token).unwrap();
        let input = [b"mg ", &token[..len], b" v b\r\n"].concat();
        let Parsed::Item { item: Request::Meta(meta), .. } = find(&input) else {
            panic!("{:?}", find(&input));
        };
        let mut scratch = [0; 250];
        prop_assert_eq!(meta.placement_key(&mut scratch), &key[..]);
    }

    #[test]
    fn values(key in key(), flags: u32, value_len: u32, unique in proptest::option::of(any::<u64>())) {
        let cas = unique.map(number).unwrap_or_default();
        let blank = if cas.is_empty() { "" } else { " " };
        let mut input = [b"VALUE ", &key[..], format!(" {flags} ").as_bytes()].concat();
        encode_decimal(value_len.into(), &mut input);
        input.extend([blank.as_bytes(), &cas, b"\r\n"].concat());
        prop_assert_eq!(
            parse_line(&input),
            Parsed::Item { item: Line::Value { key: &key, value_len, cas: &cas }, used: input.len() }
        );
        // The shortcut takes what is frequent: no unique, and numbers of up to nine digits.
        let frequent = cas.is_empty() && flags < 1_000_000_000 && value_len < 1_000_000_000;
        prop_assert_eq!(value_of(&key, &input), frequent.then_some((input.len(), value_len)));
        prop_assert_eq!(value_of(&key, &input[..input.len() - 1]), None);
        prop_assert_eq!(value_of(&key[..key.len() - 1], &input), None);
    }
}

#[test]
fn deletes() {
    for (base64, line) in [(false, &b"md k\r\n"[..]), (true, b"md aw== b\r\n")] {
        let mut out = Vec::new();
        meta::encode_delete(if base64 { b"aw==" } else { b"k" }, base64, &mut out);
        assert_eq!(out, line);
        let Parsed::Item {
            item: Request::Meta(meta),
            ..
        } = find(&out)
        else {
            panic!("{out:?}");
        };
        assert_eq!(meta.placement_key(&mut [0; 250]), b"k");
    }
}

/// The three ways to write a conditional `ms`.
#[test]
fn conditional_ms() {
    type Encode = fn(&Meta<'_>, &mut Vec<u8>);
    let input = b"ms  Zm9v  5 q b C17  T90 ME k O7 c F3 I\r\n";
    let Parsed::Item {
        item: Request::Meta(meta),
        ..
    } = find(input)
    else {
        panic!("{:?}", find(input));
    };
    let ways: [(Encode, &[u8]); 3] = [
        (
            meta::encode_forward,
            b"ms Zm9v 5 b C17 T90 ME k O7 c F3 I\r\n",
        ),
        (meta::encode_outcome, b"ms Zm9v 5 b T90 F3\r\n"),
        (meta::encode_repeat, b"ms Zm9v 5 b T90 ME F3 I\r\n"),
    ];
    for (encode, line) in ways {
        let mut out = Vec::new();
        encode(&meta, &mut out);
        assert_eq!(out, line, "{:?}", out.escape_ascii().to_string());
    }
}

#[test]
fn a_key_may_end_in_cr() {
    let parsed = find(b"get a\r\r\n");
    let Parsed::Item {
        item: Request::Get { mut keys, .. },
        ..
    } = parsed
    else {
        panic!("{parsed:?}");
    };
    assert_eq!(keys.next(), Some(&b"a\r"[..]));
    assert_eq!(keys.next(), None);
}
