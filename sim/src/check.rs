//! May a client see this? The history of every key, and one function per property.
//!
//! Requests overlap, so "older" is only said where there is no doubt: request A is before request B if A
//! was answered before B was sent, or both went over one client connection in that order. A value may be
//! read unless something that is before the read, and that the value's own write is before, has replaced
//! it. As soon as a value was seen, its write counts as answered.
//!
//! # Invariants
//!
//! - A request whose result is unknown is before nothing, and may have happened at any time up to
//!   [`History::unknown_ms`] after it was sent.
//!
//! Not here: the form of answers (`answers`).

use std::collections::BTreeMap;

use magent_core::Time;

use crate::memcached::ITEM_LEN_MAX;
use crate::workload::{
    COUNTER_MIDDLE, COUNTER_STEP, Effect, Key, KeyKind, Op, Outcome, Quiet, Verb, fragments,
};

/// A property that does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which property.
    pub check: &'static str,
    /// What was seen.
    pub text: String,
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.check, self.text)
    }
}

impl Violation {
    /// Whether it can come from proxies that disagree.
    pub(crate) fn can_be_split(&self) -> bool {
        let never = [
            "foreign value",
            "foreign flags",
            "foreign key",
            "misplaced",
            "wrong answer",
            "unanswered",
        ];
        !never.contains(&self.check)
    }
}

pub(crate) fn violation(check: &'static str, text: impl Into<String>) -> Violation {
    Violation {
        check,
        text: text.into(),
    }
}

/// All requests and what became of them.
#[derive(Debug)]
pub(crate) struct History {
    pub ops: Vec<Op>,
    pub keys: Vec<Key>,
    /// By key: the requests that may change it.
    writes: Vec<Vec<u32>>,
    flushes: Vec<u32>,
    /// By key and number: the request that was answered with it.
    counted: BTreeMap<(usize, u64), u32>,
    /// By connection and key: the request that wrote what its last read saw.
    told: BTreeMap<(u32, usize), u32>,
    /// Longest time that a request without a result may take to happen.
    unknown_ms: u64,
    /// Whether nothing fails: then a request that wants no answer is sure to have been executed.
    is_faultless: bool,
    /// Whether a value that was seen counts as answered: two workers may differ for a moment.
    seen_is_done: bool,
}

/// Somebody who looks at a key: a client, or the world itself at the end.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader {
    pub id: u32,
    pub connection: u32,
    pub from: Time,
    pub until: Time,
}

/// What a value is made of.
#[derive(Debug, Clone)]
struct Seen {
    /// Its writes; the one that replaced all before it is `base`.
    ids: Vec<u32>,
    base: Option<u32>,
    /// For a counter, what was added since.
    added: i64,
}

impl History {
    pub(crate) fn new(
        keys: Vec<Key>,
        unknown_ms: u64,
        is_faultless: bool,
        seen_is_done: bool,
    ) -> Self {
        Self {
            ops: Vec::new(),
            writes: vec![Vec::new(); keys.len()],
            keys,
            flushes: Vec::new(),
            counted: BTreeMap::new(),
            told: BTreeMap::new(),
            unknown_ms,
            is_faultless,
            seen_is_done,
        }
    }

    /// A request is sent.
    pub(crate) fn invoke(&mut self, op: Op) {
        match op.effect {
            Effect::None => {}
            Effect::Flush => self.flushes.push(op.id),
            Effect::Base
            | Effect::Fragment
            | Effect::Delete
            | Effect::Count(_)
            | Effect::CountOrBase(_)
            | Effect::Expire => self.writes[op.keys[0]].push(op.id),
        }
        self.ops.push(op);
    }

    /// A request has its result.
    pub(crate) fn respond(&mut self, id: u32, outcome: Outcome, now: Time) {
        let op = &mut self.ops[id as usize];
        op.outcome = outcome;
        op.responded = Some(now);
    }

