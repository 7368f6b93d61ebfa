//! One connection: finds lines and values in a byte stream and hands them on.
//!
//! ```text
//!           line, no value follows
//!         .-----------------------.
//!         v                       |
//! ---> Line --storage command--> Payload --value complete--> Line
//!         |---refused value---> Swallow --all of it seen--> Line
//!         `---quit, line too long, binary protocol--> Closed
//! ```
//!
//! # Invariants
//!
//! - Held back per connection: an unfinished line (`LINE_LEN_MAX`, or `GET_LINE_LEN_MAX` for a
//!   multiget) or an unfinished value (at most `item_len_max`; memory grows as bytes arrive).
//! - No byte is searched or copied twice while a line or value is incomplete.
//! - Too long a line is judged as memcached 1.6.18 does: when more than `PARTIAL_LEN_MAX` bytes
//!   are there and no line end, only `get` and `gets` may go on. So a line of 3,000 bytes is
//!   executed if it arrives at once and closes the connection if it does not. This is the one
//!   thing that depends on how the input is cut.
//!
//! Not here: what a line means (`classic`, `meta`).

use core::net::SocketAddr;

use crate::Time;
use crate::classic;
use crate::meta;
use crate::stats::Counter;
use crate::store::{Connection, Outcome, Store, Write};

/// One connection to a [`Store`].
#[derive(Debug, Default)]
pub struct Session {
    state: State,
    /// The beginning of a line that is not complete.
    partial: Vec<u8>,
    /// Whether the first byte was seen; it tells the protocol.
    greeted: bool,
    registered: Option<Registered>,
}

/// Where a connection comes from and where it arrived, for `stats conns`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionAddrs {
    /// The client's address.
    pub peer: SocketAddr,
    /// The server's address.
    pub local: SocketAddr,
}

/// What the caller does with the connection next, after sending what was appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Next {
    /// Read on.
    Continue,
    /// Close it.
    Close,
}

#[derive(Debug)]
struct Registered {
    slot: usize,
    incarnation: u64,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Line,
    Payload {
        pending: Pending,
        /// What has arrived of value, CR and LF.
        bytes: Vec<u8>,
    },
    Swallow {
        left: usize,
    },
    Closed,
}

impl Session {
    /// A connection that `stats` does not know of.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A connection that is counted and listed by `stats conns`, until [`Session::close`] or a
    /// restart. One that is dropped without `close` stays listed, as a half-open one does.
    #[must_use]
    pub fn open(store: &mut Store, now: Time, addrs: ConnectionAddrs) -> Self {
        store.tick(now);
        store.stats.count(Counter::TotalConnections);
        let connection = Some(Connection {
            addrs,
            last_command: store.current,
        });
        let slot = store.connections.iter().position(Option::is_none);
        let slot = slot.unwrap_or_else(|| {
            store.connections.push(None);
            store.connections.len() - 1
        });
        store.connections[slot] = connection;
        let registered = Registered {
            slot,
            incarnation: store.incarnation(),
        };
        Self {
            registered: Some(registered),
            ..Self::default()
        }
    }

    /// The connection has ended.
    pub fn close(self, store: &mut Store) {
        if let Some(slot) = self.slot(store) {
            store.connections[slot] = None;
        }
    }

    /// Takes the next bytes of the connection, in any cutting, and appends the answers to `out`.
    /// Once it says `Close`, it goes on saying so and answers nothing.
    pub fn receive(
        &mut self,
        store: &mut Store,
        now: Time,
        mut input: &[u8],
        out: &mut Vec<u8>,
    ) -> Next {
        store.tick(now);
        let answered = out.len();
        store.stats.add(Counter::BytesRead, input.len() as u64);
        let orphaned = self.registered.as_ref().is_some_and(|registered| {
            // The process that this connection led to is gone.
            registered.incarnation != store.incarnation()
        });
        if orphaned || !self.greeted && input.first() == Some(&BINARY_REQUEST) {
            self.state = State::Closed;
        }
        self.greeted |= !input.is_empty();
        while !input.is_empty() && !matches!(self.state, State::Closed) {
            input = self.step(store, input, out);
        }
        store
            .stats
            .add(Counter::BytesWritten, (out.len() - answered) as u64);
        match self.state {
            State::Closed => {
                self.partial = Vec::new();
                Next::Close
            }
            State::Line | State::Payload { .. } | State::Swallow { .. } => Next::Continue,
        }
    }

