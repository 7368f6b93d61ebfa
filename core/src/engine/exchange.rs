//! Requests under way: from the line that asks to the last backend's answer.
//!
//! An [`Exchange`] is one answer owed: a multi-key get is one exchange per key, in order. Exchanges live
//! in an arena and are reused with their buffers, so a request costs no allocation in steady state.
//!
//! # Invariants
//!
//! - An exchange stays in the arena while anything refers to it: its client's queue, a backend's pipeline,
//!   a list of waiters. Each holder counts in `refs`, so that an answer can never meet another client's
//!   exchange ([`Exchanges::release`]).
//! - Those that are not answered are linked in order of arrival, so the oldest deadline is at the head.

use std::ops::{Index, IndexMut, Range};
use std::sync::Arc;

use super::ClientId;
use super::binary::Asked;
use crate::proto::{GetVerb, Letters};
use crate::{BackendId, Time};

/// An exchange: its place in the arena.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ExchangeId(u32);

/// What an exchange does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Answered here.
    Local,
    /// A payload is still arriving.
    Upload,
    /// One key of a classic get.
    Fetch(GetVerb),
    /// A meta command that changes nothing.
    Read,
    /// Anything that may change an item.
    Write,
    /// Asks every backend: see `broadcast`.
    Broadcast,
}

/// What a write needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    /// Stores unconditionally: authority and follower in parallel.
    Store,
    /// Deletes unconditionally: the same.
    Remove,
    /// The authority decides alone; its outcome is copied.
    Conditional(Outcome),
}

impl Class {
    /// Whether a follower that catches up is told by a deletion, because repeating it on a copy that the healer has
    /// just made would do it twice.
    pub(crate) const fn is_told_by_deletion(self) -> bool {
        match self {
            Self::Conditional(Outcome::Repeat | Outcome::Delete) => true,
            Self::Conditional(Outcome::Set | Outcome::Touch | Outcome::Nothing)
            | Self::Store
            | Self::Remove => false,
        }
    }
}

/// How the outcome of a conditional command reaches the follower.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// As a plain set with the same payload.
    Set,
    /// By repeating the command.
    Repeat,
    /// By repeating what it does to the item's end: to do that twice does no harm.
    Touch,
    /// As a delete: the outcome cannot be expressed.
    Delete,
    /// Not at all: the command only hands out a token (`mg` with `N` or `R`).
    Nothing,
}

/// What a response looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// One line.
    Line,
    /// One line, or `VA` with a payload.
    Meta,
    /// `VALUE` with a payload or nothing, then `END`.
    Values,
    /// `STAT` lines until `END`, or one line.
    Stats,
}

/// What the client does not want to hear.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Quiet {
    /// It hears everything.
    No,
    /// Classic `noreply`: nothing at all.
    Noreply,
    /// Meta `q`: nothing that starts like this; errors are always heard.
    Hide(&'static [&'static [u8; 2]]),
}

/// How far a write has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Not sent: waits for a lock or an epoch.
    Waiting,
    /// Sent to authority and follower at once.
    Parallel,
    /// Sent to the authority alone.
    Deciding,
    /// The outcome is on its way to the follower.
    Copying,
    /// Copies that disagree are being deleted.
    Mending,
    /// Every backend has answered; only the client's answer is held.
    Over,
}

/// What a backend's answer means for the copies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It did what was asked.
    Done,
    /// It declined: not found, not stored, exists.
    Declined,
    /// It refused with an error.
    Refused,
    /// It failed before it answered: nobody knows.
    Unknown,
}

/// How far a read's second question has come: see `hedge`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hedging {
    /// There is none under way.
    No,
    /// This backend was asked as well and owes the answer.
    Asked(BackendId),
    /// The other backend does not have the item, or could not say.
    Over,
}

