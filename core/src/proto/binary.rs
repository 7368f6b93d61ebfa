//! The binary protocol, as memcached 1.6.18 understands it: packets of clients and the answers to them.
//!
//! A packet is a header of 24 bytes, extras, a key and a value. [`OPCODES`] is the one list of commands and of
//! what each must consist of; [`Status`] the one list of what an answer can say.
//!
//! # Invariants
//!
//! - A packet is accepted or refused by its header alone, before its value arrives. What is refused says how
//!   many bytes must be dropped, or that nothing can be trusted any more.
//! - `used` never exceeds the input, and cutting the input anywhere before the value yields
//!   [`Parsed::NeedMore`].
//!
//! Not here: what a request becomes towards backends (`engine`), the value's bytes (the engine counts them).

use super::{KEY_LEN_MAX, Parsed};

/// First byte of every packet of a client. No text command begins with it.
pub const REQUEST_MAGIC: u8 = 0x80;

/// First byte of every answer.
pub const RESPONSE_MAGIC: u8 = 0x81;

/// Bytes of a header.
pub const HEADER_LEN: usize = 24;

/// What a packet of a command consists of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// The header alone.
    Bare,
    /// A key.
    Key,
    /// A key, or none.
    MaybeKey,
    /// Extras of so many bytes, a key and a value.
    Store(u8),
    /// Extras of so many bytes and a key.
    Extras(u8),
    /// Four bytes of extras, or none.
    MaybeExptime,
    /// A key and a value, of which memcached reads as much as it wants.
    Sasl,
}

/// A command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opcode {
    /// What it does.
    pub command: Command,
    /// Its number on the wire.
    pub code: u8,
    /// Whether the ordinary outcome is not answered.
    pub quiet: bool,
    /// What it consists of.
    pub shape: Shape,
}

macro_rules! opcodes {
    ($($code:literal $command:ident $loudness:ident $shape:expr;)+) => {
        /// Every command, by its number.
        pub const OPCODES: &[Opcode] = &[$(Opcode {
            command: Command::$command,
            code: $code,
            quiet: opcodes!(@quiet $loudness),
            shape: $shape,
        },)+];
    };
    (@quiet loud) => { false };
    (@quiet quiet) => { true };
}

/// What a command does, whether it is quiet or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Command {
    /// Reads an item.
    Get,
    /// Reads an item; the answer repeats the key.
    GetK,
    /// Reads an item and gives it another expiry.
    Gat,
    /// The same; the answer repeats the key.
    GatK,
    /// Gives an item another expiry.
    Touch,
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
    /// Deletes.
    Delete,
    /// Counts up.
    Increment,
    /// Counts down.
    Decrement,
    /// Empties every backend.
    Flush,
    /// Nothing, answered.
    Noop,
    /// Asks for the version.
    Version,
    /// Asks for statistics.
    Stat,
    /// Closes the connection.
    Quit,
    /// Asks how one may authenticate.
    SaslMechanisms,
    /// Authenticates.
    SaslAuth,
    /// Goes on authenticating.
    SaslStep,
    /// Asks for the list of servers. No memcached's, but Amazon ElastiCache's.
    Config,
}

opcodes! {
    0x00 Get loud Shape::Key;
    0x01 Set loud Shape::Store(8);
    0x02 Add loud Shape::Store(8);
    0x03 Replace loud Shape::Store(8);
    0x04 Delete loud Shape::Key;
    0x05 Increment loud Shape::Extras(20);
    0x06 Decrement loud Shape::Extras(20);
    0x07 Quit loud Shape::Bare;
    0x08 Flush loud Shape::MaybeExptime;
    0x09 Get quiet Shape::Key;
    0x0a Noop loud Shape::Bare;
    0x0b Version loud Shape::Bare;
    0x0c GetK loud Shape::Key;
    0x0d GetK quiet Shape::Key;
    0x0e Append loud Shape::Store(0);
    0x0f Prepend loud Shape::Store(0);
    0x10 Stat loud Shape::MaybeKey;
    0x11 Set quiet Shape::Store(8);
    0x12 Add quiet Shape::Store(8);
    0x13 Replace quiet Shape::Store(8);
    0x14 Delete quiet Shape::Key;
    0x15 Increment quiet Shape::Extras(20);
    0x16 Decrement quiet Shape::Extras(20);
    0x17 Quit quiet Shape::Bare;
    0x18 Flush quiet Shape::MaybeExptime;
    0x19 Append quiet Shape::Store(0);
    0x1a Prepend quiet Shape::Store(0);
    0x1c Touch loud Shape::Extras(4);
    0x1d Gat loud Shape::Extras(4);
    0x1e Gat quiet Shape::Extras(4);
    0x20 SaslMechanisms loud Shape::Bare;
    0x21 SaslAuth loud Shape::Sasl;
    0x22 SaslStep loud Shape::Sasl;
    0x23 GatK loud Shape::Extras(4);
    0x24 GatK quiet Shape::Extras(4);
    0x60 Config loud Shape::Key;
}

