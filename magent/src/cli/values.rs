//! What arguments may be: values that are read from text, and said to be wrong in words that help.
//!
//! Not here: which argument takes which (`cli`).

use std::fmt::{self, Display, Formatter};
use std::net::IpAddr;
use std::str::FromStr;

use clap::ValueEnum;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use ipnet::IpNet;
use magent_core::config::{HEAL_RATE, Hedge, LIMITS, Limit};
use magent_core::scheme::{Scheme, SchemeError};

use crate::options::RouteOutput;

/// One of these words, for a type of the core.
pub(super) fn one_of<T: Copy + Send + Sync + 'static>(
    words: [(&'static str, T); 2],
) -> impl TypedValueParser<Value = T> {
    PossibleValuesParser::new(words.map(|(word, _)| word)).map(move |text| {
        let known = words.iter().find(|(word, _)| *word == text);
        known.expect("the parser knows these words").1
    })
}

impl ValueEnum for RouteOutput {
    /// `--format`; the summary has a flag of its own.
    fn value_variants<'a>() -> &'a [Self] {
        &[Self::Text, Self::Csv]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        match self {
            Self::Text => Some(PossibleValue::new("text")),
            Self::Csv => Some(PossibleValue::new("csv")),
            Self::Summary => None,
        }
    }
}

/// What `--scheme` takes.
#[derive(Clone)]
pub(crate) enum SchemeArg {
    /// Print them all.
    List,
    /// Use this one.
    One(Scheme),
}

impl FromStr for SchemeArg {
    type Err = SchemeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "list" {
            Ok(Self::List)
        } else {
            text.parse().map(Self::One)
        }
    }
}

/// The core names what is wrong and says what is; here the parser has already named it.
pub(super) fn without_subject(err: &SchemeError) -> String {
    let message = err.to_string();
    message
        .split_once("\": ")
        .map_or_else(|| message.clone(), |(_, problem)| problem.to_owned())
}

pub(super) fn number<N: FromStr + Ord + Copy + Display>(
    text: &str,
    min: N,
    max: N,
) -> Result<N, String> {
    match text.parse() {
        Ok(number) if (&min..=&max).contains(&&number) => Ok(number),
        Ok(_) | Err(_) => Err(format!("expected a number from {min} to {max}")),
    }
}

/// An address stands for itself.
pub(super) fn network(text: &str) -> Result<IpNet, String> {
    let address = text.parse::<IpAddr>().map(IpNet::from);
    address
        .or_else(|_| text.parse::<IpNet>())
        .map_err(|_| "expected a network such as 10.0.0.0/8, or an address".to_owned())
}

pub(crate) fn octal(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text, 8) {
        Ok(mode @ 0..=0o777) => Ok(mode),
        Ok(_) | Err(_) => Err("expected permissions in octal, such as 700 or 0770".to_owned()),
    }
}

/// What `--heal-rate` takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HealRate {
    pub(crate) items_per_s: u64,
    pub(crate) bytes_per_s: u64,
}

impl HealRate {
    /// The rows of the table: items, bytes.
    fn limits() -> [&'static Limit; 2] {
        let mut rows = LIMITS.iter().filter(|row| row.flag == Some(HEAL_RATE));
        std::array::from_fn(|_| rows.next().expect("two limits have this flag"))
    }
}

impl Default for HealRate {
    fn default() -> Self {
        let [items, bytes] = Self::limits();
        Self {
            items_per_s: items.default,
            bytes_per_s: bytes.default,
        }
    }
}

impl FromStr for HealRate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let [items, bytes] = Self::limits();
        let (items_text, bytes_text) = match text.split_once(',') {
            Some((items, bytes)) => (items, Some(bytes)),
            None => (text, None),
        };
        let parse = |text, limit, what| {
            let value = Unit::of(limit).parse(text, limit);
            value.map_err(|expected| format!("{what}: {expected}"))
        };
        Ok(Self {
            items_per_s: parse(items_text, items, "ITEMS")?,
            bytes_per_s: match bytes_text {
                Some(text) => parse(text, bytes, "BYTES")?,
                None => bytes.default,
            },
        })
    }
}

