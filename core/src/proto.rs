//! What bytes mean: requests of clients and responses of backends, in the classic and meta protocols.
//!
//! Parsers look at a prefix of what has arrived and either want more, yield one item, or name the
//! error. They borrow, allocate nothing and keep no state.
//!
//! # Invariants
//!
//! - A request that parses is well-formed for every memcached since 1.4 (classic) or 1.6.10 (meta;
//!   before that `ms` had another form): sent to a backend it yields exactly one response, so shared
//!   pipelines cannot lose step.
//! - `used` never exceeds the input, and cutting the input anywhere before the end of the line yields
//!   [`Parsed::NeedMore`] (tables in `tests/tables`, every row cut at every byte).
//! - Numbers are checked and then passed on as the client wrote them: `exptime` has several meanings
//!   that only the server may interpret.
//!
//! Not here: payloads (the engine counts their bytes), what a request does (`engine`).

pub mod binary;
mod classic;
#[cfg(any(test, fuzzing))]
mod laws;
pub mod meta;
mod number;
pub mod proxy_header;
pub mod response;

#[cfg(any(test, fuzzing))]
pub use laws::{fuzz_canary, fuzz_packet, fuzz_request, fuzz_response};
pub use number::encode_decimal;
pub(crate) use number::{Decimal, parse_unsigned};
#[cfg(any(test, fuzzing))]
pub use proxy_header::fuzz_proxy_header;

/// Longest key, in bytes. memcached: `KEY_MAX_LENGTH`.
pub const KEY_LEN_MAX: usize = 250;

/// Outcome of looking for one item at the start of a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parsed<T, E = Bad> {
    /// The item is not complete. The caller bounds how long it may get.
    NeedMore,
    /// One item and the bytes that it took.
    Item {
        /// What was found.
        item: T,
        /// Bytes from the start of the input, the line's end included, a payload not.
        used: usize,
    },
    /// The peer broke the protocol.
    Bad(E),
}

/// A request that is answered with an error without being forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bad {
    /// What is wrong.
    pub error: ProtoError,
    /// Bytes of the line, its end included.
    pub used: usize,
    /// Bytes of payload (with its CR LF) that follow the line and must be dropped.
    pub swallow: u64,
    /// Whether the client gets to see the error. memcached hides some behind `noreply`.
    pub told: Told,
}

/// Does the client hear of it?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// The error is sent.
    Yes,
    /// The request said `noreply` early enough for memcached to heed it.
    No,
}

macro_rules! proto_errors {
    ($($variant:ident, $wire:literal, $keeps:literal, $doc:literal;)+) => {
        /// What a client can get wrong, with memcached 1.6's answer byte for byte.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum ProtoError {
            $(#[doc = $doc] $variant,)+
        }

        impl ProtoError {
            /// Every error, in the order of the table.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// What the client is told.
            #[must_use]
            pub const fn wire(self) -> &'static [u8] {
                match self { $(Self::$variant => $wire,)+ }
            }

            /// Whether it is known where the next request starts. If not: answer, then close.
            #[must_use]
            pub const fn keeps_framing(self) -> bool {
                match self { $(Self::$variant => $keeps,)+ }
            }
        }
    };
}

