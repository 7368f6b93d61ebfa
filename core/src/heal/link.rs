//! Connections of the healer: opened, verified, used, lost.
//!
//! ```text
//!             Connect        Connected          Verified
//!   Closed ───────────> Connecting ───> Verifying ───> Open ──┐
//!     ^                                                       │
//!     └───────────── lost, closed, backend given up ──────────┘
//! ```
//!
//! # Invariants
//!
//! - Nothing is asked before the keeper has said that the process at the other end is the one in the View: one
//!   that was restarted meanwhile may hold anything ([`Report::Connected`], [`Healer::on_verified`]).
//! - A connection for copies that is lost while it owes an answer, or while copies on it wait to be looked at
//!   again, is the backend's failure. One for a walk only read: it is opened again, and the keeper looks who is there.
//! - What a backend owed when it was given up is accounted for, once ([`Healer::give_up`]).
//!
//! Not here: what is asked (`copy`, `walk`).

use super::copy::Asked;
use super::{HealConnection, Healer, Output, Role};
use crate::engine::ConnectionId;
use crate::keeper::{Failure, Report};
use crate::placement::Phase;
use crate::proto::Parsed;
use crate::proto::response::{Line, parse_line};
use crate::{BackendId, Time};

/// A connection that was lost with nothing unanswered is not opened again sooner than this.
const REOPEN_MS: u64 = 100;

/// One connection, or none.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) state: State,
    generation: u32,
    pub(super) inbox: Vec<u8>,
    pub(super) unsent: Vec<u8>,
    /// Last byte from it, or when it began to owe something.
    pub(super) active_at: Time,
    pub(super) reopen_at: Time,
    /// Somebody wanted to use it before it may be opened again.
    missed: bool,
    /// Bytes of a value that nobody wants.
    discard: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Closed,
    Connecting,
    /// There, but who answers? The keeper asks.
    Verifying,
    Open,
}

impl Link {
    pub(super) const fn closed() -> Self {
        Self {
            state: State::Closed,
            generation: 0,
            inbox: Vec::new(),
            unsent: Vec::new(),
            active_at: Time(0),
            reopen_at: Time(0),
            missed: false,
            discard: 0,
        }
    }

    pub(super) const fn connection(&self, backend: BackendId, role: Role) -> HealConnection {
        HealConnection {
            backend,
            role,
            generation: self.generation,
        }
    }

    fn close(&mut self) {
        *self = Self {
            reopen_at: self.reopen_at,
            ..Self::closed()
        };
    }
}

impl Healer {
    pub(super) fn link(&mut self, backend: BackendId, role: Role) -> &mut Link {
        let this = &mut self.backends[backend.index()];
        match role {
            Role::Copy => &mut this.link,
            Role::Walk => &mut this.walk.link,
        }
    }

    /// Whether the connection for copies can be used; if not, it will be.
    pub(super) fn is_ready(&mut self, now: Time, backend: BackendId) -> bool {
        if self.link(backend, Role::Copy).state == State::Open {
            return true;
        }
        self.connect(now, backend, Role::Copy);
        false
    }

    /// Opens a connection, unless there is one or it has to wait.
    pub(super) fn connect(&mut self, now: Time, backend: BackendId, role: Role) {
        let away = self.has_failed(backend) || self.phase(backend) == Phase::Down;
        let link = self.link(backend, role);
        if link.state != State::Closed || away {
            return;
        }
        link.missed = link.reopen_at > now;
        if link.missed {
            return;
        }
        let this = &mut self.backends[backend.index()];
        this.generation += 1;
        let generation = this.generation;
        let link = self.link(backend, role);
        link.state = State::Connecting;
        link.generation = generation;
        link.active_at = now;
        self.outputs.push_back(Output::Connect(HealConnection {
            backend,
            role,
            generation,
        }));
    }

    /// Closes a connection that owes nothing that matters.
    pub(super) fn disconnect(&mut self, backend: BackendId, role: Role) {
        let link = self.link(backend, role);
        if link.state == State::Closed {
            return;
        }
        let connection = link.connection(backend, role);
        link.close();
        self.outputs.push_back(Output::Disconnect(connection));
    }