    /// Does one thing with the beginning of `input`, which is not empty; returns the rest.
    fn step<'i>(&mut self, store: &mut Store, input: &'i [u8], out: &mut Vec<u8>) -> &'i [u8] {
        match &mut self.state {
            State::Line => self.step_line(store, input, out),
            State::Swallow { left } => {
                let taken = input.len().min(*left);
                *left -= taken;
                if *left == 0 {
                    self.state = State::Line;
                }
                &input[taken..]
            }
            State::Payload { pending, bytes } => {
                let taken = input.len().min(pending.bytes_len() - bytes.len());
                bytes.extend_from_slice(&input[..taken]);
                if bytes.len() == pending.bytes_len() {
                    pending.finish(store, bytes, out);
                    self.state = State::Line;
                }
                &input[taken..]
            }
            State::Closed => &[],
        }
    }

    fn step_line<'i>(&mut self, store: &mut Store, input: &'i [u8], out: &mut Vec<u8>) -> &'i [u8] {
        let end = memchr::memchr(b'\n', input);
        let len = self.partial.len() + end.unwrap_or(input.len());
        if len > GET_LINE_LEN_MAX {
            classic::say(out, b"SERVER_ERROR out of memory reading request");
            self.state = State::Closed;
            return &[];
        }
        let Some(end) = end else {
            self.partial.extend_from_slice(input);
            if len > PARTIAL_LEN_MAX && !is_get(&self.partial) {
                self.state = State::Closed;
            }
            return &[];
        };
        let after = if self.partial.is_empty() {
            self.execute(store, &input[..end], out)
        } else {
            self.partial.extend_from_slice(&input[..end]);
            let mut line = core::mem::take(&mut self.partial);
            let after = self.execute(store, &line, out);
            if line.capacity() <= LINE_LEN_MAX {
                line.clear();
                self.partial = line;
            }
            after
        };
        let rest = &input[end + 1..];
        match after {
            After::Line => rest,
            After::Close => {
                self.state = State::Closed;
                &[]
            }
            After::Swallow(left) => {
                self.state = State::Swallow { left };
                rest
            }
            After::Payload(pending) => {
                // The usual case: the value is here already and is copied once, into its item.
                if let Some((bytes, rest)) = rest.split_at_checked(pending.bytes_len()) {
                    pending.finish(store, bytes, out);
                    return rest;
                }
                self.state = State::Payload {
                    pending,
                    bytes: Vec::new(),
                };
                rest
            }
        }
    }

    fn execute(&self, store: &mut Store, line: &[u8], out: &mut Vec<u8>) -> After {
        if line.len() > LINE_LEN_MAX && !is_get(line) {
            return After::Close;
        }
        let slot = self.slot(store);
        if let Some(connection) = slot.and_then(|slot| store.connections[slot].as_mut()) {
            connection.last_command = store.current;
        }
        // A line that is nothing but CR keeps it, as in memcached; it is an error either way.
        let line = line
            .strip_suffix(b"\r")
            .filter(|line| !line.is_empty())
            .unwrap_or(line);
        // What follows a NUL is lost on memcached's C strings.
        let line = &line[..memchr::memchr(0, line).unwrap_or(line.len())];
        classic::execute(store, slot, line, out)
    }

    fn slot(&self, store: &Store) -> Option<usize> {
        let registered = self.registered.as_ref()?;
        (registered.incarnation == store.incarnation()).then_some(registered.slot)
    }
}

/// Whether an unfinished line may become long.
fn is_get(line: &[u8]) -> bool {
    let blanks = line.iter().take_while(|byte| **byte == b' ').count();
    let line = &line[blanks..];
    blanks <= LEADING_BLANKS_MAX && (line.starts_with(b"get ") || line.starts_with(b"gets "))
}

/// What comes after a line.
#[derive(Debug)]
pub(crate) enum After {
    Line,
    /// A value, which is stored.
    Payload(Pending),
    /// A value, which is not.
    Swallow(usize),
    Close,
}

/// A storage command that waits for its value.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) key: Vec<u8>,
    pub(crate) write: Write<'static>,
    pub(crate) value_len: usize,
    pub(crate) reply: Reply,
}

/// How a storage command is answered.
#[derive(Debug)]
pub(crate) enum Reply {
    Classic { noreply: bool },
    Meta(meta::SetReply),
}

impl Pending {
    /// Value, CR and LF.
    fn bytes_len(&self) -> usize {
        self.value_len + LINE_END.len()
    }

    fn finish(&self, store: &mut Store, bytes: &[u8], out: &mut Vec<u8>) {
        let write = Write {
            key: &self.key,
            ..self.write
        };
        store.count_set(write.key, self.value_len, write.client_flags);
        let noreply = matches!(self.reply, Reply::Classic { noreply: true });
        let Some(value) = bytes.strip_suffix(LINE_END) else {
            if !noreply {
                classic::say(out, b"CLIENT_ERROR bad data chunk");
            }
            return;
        };
        let outcome = store.store(write, Box::from(value));
        let answer: &[u8] = match (&self.reply, outcome) {
            (Reply::Meta(reply), _) => return reply.answer(outcome, out),
            (Reply::Classic { noreply: true }, _) => return,
            (Reply::Classic { noreply: false }, Outcome::Stored(_)) => b"STORED",
            (Reply::Classic { noreply: false }, Outcome::Exists) => b"EXISTS",
            (Reply::Classic { noreply: false }, Outcome::NotFound) => b"NOT_FOUND",
            (Reply::Classic { noreply: false }, Outcome::NotStored) => b"NOT_STORED",
        };
        classic::say(out, answer);
    }
}

const LINE_END: &[u8] = b"\r\n";
/// First byte of a request in memcached's binary protocol, which is not spoken here.
const BINARY_REQUEST: u8 = 0x80;
/// From here on an unfinished line must be a `get`. The number is memcached's.
const PARTIAL_LEN_MAX: usize = 2048;
/// memcached's read buffer; a longer line never has its end in it.
const LINE_LEN_MAX: usize = 16_384;
/// memcached has no limit of its own for multigets. 32 MiB are 130,000 of the longest keys.
const GET_LINE_LEN_MAX: usize = 32 << 20;
/// More blanks in front of a long `get` close the connection, as in memcached.
const LEADING_BLANKS_MAX: usize = 100;
