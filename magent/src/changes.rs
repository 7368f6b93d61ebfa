//! What people hear of backends: log lines and events.
//!
//! # Invariants
//!
//! - Every change of phase is one line; a long catch-up is one more every few seconds.
//! - `Down` and `Healed` events come in pairs: what is told to be down is told to be healed before it is told to be
//!   down again, or the proxy ends.
//!
//! Not here: how events are delivered (`events`), when a backend changes (`magent_core::keeper`).

use std::sync::Arc;
use std::time::Duration;

use magent_core::config::Config;
use magent_core::keeper::{Change, Failure, Report, StillDown};
use magent_core::placement::Phase;
use magent_core::stats::{Copying, Progress};
use magent_core::{BackendId, Time};

use crate::events::{Event, EventKind, Events, Role};

/// Between two lines about one catch-up.
const PROGRESS_MS: u64 = 5_000;

/// A backend that answers for longer than this and is still down is told once, and then for who debugs, as often.
const STILL_DOWN_MS: u64 = 1_000;

/// Tells people. See the module's page.
pub(crate) struct Changes {
    backends: Vec<Backend>,
    progress: Arc<Vec<Progress>>,
    events: Events,
}

struct Backend {
    name: String,
    roles: Vec<Role>,
    phase: Phase,
    /// Why it cannot come back until the operator does something, as far as that is told.
    told_remedy: Option<Failure>,
    /// Whether it is told to be down, and not to be healed since.
    told_down: bool,
    /// Whether it is told to have missed too much, and not to be back since.
    told_overflow: bool,
    /// Whether what it lacks has been copied to it once since it was down.
    caught_up: bool,
    /// When the next line about its catch-up is due.
    progress_at: Time,
    /// Since it answered for the first time in this absence.
    still_down: Option<StillDownLines>,
}

/// Lines about why a backend that answers is still down.
struct StillDownLines {
    /// When the next one is due.
    due: Time,
    /// Whether one was written at `info`.
    told: bool,
}

impl Changes {
    /// All are taken to be up.
    pub(crate) fn new(config: &Config, progress: Arc<Vec<Progress>>, events: Events) -> Self {
        let backend = |(index, address): (u16, &dyn std::fmt::Display)| {
            let id = BackendId(index);
            let mut roles = Vec::new();
            if config.primary_ids.contains(&id) {
                roles.push(Role::Primary);
            }
            if config.backup_ids.contains(&id) {
                roles.push(Role::Backup);
            }
            Backend {
                name: address.to_string(),
                roles,
                phase: Phase::Up,
                told_remedy: None,
                told_down: false,
                told_overflow: false,
                caught_up: false,
                progress_at: Time(0),
                still_down: None,
            }
        };
        let addresses = config.backends.iter();
        let addresses = addresses.map(|address| address as &dyn std::fmt::Display);
        Self {
            backends: (0..).zip(addresses).map(backend).collect(),
            progress,
            events,
        }
    }

    /// For the end of the process.
    pub(crate) fn into_events(self) -> Events {
        self.events
    }

    /// A backend's name, as configured.
    pub(crate) fn name(&self, backend: BackendId) -> &str {
        &self.backends[backend.index()].name
    }

    /// A probe has failed. Once a backend is down nobody is told of that again and again, but for what only the
    /// operator can change.
    pub(crate) fn on_probe_failed(&mut self, backend: BackendId, failure: Failure) {
        let this = &mut self.backends[backend.index()];
        let has_remedy = matches!(
            failure,
            Failure::LoginWanted | Failure::LoginRefused | Failure::BinaryOnly
        );
        if has_remedy && this.phase == Phase::Down && this.told_remedy != Some(failure) {
            this.told_remedy = Some(failure);
            tracing::warn!("backend {}: still down: {}", this.name, failure.name());
        }
    }

