//! The control thread of a proxy: its keeper, its healer, and the probes of its keeper.
//!
//! A probe is what the real one is: a fresh connection, `version`, `stats`, and `stats conns` if the proxy has
//! closed connections that the backend may still have. The model memcached executes it among all else that it
//! was sent.
//!
//! # Invariants
//!
//! - What is known about the backends is written to the state file before a View that says so is given away.
//! - Keys for the healer reach it before a later report of the same worker reaches the keeper.
//!
//! Not here: what is decided (`magent-core`).

use std::collections::BTreeSet;
use std::net::SocketAddr;

use magent_core::heal::{self, HealConnection};
use magent_core::keeper::{self, Failure, Identity, ProbeAnswer, Report};
use magent_core::known::Process;
use magent_core::placement::Version;
use magent_core::{BackendId, WorkerId};

use crate::connections::Caller;
use crate::network::{Closed, End, Handle, LinkId, Peer};
use crate::proxy::{Disk, ToWorker};
use crate::world::{Event, World};

/// What reaches the control thread.
#[derive(Debug)]
pub(crate) enum ToKeeper {
    Report(WorkerId, Report),
    Recopy(BackendId, Vec<Box<[u8]>>),
    Missed(BackendId, Vec<Box<[u8]>>),
}

/// A connection of the healer.
#[derive(Debug, Default)]
pub(crate) struct HealLink {
    pub link: Option<LinkId>,
    unsent: Vec<u8>,
}

/// A probe under way.
#[derive(Debug)]
pub(crate) struct Probe {
    pub number: u64,
    link: Option<LinkId>,
    inbox: Vec<u8>,
    /// What was known of closed connections when it began.
    given_up: BTreeSet<SocketAddr>,
}

impl World {
    // -- The loop --

    /// Lets keeper and healer do what they want until both wait.
    pub(crate) fn run_control(&mut self, proxy: usize) {
        loop {
            let kept = self.run_keeper(proxy);
            let healed = self.run_healer(proxy);
            if !kept && !healed {
                return;
            }
        }
    }

    /// Whether the keeper wanted anything.
    fn run_keeper(&mut self, proxy: usize) -> bool {
        let mut busy = false;
        loop {
            match self.proxies[proxy].keeper.poll(self.now) {
                keeper::Output::Publish(view) => {
                    self.write_state(proxy);
                    self.note_view(proxy, &view);
                    for worker in 0..self.options.workers {
                        self.tell_worker(proxy, worker, ToWorker::View(view.clone()));
                    }
                    self.feed_healer(proxy, heal::Input::View(&view));
                }
                keeper::Output::Settled(epoch) => {
                    self.proxies[proxy].settled = epoch;
                    self.note_settled(proxy);
                    for worker in 0..self.options.workers {
                        self.tell_worker(proxy, worker, ToWorker::Settled(epoch));
                    }
                    self.feed_healer(proxy, heal::Input::Settled(epoch));
                }
                keeper::Output::Verified(worker, connection)
                    if worker.index() == self.options.workers =>
                {
                    self.feed_healer(proxy, heal::Input::Verified(connection));
                }
                keeper::Output::Verified(worker, connection) => {
                    self.tell_worker(proxy, worker.index(), ToWorker::Verified(connection));
                }
                keeper::Output::Probe(backend) => self.begin_probe(proxy, backend),
                keeper::Output::Changed(change) => {
                    let failure = change.failure.map_or("", Failure::name);
                    let flush = if change.flush { " (flush)" } else { "" };
                    let lacks = match change.lacks {
                        0 => String::new(),
                        count => format!(" (lacks {count})"),
                    };
                    let text = format!(
                        "{:?} -> {:?}{flush}{lacks} {failure}",
                        change.from, change.to
                    );
                    self.note_state(
                        &format!("p{proxy} backend {}", change.backend),
                        text.trim_end(),
                    );
                    self.tally.transitions += 1;
                }
                keeper::Output::StillDown(backend, why) => {
                    self.note(
                        &format!("p{proxy} backend {backend}"),
                        &format!("still down: {why:?}"),
                    );
                }
                keeper::Output::Wait(at) => {
                    self.proxies[proxy].keeper_at = at;
                    if let Some(at) = at {
                        self.at(at, Event::Control { proxy });
                    }
                    return busy;
                }
            }
            busy = true;
        }
    }

