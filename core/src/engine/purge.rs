//! What a backend missed, and how it is rid of it when it returns.
//!
//! # Invariants
//!
//! - Keys stay remembered until the backend has answered every deletion: one that fails meanwhile is purged
//!   again. Or until the healer has them, which compares them instead where other proxies may have filled the
//!   backend ([`BackendView::known`]).
//! - Only a backend whose misses cannot be named is flushed, by each worker when it begins to follow.
//!
//! Not here: when a backend returns (`keeper`), the set of keys itself (`remembered`).

use super::backends::{Pending, Purge};
use super::exchange::{Exchange, ExchangeId, Kind};
use super::remembered::Noted;
use super::{Engine, Output, encode};
use crate::breaks::Break;
use crate::keeper::{Failure, Report};
use crate::placement::BackendView;
use crate::proto::response::Line;
use crate::proto::{KEY_LEN_MAX, encode_decimal, meta};
use crate::stats::Counter;
use crate::{BackendId, Time};

impl Engine {
    /// Notes that `exchange`'s key may differ on `id` from what was acknowledged.
    pub(super) fn remember(&mut self, exchange: ExchangeId, id: BackendId) {
        let mut scratch = [0; KEY_LEN_MAX];
        let key = placement_key(&self.exchanges[exchange], &mut scratch);
        let noted = self.backends[id.index()].remembered.note(key);
        match noted {
            Noted::Added => {
                self.count(Counter::Remembered);
                self.publish_remembered();
            }
            Noted::Known => {}
            Noted::Overflowed => self.report_overflow(id),
        }
    }

    /// `id` has lost its copy of `exchange`'s key: the healer makes another.
    pub(super) fn recopy(&mut self, exchange: ExchangeId, id: BackendId) {
        let mut scratch = [0; KEY_LEN_MAX];
        let key = placement_key(&self.exchanges[exchange], &mut scratch);
        let keys = vec![key.into()];
        self.outputs.push_back(Output::Recopy(id, keys));
    }

    /// `id` has missed a flush. Without backups it is not made up for, and the client is told so.
    pub(super) fn miss_flush(&mut self, id: BackendId) {
        if self.has_backups {
            self.report_overflow(id);
        }
    }

    /// More is missed on `id` than keys can say.
    pub(super) fn report_overflow(&mut self, id: BackendId) {
        self.backends[id.index()].remembered.overflow();
        self.count(Counter::RememberedOverflows);
        // Without backups nothing is ever flushed: nobody else has the items.
        if self.has_backups && !self.breaks.has(Break::OverflowFlushes) {
            self.outputs
                .push_back(Output::Report(Report::Overflow { backend: id }));
        }
    }

    pub(super) fn publish_remembered(&mut self) {
        let mut total = 0;
        for (index, backend) in self.backends.iter_mut().enumerate() {
            let count = backend.remembered.len() as u64;
            total += count;
            let before = std::mem::replace(&mut backend.remembered_published, count);
            if count != before {
                self.progress[index].set_remembered(before, count);
            }
        }
        self.counters().set_remembered(total);
    }

    /// The backend has returned: what it missed goes before anyone reads it.
    pub(super) fn start_purge(&mut self, now: Time, id: BackendId, view: &BackendView) {
        let (incarnation, flush) = (view.incarnation, view.flush);
        let mut keys = if flush || self.breaks.has(Break::Purge) {
            Vec::new()
        } else {
            self.backends[id.index()].remembered.keys()
        };
        if view.known.is_some() && !keys.is_empty() {
            self.counters().add(Counter::Purged, keys.len() as u64);
            self.outputs
                .push_back(Output::Missed(id, std::mem::take(&mut keys)));
        }
        self.backends[id.index()].purge = Some(Purge {
            incarnation,
            keys,
            next: 0,
            outstanding: 0,
        });
        // By each worker: one that hears of the return later has diverted writes until then.
        if flush && !self.breaks.has(Break::Purge) {
            let Self { backends, pool, .. } = self;
            let backend = &mut backends[id.index()];
            backend.unsent.push(b"flush_all\r\n", pool);
            if let Some(purge) = &mut backend.purge {
                purge.outstanding = 1;
            }
            self.push_pending(now, id, Pending::Purge);
        }
        self.repeat_delayed_flush(now, id);
        self.go_on_purging(now, id);
    }

    /// A delayed flush that the backend missed, or forgot in a restart, is told it again, or made up for.
    fn repeat_delayed_flush(&mut self, now: Time, id: BackendId) {
        let Some(at) = self.delayed_flush.filter(|_| self.has_backups) else {
            return;
        };
        let Self {
            backends,
            pool,
            scratch,
            ..
        } = self;
        let backend = &mut backends[id.index()];
        if at > now {
            scratch.clear();
            scratch.extend_from_slice(b"flush_all ");
            encode_decimal(at.ms_since(now).div_ceil(1_000), scratch);
            scratch.extend_from_slice(b"\r\n");
            if let Some(purge) = &mut backend.purge {
                backend.unsent.push(scratch, pool);
                purge.outstanding += 1;
                self.push_pending(now, id, Pending::Purge);
            }
        } else if at > backend.absent_since {
            self.report_overflow(id);
        }
    }

    pub(super) fn go_on_purging(&mut self, now: Time, id: BackendId) {
        loop {
            let Self {
                backends,
                pool,
                limits,
                scratch,
                ..
            } = self;
            let backend = &mut backends[id.index()];
            let Some(purge) = &mut backend.purge else {
                return;
            };
            if purge.next == purge.keys.len() {
                if purge.outstanding == 0 {
                    let incarnation = purge.incarnation;
                    let count = purge.keys.len() as u64;
                    if let Some(purge) = backend.purge.take()
                        && !purge.keys.is_empty()
                        && self.has_backups
                    {
                        self.outputs.push_back(Output::Recopy(id, purge.keys));
                    }
                    let backend = &mut self.backends[id.index()];
                    backend.remembered.clear();
                    self.counters().add(Counter::Purged, count);
                    self.publish_remembered();
                    let report = Report::Purged {
                        backend: id,
                        incarnation,
                    };
                    self.outputs.push_back(Output::Report(report));
                }
                return;
            }
            if purge.outstanding >= limits.purge_window {
                return;
            }
            let key = &purge.keys[purge.next];
            scratch.clear();
            encode::purge(key, scratch);
            backend.unsent.push(scratch, pool);
            purge.next += 1;
            purge.outstanding += 1;
            self.push_pending(now, id, Pending::Purge);
        }
    }

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "a line of any other kind is out of step"
    )]
    pub(super) fn on_purge_line(
        &mut self,
        now: Time,
        id: BackendId,
        line: &Line<'_>,
    ) -> Result<(), Failure> {
        match line {
            Line::Deleted
            | Line::NotFound
            | Line::Ok
            | Line::MetaHeader(_)
            | Line::MetaNotFound(_) => {}
            _ => return Err(Failure::Desync),
        }
        self.pop_pending(id);
        let backend = &mut self.backends[id.index()];
        if let Some(purge) = &mut backend.purge {
            purge.outstanding -= 1;
        }
        self.go_on_purging(now, id);
        Ok(())
    }
}

/// The key that decides placement, of an exchange whose wire may hold it in base64.
fn placement_key<'a>(exchange: &'a Exchange, scratch: &'a mut [u8; KEY_LEN_MAX]) -> &'a [u8] {
    if exchange.letters.has(b'b') && exchange.kind != Kind::Local {
        meta::decode_key(exchange.key(), scratch)
    } else {
        exchange.key()
    }
}