    fn is_current(&mut self, connection: HealConnection) -> bool {
        let link = self.link(connection.backend, connection.role);
        link.state != State::Closed && link.generation == connection.generation
    }

    pub(super) fn on_connected(&mut self, connection: HealConnection) {
        if !self.is_current(connection) {
            return;
        }
        let HealConnection {
            backend,
            role,
            generation,
        } = connection;
        self.link(backend, role).state = State::Verifying;
        let incarnation = self.view.backends[backend.index()].incarnation;
        let connection = ConnectionId {
            backend,
            generation,
        };
        self.outputs.push_back(Output::Report(Report::Connected {
            connection,
            incarnation,
        }));
    }

    pub(super) fn on_verified(&mut self, now: Time, connection: ConnectionId) {
        let ConnectionId {
            backend,
            generation,
        } = connection;
        for role in [Role::Copy, Role::Walk] {
            let link = self.link(backend, role);
            if link.state == State::Verifying && link.generation == generation {
                link.state = State::Open;
                match role {
                    Role::Walk => self.begin_walk(now, backend),
                    Role::Copy => self.on_copy_link_open(now, backend),
                }
            }
        }
    }

    pub(super) fn on_lost(&mut self, now: Time, connection: HealConnection, failure: Failure) {
        if !self.is_current(connection) {
            return;
        }
        let HealConnection { backend, role, .. } = connection;
        let link = self.link(backend, role);
        let state = link.state;
        link.close();
        link.reopen_at = now.after_ms(REOPEN_MS);
        let owed = match role {
            Role::Walk => false,
            Role::Copy => self.is_owed(backend),
        };
        if state == State::Connecting || owed {
            self.fail(now, backend, failure);
        } else if role == Role::Walk {
            self.retry_walk(now, backend);
        }
    }

    /// Whether it matters that the connection for copies stays.
    fn is_owed(&self, backend: BackendId) -> bool {
        let this = &self.backends[backend.index()];
        let purge = this.target.purge.as_ref();
        !this.asked.is_empty()
            || purge.is_some_and(|purge| purge.outstanding > 0)
            || self.holds_unverified(backend)
    }

    /// The healer has seen the backend fail.
    pub(super) fn fail(&mut self, now: Time, backend: BackendId, failure: Failure) {
        let incarnation = self.view.backends[backend.index()].incarnation;
        self.backends[backend.index()].failed_incarnation = Some(incarnation);
        self.outputs.push_back(Output::Report(Report::Failed {
            backend,
            incarnation,
            failure,
        }));
        self.give_up(now, backend);
    }

    /// Closes both connections and accounts for what the backend owed.
    pub(super) fn give_up(&mut self, now: Time, backend: BackendId) {
        self.stop_walk(backend);
        self.forget_walks(backend);
        self.disconnect(backend, Role::Copy);
        let asked = std::mem::take(&mut self.backends[backend.index()].asked);
        for asked in asked {
            self.on_unanswered(now, backend, asked);
        }
        self.on_target_lost(backend);
    }

    /// Says that something was asked: its silence means something from here on.
    pub(super) fn push_asked(&mut self, now: Time, backend: BackendId, asked: Asked) {
        let this = &mut self.backends[backend.index()];
        if this.asked.is_empty() {
            this.link.active_at = now;
        }
        this.asked.push_back(asked);
    }

    pub(super) fn on_data(&mut self, now: Time, connection: HealConnection, data: &[u8]) {
        if !self.is_current(connection) {
            return;
        }
        let HealConnection { backend, role, .. } = connection;
        let link = self.link(backend, role);
        link.active_at = now;
        if link.state != State::Open {
            // A full memcached says so before it hangs up. Nothing was asked.
            self.disconnect(backend, role);
            let link = self.link(backend, role);
            link.reopen_at = now.after_ms(10 * REOPEN_MS);
            if role == Role::Walk {
                self.retry_walk(now, backend);
            }
            return;
        }
        link.inbox.extend_from_slice(data);
        match role {
            Role::Walk => self.on_walk_data(now, backend),
            Role::Copy => {
                if self.take_answers(now, connection).is_err() {
                    self.fail(now, backend, Failure::Desync);
                }
            }
        }
    }

