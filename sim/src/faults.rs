//! What backends do with what arrives, and what goes wrong with them and their connections.
//!
//! # Invariants
//!
//! - What a fault has broken its end mends, also if another fault of the same backend has begun meanwhile.
//!
//! Not here: when faults happen (`world`), what commands answer (`magent-node`).

use magent_node::{Keep, Next, Session};

use crate::memcached::Process;
use crate::network::{Closed, End, LinkId, Peer};
use crate::world::{Event, World};

/// What can go wrong with a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The process dies and comes back empty.
    CrashEmpty,
    /// The process dies and comes back with its items (`-e`).
    CrashWarm,
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
    /// It takes no new connections; those that it has are reset.
    Refuse,
    /// It serves and answers no probe.
    MuteProbes,
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
];

/// A fault that a seed has drawn.
#[derive(Debug)]
pub(crate) struct PlannedFault {
    pub backend: usize,
    pub fault: Fault,
}

impl World {
    // -- Backends --

    pub(crate) fn open_session(&mut self, backend: usize, id: LinkId) {
        self.backends[backend].sessions.insert(id, Session::new());
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
        let this = &self.backends[backend];
        if this.process != Process::Running || !this.sessions.contains_key(&id) {
            return;
        }
        if std::mem::replace(&mut self.links[id.index()].peer_scheduled, true) {
            return;
        }
        let slow_us = this.slow_us;
        let us = 1 + self.rng.below(self.options.serve_us_max) + self.rng.below(slow_us + 1);
        self.after_us(us, Event::Serve { link: id });
    }

    /// A backend executes some of what has arrived on a connection.
    pub(crate) fn on_serve(&mut self, id: LinkId) {
        self.links[id.index()].peer_scheduled = false;
        let Peer::Backend(backend) = self.links[id.index()].peer else {
            return;
        };
        let this = &self.backends[backend];
        if this.process != Process::Running || !this.sessions.contains_key(&id) {
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

    // -- Faults --

    pub(crate) fn begin_fault(&mut self, index: usize) {
        let PlannedFault { backend, fault } = self.faults[index];
        self.note_state(&format!("backend {backend}"), &format!("{fault:?} begins"));
        self.inflict(backend, fault);
    }

    pub(crate) fn inflict(&mut self, backend: usize, fault: Fault) {
        let this = &mut self.backends[backend];
        match fault {
            Fault::CrashEmpty | Fault::CrashWarm => {
                this.process = Process::Dead;
                self.reset_all(backend, 100);
            }
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
                let slow_us = self.options.limits.fail_ms * 1_000;
                self.backends[backend].slow_us = self.rng.between(100, slow_us * 2);
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
                self.backends[backend].restart(now, Keep::Nothing);
                self.reach(backend);
            }
            Fault::CrashWarm if this.process == Process::Dead => {
                self.bury_links(backend);
                self.backends[backend].restart(now, Keep::Items);
            }
            Fault::CrashEmpty | Fault::CrashWarm | Fault::Reset | Fault::ResetOne => {}
            Fault::CutOne if !this.reachable => {}
            Fault::HostDown | Fault::Cut | Fault::CutOne => self.reach(backend),
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
            Fault::MuteProbes => this.answers_probes = true,
        }
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

    pub(crate) fn cut_links(&mut self, backend: usize) {
        for link in self.links_of(backend) {
            self.links[link.index()].cut = true;
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

    pub(crate) fn reach(&mut self, backend: usize) {
        self.backends[backend].reachable = true;
        for link in self.links_of(backend) {
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
        let backend = self.rng.index(self.backends.len());
        let key = self.history.keys[key].bytes.clone();
        self.backends[backend].store.evict(&key);
        let pause = self.rng.below(20_000);
        self.after_us(pause, Event::Evict);
    }
}
