//! When proxies disagree, and what that excuses.
//!
//! Proxies without a link between them learn of a failure one after the other, and of one that only one of them
//! has, never. From the moment a worker of one proxy sees a backend fail until all proxies have the same phase for it
//! and all their workers live by that, the backend is *split*. A key is, if its primary or its backup is.
//!
//! Excused, and counted, is what is seen of a key
//!
//! - while it is split;
//! - after that, if a write of it overlapped the split, until an unconditional write that begins later is
//!   acknowledged: two proxies may have acknowledged writes on different copies, and each deletes what the other's
//!   was.
//!
//! Never excused: values of nobody, wrong answers, anything with one proxy.
//!
//! Not here: what is a mistake (`check`).

use std::sync::Arc;

use magent_core::Time;
use magent_core::keeper::Report;
use magent_core::placement::{Phase, View};

use crate::check::{Reader, Violation};
use crate::workload::{Effect, Op, Outcome};
use crate::world::World;

/// Times in which proxies disagree about one backend.
#[derive(Debug, Clone, Default)]
pub(crate) struct Splits {
    /// Beginning and end.
    past: Vec<(Time, Time)>,
    since: Option<Time>,
}

impl Splits {
    /// Those that began until `until`; one that goes on has no end.
    fn until(&self, until: Time) -> impl Iterator<Item = (Time, Option<Time>)> + '_ {
        let past = self.past.iter().map(|&(begin, end)| (begin, Some(end)));
        past.chain(self.since.map(|since| (since, None)))
            .filter(move |&(begin, _)| begin <= until)
    }
}

impl World {
    /// A worker, or the healer, has seen something.
    pub(crate) fn note_report(&mut self, proxy: usize, _participant: usize, report: &Report) {
        if let Report::Failed {
            backend,
            incarnation,
            ..
        } = report
        {
            self.follows_since[backend.index()] = None;
            let failing = &mut self.proxies[proxy].failing[backend.index()];
            *failing = (*failing).max(Some(*incarnation));
            self.look_for_splits();
        }
    }

    /// The keeper of a proxy has decided something.
    pub(crate) fn note_view(&mut self, proxy: usize, view: &Arc<View>) {
        for (backend, follows_since) in view.backends.iter().zip(&mut self.follows_since) {
            if matches!(backend.phase, Phase::Down | Phase::Purging) {
                *follows_since = None;
            }
        }
        self.proxies[proxy].view = Arc::clone(view);
        self.look_for_splits();
    }

    /// All workers of a proxy live by its View.
    pub(crate) fn note_settled(&mut self, proxy: usize) {
        let this = &self.proxies[proxy];
        for (backend, follows_since) in this.view.backends.iter().zip(&mut self.follows_since) {
            let follows = !matches!(backend.phase, Phase::Down | Phase::Purging);
            if follows && backend.since_epoch <= this.settled && follows_since.is_none() {
                *follows_since = Some(self.now);
            }
        }
        self.look_for_splits();
    }

    /// A proxy is there, or is not any more.
    pub(crate) fn look_for_splits(&mut self) {
        if self.options.proxies == 1 {
            return;
        }
        for backend in 0..self.backends.len() {
            let mut phases = self.slots.iter().flatten().map(|&proxy| {
                let this = &self.proxies[proxy];
                let view = &this.view.backends[backend];
                let settled = view.since_epoch <= this.settled
                    && this.failing[backend] != Some(view.incarnation);
                (view.phase, settled)
            });
            let first = phases.next();
            let agree = first.is_none_or(|(phase, settled)| {
                settled && phases.all(|other| other == (phase, true))
            });
            let splits = &mut self.splits[backend];
            match (agree, splits.since) {
                (true, Some(since)) => {
                    splits.past.push((since, self.now));
                    splits.since = None;
                }
                (false, None) => splits.since = Some(self.now),
                _ => {}
            }
        }
    }

    /// Passes a violation on, unless a split excuses it.
    pub(crate) fn unless_split<T: Default>(
        &mut self,
        reader: Reader,
        key: usize,
        result: Result<T, Violation>,
    ) -> Result<T, Violation> {
        match result {
            Err(found) if found.can_be_split() && self.is_excused(reader, key) => {
                self.tally.split += 1;
                Ok(T::default())
            }
            other => other,
        }
    }

    /// Whether a split is why `reader` may see something wrong of `key`.
    pub(crate) fn is_excused(&self, reader: Reader, key: usize) -> bool {
        if self.options.proxies == 1 {
            return false;
        }
        let route = self.placement.route(&self.history.keys[key].bytes);
        let backends = [Some(route.primary), route.backup];
        let splits: Vec<(Time, Option<Time>)> = backends
            .into_iter()
            .flatten()
            .flat_map(|backend| self.splits[backend.index()].until(reader.until))
            .collect();
        if splits
            .iter()
            .any(|&(_, end)| end.is_none_or(|end| end >= reader.from))
        {
            return true;
        }
        let Some(last_end) = splits.iter().filter_map(|&(_, end)| end).max() else {
            return false;
        };
        let cleansed = self.history.changes(key).any(|op| {
            matches!(op.effect, Effect::Base | Effect::Delete)
                && !op.conditional
                && op.outcome == Outcome::Done
                && op.invoked > last_end
                && op.responded.is_some_and(|at| at < reader.from)
        });
        let overlaps = |op: &Op| {
            let ends = op.responded.filter(|_| op.outcome != Outcome::Unknown);
            splits.iter().any(|&(begin, end)| {
                ends.is_none_or(|ends| ends >= begin) && end.is_none_or(|end| op.invoked <= end)
            })
        };
        !cleansed && self.history.changes(key).any(overlaps)
    }
}
