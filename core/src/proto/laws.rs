//! What holds for every input, as functions that panic where it does not.
//!
//! The fuzz targets in `fuzz/` and the property tests below call the same functions, so that neither
//! can rot. Compiled for tests and for fuzzing only.

use super::binary::{HEADER_LEN, Packet, REQUEST_MAGIC, Status, encode_status, parse_packet};
use super::response::{Line, ParsedLine, RESPONSE_LINE_LEN_MAX, parse_line, value_of};
use super::{KEY_LEN_MAX, Meta, MetaVerb, ParseLimits, Parsed, ProtoError, Request, Store, meta};

/// Small, so that short inputs reach them.
const LIMITS: ParseLimits = ParseLimits {
    request_line_len_max: 300,
    get_line_len_max: 600,
    value_len_max: 1_000,
};

/// Longest line of which every cut is tried: the cost grows with the square.
const CUT_LEN_MAX: usize = 700;

/// Reads `bytes` as a client's pipeline of requests and checks each.
pub fn fuzz_request(bytes: &[u8]) {
    let mut rest = bytes;
    while let Some(taken) = check_request(rest) {
        let Some(behind) = rest.get(taken..) else {
            return;
        };
        rest = behind;
    }
}

/// Reads `bytes` as a client's pipeline of packets and checks each.
pub fn fuzz_packet(bytes: &[u8]) {
    let mut rest = bytes;
    while let Some(taken) = check_packet(rest) {
        let Some(behind) = rest.get(taken..) else {
            return;
        };
        rest = behind;
    }
}

/// Checks the packet at the start of `buf`; yields its length with its value, or what must be dropped, if one
/// may follow.
fn check_packet(buf: &[u8]) -> Option<usize> {
    let parsed = parse_packet(buf);
    let used = match parsed {
        Parsed::NeedMore => {
            assert!(buf.len() < HEADER_LEN + usize::from(u8::MAX) + KEY_LEN_MAX);
            return None;
        }
        Parsed::Item { used, .. } => used,
        Parsed::Bad(refused) => refused.used,
    };
    assert!(used <= buf.len(), "used more than there is");
    assert_eq!(
        parse_packet(&buf[..used]),
        parsed,
        "what follows changes nothing"
    );
    for cut in 0..used {
        assert_eq!(parse_packet(&buf[..cut]), Parsed::NeedMore, "cut at {cut}");
    }
    match parsed {
        Parsed::Item { item, .. } => {
            check_packet_parts(&item, buf, used);
            Some(used + item.value_len as usize)
        }
        Parsed::Bad(refused) if refused.keeps_framing => {
            Some(used + usize::try_from(refused.swallow).expect("a body has less than 2^32 bytes"))
        }
        Parsed::Bad(_) | Parsed::NeedMore => None,
    }
}

fn check_packet_parts(packet: &Packet<'_>, buf: &[u8], used: usize) {
    assert_eq!(buf[..2], [REQUEST_MAGIC, packet.opcode.code]);
    assert!(packet.key.len() <= KEY_LEN_MAX);
    assert_eq!([packet.extras, packet.key].concat(), buf[HEADER_LEN..used]);
    let body_len = u32::from_be_bytes([buf[8], buf[9], buf[10], buf[11]]) as usize;
    assert_eq!(used + packet.value_len as usize, HEADER_LEN + body_len);
    // Whatever the extras are.
    let _numbers = (
        packet.client_flags(),
        packet.exptime(),
        packet.delta(),
        packet.initial(),
    );
    let mut answer = Vec::new();
    encode_status(
        packet.opcode.code,
        packet.opaque,
        Status::Invalid,
        &mut answer,
    );
    assert_eq!(answer.len(), HEADER_LEN + Status::Invalid.text().len());
    assert_eq!(answer[12..16], buf[12..16], "the opaque comes back");
}

/// Reads `bytes` as a backend's pipeline of responses and checks each line.
pub fn fuzz_response(bytes: &[u8]) {
    let mut rest = bytes;
    while let Parsed::Item { item, used } = check_line(rest) {
        let payload_len =
            if let Line::Value { value_len, .. } | Line::MetaValue { value_len, .. } = item {
                value_len as usize + 2
            } else {
                0
            };
        let Some(behind) = rest.get(used + payload_len..) else {
            return;
        };
        rest = behind;
    }
}

/// Crashes on `quit`: a fuzzer that does not find it does not reach the parser.
pub fn fuzz_canary(bytes: &[u8]) {
    let parsed = super::parse_request(bytes, &LIMITS);
    assert!(
        !matches!(
            parsed,
            Parsed::Item {
                item: Request::Quit,
                ..
            }
        ),
        "the canary must crash"
    );
}