proto_errors! {
    UnknownCommand, b"ERROR\r\n", true, "No such command, or a wrong number of arguments.";
    HttpRequest, b"", false, "A line of HTTP: a browser was made to talk to us. Closed without a word.";
    BadFormat, b"CLIENT_ERROR bad command line format\r\n", true, "An overlong key, or a number that is none.";
    StoreUsage, b"ERROR\r\n", false, "A storage command with a wrong number of arguments: where its payload ends is unknown.";
    StoreLength, b"CLIENT_ERROR bad command line format\r\n", false, "A storage command whose length is no length, or may not be the length.";
    BadDataChunk, b"CLIENT_ERROR bad data chunk\r\n", true, "A payload without its CR LF.";
    BadDelta, b"CLIENT_ERROR invalid numeric delta argument\r\n", true, "incr or decr by something that is no number.";
    BadExptime, b"CLIENT_ERROR invalid exptime argument\r\n", true, "touch, gat or flush_all with an exptime that is no number.";
    DeleteUsage, b"CLIENT_ERROR bad command line format.  Usage: delete <key> [noreply]\r\n", true, "delete with an argument other than 0 or noreply.";
    LineTooLong, b"CLIENT_ERROR line too long\r\n", false, "No line end within the limit. memcached hangs up without a word.";
    TooLarge, b"SERVER_ERROR object too large for cache\r\n", true, "A value above the limit; its payload is swallowed.";
    DuplicateFlag, b"CLIENT_ERROR duplicate flag\r\n", true, "mg or ms with a flag twice.";
    BadFlag, b"CLIENT_ERROR invalid flag\r\n", true, "mg or ms with a flag that does not exist.";
    BadFlags, b"CLIENT_ERROR invalid or duplicate flag\r\n", true, "md or ma with anything wrong in its flags.";
    TooManyFlags, b"CLIENT_ERROR options flags are too long\r\n", true, "mg with more than 17 flags.";
    TooManyWriteFlags, b"CLIENT_ERROR options flags too long\r\n", true, "ms with more than 16 flags, md or ma with more than 17.";
    BadToken, b"CLIENT_ERROR bad token in command line format\r\n", true, "A meta flag whose token is no number.";
    BadInitial, b"CLIENT_ERROR invalid numeric initial value\r\n", true, "mg or ms with a J that is no number.";
    BadMetaDelta, b"CLIENT_ERROR invalid numeric delta value\r\n", true, "mg or ms with a D that is no number.";
    BadModeLength, b"CLIENT_ERROR incorrect length for M token\r\n", true, "mg or ms with a mode that is not one character.";
    BadStoreMode, b"CLIENT_ERROR invalid mode for ms M token\r\n", true, "ms with an unknown mode.";
    BadArithMode, b"CLIENT_ERROR invalid mode for ma M token\r\n", true, "ma with an unknown mode.";
    OpaqueTooLong, b"CLIENT_ERROR opaque token too long\r\n", true, "An opaque of more than 31 characters.";
    Unauthenticated, b"CLIENT_ERROR unauthenticated\r\n", true, "Anything but a login before a login.";
    AuthFailure, b"CLIENT_ERROR authentication failure\r\n", true, "A login with another password, or of nobody.";
    AuthFormat, b"CLIENT_ERROR bad authentication token format\r\n", true, "A login whose value is not a user, a blank and a password.";
    AuthTermination, b"CLIENT_ERROR bad command line termination\r\n", true, "A login whose value has another length than it says.";
    ReadOnly, b"CLIENT_ERROR this user may only read\r\n", true, "A write of a user that may read.";
    Forbidden, b"CLIENT_ERROR this user may not do that\r\n", true, "What concerns other users' keys, of a user that may not read or write them.";
    BadKeyEncoding, b"CLIENT_ERROR error decoding key\r\n", true, "mg or ms with a base64 key that does not decode.";
}

/// A client's request: one line, checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request<'a> {
    /// `get` or `gets` of one or more keys.
    Get {
        /// Which of the two.
        verb: GetVerb,
        /// The keys.
        keys: Keys<'a>,
    },
    /// `gat` or `gats` of one or more keys.
    GetAndTouch {
        /// `Get` for `gat`, `Gets` for `gats`.
        verb: GetVerb,
        /// As the client wrote it.
        exptime: &'a [u8],
        /// The keys.
        keys: Keys<'a>,
    },
    /// A classic storage command; `value_len + 2` bytes of payload follow.
    Store(Store<'a>),
    /// `delete`.
    Delete {
        /// The key.
        key: &'a [u8],
        /// Whether the client wants no answer.
        noreply: bool,
    },
    /// `incr` or `decr`.
    Arith {
        /// Which of the two.
        verb: ArithVerb,
        /// The key.
        key: &'a [u8],
        /// Digits, as the client wrote them.
        delta: &'a [u8],
        /// Whether the client wants no answer.
        noreply: bool,
    },
    /// `touch`.
    Touch {
        /// The key.
        key: &'a [u8],
        /// As the client wrote it.
        exptime: &'a [u8],
        /// Whether the client wants no answer.
        noreply: bool,
    },
    /// `flush_all`, perhaps delayed.
    FlushAll {
        /// The delay argument as the client wrote it; empty if absent.
        delay: &'a [u8],
        /// Whether the client wants no answer.
        noreply: bool,
    },
    /// `version`.
    Version,
    /// `verbosity`.
    Verbosity {
        /// Whether the client wants no answer.
        noreply: bool,
    },
    /// `stats`, with its arguments, blanks trimmed at both ends.
    Stats {
        /// What follows `stats`.
        args: &'a [u8],
    },
    /// `config get`: Amazon ElastiCache's, to memcached an unknown command.
    Config {
        /// What is asked for.
        key: &'a [u8],
    },
    /// `quit`.
    Quit,
    /// `mn`.
    MetaNoop,
    /// A meta command with a key; for `ms`, `value_len + 2` bytes of payload follow.
    Meta(Meta<'a>),
}

/// `get` or `gets`: without or with the CAS unique.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GetVerb {
    /// `get`, `gat`.
    Get,
    /// `gets`, `gats`.
    Gets,
}

/// `incr` or `decr`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArithVerb {
    /// `incr`.
    Incr,
    /// `decr`.
    Decr,
}

/// The classic storage commands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreVerb {
    /// Stores whatever was there.
    Set,
    /// Stores only if absent.
    Add,
    /// Stores only if present.
    Replace,
    /// Adds behind the present value.
    Append,
    /// Adds before the present value.
    Prepend,
    /// Stores only if unchanged since a `gets`.
    Cas,
}

impl StoreVerb {
    /// The verb on the wire.
    #[must_use]
    pub const fn wire(self) -> &'static [u8] {
        match self {
            Self::Set => b"set",
            Self::Add => b"add",
            Self::Replace => b"replace",
            Self::Append => b"append",
            Self::Prepend => b"prepend",
            Self::Cas => b"cas",
        }
    }
}

