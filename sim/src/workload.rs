//! Requests: what they say, what they do, and which value each of them writes.
//!
//! Every write has a value of its own, so that a value that is read names its writes:
//!
//! ```text
//! register   [12:k1:20]aaaaaaaaaaaaaaaaaaaa[14:k1:3]ccc    written by request 12, appended to by 14
//! counter    1250003                                       request 12 wrote 1250000, and 3 was added
//! ```
//!
//! Not here: which answers are right (`answers` for their form, `check` for their content).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use magent_core::Time;

use crate::binary::speaks_binary;
use crate::options::Options;
use crate::rng::Rng;
use crate::shapes::Shape;

/// What a key is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeyKind {
    /// Values of fragments.
    Register,
    /// Numbers.
    Counter,
    /// As registers, with expiry: a miss says nothing.
    Expiring,
    /// As registers, with `mg N`, `md I` and the like: a miss or an empty value says nothing.
    Vivify,
    /// As registers; the key has bytes that only base64 can carry.
    Binary,
}

/// One key.
#[derive(Debug, Clone)]
pub(crate) struct Key {
    pub bytes: Vec<u8>,
    pub kind: KeyKind,
    /// The client that has it to itself.
    pub owner: Option<usize>,
}

/// What a request does to its keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Nothing, or nothing that a later read could tell.
    None,
    /// Replaces the value.
    Base,
    /// Adds a fragment behind it or in front of it.
    Fragment,
    Delete,
    /// Adds to the number.
    Count(i64),
    /// Adds to the number, or writes one where there is none.
    CountOrBase(i64),
    /// Deletes all keys.
    Flush,
    /// Makes it expire at once.
    Expire,
}

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Pending,
    /// It did what it says.
    Done,
    /// It did nothing: not stored, not found, exists.
    Declined,
    /// It was told to be wrong: it did nothing.
    Refused,
    /// Nobody knows: an error, no answer wanted, or the connection is gone.
    Unknown,
}

/// How a request is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    Get { cas: bool },
    Set,
    Add,
    Replace,
    Append,
    Cas,
    Delete,
    Arith,
    Touch,
    Flush,
    Version,
    Verbosity,
    Stats,
    Garbage,
    MetaNoop,
    MetaGet,
    MetaSet,
    MetaDelete,
    MetaArith,
    MetaDebug,
}

/// Which answers a client does not get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Quiet {
    No,
    Noreply,
    Meta,
}

/// One request.
#[derive(Debug, Clone)]
pub(crate) struct Op {
    pub id: u32,
    /// The client connection that it was sent on; counted over all clients.
    pub connection: u32,
    /// The process that it was sent to.
    pub proxy: usize,
    pub verb: Verb,
    pub effect: Effect,
    pub keys: Vec<usize>,
    /// Bytes of fill of the value.
    pub fill_len: usize,
    pub quiet: Quiet,
    /// Letters and tokens that the answer must repeat, in this order; of a packet its opcode.
    pub echoes: Vec<u8>,
    /// Whether the key went as base64.
    pub base64: bool,
    /// The write whose token a cas carries, as far as its client knows.
    pub compared: Option<u32>,
    pub invoked: Time,
    pub responded: Option<Time>,
    pub outcome: Outcome,
    /// Whether the authority decides: what others saw of it may then never have happened.
    pub conditional: bool,
    /// Whether it stores only where there is nothing.
    pub adds: bool,
    /// When a client first saw its value.
    pub observed: Option<Time>,
    /// When it was known to be overwritten by a request that overlapped it.
    pub superseded: Option<Time>,
    /// Whether a [`Effect::CountOrBase`] is known to have written.
    pub wrote_base: bool,
}

impl Op {
    /// A request that asks for nothing.
    fn nothing(id: u32) -> Self {
        Self {
            id,
            connection: 0,
            proxy: 0,
            verb: Verb::MetaNoop,
            effect: Effect::None,
            keys: Vec::new(),
            fill_len: 0,
            quiet: Quiet::No,
            echoes: Vec::new(),
            base64: false,
            compared: None,
            invoked: Time(0),
            responded: None,
            outcome: Outcome::Pending,
            conditional: false,
            adds: false,
            observed: None,
            superseded: None,
            wrote_base: false,
        }
    }