macro_rules! statuses {
    ($($variant:ident $code:literal $text:literal $doc:literal;)+) => {
        /// What an answer says.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Status {
            $(#[doc = $doc] $variant,)+
        }

        impl Status {
            /// Every status, in the order of the table.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// Its number on the wire.
            #[must_use]
            pub const fn code(self) -> u16 {
                match self { $(Self::$variant => $code,)+ }
            }

            /// memcached's text for it, which is the value of the answer.
            #[must_use]
            pub const fn text(self) -> &'static [u8] {
                match self { $(Self::$variant => $text,)+ }
            }
        }
    };
}

statuses! {
    Ok 0x00 b"" "It was done.";
    NotFound 0x01 b"Not found" "There is no such item.";
    Exists 0x02 b"Data exists for key." "The item is there, or is another than the one meant.";
    TooLarge 0x03 b"Too large." "The value is above the limit.";
    Invalid 0x04 b"Invalid arguments" "The packet's parts do not fit its command.";
    NotStored 0x05 b"Not stored." "The condition of the command did not hold.";
    NotNumeric 0x06 b"Non-numeric server-side value for incr or decr" "The item is no number.";
    AuthError 0x20 b"Auth failure." "Not authenticated, or wrongly.";
    AuthContinue 0x21 b"" "The authentication is not complete.";
    UnknownCommand 0x81 b"Unknown command" "No such command.";
    OutOfMemory 0x82 b"Out of memory" "The backend, or the proxy, has no room.";
    NotSupported 0x83 b"Not supported" "The command is switched off.";
    Internal 0x84 b"Internal error" "A backend broke the protocol.";
    Busy 0x85 b"Busy" "There is too much to do.";
    Temporary 0x86 b"Temporary failure" "No backend could answer: another try may succeed.";
}

/// A packet of a client, its value excepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet<'a> {
    /// Which command.
    pub opcode: Opcode,
    /// Repeated in the answer; means nothing here.
    pub opaque: u32,
    /// Only if the item has this unique; 0: whatever it has.
    pub cas: u64,
    /// As many bytes as the command's shape says.
    pub extras: &'a [u8],
    /// At most [`KEY_LEN_MAX`] bytes, of any kind.
    pub key: &'a [u8],
    /// Bytes that follow the key.
    pub value_len: u32,
}

impl Packet<'_> {
    /// Number of `bytes` bytes at `at` of the extras, in network order; 0 where there are none.
    fn number(&self, at: usize, bytes: usize) -> u64 {
        let digits = self.extras.get(at..at + bytes).unwrap_or_default();
        digits
            .iter()
            .fold(0, |number, &byte| number << 8 | u64::from(byte))
    }

    /// Client flags of a command that stores.
    #[must_use]
    pub fn client_flags(&self) -> u64 {
        self.number(0, 4)
    }

    /// Expiry, wherever the command has it. memcached reads it without a sign: -1 is a date in 2106, not the past.
    #[must_use]
    pub fn exptime(&self) -> u32 {
        let at = match self.opcode.shape {
            Shape::Store(_) => 4,
            Shape::Extras(20) => 16,
            Shape::Extras(_)
            | Shape::MaybeExptime
            | Shape::Bare
            | Shape::Key
            | Shape::MaybeKey
            | Shape::Sasl => 0,
        };
        let bytes = self.extras.get(at..at + 4).unwrap_or(&[0; 4]);
        u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
    }

    /// By how much a counter changes.
    #[must_use]
    pub fn delta(&self) -> u64 {
        self.number(0, 8)
    }

    /// What a counter that does not exist begins with; `None` if it is not to be made.
    #[must_use]
    pub fn initial(&self) -> Option<u64> {
        (self.number(16, 4) != u64::from(u32::MAX)).then(|| self.number(8, 8))
    }
}