/// State of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Write {
    pub class: Class,
    pub form: Form,
    pub stage: Stage,
    pub authority: BackendId,
    pub follower: Option<BackendId>,
    /// Requests at backends that are not answered.
    pub legs: u8,
    /// `None`: not answered, or not asked.
    pub authority_verdict: Option<Verdict>,
    pub follower_verdict: Option<Verdict>,
    /// Times that it was decided anew because the authority failed.
    pub redecided: u8,
    /// Epoch under which it was sent; `None` when it is not counted as under way.
    pub epoch: Option<u64>,
    pub holds_lock: bool,
    /// The backend that lost its copy to a deletion, although the authority may have the item.
    pub recopy: Option<BackendId>,
    /// Whether the healer may have copied what the authority did before it answered.
    pub may_be_copied: bool,
    /// Whether the authority was sent a meta command in a classic one's stead.
    pub translated: bool,
}

/// One answer owed.
#[derive(Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "facts that do not exclude each other"
)]
pub(crate) struct Exchange {
    /// Who is to be answered; `None` once answered or gone.
    pub client: Option<ClientId>,
    pub kind: Kind,
    /// `Some` if a packet of the binary protocol asked: its answer is one too.
    pub asked: Option<Asked>,
    pub quiet: Quiet,
    /// Whether it is the last key of a classic get: `END` follows its answer.
    pub last: bool,
    /// Whether more keys of the same request follow: its answer does not leave alone.
    pub part: bool,
    /// Bytes of the key that its client does not know of.
    pub prefix_len: u8,
    /// What the client is told, whatever the backends say.
    pub instead: Option<&'static [u8]>,
    /// Whether it is the only key.
    pub only: bool,
    pub primary: BackendId,
    pub backup: Option<BackendId>,
    /// Hash of the placement key: locks and gathering compare it first.
    pub hash: u64,
    /// What goes to backends: the key alone for a fetch, else the request without `noreply` and `q`.
    pub wire: Vec<u8>,
    /// Where the key is in `wire`.
    pub key: Range<u16>,
    /// Whether a backend was asked for a value that the client did not ask for.
    pub hides_value: bool,
    /// `Some` if the proxy echoes the key itself: the letters asked for before `k`.
    pub echo: Option<Letters>,
    /// Letters of a meta command.
    pub letters: Letters,
    /// A large payload with its CR LF; a small one is in `wire`.
    pub payload: Option<Arc<Vec<u8>>>,
    /// Bytes reserved for the upload.
    pub reserved: usize,
    /// The answer so far.
    pub reply: Vec<u8>,
    /// Bytes of `reply` that count as held memory.
    pub reply_counted: usize,
    /// Whether a part of the answer has left.
    pub streamed: bool,
    /// The follower's answer: used where the authority fails or, to a read, is silent.
    pub follower_reply: Vec<u8>,
    pub hedging: Hedging,
    /// Bytes of `follower_reply` that count as held memory.
    pub hedge_counted: usize,
    pub write: Write,
    /// The explicit CAS unique of what it stores; 0 until a backend that knows `E` is asked.
    pub version: u64,
    /// Times that a read was asked again.
    pub retries: u8,
    /// Whether it must not be gathered with others: it was part of a batch that failed.
    pub alone: bool,
    pub done: bool,
    pub arrived: Time,
    /// Its place among all that have arrived; 0 until it is linked.
    pub arrival_number: u64,
    pub refs: u32,
    linked: bool,
    previous: Option<ExchangeId>,
    next: Option<ExchangeId>,
}

impl Exchange {
    fn new() -> Self {
        Self {
            client: None,
            kind: Kind::Local,
            asked: None,
            quiet: Quiet::No,
            last: false,
            part: false,
            prefix_len: 0,
            instead: None,
            only: false,
            primary: BackendId(0),
            backup: None,
            hash: 0,
            wire: Vec::new(),
            key: 0..0,
            hides_value: false,
            echo: None,
            letters: Letters::default(),
            payload: None,
            reserved: 0,
            reply: Vec::new(),
            reply_counted: 0,
            streamed: false,
            follower_reply: Vec::new(),
            hedging: Hedging::No,
            hedge_counted: 0,
            write: Write {
                class: Class::Store,
                form: Form::Line,
                stage: Stage::Waiting,
                authority: BackendId(0),
                follower: None,
                legs: 0,
                authority_verdict: None,
                follower_verdict: None,
                redecided: 0,
                epoch: None,
                holds_lock: false,
                recopy: None,
                may_be_copied: false,
                translated: false,
            },
            version: 0,
            retries: 0,
            alone: false,
            done: false,
            arrived: Time(0),
            arrival_number: 0,
            refs: 0,
            linked: false,
            previous: None,
            next: None,
        }
    }

