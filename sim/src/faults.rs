//! What backends do with what arrives, and what goes wrong with them and their connections.
//!
//! # Invariants
//!
//! - What a fault has broken its end mends, also if another fault of the same backend has begun meanwhile.
//!
//! Not here: when faults happen (`world`), what commands answer (`magent-node`).

use magent_core::BackendId;
use magent_node::{Crawler, Keep, Next};

use crate::memcached::Process;
use crate::network::{Closed, End, Handle, LinkId, Peer};
use crate::shapes::Shape;
use crate::workload::{Effect, KeyKind, Outcome, counter, fragment};
use crate::world::{Event, World};

/// What can go wrong with a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The process dies and comes back empty.
    CrashEmpty,
    /// The process dies and comes back with its items (`-e`).
    CrashWarm,
    /// The process dies, and another memcached takes its address, with items of its own.
    Foreign,
    /// The same. Somebody had flushed it before it got its items.
    ForeignFlushed,
    /// The host dies: nothing is refused or reset, everything is silent.
    HostDown,
    /// The process is stopped and goes on later.
    Pause,
    /// No packet passes.
    Cut,
    /// It takes its time.
    Slow,
    /// Some of its connections are reset.
    Reset,
    /// One of its connections is reset: the others know nothing of it.
    ResetOne,
    /// Nothing passes on one of its connections.
    CutOne,
    /// Nothing passes on its connection to the first worker, which then is reset: with something unanswered.
    Sever,
    /// Nothing passes for a moment on its connections to the workers.
    Stall,
    /// Nothing passes for a moment on its connections to healers.
    StallHealer,
    /// It takes no new connections; those that it has are reset.
    Refuse,
    /// It serves and answers no probe.
    MuteProbes,
    /// No packet passes between it and this proxy.
    CutFrom(usize),
    /// Its crawler is busy with somebody else's walk.
    Busy,
    /// Somebody else flushes it.
    Flush,
    /// This proxy is killed, and started again.
    Kill(usize),
}

/// What seeds draw from; what is there twice comes more often.
pub(crate) const FAULTS: &[Fault] = &[
    Fault::CrashEmpty,
    Fault::CrashWarm,
    Fault::HostDown,
    Fault::Pause,
    Fault::Cut,
    Fault::Slow,
    Fault::Reset,
    Fault::ResetOne,
    Fault::ResetOne,
    Fault::ResetOne,
    Fault::CutOne,
    Fault::CutOne,
    Fault::Refuse,
    Fault::MuteProbes,
    Fault::Foreign,
    Fault::ForeignFlushed,
    Fault::Pause,
    Fault::Busy,
];

/// A fault that a seed has drawn.
#[derive(Debug)]
pub(crate) struct PlannedFault {
    pub backend: usize,
    pub fault: Fault,
}

impl World {
    // -- Backends --

    /// Whether the process does not look at a connection.
    fn ignores(&self, backend: usize, id: LinkId) -> bool {
        let this = &self.backends[backend];
        let mute =
            !this.answers_probes && matches!(self.links[id.index()].handle, Handle::Probe(_));
        this.process != Process::Running || mute || !this.sessions.contains_key(&id)
    }

    /// A backend loses a connection, and what of it was not executed.
    pub(crate) fn drop_session(&mut self, backend: usize, id: LinkId) {
        let this = &mut self.backends[backend];
        if let Some(session) = this.sessions.remove(&id) {
            session.close(&mut this.store);
        }
        self.links[id.index()].peer_open = false;
        self.links[id.index()].to_peer.readable.clear();
    }

    pub(crate) fn serve_soon(&mut self, backend: usize, id: LinkId) {
        if self.ignores(backend, id) {
            return;
        }
        if std::mem::replace(&mut self.links[id.index()].peer_scheduled, true) {
            return;
        }
        let slow_us = self.backends[backend].slow_us;
        let us = 1 + self.rng.below(self.options.serve_us_max) + self.rng.below(slow_us + 1);
        self.after_us(us, Event::Serve { link: id });
    }