/// A packet that is answered without being forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused {
    /// What the answer says.
    pub status: Status,
    /// The command's number, known or not.
    pub code: u8,
    /// Of the packet.
    pub opaque: u32,
    /// Bytes of the packet, as far as they are not to be dropped.
    pub used: usize,
    /// Bytes that follow and must be dropped.
    pub swallow: u64,
    /// Whether it is known where the next packet starts. If not: answer, then close.
    pub keeps_framing: bool,
    /// Whether it is answered at all.
    pub told: bool,
}

/// Looks for one packet at the start of `buf`.
///
/// The first byte must be [`REQUEST_MAGIC`]; one that is not is refused and costs the connection.
#[must_use]
pub fn parse_packet(buf: &[u8]) -> Parsed<Packet<'_>, Refused> {
    let Some(header) = buf.first_chunk::<HEADER_LEN>() else {
        return Parsed::NeedMore;
    };
    let code = header[1];
    let key_len = usize::from(u16::from_be_bytes([header[2], header[3]]));
    let extras_len = usize::from(header[4]);
    let body_len = u32::from_be_bytes([header[8], header[9], header[10], header[11]]);
    let opaque = u32::from_be_bytes([header[12], header[13], header[14], header[15]]);
    let cas = u64::from_be_bytes([
        header[16], header[17], header[18], header[19], header[20], header[21], header[22],
        header[23],
    ]);
    let refused = |status, swallow, keeps_framing| Refused {
        status,
        code,
        opaque,
        used: HEADER_LEN,
        swallow,
        keeps_framing,
        told: true,
    };
    let refuse =
        |status, swallow, keeps_framing| Parsed::Bad(refused(status, swallow, keeps_framing));
    if header[0] != REQUEST_MAGIC {
        return Parsed::Bad(Refused {
            told: false,
            ..refused(Status::Invalid, 0, false)
        });
    }
    let named_len = key_len + extras_len;
    let Some(value_len) = (body_len as usize).checked_sub(named_len) else {
        return refuse(Status::UnknownCommand, 0, false);
    };
    if key_len > KEY_LEN_MAX {
        return refuse(Status::Invalid, 0, false);
    }
    let Some(&opcode) = opcode(code) else {
        return refuse(Status::UnknownCommand, u64::from(body_len), true);
    };
    if !fits(opcode.shape, extras_len, key_len, value_len) {
        return refuse(Status::Invalid, 0, false);
    }
    let Some(named) = buf[HEADER_LEN..].get(..named_len) else {
        return Parsed::NeedMore;
    };
    let (extras, key) = named.split_at(extras_len);
    Parsed::Item {
        item: Packet {
            opcode,
            opaque,
            cas,
            extras,
            key,
            value_len: body_len - u32::try_from(named_len).expect("less than the body"),
        },
        used: HEADER_LEN + named_len,
    }
}

/// What a packet is told whose sender has not logged in, unless it may come before that. memcached:
/// `authenticated`.
#[must_use]
pub fn refuse_stranger(buf: &[u8]) -> Option<Refused> {
    let header = buf.first_chunk::<HEADER_LEN>()?;
    let named_len =
        usize::from(u16::from_be_bytes([header[2], header[3]])) + usize::from(header[4]);
    let body_len = u32::from_be_bytes([header[8], header[9], header[10], header[11]]);
    let allowed = opcode(header[1]).is_some_and(|opcode| {
        matches!(
            opcode.command,
            Command::SaslMechanisms | Command::SaslAuth | Command::SaslStep | Command::Version
        )
    });
    // What is no packet is told that first.
    let is_packet = header[0] == REQUEST_MAGIC && named_len <= body_len as usize;
    (is_packet && !allowed).then(|| Refused {
        status: Status::AuthError,
        code: header[1],
        opaque: u32::from_be_bytes([header[12], header[13], header[14], header[15]]),
        used: HEADER_LEN,
        swallow: 0,
        keeps_framing: false,
        told: true,
    })
}

