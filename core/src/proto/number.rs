//! Numbers as memcached reads them, which is as C's `strtol` does.
//!
//! White space before, one sign, decimal digits, then the end or white space; what stands behind
//! that is not looked at, but for a NUL. Servers agree on this where a number is only checked here
//! and passed on as written. They do not agree on lengths (1.6.18 takes the low 32 bits, so that
//! -4294967296 is an empty value), therefore [`parse_value_len`] is stricter.
//!
//! Not here: what a number means.

/// Longest value that memcached can be told of: it adds CR LF and counts in 31 bits.
const VALUE_LEN_WIRE_MAX: u64 = i32::MAX as u64 - 2;

/// Whether memcached's `safe_strtol` takes `token`: any 64-bit signed number.
pub(super) fn is_signed(token: &[u8]) -> bool {
    match scan(token) {
        Some((Sign::Plus, magnitude)) => magnitude <= i64::MAX.unsigned_abs(),
        Some((Sign::Minus, magnitude)) => magnitude <= i64::MIN.unsigned_abs(),
        None => false,
    }
}

/// Whether memcached's `safe_strtoul` and `safe_strtoull` take `token`.
pub(super) fn is_unsigned(token: &[u8]) -> bool {
    parse_unsigned(token).is_some()
}

/// What memcached's `safe_strtoull` reads: any 64-bit number. A minus sign is only noticed where the
/// negated number has its top bit set: `-1` is refused, and `-18446744073709551615` is 1.
pub(crate) fn parse_unsigned(token: &[u8]) -> Option<u64> {
    let number = match scan(token)? {
        (Sign::Plus, magnitude) => magnitude,
        (Sign::Minus, magnitude) => magnitude.wrapping_neg(),
    };
    (number <= i64::MAX.unsigned_abs() || !token.contains(&b'-')).then_some(number)
}

/// The length of a payload, if it is one that every server reads alike.
pub(super) fn parse_value_len(token: &[u8]) -> Option<u32> {
    let magnitude = match scan(token)? {
        (Sign::Plus, magnitude) | (Sign::Minus, magnitude @ 0) => magnitude,
        (Sign::Minus, _) => return None,
    };
    if magnitude > VALUE_LEN_WIRE_MAX {
        return None;
    }
    u32::try_from(magnitude).ok()
}

/// Digits and nothing else, at most `u64::MAX`: a number that a backend wrote.
pub(super) fn parse_digits(token: &[u8]) -> Option<u64> {
    if token.is_empty() {
        return None;
    }
    token.iter().try_fold(0, push_digit)
}

/// Appends `number` in decimal.
pub fn encode_decimal(number: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(Decimal::new(number).digits());
}

/// A number in decimal.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Decimal {
    // u64::MAX has 20 digits.
    digits: [u8; 20],
    start: usize,
}

impl Decimal {
    pub(crate) fn new(number: u64) -> Self {
        let mut digits = [0; 20];
        let mut start = digits.len();
        let mut rest = number;
        loop {
            start -= 1;
            digits[start] = b"0123456789"[(rest % 10) as usize];
            rest /= 10;
            if rest == 0 {
                return Self { digits, start };
            }
        }
    }

    pub(crate) fn digits(&self) -> &[u8] {
        &self.digits[self.start..]
    }
}

enum Sign {
    Plus,
    Minus,
}

fn scan(token: &[u8]) -> Option<(Sign, u64)> {
    let start = token.iter().position(|&byte| !is_space(byte))?;
    let (sign, digits) = match &token[start..] {
        [b'-', digits @ ..] => (Sign::Minus, digits),
        [b'+', digits @ ..] | digits => (Sign::Plus, digits),
    };
    let end = digits
        .iter()
        .position(|byte| !byte.is_ascii_digit())
        .unwrap_or(digits.len());
    // A NUL would end the line for the server, however far behind the number it stands.
    if digits.get(end).is_some_and(|&byte| !is_space(byte)) || digits[end..].contains(&0) {
        return None;
    }
    Some((sign, parse_digits(&digits[..end])?))
}

fn push_digit(number: u64, byte: &u8) -> Option<u64> {
    if !byte.is_ascii_digit() {
        return None;
    }
    number.checked_mul(10)?.checked_add(u64::from(byte - b'0'))
}

/// C's `isspace`.
const fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t'..=b'\r')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimal_is_what_std_prints() {
        for number in [0, 9, 10, 250, 1 << 32, u64::MAX] {
            let mut out = Vec::new();
            encode_decimal(number, &mut out);
            assert_eq!(out, number.to_string().into_bytes());
        }
    }

    #[test]
    fn a_length_that_servers_read_differently_is_none() {
        for token in [
            "-4294967296",
            "4294967297",
            "2147483646",
            "-1",
            "",
            "+",
            "1x",
            "0x1",
        ] {
            assert_eq!(parse_value_len(token.as_bytes()), None, "{token}");
        }
        for (token, len) in [
            ("0", 0),
            ("-0", 0),
            ("+5", 5),
            ("\t7\tx", 7),
            ("2147483645", 2_147_483_645),
        ] {
            assert_eq!(parse_value_len(token.as_bytes()), Some(len), "{token}");
        }
    }
}