    /// A backend executes some of what has arrived on a connection.
    pub(crate) fn on_serve(&mut self, id: LinkId) {
        self.links[id.index()].peer_scheduled = false;
        let Peer::Backend(backend) = self.links[id.index()].peer else {
            return;
        };
        if self.ignores(backend, id) {
            return;
        }
        let available = self.links[id.index()].to_peer.readable.len();
        if available == 0 {
            if self.links[id.index()].to_peer.closed.is_some() {
                self.drop_session(backend, id);
            }
            return;
        }
        let len = self.read_len(available);
        let bytes: Vec<u8> = self.links[id.index()]
            .to_peer
            .readable
            .drain(..len)
            .collect();
        self.room_was_made(id);
        let this = &mut self.backends[backend];
        let Some(session) = this.sessions.get_mut(&id) else {
            return;
        };
        let mut out = Vec::new();
        let now = magent_node::Time(self.now.0);
        let next = session.receive(&mut this.store, now, &bytes, &mut out);
        if self.trace.verbose {
            let shown = |bytes: &[u8]| {
                let cut = &bytes[..bytes.len().min(200)];
                cut.escape_ascii().to_string()
            };
            let text = format!("link {} got {} said {}", id.0, shown(&bytes), shown(&out));
            self.note_state(&format!("backend {backend}"), &text);
        }
        self.send(id, End::Proxy, &out);
        self.on_healer_served(backend, id, &bytes);
        if next == Next::Close {
            self.close_direction(id, End::Proxy, Closed::Fin);
            self.drop_session(backend, id);
            return;
        }
        self.serve_soon(backend, id);
    }

    pub(crate) fn links_of(&self, backend: usize) -> Vec<LinkId> {
        self.backends[backend].sessions.keys().copied().collect()
    }

    fn links_of_workers(&self, backend: usize) -> Vec<LinkId> {
        let mut links = self.links_of(backend);
        links.retain(|link| matches!(self.links[link.index()].handle, Handle::Backend(_)));
        links
    }

    fn links_of_healers(&self, backend: usize) -> Vec<LinkId> {
        let mut links = self.links_of(backend);
        links.retain(|link| matches!(self.links[link.index()].handle, Handle::Heal(_)));
        links
    }

    fn cut_each(&mut self, links: Vec<LinkId>) {
        for link in links {
            self.links[link.index()].cut = true;
        }
    }

    fn links_of_first_worker(&self, backend: usize) -> Vec<LinkId> {
        let mut links = self.links_of_workers(backend);
        links.retain(|link| self.links[link.index()].worker == 0);
        links
    }

    // -- Faults --

    pub(crate) fn begin_fault(&mut self, index: usize) {
        if self.is_calm {
            return;
        }
        let PlannedFault { backend, fault } = self.faults[index];
        self.note_state(&format!("backend {backend}"), &format!("{fault:?} begins"));
        self.inflict(backend, fault);
    }

    pub(crate) fn inflict(&mut self, backend: usize, fault: Fault) {
        if matches!(
            fault,
            Fault::CrashEmpty
                | Fault::CrashWarm
                | Fault::Foreign
                | Fault::ForeignFlushed
                | Fault::HostDown
                | Fault::Flush
        ) {
            self.follows_since[backend] = None;
        }
        let this = &mut self.backends[backend];
        match fault {
            Fault::CrashEmpty | Fault::CrashWarm | Fault::Foreign | Fault::ForeignFlushed => {
                this.process = Process::Dead;
                self.reset_all(backend, 100);
            }
            Fault::CutFrom(slot) => {
                this.reachable_from[slot] = false;
                self.cut_links(backend);
            }
            Fault::Busy => this.set_crawler(Crawler::Busy),
            Fault::Flush => {
                this.flush_all(self.now);
                self.emptied[backend] = true;
            }
            Fault::Kill(slot) => self.kill_proxy(slot),
            Fault::HostDown => {
                this.process = Process::Dead;
                this.reachable = false;
                self.cut_links(backend);
            }
            Fault::Pause => {
                if this.process == Process::Running {
                    this.process = Process::Paused;
                }
            }
            Fault::Cut => {
                this.reachable = false;
                self.cut_links(backend);
            }
            Fault::Slow => {
                // Who has served others for settle_ms has read what was in its sockets (docs/failover.md, "Late
                // execution"): some of that is the way there.
                let settle_us = self.options.settle_ms * 1_000;
                let slow_us = self.options.limits.fail_ms * 2_000;
                let slow_us = slow_us.min(settle_us * 2 / 3);
                self.backends[backend].slow_us = self.rng.between(100, slow_us);
            }
            Fault::Reset => self.reset_all(backend, 50),
            Fault::ResetOne => {
                if let Some(link) = self.any_link(backend) {
                    self.reset_link(backend, link);
                }
            }
            Fault::CutOne => {
                if let Some(link) = self.any_link(backend) {
                    self.links[link.index()].cut = true;
                }
            }
            Fault::Stall => self.cut_each(self.links_of_workers(backend)),
            Fault::StallHealer => self.cut_each(self.links_of_healers(backend)),
            Fault::Sever => self.cut_each(self.links_of_first_worker(backend)),
            Fault::Refuse => {
                this.refuses = true;
                self.reset_all(backend, 100);
            }
            Fault::MuteProbes => this.answers_probes = false,
        }
    }