    /// Whether the healer wanted anything.
    fn run_healer(&mut self, proxy: usize) -> bool {
        let mut busy = false;
        loop {
            let Some(healer) = &mut self.proxies[proxy].healer else {
                return false;
            };
            match healer.poll(self.now) {
                heal::Output::Connect(connection) => {
                    let links = &mut self.proxies[proxy].heal_links;
                    links.insert(connection, HealLink::default());
                    self.call(proxy, Caller::Healer(connection));
                }
                heal::Output::Disconnect(connection) => {
                    let closed = self.proxies[proxy].heal_links.remove(&connection);
                    if let Some(link) = closed.and_then(|heal| heal.link) {
                        self.abandon_link(link);
                    }
                }
                heal::Output::Write(connection, bytes) => {
                    if let Some(heal) = self.proxies[proxy].heal_links.get_mut(&connection) {
                        heal.unsent.extend_from_slice(&bytes);
                        self.write_heal(proxy, connection);
                    }
                }
                heal::Output::Report(report) => {
                    self.note_report(proxy, self.options.workers, &report);
                    let healer = WorkerId(u16::try_from(self.options.workers).expect("few"));
                    let now = self.now;
                    self.proxies[proxy].keeper.on_report(now, healer, report);
                }
                heal::Output::Wait(at) => {
                    self.proxies[proxy].healer_at = at;
                    if let Some(at) = at {
                        // A timer never fires early.
                        let at = magent_core::Time(at.0.max(self.now.0 + 1_000));
                        self.at(at, Event::Control { proxy });
                    }
                    return busy;
                }
            }
            busy = true;
        }
    }

    fn feed_healer(&mut self, proxy: usize, input: heal::Input<'_>) {
        let now = self.now;
        if let Some(healer) = &mut self.proxies[proxy].healer {
            healer.handle(now, input);
        }
    }

    pub(crate) fn wake_control(&mut self, proxy: usize) {
        if !std::mem::replace(&mut self.proxies[proxy].control_scheduled, true) {
            let us = match self.rng.below(100) {
                // The thread was not scheduled.
                0 => self.rng.below(5_000),
                _ => self.rng.below(30),
            };
            self.after_us(us, Event::Sockets { proxy });
        }
    }

    /// Time has come for the keeper or the healer.
    pub(crate) fn on_control_timer(&mut self, proxy: usize) {
        let this = &self.proxies[proxy];
        let now = self.now;
        let is_due = |at: Option<magent_core::Time>| at.is_some_and(|at| at <= now);
        let (keeper, healer) = (is_due(this.keeper_at), is_due(this.healer_at));
        if this.dead || !keeper && !healer {
            return;
        }
        if healer {
            self.feed_healer(proxy, heal::Input::Tick);
        }
        self.run_control(proxy);
    }

    pub(crate) fn on_keeper_message(&mut self, proxy: usize, message: ToKeeper) {
        if self.proxies[proxy].dead {
            return;
        }
        let now = self.now;
        match message {
            ToKeeper::Report(worker, report) => {
                self.proxies[proxy].keeper.on_report(now, worker, report);
            }
            ToKeeper::Recopy(backend, keys) => {
                self.feed_healer(proxy, heal::Input::Recopy(backend, keys));
            }
            ToKeeper::Missed(backend, keys) => {
                self.feed_healer(proxy, heal::Input::Missed(backend, keys));
            }
        }
        self.run_control(proxy);
    }

    /// Reads the connections of the control thread that are ready.
    pub(crate) fn on_sockets(&mut self, proxy: usize) {
        self.proxies[proxy].control_scheduled = false;
        if self.proxies[proxy].dead {
            return;
        }
        let mut ready = std::mem::take(&mut self.proxies[proxy].ready);
        self.rng.shuffle(&mut ready);
        for id in ready {
            self.links[id.index()].proxy_ready = false;
            match self.links[id.index()].handle {
                Handle::Heal(connection) => self.read_heal(proxy, id, connection),
                Handle::Probe(number) => self.read_probe(proxy, id, number),
                Handle::Unaccepted | Handle::Client(_) | Handle::Backend(_) => {
                    unreachable!("those are the workers'")
                }
            }
        }
        self.run_control(proxy);
    }

    /// What a later process of this proxy has to know.
    fn write_state(&mut self, proxy: usize) {
        let this = &self.proxies[proxy];
        let mut disk: Disk = Vec::new();
        for (index, given_up) in this.given_up.iter().enumerate() {
            let backend = BackendId(u16::try_from(index).expect("few backends"));
            let mut addresses = given_up.clone();
            let open = self.links.iter().filter(|link| {
                link.proxy == proxy && link.proxy_open && link.peer == Peer::Backend(index)
            });
            addresses.extend(open.map(|link| link.local));
            disk.push((this.keeper.remains(backend), addresses));
        }
        let slot = this.slot;
        self.disks[slot] = Some(disk);
    }

    // -- The healer's connections --