/// The line of a classic storage command. Numbers are as the client wrote them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Store<'a> {
    /// Which command.
    pub verb: StoreVerb,
    /// The key.
    pub key: &'a [u8],
    /// The 32-bit number stored with the item.
    pub client_flags: &'a [u8],
    /// Expiry.
    pub exptime: &'a [u8],
    /// Payload bytes, its CR LF not counted.
    pub value_len: u32,
    /// The unique of a `cas`; empty for the others.
    pub cas: &'a [u8],
    /// Whether the client wants no answer.
    pub noreply: bool,
}

/// The meta commands that have a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetaVerb {
    /// `mg`.
    Get,
    /// `ms`.
    Set,
    /// `md`.
    Delete,
    /// `ma`.
    Arith,
    /// `me`.
    Debug,
}

impl MetaVerb {
    /// The verb on the wire.
    #[must_use]
    pub const fn wire(self) -> &'static [u8] {
        match self {
            Self::Get => b"mg",
            Self::Set => b"ms",
            Self::Delete => b"md",
            Self::Arith => b"ma",
            Self::Debug => b"me",
        }
    }
}

/// The line of a meta command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meta<'a> {
    /// Which command.
    pub verb: MetaVerb,
    /// The key token as on the wire (base64 if `meta_flags` has `b`).
    pub key: &'a [u8],
    /// The flags behind the key (behind the length for `ms`), blanks between them.
    pub flags: &'a [u8],
    /// Which letters `flags` has.
    pub letters: Letters,
    /// Payload bytes of `ms`, its CR LF not counted; 0 for the others.
    pub value_len: u32,
}

impl<'a> Meta<'a> {
    /// The flags one by one: letter and token.
    pub fn meta_flags(&self) -> impl Iterator<Item = (u8, &'a [u8])> + use<'a> {
        self.flags
            .split(|&byte| byte == b' ')
            .filter(|token| !token.is_empty())
            .map(|token| (token[0], &token[1..]))
    }

    /// The token of flag `letter`, if the flag is there.
    #[must_use]
    pub fn token(&self, letter: u8) -> Option<&'a [u8]> {
        if !self.letters.has(letter) {
            return None;
        }
        self.meta_flags()
            .find(|flag| flag.0 == letter)
            .map(|flag| flag.1)
    }

    /// The key that decides placement: decoded if it is base64, so that clients that write plain and
    /// clients that write base64 meet. `scratch` holds the decoded bytes.
    #[must_use]
    pub fn placement_key<'s>(&self, scratch: &'s mut [u8; KEY_LEN_MAX]) -> &'s [u8]
    where
        'a: 's,
    {
        if self.letters.has(b'b') {
            meta::decode_key(self.key, scratch)
        } else {
            self.key
        }
    }
}

/// A set of ASCII letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Letters(u64);

impl Letters {
    /// The set of the letters in `list`.
    #[must_use]
    pub const fn of(list: &[u8]) -> Self {
        let mut set = Self(0);
        let mut index = 0;
        while index < list.len() {
            set = set.with(list[index]);
            index += 1;
        }
        set
    }

    /// The set with `letter` added. Bytes that are no letters share no bit with letters' business:
    /// callers refuse them first.
    #[must_use]
    pub const fn with(self, letter: u8) -> Self {
        Self(self.0 | Self::bit(letter))
    }

    /// Whether `letter` is in the set.
    #[must_use]
    pub const fn has(self, letter: u8) -> bool {
        self.0 & Self::bit(letter) != 0
    }

    /// Whether any letter of `other` is in the set.
    #[must_use]
    pub const fn has_any(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    // 'A' (0x41) to 'z' (0x7a) span 58 codes; anything else has no bit.
    const fn bit(letter: u8) -> u64 {
        if letter.is_ascii_alphabetic() {
            1 << (letter - b'A')
        } else {
            0
        }
    }
}

/// The keys of a multi-key request: valid (1 to 250 bytes, no control character that a backend would
/// stop at) and separated by one or more blanks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keys<'a>(pub &'a [u8]);

impl<'a> Iterator for Keys<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        next_token(&mut self.0)
    }
}

/// Takes the next token off `rest`: what stands between blanks. Only blanks separate; a tab is part
/// of a token.
fn next_token<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let start = rest.iter().position(|&byte| byte != b' ')?;
    let from_token = &rest[start..];
    let end = memchr::memchr(b' ', from_token).unwrap_or(from_token.len());
    let (token, behind) = from_token.split_at(end);
    *rest = behind;
    Some(token)
}

/// Limits that the parser needs.
#[derive(Debug, Clone, Copy)]
pub struct ParseLimits {
    /// See `request_line_len_max`.
    pub request_line_len_max: usize,
    /// See `get_line_len_max`.
    pub get_line_len_max: usize,
    /// See `value_len_max`.
    pub value_len_max: u32,
}

/// Looks for one classic or meta request at the start of `buf`.
#[must_use]
pub fn parse_request<'a>(buf: &'a [u8], limits: &ParseLimits) -> Parsed<Request<'a>> {
    classic::parse_request(buf, limits)
}