    pub(crate) fn end_fault(&mut self, index: usize) {
        let PlannedFault { backend, fault } = self.faults[index];
        self.note_state(&format!("backend {backend}"), &format!("{fault:?} ends"));
        self.mend(backend, fault);
    }

    pub(crate) fn mend(&mut self, backend: usize, fault: Fault) {
        let now = self.now;
        let this = &mut self.backends[backend];
        match fault {
            Fault::CrashEmpty | Fault::HostDown if this.process == Process::Dead => {
                self.bury_links(backend);
                let this = &mut self.backends[backend];
                this.restart(now, Keep::Nothing);
                this.reachable = true;
                self.reach(backend);
            }
            Fault::CrashWarm if this.process == Process::Dead => {
                self.bury_links(backend);
                self.backends[backend].restart(now, Keep::Items);
            }
            Fault::Foreign | Fault::ForeignFlushed if this.process == Process::Dead => {
                self.bury_links(backend);
                self.backends[backend].restart(now, Keep::Nothing);
                if fault == Fault::ForeignFlushed {
                    self.backends[backend].flush_all(now);
                }
                self.plant(backend);
            }
            Fault::CrashEmpty
            | Fault::CrashWarm
            | Fault::Foreign
            | Fault::ForeignFlushed
            | Fault::Flush
            | Fault::Reset
            | Fault::ResetOne => {}
            Fault::HostDown | Fault::Cut => {
                this.reachable = true;
                self.reach(backend);
            }
            Fault::CutFrom(slot) => {
                this.reachable_from[slot] = true;
                self.reach(backend);
            }
            Fault::CutOne | Fault::Stall | Fault::StallHealer => self.reach(backend),
            Fault::Sever => {
                for link in self.links_of_first_worker(backend) {
                    self.links[link.index()].cut = false;
                    self.reset_link(backend, link);
                }
            }
            Fault::Busy => this.set_crawler(self.options.crawler),
            Fault::Kill(slot) => self.revive_proxy(slot),
            Fault::Pause => {
                if this.process == Process::Paused {
                    this.process = Process::Running;
                    for link in self.links_of(backend) {
                        self.serve_soon(backend, link);
                    }
                }
            }
            Fault::Slow => this.slow_us = 0,
            Fault::Refuse => this.refuses = false,
            Fault::MuteProbes => {
                this.answers_probes = true;
                for link in self.links_of(backend) {
                    self.serve_soon(backend, link);
                }
            }
        }
    }

