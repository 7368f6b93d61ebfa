//! Random commands: classic and meta, right and wrong, over a few keys so that they meet.
//!
//! Left out, because the answer depends on when or where it is asked: finite remaining TTLs that are
//! asked back (`t`), times since last access (`l`), item sizes with a CAS inside (`s` is fine), `stats`,
//! `version`, `me`, and what ends a connection.

use std::collections::BTreeMap;

/// Commands that are compared together, and end with `mn`.
pub(super) struct Group {
    /// Each with its payload; `{cas KEY}` stands for that key's unique on the side it is sent to.
    pub(super) commands: Vec<Vec<u8>>,
}

impl Group {
    /// What is sent, with CAS uniques filled in; one that is unknown is [`NO_UNIQUE`].
    pub(super) fn bytes(&self, uniques: &BTreeMap<String, String>) -> Vec<u8> {
        let mut bytes = Vec::new();
        for command in &self.commands {
            bytes.extend(fill_in(command, uniques));
        }
        bytes.extend_from_slice(b"mn\r\n");
        bytes
    }
}

/// `command` with the CAS unique it asks for; one that is unknown is [`NO_UNIQUE`].
pub(super) fn fill_in(command: &[u8], uniques: &BTreeMap<String, String>) -> Vec<u8> {
    const START: &[u8] = b"{cas ";
    let Some(start) = command
        .windows(START.len())
        .position(|window| window == START)
    else {
        return command.to_vec();
    };
    let key_start = start + START.len();
    let key_len = command[key_start..]
        .iter()
        .position(|&byte| byte == b'}')
        .unwrap();
    let key = std::str::from_utf8(&command[key_start..key_start + key_len]).unwrap();
    let unique = uniques.get(key).map_or(NO_UNIQUE, String::as_str);
    [
        &command[..start],
        unique.as_bytes(),
        &command[key_start + key_len + 1..],
    ]
    .concat()
}

/// No item has it: small numbers would be some item's on one side and older than the item's on the other.
const NO_UNIQUE: &str = "18446744073709551615";

const KEY_COUNT: u32 = 24;

/// Every key that the script uses.
pub(super) fn keys() -> impl Iterator<Item = String> {
    (0..KEY_COUNT).map(key)
}

fn key(n: u32) -> String {
    match n % 8 {
        0 => format!("{n}:{}", "long".repeat(60)),
        1 => format!("{n}:ümlaut"),
        _ => format!("key-{n}"),
    }
}

/// The source of groups.
pub(super) struct Script {
    rng: fastrand::Rng,
}

impl Script {
    /// The same seed gives the same script.
    pub(super) fn new(seed: u64) -> Self {
        Self {
            rng: fastrand::Rng::with_seed(seed),
        }
    }

    /// One to six commands.
    pub(super) fn group(&mut self) -> Group {
        let count = self.rng.usize(1..=6);
        Group {
            commands: (0..count).map(|_| self.command()).collect(),
        }
    }

    fn command(&mut self) -> Vec<u8> {
        match self.rng.u8(..100) {
            0..18 => self.get(),
            18..38 => self.store(),
            38..43 => self.delete(),
            43..52 => self.arith(),
            52..56 => self.touch(),
            56..68 => self.meta_get(),
            68..80 => self.meta_set(),
            80..86 => self.meta_delete(),
            86..93 => self.meta_arith(),
            93 => self.whole_server(),
            94.. => self.wrong(),
        }
    }

    fn get(&mut self) -> Vec<u8> {
        let verb = self.one_of(&["get", "gets", "gat 0", "gats 0", "gat 3600", "get", "get"]);
        // memcached hangs up on a `gat` line of 2,048 bytes if it arrives in pieces.
        let count_max = if verb.starts_with("gat") { 5 } else { 30 };
        let count = [1, 1, 1, 2, 5, 30][self.rng.usize(..6)].min(count_max);
        let keys: Vec<String> = (0..count).map(|_| self.key()).collect();
        self.line(&format!("{verb} {}", keys.join(" ")))
    }

    fn store(&mut self) -> Vec<u8> {
        let verb = self.one_of(&[
            "set", "set", "set", "add", "replace", "append", "prepend", "cas", "cas",
        ]);
        let key = self.key();
        let client_flags = self.one_of(&["0", "1", "4294967295", "007"]);
        let value = self.value();
        let exptime = self.exptime();
        let cas = match verb {
            "cas" if self.rng.u8(..4) == 0 => format!(" {NO_UNIQUE}"),
            "cas" => format!(" {{cas {key}}}"),
            _ => String::new(),
        };
        let noreply = self.noreply();
        let head = format!(
            "{verb} {key} {client_flags} {exptime} {}{cas}{noreply}",
            value.len()
        );
        self.with_payload(&head, &value)
    }

    fn delete(&mut self) -> Vec<u8> {
        let zero = self.one_of(&["", "", " 0"]);
        let noreply = if zero.is_empty() { self.noreply() } else { "" };
        let key = self.key();
        self.line(&format!("delete {key}{zero}{noreply}"))
    }

    fn arith(&mut self) -> Vec<u8> {
        let key = self.key();
        let (verb, delta) = match self.rng.u8(..2) {
            0 => ("incr", self.one_of(&["1", "5", "0", "100"])),
            _ => ("decr", self.one_of(&["1", "5", "0", "100"])),
        };
        let noreply = self.noreply();
        self.line(&format!("{verb} {key} {delta}{noreply}"))
    }