    pub(crate) fn on_heal_called(
        &mut self,
        proxy: usize,
        connection: HealConnection,
        result: Result<LinkId, Failure>,
    ) {
        let heal = self.proxies[proxy].heal_links.get_mut(&connection);
        match (heal, result) {
            (None, Ok(link)) => self.abandon_link(link),
            (None, Err(_)) => {}
            (Some(heal), Ok(link)) => {
                heal.link = Some(link);
                self.feed_healer(proxy, heal::Input::Connected(connection));
                // It may have been reset by now.
                self.ready(link);
            }
            (Some(_), Err(failure)) => {
                self.proxies[proxy].heal_links.remove(&connection);
                self.feed_healer(proxy, heal::Input::Lost(connection, failure));
            }
        }
        self.run_control(proxy);
    }

    fn write_heal(&mut self, proxy: usize, connection: HealConnection) {
        let Some(heal) = self.proxies[proxy].heal_links.get_mut(&connection) else {
            return;
        };
        let Some(link) = heal.link else { return };
        let room = self.links[link.index()].to_peer.room();
        let len = heal.unsent.len().min(room);
        let bytes: Vec<u8> = heal.unsent.drain(..len).collect();
        let blocked = !heal.unsent.is_empty();
        self.links[link.index()].proxy_blocked = blocked;
        self.send(link, End::Peer, &bytes);
    }

    fn read_heal(&mut self, proxy: usize, id: LinkId, connection: HealConnection) {
        let open = self.proxies[proxy].heal_links.get(&connection);
        if open.is_none_or(|heal| heal.link != Some(id)) {
            return;
        }
        self.write_heal(proxy, connection);
        if !self.links[id.index()].to_proxy.readable.is_empty() {
            let bytes = self.take_readable(id);
            self.feed_healer(proxy, heal::Input::Data(connection, &bytes));
            let pipe = &self.links[id.index()].to_proxy;
            if !pipe.readable.is_empty() || pipe.closed.is_some() {
                self.ready(id);
            }
        } else if self.links[id.index()].to_proxy.closed.is_some() {
            self.proxies[proxy].heal_links.remove(&connection);
            self.abandon_link(id);
            self.feed_healer(proxy, heal::Input::Lost(connection, Failure::Reset));
        }
    }

    // -- Probes --

    fn begin_probe(&mut self, proxy: usize, backend: BackendId) {
        let this = &mut self.proxies[proxy];
        this.probe_number += 1;
        let number = this.probe_number;
        let probe = Probe {
            number,
            link: None,
            inbox: Vec::new(),
            given_up: this.given_up[backend.index()].clone(),
        };
        this.probes[backend.index()] = Some(probe);
        self.call(proxy, Caller::Probe(backend, number));
        let fail_us = self.options.limits.fail_ms * 1_000;
        self.after_us(
            fail_us,
            Event::ProbeEnds {
                proxy,
                backend,
                number,
            },
        );
    }

    fn probe(&mut self, proxy: usize, backend: BackendId, number: u64) -> Option<&mut Probe> {
        self.proxies[proxy].probes[backend.index()]
            .as_mut()
            .filter(|probe| probe.number == number)
    }

    pub(crate) fn on_probe_called(
        &mut self,
        proxy: usize,
        backend: BackendId,
        number: u64,
        result: Result<LinkId, Failure>,
    ) {
        match (self.probe(proxy, backend, number), result) {
            (None, Ok(link)) => self.hang_up_probe(link),
            (None, Err(_)) => {}
            (Some(_), Err(failure)) => self.end_probe(proxy, backend, Err(failure)),
            (Some(probe), Ok(link)) => {
                probe.link = Some(link);
                let conns: &[u8] = if probe.given_up.is_empty() {
                    b""
                } else {
                    b"stats conns\r\n"
                };
                let get = [b"get ", &self.mark_key[..], b"\r\n"].concat();
                let line = [b"version\r\nstats\r\n", &get[..], conns].concat();
                self.send(link, End::Peer, &line);
                self.ready(link);
            }
        }
    }

    /// A probe has waited as long as it may.
    pub(crate) fn on_probe_ends(&mut self, proxy: usize, backend: BackendId, number: u64) {
        if !self.proxies[proxy].dead && self.probe(proxy, backend, number).is_some() {
            self.end_probe(proxy, backend, Err(Failure::Silent));
        }
    }

    fn end_probe(
        &mut self,
        proxy: usize,
        backend: BackendId,
        result: Result<ProbeAnswer, Failure>,
    ) {
        let probe = self.proxies[proxy].probes[backend.index()].take();
        if let Some(link) = probe.and_then(|probe| probe.link) {
            self.hang_up_probe(link);
        }
        let now = self.now;
        self.proxies[proxy].keeper.on_probe(now, backend, result);
        self.run_control(proxy);
    }