    /// Gives a process that has just taken an address what was written to its keys once, and more.
    fn plant(&mut self, backend: usize) {
        let now = self.now;
        // Who has never heard of the one before takes this one for it.
        let known = self.disks.iter().all(|disk| {
            disk.as_ref()
                .is_some_and(|disk| disk[backend].0.identity.is_some())
        });
        if !known {
            return;
        }
        for key in 0..self.history.keys.len() {
            let bytes = self.history.keys[key].bytes.clone();
            let route = self.placement.route(&bytes);
            let holds = |id: BackendId| id.index() == backend;
            if !holds(route.primary) && !route.backup.is_some_and(holds) {
                continue;
            }
            let written: Vec<(u32, usize)> = self
                .history
                .changes(key)
                .filter(|op| op.effect == Effect::Base && op.outcome == Outcome::Done)
                .map(|op| (op.id, op.fill_len))
                .collect();
            if written.is_empty() || self.rng.chance(30) {
                continue;
            }
            let (id, fill_len) = self.rng.pick(&written);
            let value = if self.history.keys[key].kind == KeyKind::Counter {
                counter(id)
            } else {
                fragment(id, &bytes, fill_len)
            };
            self.backends[backend].plant(now, &bytes, id, &value);
        }
        self.backends[backend].plant(now, b"stranger", 0, b"strange");
    }

    /// Resets `percent` of a backend's connections. What it had not read is lost; what it had answered
    /// may be.
    pub(crate) fn reset_all(&mut self, backend: usize, percent: u64) {
        for link in self.links_of(backend) {
            if self.rng.chance(percent) {
                self.reset_link(backend, link);
            }
        }
    }

    pub(crate) fn reset_link(&mut self, backend: usize, link: LinkId) {
        let closed = self.rng.pick(&[Closed::Fin, Closed::Reset]);
        self.close_direction(link, End::Proxy, closed);
        self.drop_session(backend, link);
    }

    pub(crate) fn any_link(&mut self, backend: usize) -> Option<LinkId> {
        let links = self.links_of(backend);
        (!links.is_empty()).then(|| self.rng.pick(&links))
    }

    /// Cuts the connections of those proxies that do not reach the backend any more.
    pub(crate) fn cut_links(&mut self, backend: usize) {
        for link in self.links_of(backend) {
            let slot = self.proxies[self.links[link.index()].proxy].slot;
            self.links[link.index()].cut |= !self.backends[backend].is_reached_by(slot);
        }
    }

    /// The connections of a process that is gone are reset as soon as somebody uses them.
    pub(crate) fn bury_links(&mut self, backend: usize) {
        for link in self.links_of(backend) {
            self.links[link.index()].cut = false;
            self.close_direction(link, End::Proxy, Closed::Reset);
            self.drop_session(backend, link);
        }
    }

    /// Packets pass again, where they can.
    pub(crate) fn reach(&mut self, backend: usize) {
        // Those that the backend has lost too: its kernel says so now.
        let links: Vec<LinkId> = (0..self.links.len())
            .filter(|&index| self.links[index].cut)
            .filter(|&index| self.links[index].peer == Peer::Backend(backend))
            .map(|index| LinkId(u32::try_from(index).expect("runs are short")))
            .collect();
        for link in links {
            let slot = self.proxies[self.links[link.index()].proxy].slot;
            if !self.backends[backend].is_reached_by(slot) {
                continue;
            }
            self.links[link.index()].cut = false;
            for toward in [End::Proxy, End::Peer] {
                let latency = self.latency_us();
                self.after_us(latency, Event::Deliver { link, toward });
            }
            // What was sent while it was cut may be due later than that.
            self.redeliver(link);
        }
    }

    pub(crate) fn redeliver(&mut self, link: LinkId) {
        for toward in [End::Proxy, End::Peer] {
            if self.links[link.index()].toward(toward).is_in_flight() {
                let max = self.options.latency_us_max;
                self.after_us(max + 1, Event::Deliver { link, toward });
            }
        }
    }

    pub(crate) fn on_evict(&mut self) {
        if self.is_calm {
            return;
        }
        let key = self.rng.index(self.history.keys.len());
        let any = self.rng.index(self.backends.len());
        let backend = if self.options.shape == Shape::Silences {
            1
        } else {
            any
        };
        let key = self.history.keys[key].bytes.clone();
        self.backends[backend].store.evict(&key);
        let pause = self.rng.below(20_000);
        self.after_us(pause, Event::Evict);
    }
}