    /// A backend has changed phase.
    pub(crate) fn on_change(&mut self, now: Time, change: &Change) {
        self.log(now, change);
        let this = &mut self.backends[change.backend.index()];
        this.phase = change.to;
        this.still_down = None;
        match change.to {
            Phase::Down => {
                this.caught_up = false;
                this.told_remedy = change.failure;
                if !std::mem::replace(&mut this.told_down, true) {
                    let mut event = this.event(EventKind::Down);
                    event.reason = change.failure.map(|failure| failure.name().to_owned());
                    self.events.emit(event);
                }
            }
            Phase::Purging => {
                this.told_overflow = false;
                let remembered = self.progress[change.backend.index()].remembered();
                let mut event = this.event(EventKind::Returned);
                event.downtime_ms = Some(change.away_ms);
                event.remembered_keys = Some(remembered);
                self.events.emit(event);
            }
            Phase::CatchingUp => this.progress_at = now.after_ms(PROGRESS_MS),
            Phase::Flipping => this.caught_up = true,
            Phase::Up => {
                if std::mem::take(&mut this.told_down) {
                    let copied = self.progress[change.backend.index()].look(now);
                    let mut event = this.event(EventKind::Healed);
                    event.downtime_ms = Some(change.away_ms);
                    event.healed_items = Some(copied.items_done);
                    event.healed_bytes = Some(copied.bytes_done);
                    self.events.emit(event);
                }
            }
            Phase::Cleaning => {}
        }
    }

    fn log(&self, now: Time, change: &Change) {
        let this = &self.backends[change.backend.index()];
        let name = &this.name;
        let lasted = Duration::from_millis(change.lasted_ms);
        let away = Duration::from_millis(change.away_ms);
        match (change.from, change.to) {
            (from, Phase::Down) => {
                let how = change.failure.map_or("failed", Failure::name);
                let from = from.name();
                tracing::warn!("backend {name}: down: {how} (was {from} for {lasted:?})");
            }
            (_, Phase::Purging) if change.flush => tracing::warn!(
                "backend {name}: back after {away:?}: flushing it, it may hold what it should not"
            ),
            (_, Phase::Purging) => {
                tracing::info!("backend {name}: back after {away:?}: deleting what it missed");
            }
            (Phase::Purging, Phase::Cleaning) => tracing::info!(
                "backend {name}: rid of what it missed: waits for a backend that has more"
            ),
            (_, Phase::Cleaning) => tracing::warn!(
                "backend {name}: a backend that it catches up from is down: removing copies that may be old"
            ),
            (Phase::Flipping, Phase::CatchingUp) => {
                tracing::debug!("backend {name}: more to catch up with");
            }
            (Phase::Up, Phase::CatchingUp) => tracing::info!(
                "backend {name}: catching up with a backend that it had to do without"
            ),
            (_, Phase::CatchingUp) => {
                let from = match change.lacks {
                    0 => "with what it missed".to_owned(),
                    1 => "from 1 backend".to_owned(),
                    more => format!("from {more} backends"),
                };
                tracing::info!("backend {name}: catching up {from}");
            }
            (_, Phase::Flipping) if this.caught_up => {
                tracing::debug!("backend {name}: caught up again");
            }
            (_, Phase::Flipping) => {
                let copied = self.progress[change.backend.index()].look(now);
                let (items, bytes) = (copied.items_done, size(copied.bytes_done));
                let skipped = match copied.items_skipped {
                    0 => String::new(),
                    count => format!(", {count} could not be copied"),
                };
                tracing::info!(
                    "backend {name}: caught up: {items} items, {bytes}, in {lasted:?}{skipped}"
                );
            }
            (_, Phase::Up) => tracing::info!("backend {name}: up after {away:?}"),
        }
    }

    /// A backend answers, and is not taken back. Mostly it is, a moment later.
    pub(crate) fn on_still_down(&mut self, now: Time, backend: BackendId, why: StillDown) {
        let this = &mut self.backends[backend.index()];
        let lines = this.still_down.get_or_insert_with(|| StillDownLines {
            due: now.after_ms(STILL_DOWN_MS),
            told: false,
        });
        if now < lines.due {
            return;
        }
        lines.due = now.after_ms(STILL_DOWN_MS);
        let told = std::mem::replace(&mut lines.told, true);
        let name = &this.name;
        let why = why_still_down(why);
        if told {
            tracing::debug!("backend {name}: answers and is still down: {why}");
        } else {
            tracing::info!("backend {name}: answers and is still down: {why}");
        }
    }

