//! Words, numbers and base64 of a command line, read exactly as memcached's C reads them.
//!
//! # Invariants
//!
//! - Only a blank separates words; a tab or CR is part of one.
//! - Numbers follow `strtol` and friends, wrap-around included: `4294967297` is an exptime of 1.
//!   A stricter reading would refuse what memcached takes.
//!
//! Not here: what the words mean.

/// The words of one line, at most `WORDS_MAX`; what follows them is `rest`.
pub(crate) struct Tokens<'a> {
    words: [&'a [u8]; WORDS_MAX],
    count: usize,
    rest: Option<&'a [u8]>,
}

impl<'a> Tokens<'a> {
    pub(crate) fn split(line: &'a [u8]) -> Self {
        let mut tokens = Self {
            words: [b""; WORDS_MAX],
            count: 0,
            rest: None,
        };
        let mut at = 0;
        while at < line.len() {
            let end = memchr::memchr(b' ', &line[at..]).map_or(line.len(), |len| at + len);
            if end > at {
                tokens.words[tokens.count] = &line[at..end];
                tokens.count += 1;
                if tokens.count == WORDS_MAX {
                    tokens.rest = line.get(end + 1..).filter(|rest| !rest.is_empty());
                    break;
                }
            }
            at = end + 1;
        }
        tokens
    }

    /// All words of this batch.
    pub(crate) fn words(&self) -> &[&'a [u8]] {
        &self.words[..self.count]
    }

    /// How many words there are. memcached's own `ntokens` is one more.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Word `index`, or nothing.
    pub(crate) fn word(&self, index: usize) -> &'a [u8] {
        self.words().get(index).copied().unwrap_or_default()
    }

    /// The last word.
    pub(crate) fn last(&self) -> &'a [u8] {
        self.words().last().copied().unwrap_or_default()
    }

    /// What did not fit, for `get` with many keys.
    pub(crate) fn rest(&self) -> Option<&'a [u8]> {
        self.rest
    }
}

/// Sign, magnitude and whether the text ends where a number may end.
struct Digits {
    negative: bool,
    magnitude: u64,
}

/// What `strtoull(text, &end, 10)` reads, if `end` is at the end, a blank or a NUL.
fn digits(text: &[u8]) -> Option<Digits> {
    let text = &text[text.iter().take_while(|byte| is_space(**byte)).count()..];
    let (negative, text) = match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        _ => (false, text),
    };
    let len = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    if len == 0
        || !text
            .get(len)
            .is_none_or(|&byte| byte == 0 || is_space(byte))
    {
        return None;
    }
    let magnitude = text[..len].iter().try_fold(0_u64, |number, byte| {
        number.checked_mul(10)?.checked_add(u64::from(byte - b'0'))
    })?;
    Some(Digits {
        negative,
        magnitude,
    })
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | 0x0b | 0x0c | b'\r')
}

/// An unsigned number. A minus sign is refused only where the result looks negative, so
/// `-18446744073709551615` is 1.
pub(crate) fn number_u64(text: &[u8]) -> Option<u64> {
    let Digits {
        negative,
        magnitude,
    } = digits(text)?;
    let number = if negative {
        magnitude.wrapping_neg()
    } else {
        magnitude
    };
    let end = memchr::memchr(0, text).unwrap_or(text.len());
    let looks_negative = number > u64::MAX / 2;
    (!looks_negative || memchr::memchr(b'-', &text[..end]).is_none()).then_some(number)
}

/// As [`number_u64`], cut to 32 bits.
#[expect(
    clippy::cast_possible_truncation,
    reason = "memcached assigns an unsigned long to 32 bits"
)]
pub(crate) fn number_u32(text: &[u8]) -> Option<u32> {
    number_u64(text).map(|number| number as u32)
}

/// A signed number, cut to 32 bits.
#[expect(
    clippy::cast_possible_truncation,
    reason = "memcached assigns a long to 32 bits"
)]
pub(crate) fn number_i32(text: &[u8]) -> Option<i32> {
    let Digits {
        negative,
        magnitude,
    } = digits(text)?;
    let number = if negative {
        0_i64.checked_sub_unsigned(magnitude)?
    } else {
        i64::try_from(magnitude).ok()?
    };
    Some(number as i32)
}

/// Appends `number` in decimal.
pub(crate) fn push_number(out: &mut Vec<u8>, mut number: u64) {
    let mut text = [0; 20];
    let mut at = text.len();
    loop {
        at -= 1;
        text[at] = b'0' + u8::try_from(number % 10).expect("a digit is below 10");
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&text[at..]);
}

