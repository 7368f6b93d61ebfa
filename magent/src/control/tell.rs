//! Who is told what the keeper and the healer decide.
//!
//! # Invariants
//!
//! - What is told is told in the order in which it was decided, after what a later process has to know about it is
//!   on the disk.
//!
//! Not here: what is kept (`ledger`).

use std::sync::Arc;

use magent_core::engine::ConnectionId;
use magent_core::heal;
use magent_core::keeper::Output;
use magent_core::placement::{Phase, View};
use magent_core::{Time, WorkerId};

use super::Control;
use super::sources::Found;
use crate::ledger::Kept;
use crate::worker::ToWorker;

/// What is told in the order in which it was decided, once what it says is on the disk.
pub(super) enum Tell {
    View(Arc<View>),
    Settled(u64),
    Verified(WorkerId, ConnectionId),
}

impl Control {
    /// Does what the keeper wants done; yields how long it can wait.
    pub(super) fn follow_keeper(&mut self, now: Time) -> Option<Time> {
        loop {
            match self.keeper.poll(now) {
                Output::Publish(view) => self.to_tell.push_back(Tell::View(view)),
                Output::Settled(epoch) => self.to_tell.push_back(Tell::Settled(epoch)),
                Output::Verified(worker, connection) => {
                    self.to_tell.push_back(Tell::Verified(worker, connection));
                }
                Output::Probe(backend) => self.probe(backend),
                Output::Changed(change) => {
                    if change.to == Phase::Down {
                        self.fence.on_down(change.backend);
                    } else if change.from == Phase::Down {
                        self.fence.on_returned(change.backend);
                    }
                    self.changes.on_change(now, &change);
                }
                Output::StillDown(backend, why) => self.changes.on_still_down(now, backend, why),
                Output::Wait(at) => return at,
            }
        }
    }

    /// Tells what was decided, if it says nothing that is not on the disk. Whether anything was told.
    pub(super) fn tell_what_is_kept(&mut self, now: Time) -> bool {
        if self.to_tell.is_empty() {
            return false;
        }
        match self.ledger.keep(now, &self.keeper, &self.fence) {
            Kept::All => {
                self.covered = 0;
                while !self.to_tell.is_empty() {
                    self.tell_next(now);
                }
                true
            }
            Kept::After(write) => {
                self.covered = self.to_tell.len();
                let found = self.found.clone();
                tokio::task::spawn_blocking(move || {
                    let written = Box::new(write.perform());
                    // The control thread only stops listening when the process ends.
                    drop(found.send(Found::Written(written)));
                });
                false
            }
            Kept::Later => false,
        }
    }

    pub(super) fn tell_next(&mut self, now: Time) {
        match self.to_tell.pop_front() {
            Some(Tell::View(view)) => {
                self.tell_of_old(&view);
                self.workers.tell_all(|| ToWorker::View(Arc::clone(&view)));
                self.tell_healer(now, heal::Input::View(&view));
            }
            Some(Tell::Settled(epoch)) => {
                self.workers.tell_all(|| ToWorker::Settled(epoch));
                self.tell_healer(now, heal::Input::Settled(epoch));
            }
            Some(Tell::Verified(participant, connection)) => {
                match self.workers.handles.get(participant.index()) {
                    Some(worker) => worker.tell(ToWorker::Verified(connection)),
                    None => self.tell_healer(now, heal::Input::Verified(connection)),
                }
            }
            None => {}
        }
    }

    /// Says once what a backend without meta commands costs.
    fn tell_of_old(&mut self, view: &View) {
        if self.told_of_old {
            return;
        }
        if let Some(old) = view.without_meta().next() {
            self.told_of_old = true;
            let name = &self.config.backends[old.index()];
            tracing::warn!(
                "backend {name} is older than memcached 1.6.10: binary clients are answered without CAS uniques \
                 of their writes, and counters that are not there are not made for them"
            );
        }
    }

    pub(super) fn tell_healer(&mut self, now: Time, input: heal::Input<'_>) {
        if let Some(healer) = &mut self.healer {
            healer.handle(now, input);
            self.follow_healer(now);
        }
    }

    /// Does what the healer wants done; yields how long it can wait.
    pub(super) fn follow_healer(&mut self, now: Time) -> Option<Time> {
        loop {
            match self.healer.as_mut()?.poll(now) {
                heal::Output::Connect(connection) => self.links.connect(connection),
                heal::Output::Disconnect(connection) => self.links.close(connection),
                heal::Output::Write(connection, bytes) => {
                    if let Err(failure) = self.links.write(connection, bytes) {
                        self.links.close(connection);
                        let lost = heal::Input::Lost(connection, failure);
                        self.healer.as_mut()?.handle(now, lost);
                    }
                }
                heal::Output::Report(report) => self.on_report(now, self.healer_id(), report),
                heal::Output::Wait(at) => return at,
            }
        }
    }
}