    fn touch(&mut self) -> Vec<u8> {
        let (key, exptime, noreply) = (self.key(), self.exptime(), self.noreply());
        self.line(&format!("touch {key} {exptime}{noreply}"))
    }

    fn meta_get(&mut self) -> Vec<u8> {
        const FLAGS: [&str; 13] = [
            "v", "v", "v", "f", "k", "s", "c", "q", "O12", "T0", "N0", "T3600", "v",
        ];
        let key = self.key();
        let flags = self.flags(&FLAGS, 5);
        self.line(&format!("mg {key}{flags}"))
    }

    fn meta_set(&mut self) -> Vec<u8> {
        const FLAGS: [&str; 14] = [
            "k", "F5", "T0", "T3600", "T-1", "q", "Oab", "c", "ME", "MA", "MP", "MR", "MS", "I",
        ];
        let (key, value) = (self.key(), self.value());
        let mut flags = self.flags(&FLAGS, 4);
        if self.rng.u8(..5) == 0 {
            flags.push_str(&format!(" C{{cas {key}}}"));
        }
        let head = format!("ms {key} {}{flags}", value.len());
        self.with_payload(&head, &value)
    }

    fn meta_delete(&mut self) -> Vec<u8> {
        const FLAGS: [&str; 6] = ["k", "q", "Oxyz", "I", "T30", "k"];
        let key = self.key();
        let mut flags = self.flags(&FLAGS, 3);
        if self.rng.u8(..4) == 0 {
            flags.push_str(&format!(" C{{cas {key}}}"));
        }
        self.line(&format!("md {key}{flags}"))
    }

    fn meta_arith(&mut self) -> Vec<u8> {
        const FLAGS: [&str; 12] = [
            "v",
            "k",
            "q",
            "D5",
            "MI",
            "MD",
            "M+",
            "N0 J5000000",
            "T0",
            "Oq",
            "c",
            "v",
        ];
        let key = self.key();
        let flags = self.flags(&FLAGS, 5);
        self.line(&format!("ma {key}{flags}"))
    }

    fn whole_server(&mut self) -> Vec<u8> {
        self.one_of(&[
            "flush_all\r\n",
            "flush_all 0\r\n",
            "flush_all noreply\r\n",
            "verbosity 0\r\n",
            "verbosity 0 noreply\r\n",
        ])
        .into()
    }

    /// Wrong in a way that keeps the connection in step. Payloads behind wrong lines are left out:
    /// memcached takes them for commands, see `bad_input`.
    fn wrong(&mut self) -> Vec<u8> {
        let key = self.key();
        let overlong = "k".repeat(251);
        let line = match self.rng.u8(..16) {
            0 => "nonsense".to_owned(),
            1 => "get".to_owned(),
            2 => format!("get {key} {overlong}"),
            3 => format!("incr {key} x"),
            4 => format!("incr {key}"),
            5 => format!("touch {key}"),
            6 => format!("touch {key} x"),
            7 => format!("delete {key} 1"),
            8 => format!("mg {key} v v"),
            9 => format!("mg {overlong} v"),
            10 => format!("ma {key} Dx"),
            11 => format!("mg {key} O{}", "o".repeat(32)),
            12 => format!("gat x {key}"),
            13 => String::new(),
            14 => format!("delete {overlong}"),
            _ => format!("ma {key} MZ"),
        };
        self.line(&line)
    }

    fn flags(&mut self, all: &[&str], count_max: usize) -> String {
        let mut flags = String::new();
        let mut given = Vec::new();
        for _ in 0..self.rng.usize(0..=count_max) {
            let flag = self.one_of(all);
            // A flag given twice is an error of its own, in `wrong`.
            if !given.contains(&flag.as_bytes()[0]) {
                given.push(flag.as_bytes()[0]);
                flags.push(' ');
                flags.push_str(flag);
            }
        }
        flags
    }

    fn key(&mut self) -> String {
        key(self.rng.u32(..KEY_COUNT))
    }

    fn value(&mut self) -> Vec<u8> {
        match self.rng.u8(..10) {
            0..4 => self.rng.u32(2_000_000..9_000_000).to_string().into_bytes(),
            4 => Vec::new(),
            5 => b"VALUE x 0 1\r\nEND".to_vec(),
            6 => (0..self.rng.usize(..20_000))
                .map(|n| b"0123456789abcdef"[n % 16])
                .collect(),
            7 => (0..self.rng.usize(..300))
                .map(|_| self.rng.u8(0x80..))
                .collect(),
            _ => vec![b'v'; self.rng.usize(..100)],
        }
    }

    fn exptime(&mut self) -> &'static str {
        self.one_of(&["0", "0", "0", "3600", "-1", "2678400"])
    }

    fn noreply(&mut self) -> &'static str {
        self.one_of(&["", "", "", "", " noreply"])
    }

    fn one_of<'a>(&mut self, all: &[&'a str]) -> &'a str {
        all[self.rng.usize(..all.len())]
    }

    /// `line` with one of the line ends that memcached takes.
    fn line(&mut self, line: &str) -> Vec<u8> {
        format!(
            "{line}{}",
            self.one_of(&["\r\n", "\r\n", "\r\n", "\n", " \r\n"])
        )
        .into_bytes()
    }

    fn with_payload(&mut self, head: &str, value: &[u8]) -> Vec<u8> {
        [&self.line(head)[..], value, b"\r\n"].concat()
    }
}