impl Display for HealRate {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let [items, bytes] = Self::limits();
        f.write_str(&Unit::of(items).write(self.items_per_s))?;
        f.write_str(",")?;
        f.write_str(&Unit::of(bytes).write(self.bytes_per_s))
    }
}

/// Longest `--hedge-ms`; `--fail-ms` bounds it further.
const HEDGE_MS_MAX: u64 = 60_000;

pub(super) fn hedge(text: &str) -> Result<Hedge, String> {
    match text.parse() {
        Ok(0) => Ok(Hedge::Off),
        Ok(ms @ 1..=HEDGE_MS_MAX) => Ok(Hedge::AfterMs(ms)),
        Err(_) if text == "auto" => Ok(Hedge::Auto),
        Ok(_) | Err(_) => Err(format!(
            "expected auto or milliseconds from 0 to {HEDGE_MS_MAX}"
        )),
    }
}

/// What a limit is counted in, as its name says.
#[derive(Clone, Copy)]
pub(super) enum Unit {
    Count,
    Milliseconds,
    Bytes,
}

impl Unit {
    pub(super) fn of(limit: &Limit) -> Self {
        if limit.name.split('_').any(|part| part == "ms") {
            Self::Milliseconds
        } else if ["_len", "_bytes", "memory"]
            .iter()
            .any(|part| limit.name.contains(part))
        {
            Self::Bytes
        } else {
            Self::Count
        }
    }

    pub(super) const fn value_name(self) -> &'static str {
        match self {
            Self::Count => "N",
            Self::Milliseconds => "MS",
            Self::Bytes => "BYTES",
        }
    }

    pub(super) fn parse(self, text: &str, limit: &Limit) -> Result<u64, String> {
        let (digits, factor) = match (self, text.char_indices().next_back()) {
            (Self::Bytes, Some((at, 'k' | 'K'))) => (&text[..at], 1 << 10),
            (Self::Bytes, Some((at, 'm' | 'M'))) => (&text[..at], 1 << 20),
            (Self::Bytes, Some((at, 'g' | 'G'))) => (&text[..at], 1 << 30),
            (Self::Bytes | Self::Count | Self::Milliseconds, _) => (text, 1),
        };
        let value = digits
            .parse::<u64>()
            .ok()
            .and_then(|value| value.checked_mul(factor));
        value
            .filter(|value| (limit.min..=limit.max).contains(value))
            .ok_or_else(|| {
                let what = match self {
                    Self::Count => "a number",
                    Self::Milliseconds => "milliseconds",
                    Self::Bytes => "bytes (or with k, m or g)",
                };
                format!(
                    "expected {what} from {} to {}",
                    self.write(limit.min),
                    self.write(limit.max)
                )
            })
    }

    /// So that it reads well and parses to the same.
    pub(super) fn write(self, value: u64) -> String {
        let suffix = |(shift, suffix): (u32, &str)| {
            let whole = value >> shift;
            (whole > 0 && whole << shift == value).then(|| format!("{whole}{suffix}"))
        };
        match self {
            Self::Bytes => [(30, "g"), (20, "m"), (10, "k")]
                .into_iter()
                .find_map(suffix),
            Self::Count | Self::Milliseconds => None,
        }
        .unwrap_or_else(|| value.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_suffixes() {
        let limit = Limit {
            name: "memory_max",
            default: 1 << 30,
            min: 1 << 10,
            max: 1 << 40,
            flag: None,
            reason: "",
        };
        let unit = Unit::of(&limit);
        for (text, value) in [
            ("1024", 1 << 10),
            ("1k", 1 << 10),
            ("3M", 3 << 20),
            ("2g", 2 << 30),
        ] {
            assert_eq!(unit.parse(text, &limit), Ok(value), "{text}");
            assert_eq!(unit.parse(&unit.write(value), &limit), Ok(value), "{text}");
        }
        for text in [
            "",
            "k",
            "1023",
            "-1",
            "1t",
            "99999999999999999999g",
            "18446744073709551615k",
        ] {
            let expected = "expected bytes (or with k, m or g) from 1k to 1024g";
            assert_eq!(unit.parse(text, &limit).unwrap_err(), expected, "{text}");
        }
    }
}