    /// Whether a key was only stored to since `op`, or touched, whatever became of that.
    pub(crate) fn only_stores_behind(&self, key: usize, op: &Op) -> bool {
        self.ops
            .iter()
            .filter(|other| other.keys.contains(&key) && other.id != op.id)
            .filter(|other| other.responded.is_none_or(|at| at >= op.invoked))
            .all(|other| matches!(other.effect, Effect::Base | Effect::None))
    }

    /// Whether writes of a key overlapped that no proxy puts in an order: through two proxies, or one of them a
    /// flush of everything.
    pub(crate) fn has_unordered_writes(&self, key: usize) -> bool {
        let writes: Vec<&Op> = self.changes(key).collect();
        self.are_unordered(&writes)
    }

    /// The same of what gives an item its end: writes and touches.
    pub(crate) fn has_unordered_ends(&self, key: usize) -> bool {
        let touches =
            |op: &&Op| op.effect == Effect::None && op.conditional && op.keys.contains(&key);
        let touches = self.ops.iter().filter(touches);
        let writes: Vec<&Op> = self.changes(key).chain(touches).collect();
        self.are_unordered(&writes)
    }

    fn are_unordered(&self, writes: &[&Op]) -> bool {
        let end = |op: &Op| {
            op.responded
                .filter(|_| op.outcome != Outcome::Unknown)
                .unwrap_or_else(|| op.invoked.after_ms(self.unknown_ms))
        };
        let is_flush = |op: &Op| op.effect == Effect::Flush;
        writes.iter().any(|one| {
            writes.iter().any(|other| {
                (one.proxy != other.proxy || is_flush(one) != is_flush(other))
                    && one.invoked <= end(other)
                    && other.invoked <= end(one)
            })
        })
    }

    fn op(&self, id: u32) -> &Op {
        &self.ops[id as usize]
    }

    /// Whether `op` is sure to have happened, at some time.
    fn is_done(&self, op: &Op) -> bool {
        op.outcome == Outcome::Done
            || (self.is_faultless
                && op.quiet == Quiet::Noreply
                && matches!(op.effect, Effect::Base | Effect::Delete)
                && !op.conditional
                // Refused values are larger.
                && op.fill_len < ITEM_LEN_MAX / 2)
    }

    /// Whether `op` may have happened.
    fn may_have_happened(&self, op: &Op) -> bool {
        match op.outcome {
            Outcome::Pending | Outcome::Done | Outcome::Unknown => true,
            // A backend that failed before it answered may have done what its successor then declined; it
            // is seen until everyone has stopped reading that backend.
            Outcome::Declined => !self.is_faultless,
            Outcome::Refused => false,
        }
    }

    /// The moment after which `op` is over, if it is known to have happened.
    fn over_at(&self, op: &Op) -> Option<Time> {
        let answered = op.responded.filter(|_| op.outcome == Outcome::Done);
        let seen = op.observed.filter(|_| self.seen_is_done);
        match (answered, seen) {
            (Some(answered), Some(seen)) => Some(answered.min(seen)),
            (answered, seen) => answered.or(seen),
        }
    }

    fn is_before(&self, op: &Op, (id, connection, from): (u32, u32, Time)) -> bool {
        if self.over_at(op).is_some_and(|at| at < from) {
            return true;
        }
        // Requests of one connection and key happen in their order, whatever becomes of them.
        op.connection == connection
            && op.id < id
            && op.effect != Effect::Flush
            && (self.is_done(op) || op.quiet == Quiet::Noreply)
    }

    fn is_before_op(&self, op: &Op, other: &Op) -> bool {
        let of_one_key = other.effect != Effect::Flush;
        let connection = if of_one_key {
            other.connection
        } else {
            u32::MAX
        };
        self.is_before(op, (other.id, connection, other.invoked))
            // An unknown request that can no longer happen.
            || op.invoked.after_ms(self.unknown_ms) < other.invoked
    }

    fn is_before_reader(&self, op: &Op, reader: Reader) -> bool {
        self.is_before(op, (reader.id, reader.connection, reader.from))
    }

    /// The requests that changed `key`, or everything.
    pub(crate) fn changes(&self, key: usize) -> impl Iterator<Item = &Op> {
        self.writes[key]
            .iter()
            .chain(&self.flushes)
            .map(|&id| self.op(id))
    }