    /// A number that was there before anyone asked.
    pub(crate) fn preloaded(id: u32, key: usize) -> Self {
        Self {
            verb: Verb::Set,
            effect: Effect::Base,
            keys: vec![key],
            responded: Some(Time(0)),
            outcome: Outcome::Done,
            ..Self::nothing(id)
        }
    }

    pub(crate) const fn is_read(&self) -> bool {
        matches!(self.verb, Verb::Get { .. } | Verb::MetaGet)
    }

    /// Whether it replaces the value, as far as is known.
    pub(crate) const fn is_base(&self) -> bool {
        matches!(self.effect, Effect::Base) || self.wrote_base
    }
}

/// Request 12 writes 1250000: there is room for 49,999 steps each way.
pub(crate) const COUNTER_STEP: u64 = 100_000;
/// The middle of a request's numbers.
pub(crate) const COUNTER_MIDDLE: u64 = 50_000;

/// The fragment of request `id`.
pub(crate) fn fragment(id: u32, key: &[u8], fill_len: usize) -> Vec<u8> {
    let mut value = format!("[{id}:").into_bytes();
    value.extend_from_slice(&STANDARD.encode(key).into_bytes());
    value.extend_from_slice(format!(":{fill_len}]").as_bytes());
    value.resize(value.len() + fill_len, fill_byte(id));
    value
}

/// The number that request `id` writes.
pub(crate) fn counter(id: u32) -> Vec<u8> {
    (u64::from(id) * COUNTER_STEP + COUNTER_MIDDLE)
        .to_string()
        .into_bytes()
}

fn fill_byte(id: u32) -> u8 {
    b'a' + u8::try_from(id % 26).expect("below 26")
}

/// The requests whose fragments make up `value`, in their order; an error says where it is none.
pub(crate) fn fragments(value: &[u8], key: &[u8]) -> Result<Vec<u32>, String> {
    let mut rest = value;
    let mut ids = Vec::new();
    while !rest.is_empty() {
        let shown = || String::from_utf8_lossy(&rest[..rest.len().min(40)]).into_owned();
        let header_len =
            memchr::memchr(b']', rest).ok_or_else(|| format!("no fragment: {}", shown()))?;
        let header = std::str::from_utf8(&rest[..header_len]).map_err(|_| shown())?;
        let mut parts = header.strip_prefix('[').ok_or_else(shown)?.split(':');
        let mut next = || parts.next().ok_or_else(shown);
        let id: u32 = next()?.parse().map_err(|_| shown())?;
        let of = STANDARD.decode(next()?).map_err(|_| shown())?;
        let fill_len: usize = next()?.parse().map_err(|_| shown())?;
        if of != key {
            return Err(format!(
                "value of another key {}",
                String::from_utf8_lossy(&of)
            ));
        }
        let fill = rest
            .get(header_len + 1..header_len + 1 + fill_len)
            .ok_or_else(|| format!("fragment of {id} cut short"))?;
        if fill.iter().any(|&byte| byte != fill_byte(id)) {
            return Err(format!("fragment of {id} is damaged"));
        }
        ids.push(id);
        rest = &rest[header_len + 1 + fill_len..];
    }
    Ok(ids)
}

/// The keys of a run.
pub(crate) fn keys(options: &Options) -> Vec<Key> {
    let owners: Vec<Option<usize>> = if options.private {
        (0..options.clients).map(Some).collect()
    } else {
        vec![None]
    };
    let mut keys = Vec::new();
    for owner in owners {
        for index in 0..options.keys {
            let kind = match index % 8 {
                _ if options.counting => KeyKind::Counter,
                2 => KeyKind::Counter,
                5 if !options.private => KeyKind::Expiring,
                6 => KeyKind::Vivify,
                7 => KeyKind::Binary,
                _ => KeyKind::Register,
            };
            let owner_name = owner.map_or_else(String::new, |owner| format!("c{owner}-"));
            let name = match kind {
                KeyKind::Binary => format!("{owner_name}b \n{index}"),
                KeyKind::Register if index == 4 => {
                    format!("{owner_name}{}{index}", "long".repeat(40))
                }
                KeyKind::Counter => format!("{owner_name}n{index}"),
                KeyKind::Register | KeyKind::Expiring | KeyKind::Vivify => {
                    format!("{owner_name}k{index}")
                }
            };
            keys.push(Key {
                bytes: name.into_bytes(),
                kind,
                owner,
            });
        }
    }
    keys
}