/// Checks the first request of `buf`. Bytes that it takes, payload included, if another may follow.
fn check_request(buf: &[u8]) -> Option<usize> {
    let parsed = super::parse_request(buf, &LIMITS);
    let (used, payload_len) = match parsed {
        Parsed::NeedMore => {
            assert!(!buf.contains(&b'\n') && buf.len() < LIMITS.get_line_len_max);
            return None;
        }
        Parsed::Item { item, used } => {
            assert_eq!(buf[used - 1], b'\n');
            check_fields(&item);
            (used, payload_len(&item))
        }
        Parsed::Bad(bad) => {
            assert!(bad.swallow == 0 || bad.error.keeps_framing(), "{bad:?}");
            (bad.used, usize::try_from(bad.swallow).expect("64 bits"))
        }
    };
    assert!(0 < used && used <= buf.len());
    let too_long = matches!(parsed, Parsed::Bad(bad) if bad.error == ProtoError::LineTooLong);
    assert!(too_long || buf[..used].iter().position(|&byte| byte == b'\n') == Some(used - 1));

    // Nothing behind the line counts, and nothing is decided before its end.
    assert_eq!(super::parse_request(&buf[..used], &LIMITS), parsed);
    for cut in 0..used.min(CUT_LEN_MAX) {
        assert_eq!(
            super::parse_request(&buf[..cut], &LIMITS),
            Parsed::NeedMore,
            "cut at {cut}"
        );
    }
    let goes_on = match parsed {
        Parsed::Bad(bad) => bad.error.keeps_framing(),
        Parsed::Item { .. } | Parsed::NeedMore => true,
    };
    goes_on.then(|| used.saturating_add(payload_len))
}

fn payload_len(request: &Request<'_>) -> usize {
    if let Request::Store(Store { value_len, .. })
    | Request::Meta(Meta {
        verb: MetaVerb::Set,
        value_len,
        ..
    }) = request
    {
        *value_len as usize + 2
    } else {
        0
    }
}

/// Whatever is passed on to a backend cannot break its line.
fn check_fields(request: &Request<'_>) {
    let assert_token = |token: &[u8], len_max: usize| {
        assert!((1..=len_max).contains(&token.len()));
        assert!(!token.iter().any(|byte| matches!(byte, 0 | b' ' | b'\n')));
    };
    let assert_key = |key: &[u8]| assert_token(key, KEY_LEN_MAX);
    let line_len_max = LIMITS.get_line_len_max;
    match *request {
        Request::Get { keys, .. } => {
            assert!(keys.count() > 0);
            keys.for_each(assert_key);
        }
        Request::GetAndTouch { exptime, keys, .. } => {
            assert!(keys.count() > 0);
            assert_token(exptime, line_len_max);
            keys.for_each(assert_key);
        }
        Request::Store(store) => {
            assert_key(store.key);
            assert_token(store.client_flags, line_len_max);
            assert_token(store.exptime, line_len_max);
            assert!(store.value_len <= LIMITS.value_len_max);
            assert_eq!(store.cas.is_empty(), store.verb != super::StoreVerb::Cas);
        }
        Request::Delete { key, .. } | Request::Config { key } => assert_key(key),
        Request::Arith {
            key, delta: number, ..
        }
        | Request::Touch {
            key,
            exptime: number,
            ..
        } => {
            assert_key(key);
            assert_token(number, line_len_max);
        }
        Request::FlushAll { delay, .. } => assert!(!delay.contains(&0)),
        Request::Stats { args } => {
            assert!(!args.contains(&0) && !args.starts_with(b" ") && !args.ends_with(b" "));
        }
        Request::Meta(meta) => {
            assert_key(meta.key);
            assert!(!meta.flags.contains(&0) && !meta.flags.contains(&b'\n'));
            check_meta(&meta);
        }
        Request::Version | Request::Verbosity { .. } | Request::Quit | Request::MetaNoop => {}
    }
}

fn check_meta(meta: &Meta<'_>) {
    let mut scratch = [0; KEY_LEN_MAX];
    assert!(!meta.placement_key(&mut scratch).is_empty());
    let mut again = Vec::new();
    for encode in [
        meta::encode_forward,
        meta::encode_outcome,
        meta::encode_repeat,
    ] {
        again.clear();
        encode(meta, &mut again);
        // Single blanks, so it is no longer than what was read.
        let limits = ParseLimits {
            request_line_len_max: again.len(),
            ..LIMITS
        };
        let Parsed::Item {
            item: Request::Meta(read),
            used,
        } = super::parse_request(&again, &limits)
        else {
            panic!("{:?} is no request", again.escape_ascii().to_string());
        };
        assert_eq!(used, again.len());
        assert_eq!(
            (read.verb, read.key, read.value_len),
            (meta.verb, meta.key, meta.value_len)
        );
        assert!(!read.letters.has(b'q'));
        assert!(
            read.meta_flags()
                .all(|(letter, token)| meta.token(letter) == Some(token))
        );
    }
}