    /// Takes in all answers that are complete.
    fn take_answers(&mut self, now: Time, connection: HealConnection) -> Result<(), Failure> {
        let backend = connection.backend;
        let value_len_max = self.limits.value_len_max;
        let link = self.link(backend, Role::Copy);
        let inbox = std::mem::take(&mut link.inbox);
        let mut used = link.discard.min(inbox.len());
        link.discard -= used;
        loop {
            let rest = &inbox[used..];
            let (line, line_len) = match parse_line(rest) {
                Parsed::Item { item, used } => (item, used),
                Parsed::NeedMore => break,
                Parsed::Bad(_) => return Err(Failure::Desync),
            };
            let mut value = None;
            let mut len = line_len;
            if let Line::MetaValue { value_len, .. } = line {
                let value_len = usize::try_from(value_len).map_err(|_| Failure::Desync)?;
                len += value_len + b"\r\n".len();
                if value_len as u64 > value_len_max {
                    let here = len.min(rest.len());
                    self.link(backend, Role::Copy).discard = len - here;
                    len = here;
                } else if rest.len() < len {
                    break;
                } else {
                    let (bytes, end) = rest[line_len..len].split_at(value_len);
                    if end != b"\r\n" {
                        return Err(Failure::Desync);
                    }
                    value = Some(bytes);
                }
            }
            used += len;
            self.on_answer(now, backend, &line, value)?;
            if !self.is_current(connection) {
                return Ok(());
            }
        }
        let link = self.link(backend, Role::Copy);
        link.inbox = inbox;
        link.inbox.drain(..used);
        Ok(())
    }

    /// The process stood still: silence counts without that time.
    pub(super) fn on_stalled(&mut self, now: Time, for_ns: u64) {
        for backend in self.ids() {
            for role in [Role::Copy, Role::Walk] {
                let link = self.link(backend, role);
                link.active_at = link.active_at.after_ns(for_ns).min(now);
            }
        }
    }

    /// Gives up backends that owe an answer and are silent.
    pub(super) fn expire_links(&mut self, now: Time) {
        let fail_ms = self.limits.fail_ms;
        for backend in self.ids() {
            // Who still wants it says so again: it may be that nobody does.
            let link = self.link(backend, Role::Copy);
            link.missed &= link.reopen_at > now;
            let this = &self.backends[backend.index()];
            let late = |link: &Link| link.active_at.after_ms(fail_ms) <= now;
            let connecting = |link: &Link| link.state == State::Connecting && late(link);
            if connecting(&this.link) || connecting(&this.walk.link) {
                self.fail(now, backend, Failure::ConnectTimeout);
            } else if !this.asked.is_empty() && late(&this.link) {
                self.fail(now, backend, Failure::Silent);
            }
        }
    }

    /// When a connection that is missed can be opened again.
    pub(super) fn reopen_due(&self) -> Option<Time> {
        let missed = self
            .backends
            .iter()
            .filter(|backend| backend.link.state == State::Closed && backend.link.missed);
        missed.map(|backend| backend.link.reopen_at).min()
    }

    /// When the next of them is late.
    pub(super) fn links_due(&self) -> Option<Time> {
        let fail_ms = self.limits.fail_ms;
        let due = self.backends.iter().flat_map(|backend| {
            let copying = backend.link.state == State::Connecting || !backend.asked.is_empty();
            let walking = backend.walk.link.state == State::Connecting;
            [
                copying.then_some(backend.link.active_at),
                walking.then_some(backend.walk.link.active_at),
            ]
        });
        due.flatten().min().map(|at| at.after_ms(fail_ms))
    }
}