    /// Checks a value that was found for `key`.
    pub(crate) fn check_found(
        &mut self,
        reader: Reader,
        key: usize,
        value: &[u8],
        client_flags: Option<u32>,
    ) -> Result<Option<u32>, Violation> {
        if value.is_empty() && self.keys[key].kind == KeyKind::Vivify {
            // A stub that holds a place for somebody who recaches.
            return Ok(None);
        }
        let seen = self.check_writes(reader, key, value)?;
        self.check_client_flags(key, &seen, client_flags)?;
        self.check_not_old(reader, key, &seen)?;
        self.check_not_taken_back(reader, key, &seen)?;
        if let (KeyKind::Counter, Some(base)) = (self.keys[key].kind, seen.base) {
            self.check_sum(reader, key, base, seen.added)?;
        }
        self.note(reader, key, &seen);
        Ok(seen.base)
    }

    /// The value was written to this key by requests that were sent and not declined.
    fn check_writes(
        &mut self,
        reader: Reader,
        key: usize,
        value: &[u8],
    ) -> Result<Seen, Violation> {
        let name = String::from_utf8_lossy(&self.keys[key].bytes).into_owned();
        let foreign = |what: String| violation("foreign value", format!("{name}: {what}"));
        let mut seen = if self.keys[key].kind == KeyKind::Counter {
            let number: u64 = std::str::from_utf8(value)
                .ok()
                .and_then(|text| text.trim_end_matches(' ').parse().ok())
                .ok_or_else(|| foreign(format!("not a number: {value:?}")))?;
            let base =
                u32::try_from(number / COUNTER_STEP).map_err(|_| foreign("too large".into()))?;
            let added = i64::try_from(number % COUNTER_STEP).unwrap_or(0)
                - i64::try_from(COUNTER_MIDDLE).unwrap_or(0);
            Seen {
                ids: vec![base],
                base: Some(base),
                added,
            }
        } else {
            Seen {
                ids: fragments(value, &self.keys[key].bytes).map_err(foreign)?,
                base: None,
                added: 0,
            }
        };
        for &id in &seen.ids {
            let Some(op) = self.ops.get(id as usize) else {
                return Err(foreign(format!("request {id} does not exist")));
            };
            if op.keys.first() != Some(&key) || op.invoked > reader.until {
                return Err(foreign(format!("request {id} did not write it")));
            }
            match op.effect {
                Effect::Base => seen.base = Some(id),
                Effect::CountOrBase(_) => self.ops[id as usize].wrote_base = true,
                Effect::Fragment => {}
                Effect::None
                | Effect::Delete
                | Effect::Count(_)
                | Effect::Flush
                | Effect::Expire => {
                    return Err(foreign(format!("request {id} writes nothing")));
                }
            }
        }
        let twice = seen.ids.iter().enumerate();
        if let Some((_, id)) = twice
            .into_iter()
            .find(|(at, id)| seen.ids[..*at].contains(id))
        {
            return Err(violation("done twice", format!("{name}: fragment {id}")));
        }
        if seen.base.is_none() && self.keys[key].kind != KeyKind::Vivify {
            return Err(foreign(format!("fragments {:?} without a first", seen.ids)));
        }
        Ok(seen)
    }

    fn check_client_flags(
        &self,
        key: usize,
        seen: &Seen,
        client_flags: Option<u32>,
    ) -> Result<(), Violation> {
        let written = seen
            .base
            .filter(|&base| self.op(base).effect == Effect::Base);
        match (client_flags, written) {
            (Some(read), Some(written)) if read != written => Err(violation(
                "foreign flags",
                format!("key {key}: flags {read} on the value of request {written}"),
            )),
            _ => Ok(()),
        }
    }