/// What a client knows when it makes its next request.
pub(crate) struct Maker<'a> {
    pub rng: &'a mut Rng,
    pub options: &'a Options,
    pub keys: &'a [Key],
    pub client: usize,
    pub id: u32,
    /// By key: a CAS token that this client has seen, and the request that wrote its value.
    pub tokens: &'a [Option<(u64, Option<u32>)>],
    pub out: &'a mut Vec<u8>,
}

impl Maker<'_> {
    /// Makes one request: writes its bytes and yields what it is.
    pub(crate) fn make(&mut self) -> Op {
        let mut op = self.make_nothing();
        if speaks_binary(self.options, self.client) {
            self.make_packet(&mut op);
            return op;
        }
        if self.rng.per_mille(self.options.flush_per_mille) {
            op.verb = Verb::Flush;
            op.effect = Effect::Flush;
            self.noreply_line(&mut op, "flush_all");
        } else if self.rng.per_mille(20) {
            self.make_odd(&mut op);
        } else {
            let key = self.any_key();
            let meta = self.keys[key].kind == KeyKind::Binary
                || self.rng.chance(self.options.meta_percent);
            op.keys = vec![key];
            // The worker that hears late reads what the other one writes, or the other way round.
            let read_percent = match self.client % 2 == usize::from(self.options.appending) {
                _ if self.options.shape != Shape::Late => self.options.read_percent,
                true => 20,
                false => 95,
            };
            let read = self.rng.chance(read_percent);
            match (meta, read) {
                (false, true) => self.make_get(&mut op),
                (false, false) => self.make_write(&mut op),
                (true, true) => self.make_meta_get(&mut op),
                (true, false) => self.make_meta_write(&mut op),
            }
        }
        op
    }

    /// A `mn` or `Noop`, which ends a row of quiet requests.
    pub(crate) fn make_noop(&mut self) -> Op {
        let mut op = self.make_nothing();
        if speaks_binary(self.options, self.client) {
            self.make_packet_noop(&mut op);
            return op;
        }
        op.verb = Verb::MetaNoop;
        self.line("mn");
        op
    }

    /// Reads one key.
    pub(crate) fn make_audit(&mut self, key: usize) -> Op {
        let mut op = self.make_nothing();
        op.keys = vec![key];
        if self.must_encode(key) {
            op.verb = Verb::MetaGet;
            let line = format!("mg {} b v", STANDARD.encode(&self.keys[key].bytes));
            self.line(&line);
        } else {
            op.verb = Verb::Get { cas: false };
            let line = format!("get {}", self.name(key));
            self.line(&line);
        }
        op
    }

    fn make_nothing(&self) -> Op {
        Op::nothing(self.id)
    }

    fn make_odd(&mut self, op: &mut Op) {
        match self.rng.below(if self.options.private { 3 } else { 5 }) {
            0 => {
                op.verb = Verb::MetaNoop;
                self.line("mn");
            }
            1 => {
                op.verb = Verb::Garbage;
                self.line("nonsense of a client");
            }
            2 => {
                op.verb = Verb::Verbosity;
                self.noreply_line(op, "verbosity 1");
            }
            3 => {
                op.verb = Verb::Version;
                self.line("version");
            }
            _ => {
                op.verb = Verb::Stats;
                let line = self.rng.pick(&["stats", "stats magent", "stats items"]);
                self.line(line);
            }
        }
    }

    pub(crate) fn any_key(&mut self) -> usize {
        loop {
            // The first keys are asked for more often. What is overwritten while it is copied must not have been
            // written just before that.
            let index = self.rng.index(self.keys.len());
            let key = if self.options.private || self.options.shape == Shape::Overwrites {
                index
            } else {
                self.rng.index(index + 1)
            };
            if self.keys[key]
                .owner
                .is_none_or(|owner| owner == self.client)
            {
                return key;
            }
        }
    }

    fn classic_key(&mut self) -> usize {
        loop {
            let key = self.any_key();
            if self.keys[key].kind != KeyKind::Binary {
                return key;
            }
        }
    }

    fn name(&self, key: usize) -> String {
        String::from_utf8(self.keys[key].bytes.clone()).expect("keys are made of text")
    }

    fn line(&mut self, line: &str) {
        self.out.extend_from_slice(line.as_bytes());
        self.out.extend_from_slice(b"\r\n");
    }

    fn noreply_line(&mut self, op: &mut Op, line: &str) {
        self.out.extend_from_slice(line.as_bytes());
        self.noreply(op);
        self.out.extend_from_slice(b"\r\n");
    }

    fn noreply(&mut self, op: &mut Op) {
        if self.rng.chance(self.options.noreply_percent) {
            op.quiet = Quiet::Noreply;
            self.out.extend_from_slice(b" noreply");
        }
    }

    fn make_get(&mut self, op: &mut Op) {
        let touches = self.rng.chance(10);
        let percent = if self.options.comparing { 90 } else { 30 };
        let cas = !self.options.private && self.rng.chance(percent);
        if self.rng.chance(40) {
            for _ in 0..self.rng.between(1, 6) {
                // A key may be asked for twice.
                let key = self.classic_key();
                op.keys.push(key);
            }
        }
        let verb = match (touches, cas) {
            (false, false) => "get",
            (false, true) => "gets",
            (true, false) => "gat",
            (true, true) => "gats",
        };
        op.verb = Verb::Get { cas };
        op.conditional = touches;
        self.out.extend_from_slice(verb.as_bytes());
        if touches {
            let exptime = self.rng.pick(&[" 0", " 3600"]);
            self.out.extend_from_slice(exptime.as_bytes());
        }
        for index in 0..op.keys.len() {
            let name = self.name(op.keys[index]);
            self.out.extend_from_slice(format!(" {name}").as_bytes());
        }
        self.out.extend_from_slice(b"\r\n");
    }

    /// The value of a write, with its effect noted.
    pub(crate) fn value(&mut self, op: &mut Op) -> Vec<u8> {
        let key = op.keys[0];
        if self.keys[key].kind == KeyKind::Counter {
            return counter(op.id);
        }
        op.fill_len = if self.rng.chance(self.options.large_percent) {
            // The last third is refused by the backends.
            self.rng.len_between(14 * 1024, 60 * 1024)
        } else {
            self.rng.pick(&[0, 1, 10, 100, 900])
        };
        fragment(op.id, &self.keys[key].bytes, op.fill_len)
    }

    fn exptime(&mut self, kind: KeyKind) -> i64 {
        match kind {
            KeyKind::Expiring => self.rng.pick(&[0, 1, 1, 2, -1]),
            KeyKind::Register | KeyKind::Counter | KeyKind::Vivify | KeyKind::Binary => {
                self.rng.pick(&[0, 0, 3_600])
            }
        }
    }

    fn make_write(&mut self, op: &mut Op) {
        let key = op.keys[0];
        let (name, kind) = (self.name(key), self.keys[key].kind);
        let choice = if self.options.counting {
            50
        } else if self.options.locking {
            self.rng.pick(&[0, 99, 99, 99])
        } else if self.options.storing {
            99
        } else if self.options.deleting {
            self.rng.pick(&[0, 99, 99])
        } else if self.options.appending || self.options.comparing {
            self.rng.between(19, 99)
        } else {
            self.rng.below(100)
        };
        match (kind, choice) {
            (_, 0..=12) => {
                op.verb = Verb::Delete;
                op.effect = Effect::Delete;
                self.noreply_line(op, &format!("delete {name}"));
            }
            (_, 13..=18) => {
                op.verb = Verb::Touch;
                op.conditional = true;
                let exptime = self.exptime(kind);
                if exptime < 0 {
                    op.effect = Effect::Expire;
                }
                self.noreply_line(op, &format!("touch {name} {exptime}"));
            }
            (KeyKind::Counter, 19..=75) => {
                op.verb = Verb::Arith;
                let (verb, sign) = self.rng.pick(&[("incr", 1), ("incr", 1), ("decr", -1)]);
                let (verb, sign) = if self.options.counting {
                    ("incr", 1)
                } else {
                    (verb, sign)
                };
                let delta = self.rng.between(1, 3);
                op.effect = Effect::Count(sign * i64::try_from(delta).expect("small"));
                self.noreply_line(op, &format!("{verb} {name} {delta}"));
            }
            _ => self.make_store(op),
        }
    }

    fn make_store(&mut self, op: &mut Op) {
        let key = op.keys[0];
        let (name, kind) = (self.name(key), self.keys[key].kind);
        let fragments = kind != KeyKind::Counter;
        let token = self.tokens[key].filter(|_| !self.options.private);
        let choice = if self.options.locking && self.rng.chance(90) {
            0
        } else if self.options.storing || self.options.deleting {
            100
        } else if self.options.comparing {
            self.rng.pick(&[43, 43, 100])
        } else if self.options.appending && fragments && self.rng.chance(60) {
            self.rng.pick(&[25, 37, 100])
        } else {
            self.rng.below(100)
        };
        let (verb, effect, word) = match choice {
            0..=14 => (Verb::Add, Effect::Base, "add"),
            15..=24 => (Verb::Replace, Effect::Base, "replace"),
            25..=36 if fragments => (Verb::Append, Effect::Fragment, "append"),
            37..=42 if fragments => (Verb::Append, Effect::Fragment, "prepend"),
            43..=56 if token.is_some() => (Verb::Cas, Effect::Base, "cas"),
            _ => (Verb::Set, Effect::Base, "set"),
        };
        (op.verb, op.effect) = (verb, effect);
        op.conditional = verb != Verb::Set;
        op.adds = verb == Verb::Add;
        let value = self.value(op);
        let exptime = self.exptime(kind);
        let line = format!("{word} {name} {} {exptime} {}", op.id, value.len());
        self.out.extend_from_slice(line.as_bytes());
        if let (Verb::Cas, Some((token, writer))) = (verb, token) {
            op.compared = writer;
            self.out.extend_from_slice(format!(" {token}").as_bytes());
        }
        self.noreply(op);
        self.out.extend_from_slice(b"\r\n");
        self.out.extend_from_slice(&value);
        self.out.extend_from_slice(b"\r\n");
    }

    // -- Meta --

    /// Writes a meta line; flags that are echoed are drawn here.
    fn meta_line(&mut self, op: &mut Op, head: &str, flags: &str, echoed: &[&str]) {
        op.base64 =
            self.must_encode(op.keys[0]) || (self.can_encode(op.keys[0]) && self.rng.chance(10));
        let key = &self.keys[op.keys[0]].bytes;
        let token = if op.base64 {
            STANDARD.encode(key)
        } else {
            self.name(op.keys[0])
        };
        let mut line = head.replacen("{}", &token, 1);
        line.push_str(flags);
        if op.base64 {
            line.push_str(" b");
        }
        // memcached answers an `ma` that wrote its initial value, q or not; the proxy cannot tell.
        let vivifies = matches!(op.effect, Effect::CountOrBase(_));
        if !vivifies && self.rng.chance(self.options.noreply_percent) {
            op.quiet = Quiet::Meta;
            line.push_str(" q");
        }
        // A quiet answer is only told from the next one's by its opaque.
        if op.quiet == Quiet::Meta || self.rng.chance(40) {
            line.push_str(&format!(" O{}", op.id));
            op.echoes.push(b'O');
        }
        for letter in echoed {
            if self.rng.chance(40) {
                line.push(' ');
                line.push_str(letter);
                op.echoes.push(letter.as_bytes()[0]);
            }
        }
        self.line(&line);
    }

    fn must_encode(&self, key: usize) -> bool {
        self.keys[key].kind == KeyKind::Binary
    }

    fn can_encode(&self, key: usize) -> bool {
        // 187 bytes become 250 characters, memcached's longest key token.
        self.keys[key].bytes.len() <= 187
    }

    fn make_meta_get(&mut self, op: &mut Op) {
        let kind = self.keys[op.keys[0]].kind;
        if !self.options.private && self.rng.chance(3) {
            op.verb = Verb::MetaDebug;
            op.base64 = self.must_encode(op.keys[0]);
            let key = &self.keys[op.keys[0]].bytes;
            let line = if op.base64 {
                format!("me {} b", STANDARD.encode(key))
            } else {
                format!("me {}", self.name(op.keys[0]))
            };
            self.line(&line);
            return;
        }
        op.verb = Verb::MetaGet;
        let mut flags = if self.rng.chance(90) { " v" } else { "" }.to_owned();
        match (kind, self.rng.below(10)) {
            (KeyKind::Vivify, 0..=2) => flags.push_str(" N60"),
            (KeyKind::Vivify, 3) => flags.push_str(" R30"),
            (_, 4) => flags.push_str(" T3600"),
            (_, 5) => flags.push_str(" T0"),
            _ => {}
        }
        op.conditional = flags.len() > " v".len();
        if !self.options.private && self.rng.chance(50) {
            self.meta_line(op, "mg {}", &flags, &["k", "f", "c", "s", "t"]);
        } else {
            self.meta_line(op, "mg {}", &flags, &["k", "f", "s"]);
        }
    }

    fn make_meta_write(&mut self, op: &mut Op) {
        let kind = self.keys[op.keys[0]].kind;
        let choice = if self.options.counting {
            50
        } else {
            self.rng.below(100)
        };
        match (kind, choice) {
            (KeyKind::Vivify, 0..=9) => {
                op.verb = Verb::MetaDelete;
                self.meta_line(op, "md {}", " I T30", &["k"]);
            }
            (_, 0..=14) => {
                op.verb = Verb::MetaDelete;
                op.effect = Effect::Delete;
                self.meta_line(op, "md {}", "", &["k"]);
            }
            (KeyKind::Counter, 15..=75) => self.make_meta_arith(op),
            _ => self.make_meta_set(op),
        }
    }

    fn make_meta_arith(&mut self, op: &mut Op) {
        op.verb = Verb::MetaArith;
        let (mode, sign) = self.rng.pick(&[("", 1), (" MI", 1), (" MD", -1)]);
        let (mode, sign) = if self.options.counting {
            ("", 1)
        } else {
            (mode, sign)
        };
        let delta = self.rng.between(1, 3);
        let step = sign * i64::try_from(delta).expect("small");
        op.effect = Effect::Count(step);
        let mut flags = format!("{mode} D{delta}");
        if !self.options.counting && self.rng.chance(30) {
            op.effect = Effect::CountOrBase(step);
            let initial = String::from_utf8(counter(op.id)).expect("digits");
            flags.push_str(&format!(" N0 J{initial}"));
        }
        if self.rng.chance(50) {
            flags.push_str(" v");
        }
        self.meta_line(op, "ma {}", &flags, &["k"]);
    }

    fn make_meta_set(&mut self, op: &mut Op) {
        let key = op.keys[0];
        let kind = self.keys[key].kind;
        let fragments = kind != KeyKind::Counter;
        let token = self.tokens[key].filter(|_| !self.options.private);
        let mut flags = String::new();
        op.verb = Verb::MetaSet;
        op.effect = Effect::Base;
        op.conditional = true;
        match self.rng.below(100) {
            0..=9 => {
                flags.push_str(" ME");
                op.adds = true;
            }
            10..=19 => flags.push_str(" MR"),
            // On appending, memcached forgets that a key is binary; the proxy does not repeat that mistake.
            20..=29 if fragments && !(self.options.private && kind == KeyKind::Binary) => {
                flags.push_str(self.rng.pick(&[" MA", " MP"]));
                op.effect = Effect::Fragment;
            }
            30..=44 if token.is_some() => {
                let (token, writer) = token.expect("just looked at");
                op.compared = writer;
                flags.push_str(&format!(" C{token}"));
                if kind == KeyKind::Vivify && self.rng.chance(50) {
                    op.compared = None;
                    flags.push_str(" I");
                }
            }
            45..=50 => {
                flags.push_str(" MS");
                op.conditional = false;
            }
            _ => op.conditional = false,
        }
        let value = self.value(op);
        let exptime = self.exptime(kind);
        flags.push_str(&format!(" T{exptime} F{}", op.id));
        let head = format!("ms {{}} {}", value.len());
        self.meta_line(op, &head, &flags, &["k"]);
        self.out.extend_from_slice(&value);
        self.out.extend_from_slice(b"\r\n");
    }
}