    /// As new, with its buffers kept unless they have grown large.
    fn reset(&mut self) {
        const KEEP_LEN_MAX: usize = 4 * 1024;
        let keep = |buffer: &mut Vec<u8>| {
            let mut buffer = std::mem::take(buffer);
            buffer.clear();
            buffer.shrink_to(KEEP_LEN_MAX);
            buffer
        };
        *self = Self {
            wire: keep(&mut self.wire),
            reply: keep(&mut self.reply),
            follower_reply: keep(&mut self.follower_reply),
            ..Self::new()
        };
    }

    /// The number that an arithmetic command was answered with: the line of a classic one, the value of `ma`.
    pub(crate) fn number(answer: &[u8]) -> Option<&[u8]> {
        let mut lines = answer.split(|&byte| byte == b'\n');
        let first = lines.next()?;
        let line = if first.starts_with(b"VA ") {
            lines.next()?
        } else {
            first
        };
        let number = line.trim_ascii_end();
        (!number.is_empty() && number.iter().all(u8::is_ascii_digit)).then_some(number)
    }

    /// Takes a value that the client did not ask for out of its answer.
    pub(crate) fn hide_value(&mut self) {
        if !self.hides_value || !self.reply.starts_with(b"VA ") {
            return;
        }
        let line_len = self
            .reply
            .iter()
            .position(|&byte| byte == b'\n')
            .unwrap_or(0);
        self.reply.truncate(line_len + 1);
        // `VA <len>` becomes `HD`; the flags behind it stay.
        let flags = self.reply[3..]
            .iter()
            .position(|&byte| !byte.is_ascii_digit())
            .unwrap_or(0);
        self.reply.splice(..3 + flags, *b"HD");
    }

    /// Whether what it sends to backends holds a CAS unique of the client's.
    pub(crate) fn sends_unique(&self) -> bool {
        const UNIQUES: Letters = Letters::of(b"CE");
        self.letters.has_any(UNIQUES) || self.wire.starts_with(b"cas ")
    }

    /// Whether its answer shows a CAS unique of a backend's.
    pub(crate) fn shows_unique(&self) -> bool {
        match self.kind {
            Kind::Fetch(verb) => verb == GetVerb::Gets,
            Kind::Local | Kind::Upload | Kind::Read | Kind::Write | Kind::Broadcast => {
                self.letters.has(b'c')
                    || self.wire.starts_with(b"gats ")
                    || self.wire.starts_with(b"me ")
            }
        }
    }

    /// The key as it stands on the wire.
    pub(crate) fn key(&self) -> &[u8] {
        &self.wire[usize::from(self.key.start)..usize::from(self.key.end)]
    }
}

/// How many exchanges fit into so many bytes.
pub(crate) fn count_within(len: u64) -> usize {
    // The line that is sent, an answer's first bytes, and the places in queues and pipelines.
    const BUFFERS_LEN: usize = 192;
    let each = (size_of::<Exchange>() + BUFFERS_LEN) as u64;
    usize::try_from(len / each).unwrap_or(usize::MAX)
}

/// The arena.
#[derive(Debug, Default)]
pub(crate) struct Exchanges {
    slots: Vec<Exchange>,
    free: Vec<ExchangeId>,
    oldest: Option<ExchangeId>,
    newest: Option<ExchangeId>,
    /// How many have been linked.
    arrivals: u64,
}