fn opcode(code: u8) -> Option<&'static Opcode> {
    OPCODES
        .binary_search_by_key(&code, |opcode| opcode.code)
        .ok()
        .map(|position| &OPCODES[position])
}

/// Whether a packet consists of what its command needs. memcached: `dispatch_bin_command`.
const fn fits(shape: Shape, extras: usize, key: usize, value: usize) -> bool {
    match shape {
        Shape::Bare => extras == 0 && key == 0 && value == 0,
        Shape::Key => extras == 0 && key > 0 && value == 0,
        Shape::MaybeKey => extras == 0 && value == 0,
        Shape::Store(len) => extras == len as usize && key > 0,
        Shape::Extras(len) => extras == len as usize && key > 0 && value == 0,
        Shape::MaybeExptime => (extras == 0 || extras == 4) && key == 0 && value == 0,
        Shape::Sasl => extras == 0 && key > 0,
    }
}

/// An answer, its value excepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer<'a> {
    /// The number of the command that it answers.
    pub code: u8,
    /// How it went.
    pub status: Status,
    /// Of the packet that it answers.
    pub opaque: u32,
    /// The item's unique; 0 if there is none to tell.
    pub cas: u64,
    /// Client flags, where an item is told.
    pub extras: &'a [u8],
    /// The key, where the command repeats it.
    pub key: &'a [u8],
    /// Bytes that follow the key.
    pub value_len: u32,
}

impl Answer<'_> {
    /// A header alone.
    #[must_use]
    pub const fn bare(code: u8, opaque: u32, status: Status) -> Self {
        Self {
            code,
            status,
            opaque,
            cas: 0,
            extras: &[],
            key: &[],
            value_len: 0,
        }
    }

    /// Appends the answer with `text` as its value.
    ///
    /// # Panics
    ///
    /// If the text has 4 GiB or more.
    pub fn encode_text(&self, text: &[u8], out: &mut Vec<u8>) {
        let value_len = u32::try_from(text.len()).expect("texts are short");
        Self { value_len, ..*self }.encode(out);
        out.extend_from_slice(text);
    }

    /// Appends the answer up to its value, which the caller appends.
    ///
    /// # Panics
    ///
    /// If extras or key are longer than a header can say: no command's are.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let key_len = u16::try_from(self.key.len()).expect("a key fits into 16 bits");
        let extras_len = u8::try_from(self.extras.len()).expect("extras fit into 8 bits");
        let body_len = u32::from(key_len) + u32::from(extras_len) + self.value_len;
        out.extend_from_slice(&[RESPONSE_MAGIC, self.code]);
        out.extend_from_slice(&key_len.to_be_bytes());
        out.extend_from_slice(&[extras_len, 0]);
        out.extend_from_slice(&self.status.code().to_be_bytes());
        out.extend_from_slice(&body_len.to_be_bytes());
        out.extend_from_slice(&self.opaque.to_be_bytes());
        out.extend_from_slice(&self.cas.to_be_bytes());
        out.extend_from_slice(self.extras);
        out.extend_from_slice(self.key);
    }
}