/// Appends `bytes` in base64.
pub(crate) fn push_base64(out: &mut Vec<u8>, bytes: &[u8]) {
    for group in bytes.chunks(3) {
        let at = |index: usize| group.get(index).copied().unwrap_or(0);
        let sextets = [
            at(0) >> 2,
            (at(0) & 0x03) << 4 | at(1) >> 4,
            (at(1) & 0x0f) << 2 | at(2) >> 6,
            at(2) & 0x3f,
        ];
        for (index, sextet) in sextets.iter().enumerate() {
            let filled = index <= group.len();
            out.push(if filled {
                BASE64[usize::from(*sextet)]
            } else {
                b'='
            });
        }
    }
}

/// Reads base64 as memcached does, which is why no crate does it: foreign bytes are skipped, `=`
/// anywhere counts as a zero, and the first group with one in it is the last.
pub(crate) fn decode_base64(text: &[u8]) -> Option<Vec<u8>> {
    let known = || text.iter().filter_map(|&byte| Some((byte, sextet(byte)?)));
    let count = known().count();
    if count == 0 || !count.is_multiple_of(4) {
        return None;
    }
    let mut bytes = Vec::with_capacity(count / 4 * 3);
    let mut group = [0_u8; 4];
    let (mut filled, mut padding) = (0, 0);
    for (byte, sextet) in known() {
        padding += usize::from(byte == b'=');
        group[filled] = sextet;
        filled += 1;
        if filled < group.len() {
            continue;
        }
        filled = 0;
        bytes.push(group[0] << 2 | group[1] >> 4);
        bytes.push(group[1] << 4 | group[2] >> 2);
        bytes.push(group[2] << 6 | group[3]);
        if padding > 2 {
            return None;
        }
        if padding > 0 {
            bytes.truncate(bytes.len() - padding);
            break;
        }
    }
    // `=` in front of everything can leave nothing, which memcached takes for a failure too.
    (!bytes.is_empty()).then_some(bytes)
}

fn sextet(byte: u8) -> Option<u8> {
    match byte {
        b'A'..=b'Z' => Some(byte - b'A'),
        b'a'..=b'z' => Some(byte - b'a' + 26),
        b'0'..=b'9' => Some(byte - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        b'=' => Some(0),
        _ => None,
    }
}

/// memcached has 24 tokens, the last of which is the terminator.
const WORDS_MAX: usize = 23;
const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_separated_by_blanks_only() {
        let tokens = Tokens::split(b"  get\ta  b\r ");
        assert_eq!(tokens.words(), [&b"get\ta"[..], b"b\r"]);
        assert_eq!(tokens.rest(), None);
        assert_eq!(tokens.word(7), b"");
    }

    #[test]
    fn the_24th_word_is_left_for_later() {
        let line = [&b"k "[..]; 24].concat();
        let tokens = Tokens::split(&line);
        assert_eq!(tokens.count(), WORDS_MAX);
        assert_eq!(tokens.rest(), Some(&b"k "[..]));
        assert_eq!(Tokens::split(&line[..46]).rest(), None);
    }

    #[test]
    fn numbers_are_those_of_c() {
        assert_eq!(number_u64(b"18446744073709551615"), Some(u64::MAX));
        assert_eq!(number_u64(b"18446744073709551616"), None);
        assert_eq!(number_u64(b"-1"), None);
        assert_eq!(number_u64(b"-18446744073709551615"), Some(1));
        assert_eq!(number_u64(b" \t+7 x"), Some(7));
        assert_eq!(number_u64(b"7x"), None);
        assert_eq!(number_u64(b"7\0x"), Some(7));
        assert_eq!(number_u64(b""), None);
        assert_eq!(number_u32(b"4294967297"), Some(1));
        assert_eq!(number_i32(b"4294967297"), Some(1));
        assert_eq!(number_i32(b"-4294967297"), Some(-1));
        assert_eq!(number_i32(b"-9223372036854775809"), None);
    }

    #[test]
    fn base64_there_and_back() {
        for bytes in [&b"a"[..], b"ab", b"abc", b"\0\xff\x80z"] {
            let mut text = Vec::new();
            push_base64(&mut text, bytes);
            assert_eq!(decode_base64(&text).as_deref(), Some(bytes));
        }
        assert_eq!(decode_base64(b"Y!W?I="), Some(b"ab".to_vec()));
        assert_eq!(decode_base64(b"YW"), None);
        assert_eq!(decode_base64(b"Y==="), None);
        assert_eq!(decode_base64(b"Zm9vY==="), None);
        assert_eq!(decode_base64(b""), None);
    }
}