impl Index<ExchangeId> for Exchanges {
    type Output = Exchange;

    fn index(&self, id: ExchangeId) -> &Exchange {
        &self.slots[id.0 as usize]
    }
}

impl IndexMut<ExchangeId> for Exchanges {
    fn index_mut(&mut self, id: ExchangeId) -> &mut Exchange {
        &mut self.slots[id.0 as usize]
    }
}

impl Exchanges {
    /// An exchange that one holder refers to.
    pub(crate) fn insert(&mut self) -> ExchangeId {
        let id = self.free.pop().unwrap_or_else(|| {
            let id = u32::try_from(self.slots.len()).expect("memory ends before 2^32 exchanges");
            self.slots.push(Exchange::new());
            ExchangeId(id)
        });
        self[id].refs = 1;
        id
    }

    /// One more holder.
    pub(crate) fn retain(&mut self, id: ExchangeId) {
        self[id].refs += 1;
    }

    /// One holder less; the last one frees it.
    pub(crate) fn release(&mut self, id: ExchangeId) {
        let exchange = &mut self[id];
        assert!(exchange.refs > 0, "exchange released more often than held");
        exchange.refs -= 1;
        if exchange.refs == 0 {
            self.unlink(id);
            self[id].reset();
            self.free.push(id);
        }
    }

    /// Exchanges in use.
    pub(crate) const fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Gives it the next arrival number.
    pub(crate) fn number(&mut self, id: ExchangeId) {
        self.arrivals += 1;
        self[id].arrival_number = self.arrivals;
    }

    /// Appends to the list of those that wait for an answer.
    pub(crate) fn link(&mut self, id: ExchangeId) {
        self.number(id);
        let newest = self.newest;
        let exchange = &mut self[id];
        assert!(!exchange.linked, "exchange linked twice");
        exchange.linked = true;
        exchange.previous = newest;
        exchange.next = None;
        match newest {
            Some(newest) => self[newest].next = Some(id),
            None => self.oldest = Some(id),
        }
        self.newest = Some(id);
    }

    /// Takes out of the list; nothing happens if it is not there.
    pub(crate) fn unlink(&mut self, id: ExchangeId) {
        if !self[id].linked {
            return;
        }
        self[id].linked = false;
        let (previous, next) = (self[id].previous.take(), self[id].next.take());
        match previous {
            Some(previous) => self[previous].next = next,
            None => self.oldest = next,
        }
        match next {
            Some(next) => self[next].previous = previous,
            None => self.newest = previous,
        }
    }

    /// All that wait have arrived so much later, though not after `now`.
    pub(crate) fn delay(&mut self, now: Time, for_ns: u64) {
        let mut next = self.oldest;
        while let Some(id) = next {
            let exchange = &mut self[id];
            exchange.arrived = exchange.arrived.after_ns(for_ns).min(now);
            next = exchange.next;
        }
    }

    /// The one that has waited longest.
    pub(crate) const fn oldest(&self) -> Option<ExchangeId> {
        self.oldest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_is_at_the_head_whatever_is_taken_out() {
        let mut exchanges = Exchanges::default();
        let ids: Vec<_> = (0..4).map(|_| exchanges.insert()).collect();
        for &id in &ids {
            exchanges.link(id);
        }
        exchanges.unlink(ids[1]);
        assert_eq!(exchanges.oldest(), Some(ids[0]));
        exchanges.release(ids[0]);
        assert_eq!(exchanges.oldest(), Some(ids[2]));
        exchanges.unlink(ids[3]);
        exchanges.unlink(ids[2]);
        assert_eq!(exchanges.oldest(), None);
        exchanges.link(ids[3]);
        assert_eq!(exchanges.oldest(), Some(ids[3]));
    }

    #[test]
    #[should_panic(expected = "released more often than held")]
    fn a_release_too_many_is_our_own_mistake() {
        let mut exchanges = Exchanges::default();
        let id = exchanges.insert();
        exchanges.release(id);
        exchanges.release(id);
    }
}