    /// Nothing that was acknowledged before the read is missing from what it saw.
    fn check_not_old(&self, reader: Reader, key: usize, seen: &Seen) -> Result<(), Violation> {
        let Some(base) = seen.base.map(|id| self.op(id)) else {
            return Ok(());
        };
        for newer in self.changes(key) {
            if seen.ids.contains(&newer.id) || !self.is_done(newer) && newer.observed.is_none() {
                continue;
            }
            let replaces = match newer.effect {
                Effect::Count(_) | Effect::None => false,
                Effect::CountOrBase(_) => newer.wrote_base,
                // A counter is never appended to.
                Effect::Fragment
                | Effect::Base
                | Effect::Delete
                | Effect::Flush
                | Effect::Expire => true,
            };
            if replaces && self.is_before_op(base, newer) && self.is_before_reader(newer, reader) {
                return Err(violation(
                    "old value",
                    format!(
                        "{}: read {} saw request {} ({:?}) although {} ({:?} {:?}) was acknowledged",
                        String::from_utf8_lossy(&self.keys[key].bytes),
                        reader.id,
                        base.id,
                        base.outcome,
                        newer.id,
                        newer.verb,
                        newer.effect,
                    ),
                ));
            }
        }
        if self.seen_is_done && base.superseded.is_some_and(|at| at < reader.from) {
            return Err(violation(
                "old value",
                format!(
                    "{}: read {} saw request {} again",
                    String::from_utf8_lossy(&self.keys[key].bytes),
                    reader.id,
                    base.id
                ),
            ));
        }
        Ok(())
    }

    /// What a connection has been told is not followed by anything older, also where both were asked for at once.
    fn check_not_taken_back(
        &mut self,
        reader: Reader,
        key: usize,
        seen: &Seen,
    ) -> Result<(), Violation> {
        let (Some(base), true) = (seen.base, self.seen_is_done) else {
            return Ok(());
        };
        let told = self.told.insert((reader.connection, key), base);
        match told {
            Some(told) if told != base && self.is_before_op(self.op(base), self.op(told)) => {
                Err(violation(
                    "taken back",
                    format!(
                        "{}: read {} saw request {base} behind one that saw {told}",
                        String::from_utf8_lossy(&self.keys[key].bytes),
                        reader.id,
                    ),
                ))
            }
            _ => Ok(()),
        }
    }

    /// A number has at least what was acknowledged and at most what was asked for.
    fn check_sum(
        &self,
        reader: Reader,
        key: usize,
        base: u32,
        added: i64,
    ) -> Result<(), Violation> {
        let base = self.op(base);
        let (mut low, mut high) = (0, 0);
        for op in self.changes(key) {
            let (Effect::Count(step) | Effect::CountOrBase(step)) = op.effect else {
                continue;
            };
            if op.id == base.id || op.wrote_base || !self.may_have_happened(op) {
                continue;
            }
            if op.invoked > reader.until || self.is_before_op(op, base) {
                continue;
            }
            let sure = matches!(op.effect, Effect::Count(_))
                && self.is_done(op)
                && self.is_before_op(base, op)
                && self.is_before_reader(op, reader);
            if sure || step < 0 {
                low += step;
            }
            if sure || step > 0 {
                high += step;
            }
        }
        if (low..=high).contains(&added) {
            return Ok(());
        }
        let check = if added < low {
            "old value"
        } else {
            "counted twice"
        };
        Err(violation(
            check,
            format!(
                "{}: read {} saw {added:+} since request {}, expected {low:+} to {high:+}",
                String::from_utf8_lossy(&self.keys[key].bytes),
                reader.id,
                base.id
            ),
        ))
    }

    /// Remembers what a read proves.
    fn note(&mut self, reader: Reader, key: usize, seen: &Seen) {
        for &id in &seen.ids {
            let op = &mut self.ops[id as usize];
            if op.conditional {
                continue;
            }
            op.observed = Some(op.observed.map_or(reader.until, |at| at.min(reader.until)));
        }
        // Of two writes that overlapped, the one that is not seen any more was the first.
        let certain = |id: &u32| !self.op(*id).conditional || self.op(*id).outcome == Outcome::Done;
        if !seen.ids.iter().all(certain) {
            return;
        }
        for index in 0..self.writes[key].len() {
            let id = self.writes[key][index];
            let op = self.op(id);
            if op.is_base()
                && !seen.ids.contains(&id)
                && op.superseded.is_none()
                && self.is_before_reader(op, reader)
            {
                self.ops[id as usize].superseded = Some(reader.until);
            }
        }
    }