fn check_line(buf: &[u8]) -> ParsedLine<'_> {
    let parsed = parse_line(buf);
    let used = match parsed {
        Parsed::NeedMore => {
            assert!(buf.len() < RESPONSE_LINE_LEN_MAX && !buf.contains(&b'\n'));
            return parsed;
        }
        Parsed::Bad(_) => return parsed,
        Parsed::Item { used, .. } => used,
    };
    assert!(buf[..used].ends_with(b"\r\n") && used <= RESPONSE_LINE_LEN_MAX);
    assert_eq!(parse_line(&buf[..used]), parsed);
    check_shortcut(buf, parsed);
    for cut in 0..used.min(CUT_LEN_MAX) {
        assert_eq!(parse_line(&buf[..cut]), Parsed::NeedMore, "cut at {cut}");
    }
    parsed
}

/// The shortcut says what the parser says, or nothing.
fn check_shortcut(buf: &[u8], parsed: ParsedLine<'_>) {
    let word = buf.split(|byte| b" \r\n".contains(byte)).nth(1);
    let Some(key) = word.filter(|key| !key.is_empty()) else {
        return;
    };
    if let Some((line_len, value_len)) = value_of(key, buf) {
        let item = Line::Value {
            key,
            value_len,
            cas: b"",
        };
        let used = line_len;
        assert_eq!(parsed, Parsed::Item { item, used });
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Bytes that make lines: words of the protocol, blanks, line ends, numbers, and any bytes.
    fn pipeline() -> impl Strategy<Value = Vec<u8>> {
        let words = "get gets gat set cas delete incr touch flush_all stats mg ms md ma me mn b k v q \
            O1 T30 Tx MS C7 F1 noreply 0 1 -1 5 END VALUE HD VA STORED STAT CLIENT_ERROR";
        let word = proptest::sample::select(words.split_whitespace().collect::<Vec<_>>());
        let piece = prop_oneof![
            8 => word.prop_map(|word| format!("{word} ").into_bytes()),
            3 => Just(b"\r\n".to_vec()),
            1 => Just(b"\n".to_vec()),
            1 => Just(b"k".repeat(251)),
            1 => proptest::collection::vec(any::<u8>(), 0..8),
        ];
        proptest::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn laws_of_requests(bytes in pipeline()) {
            fuzz_request(&bytes);
        }

        #[test]
        fn laws_of_responses(bytes in pipeline()) {
            fuzz_response(&bytes);
        }

        #[test]
        fn laws_of_any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..900)) {
            fuzz_request(&bytes);
            fuzz_response(&bytes);
            fuzz_packet(&bytes);
        }

        /// Most headers of small numbers mean something.
        #[test]
        fn laws_of_packets(
            packets in proptest::collection::vec(
                (any::<u8>(), proptest::array::uniform3(0..12_u8), 0..40_usize),
                0..20,
            ),
        ) {
            let mut bytes = Vec::new();
            for (code, [key_len, extras_len, body_len], len) in packets {
                bytes.extend([REQUEST_MAGIC, code % 0x28, 0, key_len, extras_len, 0, 0, 0]);
                bytes.extend([0, 0, 0, body_len]);
                bytes.resize(bytes.len() + 12 + len, b'k');
            }
            fuzz_packet(&bytes);
        }
    }

    #[test]
    fn fuzz_targets_run() {
        for bytes in [
            &b""[..],
            b"get a\r\nset k 0 0 2\r\nno\r\nmg k v q O1\r\nms k 2 b\r\n",
            b"ms Zm9v 2 b k q\r\nno\r\nmd k C1\r\n",
            &[b' '; 700],
            &[&[b' '; 310], b"get a\r\n".as_slice()].concat(),
            &[&[b' '; 298], b"get a\r\n".as_slice()].concat(),
            &[b"get ".as_slice(), &[b'k'; 700]].concat(),
            b"\x80\x01\0\x01\x08\0\0\0\0\0\0\x0a\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0kv",
            b"VALUE a 0 1\r\nA\r\nEND\r\nHD k O1\r\nEN\r\n17\r\nSTAT pid 1\r\n",
        ] {
            fuzz_request(bytes);
            fuzz_response(bytes);
            fuzz_packet(bytes);
            fuzz_canary(bytes);
        }
    }

    #[test]
    #[should_panic(expected = "the canary must crash")]
    fn the_canary_crashes() {
        fuzz_canary(b"quit\r\n");
    }
}