/// Appends an answer that consists of a status and its text.
pub fn encode_status(code: u8, opaque: u32, status: Status, out: &mut Vec<u8>) {
    Answer::bare(code, opaque, status).encode_text(status.text(), out);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(code: u8, extras: &[u8], key: &[u8], value_len: usize) -> Vec<u8> {
        let mut bytes = vec![REQUEST_MAGIC, code];
        bytes.extend_from_slice(&u16::try_from(key.len()).unwrap().to_be_bytes());
        bytes.extend_from_slice(&[u8::try_from(extras.len()).unwrap(), 0, 0, 0]);
        let body = u32::try_from(extras.len() + key.len() + value_len).unwrap();
        bytes.extend_from_slice(&body.to_be_bytes());
        bytes.extend_from_slice(&7_u32.to_be_bytes());
        bytes.extend_from_slice(&9_u64.to_be_bytes());
        bytes.extend_from_slice(extras);
        bytes.extend_from_slice(key);
        bytes
    }

    fn refusal(bytes: &[u8]) -> (Status, u64, bool) {
        match parse_packet(bytes) {
            Parsed::Bad(refused) => (refused.status, refused.swallow, refused.keeps_framing),
            other @ (Parsed::NeedMore | Parsed::Item { .. }) => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_table_is_in_order_so_that_it_can_be_searched() {
        assert!(OPCODES.is_sorted_by(|one, other| one.code < other.code));
    }

    #[test]
    fn a_packet_is_read_wherever_it_is_cut() {
        let mut extras = 5_u32.to_be_bytes().to_vec();
        extras.extend_from_slice(&(-1_i32).to_be_bytes());
        let bytes = packet(0x11, &extras, b"key", 1_000);
        for len in 0..bytes.len() {
            assert_eq!(parse_packet(&bytes[..len]), Parsed::NeedMore, "{len}");
        }
        let Parsed::Item { item, used } = parse_packet(&bytes) else {
            panic!("it is whole");
        };
        assert_eq!(used, bytes.len());
        assert_eq!(
            (item.opcode.command, item.opcode.quiet),
            (Command::Set, true)
        );
        assert_eq!((item.opaque, item.cas), (7, 9));
        assert_eq!((item.client_flags(), item.exptime()), (5, u32::MAX));
        assert_eq!((item.key, item.value_len), (&b"key"[..], 1_000));
    }

    #[test]
    fn counters_have_an_initial_value_unless_they_must_exist() {
        let mut extras = 3_u64.to_be_bytes().to_vec();
        extras.extend_from_slice(&100_u64.to_be_bytes());
        for (exptime, initial) in [(60_u32, Some(100)), (u32::MAX, None)] {
            let mut extras = extras.clone();
            extras.extend_from_slice(&exptime.to_be_bytes());
            let bytes = packet(0x05, &extras, b"n", 0);
            let Parsed::Item { item, .. } = parse_packet(&bytes) else {
                panic!("it is whole");
            };
            assert_eq!((item.delta(), item.initial()), (3, initial));
        }
    }

    #[test]
    fn what_does_not_fit_its_command_costs_the_connection() {
        let invalid = (Status::Invalid, 0, false);
        assert_eq!(refusal(&packet(0x00, b"1234", b"key", 0)), invalid);
        assert_eq!(refusal(&packet(0x00, b"", b"", 0)), invalid);
        assert_eq!(refusal(&packet(0x00, b"", b"key", 1)), invalid);
        assert_eq!(refusal(&packet(0x01, b"", b"key", 1)), invalid);
        assert_eq!(refusal(&packet(0x05, b"12345678", b"key", 0)), invalid);
        assert_eq!(refusal(&packet(0x0a, b"", b"key", 0)), invalid);
        assert_eq!(refusal(&packet(0x00, b"", &[b'k'; 251], 0)), invalid);
        let mut other_magic = packet(0x00, b"", b"key", 0);
        other_magic[0] = b'g';
        assert_eq!(refusal(&other_magic), invalid);
        let mut body_too_short = packet(0x00, b"", b"key", 0);
        body_too_short[11] = 2;
        assert_eq!(refusal(&body_too_short), (Status::UnknownCommand, 0, false));
    }

    #[test]
    fn an_unknown_command_is_dropped_whole() {
        assert_eq!(
            refusal(&packet(0x4a, b"12", b"key", 5)),
            (Status::UnknownCommand, 10, true)
        );
    }

    #[test]
    fn answers_repeat_what_was_asked() {
        let mut out = Vec::new();
        encode_status(0x0c, 7, Status::NotFound, &mut out);
        assert_eq!(out[..8], [0x81, 0x0c, 0, 0, 0, 0, 0, 1]);
        assert_eq!(out[8..12], 9_u32.to_be_bytes());
        assert_eq!(out[12..16], 7_u32.to_be_bytes());
        assert_eq!(&out[24..], b"Not found");
    }
}