    /// Checks a miss; yields the last request whose value should have been there.
    pub(crate) fn check_missing(&self, reader: Reader, key: usize) -> Option<u32> {
        match self.keys[key].kind {
            KeyKind::Expiring | KeyKind::Vivify => return None,
            KeyKind::Register | KeyKind::Counter | KeyKind::Binary => {}
        }
        let mut newest_first = self.writes[key].iter().rev().map(|&id| self.op(id));
        let stored = newest_first.find(|op| {
            op.is_base()
                && op.outcome == Outcome::Done
                && self.is_before_reader(op, reader)
                && !self
                    .changes(key)
                    .any(|other| self.may_remove(other, op, reader))
        })?;
        Some(stored.id)
    }

    /// Whether `other` may be why the value of `stored` is not there.
    fn may_remove(&self, other: &Op, stored: &Op, reader: Reader) -> bool {
        if other.id == stored.id || other.invoked > reader.until {
            return false;
        }
        Self::may_empty(other) && !self.is_before_op(other, stored)
    }

    /// Whether a request may leave its key without a value.
    fn may_empty(op: &Op) -> bool {
        match op.effect {
            Effect::Delete | Effect::Flush | Effect::Expire => op.outcome != Outcome::Refused,
            // One that is refused for its size removes what was there; an unknown one is deleted.
            Effect::Base | Effect::Fragment | Effect::Count(_) | Effect::CountOrBase(_) => {
                matches!(op.outcome, Outcome::Unknown | Outcome::Pending)
            }
            Effect::None => false,
        }
    }

    /// A count that was answered: where nobody counts down, each number is answered once.
    pub(crate) fn check_count(&mut self, id: u32, number: u64) -> Result<(), Violation> {
        let key = self.op(id).keys[0];
        match self.counted.insert((key, number), id) {
            Some(other) => Err(violation(
                "counted once",
                format!("requests {other} and {id} were both answered {number}"),
            )),
            None => Ok(()),
        }
    }

    /// An add that stored: there was nothing, so whatever another add had stored was removed in between.
    pub(crate) fn check_add(&self, id: u32) -> Result<(), Violation> {
        let op = self.op(id);
        let key = op.keys[0];
        match self.keys[key].kind {
            KeyKind::Expiring | KeyKind::Vivify => return Ok(()),
            KeyKind::Register | KeyKind::Counter | KeyKind::Binary => {}
        }
        let winners = self.writes[key].iter().map(|&id| self.op(id));
        for other in winners.filter(|other| other.adds && other.id != id) {
            if other.outcome != Outcome::Done {
                continue;
            }
            let between = self.changes(key).any(|remover| {
                remover.id != id
                    && remover.id != other.id
                    && Self::may_empty(remover)
                    && !(self.is_before_op(remover, op) && self.is_before_op(remover, other))
                    && !(self.is_before_op(op, remover) && self.is_before_op(other, remover))
            });
            if !between {
                return Err(violation(
                    "two winners",
                    format!("requests {} and {id} both stored by add", other.id),
                ));
            }
        }
        Ok(())
    }

    /// A cas that stored: nothing may have come between the value that it compared with and itself.
    pub(crate) fn check_compare(&self, id: u32) -> Result<(), Violation> {
        let op = self.op(id);
        let Some(compared) = op.compared.map(|id| self.op(id)) else {
            return Ok(());
        };
        let (Verb::Cas | Verb::MetaSet) = op.verb else {
            return Ok(());
        };
        let between = self.changes(op.keys[0]).find(|between| {
            between.id != op.id
                && between.id != compared.id
                && matches!(between.effect, Effect::Base | Effect::Delete)
                && between.outcome == Outcome::Done
                && self.is_before_op(compared, between)
                && self.is_before_op(between, op)
        });
        match between {
            Some(between) => Err(violation(
                "false cas",
                format!(
                    "request {id} compared with {} and stored behind {}",
                    compared.id, between.id
                ),
            )),
            None => Ok(()),
        }
    }
}