    /// A worker or the healer has reported something that people should hear.
    pub(crate) fn on_report(&mut self, report: &Report) {
        match *report {
            Report::Overflow { backend } => {
                let this = &mut self.backends[backend.index()];
                if !std::mem::replace(&mut this.told_overflow, true) {
                    let name = &this.name;
                    tracing::warn!("backend {name}: has missed more than is remembered for it");
                    let event = this.event(EventKind::Overflow);
                    self.events.emit(event);
                }
            }
            Report::Unwalkable { target, source } => tracing::warn!(
                "backend {}: does not tell its keys (lru_crawler metadump), so {} only catches up with what \
                 is read",
                self.name(source),
                self.name(target),
            ),
            Report::Lacks {
                target,
                source: Some(source),
            } => tracing::debug!(
                "backend {}: has to be copied from {} as a whole",
                self.name(target),
                self.name(source)
            ),
            Report::Lacks {
                target,
                source: None,
            } => tracing::debug!("backend {}: has to be copied as a whole", self.name(target)),
            Report::Failed { .. }
            | Report::Connected { .. }
            | Report::Suspect { .. }
            | Report::Purged { .. }
            | Report::Purging { .. }
            | Report::Acknowledged { .. }
            | Report::Copied { .. }
            | Report::Left { .. } => {}
        }
    }

    /// Lines about catch-ups that take long; yields when the next is due.
    pub(crate) fn on_time(&mut self, now: Time) -> Option<Time> {
        let mut next = None;
        for (this, progress) in self.backends.iter_mut().zip(&*self.progress) {
            if this.phase != Phase::CatchingUp {
                continue;
            }
            if this.progress_at <= now {
                this.progress_at = now.after_ms(PROGRESS_MS);
                let copied = progress.look(now);
                if copied.active {
                    tracing::info!("backend {}: catching up: {}", this.name, how_far(&copied));
                }
            }
            let at = this.progress_at;
            next = Some(next.map_or(at, |next: Time| next.min(at)));
        }
        next
    }
}

impl Backend {
    fn event(&self, kind: EventKind) -> Event {
        Event::new(kind, &self.name, self.roles.clone())
    }
}

fn why_still_down(why: StillDown) -> String {
    match why {
        StillDown::Unsettled => "not every worker has finished what it had begun before".to_owned(),
        StillDown::Lingering {
            answered_ms,
            settle_ms,
        } => {
            let answered = Duration::from_millis(answered_ms / 100 * 100);
            let settle = Duration::from_millis(settle_ms);
            format!(
                "earlier connections to it may still hold writes (answers for {answered:?} of {settle:?})"
            )
        }
        StillDown::MissedTooMuch => {
            "it missed more than is remembered, and on_overflow is stay-down: restart it empty"
                .to_owned()
        }
    }
}

fn how_far(copied: &Copying) -> String {
    let left = match copied.remaining_ms() {
        Some(ms) => format!("{:?} left", Duration::from_secs(ms.div_ceil(1_000))),
        None => "time left unknown".to_owned(),
    };
    format!(
        "{} of {} items ({} %), {}, {} items/s, {left}",
        copied.items_done,
        copied.items_total,
        copied.percent(),
        size(copied.bytes_done),
        copied.items_per_s(),
    )
}

/// Bytes for people: `17 bytes`, `1.2 MB`.
fn size(bytes: u64) -> String {
    const UNITS: [(u64, &str); 3] = [(1_000_000_000, "GB"), (1_000_000, "MB"), (1_000, "kB")];
    match UNITS.iter().find(|(unit, _)| bytes >= *unit) {
        Some((unit, name)) => format!("{}.{} {name}", bytes / unit, bytes % unit * 10 / unit),
        None => format!("{bytes} bytes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(size(0), "0 bytes");
        assert_eq!(size(999), "999 bytes");
        assert_eq!(size(1_250), "1.2 kB");
        assert_eq!(size(99_999_999), "99.9 MB");
        assert_eq!(size(3_000_000_000), "3.0 GB");
    }

    #[test]
    fn progress_in_words() {
        let copied = Copying {
            active: true,
            items_done: 12_000,
            items_skipped: 0,
            items_total: 100_000,
            bytes_done: 1_200_000,
            elapsed_ms: 600,
        };
        assert_eq!(
            how_far(&copied),
            "12000 of 100000 items (12 %), 1.2 MB, 20000 items/s, 5s left"
        );
    }
}