    fn hang_up_probe(&mut self, link: LinkId) {
        self.links[link.index()].proxy_open = false;
        self.close_direction(link, End::Peer, Closed::Fin);
    }

    fn read_probe(&mut self, proxy: usize, id: LinkId, number: u64) {
        let Peer::Backend(index) = self.links[id.index()].peer else {
            return;
        };
        let backend = BackendId(u16::try_from(index).expect("few backends"));
        if self.probe(proxy, backend, number).is_none() {
            return;
        }
        if self.links[id.index()].to_proxy.readable.is_empty() {
            if self.links[id.index()].to_proxy.closed.is_some() {
                self.end_probe(proxy, backend, Err(Failure::Reset));
            }
            return;
        }
        let bytes = self.take_readable(id);
        let local = self.links[id.index()].local;
        let Some(probe) = self.probe(proxy, backend, number) else {
            return;
        };
        probe.inbox.extend_from_slice(&bytes);
        let inbox = std::mem::take(&mut probe.inbox);
        let asked = !probe.given_up.is_empty();
        let parsed = parse(&inbox, asked, local);
        probe.inbox = inbox;
        let Some((mut answer, listed)) = parsed else {
            let pipe = &self.links[id.index()].to_proxy;
            if !pipe.readable.is_empty() || pipe.closed.is_some() {
                self.ready(id);
            }
            return;
        };
        let begun_with = std::mem::take(&mut probe.given_up);
        answer.explicit_cas = self.options.explicit_cas;
        if let Some(identity) = &mut answer.identity {
            // All of a run happens within a second or two. In life processes last longer than that.
            identity.started_unix_s += 10 * identity.pid.cast_signed();
            if self.options.containers {
                identity.pid = 1;
            }
        }
        answer.lingering = self.fence(proxy, index, &begun_with, listed);
        self.end_probe(proxy, backend, Ok(answer));
    }

    /// Whether the backend still has connections that were closed.
    fn fence(
        &mut self,
        proxy: usize,
        backend: usize,
        begun_with: &BTreeSet<SocketAddr>,
        listed: Option<BTreeSet<SocketAddr>>,
    ) -> Option<bool> {
        let given_up = &mut self.proxies[proxy].given_up[backend];
        let Some(listed) = listed else {
            // Not asked, or our own connection is not among them.
            return begun_with.is_empty().then_some(!given_up.is_empty());
        };
        given_up.retain(|address| !begun_with.contains(address) || listed.contains(address));
        Some(!given_up.is_empty())
    }
}

/// Connections that a backend lists; `None` if it did not list the one that asked.
type Listed = Option<BTreeSet<SocketAddr>>;

/// Reads the answers of a probe; `None` if there is more to come.
fn parse(inbox: &[u8], asked: bool, local: SocketAddr) -> Option<(ProbeAnswer, Listed)> {
    let text = std::str::from_utf8(inbox).ok()?;
    let (version, rest) = text.split_once("\r\n")?;
    let (stats, rest) = rest.split_once("END\r\n")?;
    let number = |name: &str| -> u64 {
        let line = stats.lines().find_map(|line| {
            let (found, value) = line.strip_prefix("STAT ")?.split_once(' ')?;
            (found == name).then_some(value)
        });
        line.and_then(|value| value.parse().ok()).unwrap_or(0)
    };
    let (mark, rest) = rest.split_once("END\r\n")?;
    let known = mark.lines().nth(1).map(str::as_bytes);
    let mut listed = None;
    if asked {
        let (conns, _) = rest.split_once("END\r\n")?;
        let found: BTreeSet<SocketAddr> = conns
            .lines()
            .filter_map(|line| {
                let (_, address) = line.strip_prefix("STAT ")?.split_once(":addr tcp:")?;
                address.parse().ok()
            })
            .collect();
        listed = found.contains(&local).then_some(found);
    }
    let version = version.strip_prefix("VERSION ").map(str::as_bytes);
    let started = number("time").cast_signed() - number("uptime").cast_signed();
    let answer = ProbeAnswer {
        version: version.and_then(Version::parse),
        identity: Some(Identity {
            pid: number("pid"),
            started_unix_s: started,
            uptime_s: number("uptime"),
            connections: number("total_connections"),
            sets: number("cmd_set"),
            items_stored: number("total_items"),
        }),
        items: number("curr_items"),
        known: known.and_then(Process::parse),
        flushes: number("cmd_flush"),
        explicit_cas: false,
        lingering: None,
    };
    Some((answer, listed))
}
