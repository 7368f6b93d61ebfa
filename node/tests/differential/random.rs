//! Random commands on few keys, the same for the same seed.

/// A source of commands.
pub(crate) struct Script {
    state: u64,
    cas_seen: u64,
}

impl Script {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            state: seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1,
            cas_seen: 0,
        }
    }

    /// One command, with its value if it has one.
    pub(crate) fn command(&mut self) -> Vec<u8> {
        let key = self.pick(&["a", "b", "c", "foo", "k5"]);
        let noreply = self.sometimes(8, " noreply");
        let exptime = self.pick(EXPTIMES);
        let cas = self.cas();
        match self.below(100) {
            0..8 => format!("get {key} {}\r\n", self.pick(&["a", "b", "nope"])),
            8..14 => format!("gets {key}\r\n"),
            14..17 => format!("gat {exptime} {key}\r\n"),
            17..29 => {
                let command = self.pick(&["set", "set", "add", "replace", "append", "prepend"]);
                let (len, value) = self.value();
                let flags = self.pick(&["0", "7", "4294967295"]);
                format!("{command} {key} {flags} {exptime} {len}{noreply}\r\n{value}\r\n")
            }
            29..35 => {
                let (len, value) = self.value();
                format!("cas {key} 0 {exptime} {len} {cas}{noreply}\r\n{value}\r\n")
            }
            35..40 => format!("delete {key}{noreply}\r\n"),
            40..46 => {
                let command = self.pick(&["incr", "decr"]);
                format!("{command} {key} {}{noreply}\r\n", self.pick(DELTAS))
            }
            46..49 => format!("touch {key} {exptime}{noreply}\r\n"),
            49 => "flush_all\r\n".to_owned(),
            50..68 => {
                let (key, b) = self.meta_key(key);
                format!("mg {key}{b}{}\r\n", self.flags(MG_FLAGS))
            }
            68..84 => {
                let (key, b) = self.meta_key(key);
                let (len, value) = self.value();
                let compare = if self.below(3) == 0 {
                    format!(" C{cas}")
                } else {
                    String::new()
                };
                let flags = self.flags(MS_FLAGS);
                format!("ms {key} {len}{b}{flags}{compare}\r\n{value}\r\n")
            }
            84..90 => {
                let (key, b) = self.meta_key(key);
                let compare = if self.below(3) == 0 {
                    format!(" C{cas}")
                } else {
                    String::new()
                };
                format!("md {key}{b}{}{compare}\r\n", self.flags(MD_FLAGS))
            }
            90..97 => {
                let (key, b) = self.meta_key(key);
                let compare = if self.below(6) == 0 {
                    format!(" C{cas}")
                } else {
                    String::new()
                };
                format!("ma {key}{b}{}{compare}\r\n", self.flags(MA_FLAGS))
            }
            97..99 => format!("me {key}\r\n"),
            _ => self.garbage(),
        }
        .into_bytes()
    }

    /// A value, mostly a number, and its length, sometimes a wrong one.
    fn value(&mut self) -> (String, String) {
        let value = match self.below(6) {
            0 => String::new(),
            1 => "text".repeat(self.below(60)),
            _ => self.pick(DELTAS).to_owned(),
        };
        // One too many would wait for more; one too few is a bad data chunk.
        let len = value.len().saturating_sub(usize::from(self.below(25) == 0));
        (len.to_string(), value)
    }

    /// The number of the last item written, mostly, if half of the commands write one.
    fn cas(&mut self) -> String {
        match self.below(3) {
            0 => self.pick(&["0", "1", "18446744073709551615"]).to_owned(),
            _ => self
                .cas_seen
                .saturating_sub(self.below(4) as u64)
                .to_string(),
        }
    }

    /// Tells the script the last answer, so that it can use real CAS numbers.
    pub(crate) fn answered(&mut self, answer: &[u8]) {
        let text = String::from_utf8_lossy(answer);
        let words = text.split_ascii_whitespace();
        let mut seen = words
            .filter_map(|word| word.strip_prefix('c'))
            .filter_map(|cas| cas.parse().ok());
        self.cas_seen = seen.next_back().unwrap_or(self.cas_seen);
    }

    fn meta_key(&mut self, key: &'static str) -> (&'static str, &'static str) {
        match self.below(4) {
            0 => (self.pick(&["Zm9v", "YQ==", "azU="]), " b"),
            _ => (key, ""),
        }
    }

    fn flags(&mut self, flags: &[&'static str]) -> String {
        let mut text = String::new();
        for _ in 0..self.below(6) {
            text.push(' ');
            text.push_str(self.pick(flags));
        }
        text
    }

    fn garbage(&mut self) -> String {
        let words = [
            "set", "get", "mg", "a", "0", "-1", "noreply", "incr", "\t", "k", "x", "touch",
        ];
        let mut line = String::new();
        for _ in 0..self.below(8) {
            line.push_str(self.pick(&words));
            line.push(' ');
        }
        line + "-1\r\n"
    }

    fn sometimes(&mut self, one_in: usize, text: &'static str) -> &'static str {
        if self.below(one_in) == 0 { text } else { "" }
    }

    fn pick(&mut self, from: &[&'static str]) -> &'static str {
        from[self.below(from.len())]
    }

    fn below(&mut self, end: usize) -> usize {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        usize::try_from(self.state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33).unwrap() % end
    }
}

/// Nothing that expires while the script runs.
const EXPTIMES: &[&str] = &["0", "0", "500", "2000", "-1", "2592001", "2147483647"];
/// None beyond the largest signed number: memcached then looks for a minus sign beyond the value.
const DELTAS: &[&str] = &["1", "9", "10", "99", "5  ", "1000000000", "x"];
const MG_FLAGS: &[&str] = &[
    "v", "t", "c", "f", "s", "k", "h", "l", "q", "u", "Oabc", "T500", "T0", "T-1", "N800", "R600",
    "R100", "b",
];
const MS_FLAGS: &[&str] = &[
    "k", "c", "q", "Oxyz", "T500", "T0", "F3", "I", "ME", "MA", "MP", "MR", "MS", "T-1", "Cx", "z",
];
const MD_FLAGS: &[&str] = &["k", "q", "Oxyz", "I", "I", "T500", "T0", "T-1", "z"];
const MA_FLAGS: &[&str] = &[
    "k", "q", "v", "t", "c", "Oxyz", "N500", "J12", "D5", "MD", "MI", "T500", "T-1", "Mx",
];
