//! A keeper on a bench: participants that do what is asked of them at once, unless the test mutes them, and
//! backends that answer probes as the test says.

use std::collections::BTreeSet;

use magent_core::engine::ConnectionId;
use magent_core::keeper::{
    Change, Failure, Identity, Keeper, KeeperConfig, Left, Output, ProbeAnswer, Report, StillDown,
};
use magent_core::placement::{Phase, View};
use magent_core::{BackendId, Time, WorkerId};

pub(crate) const WORKERS: u16 = 2;
/// It takes part behind the workers.
pub(crate) const HEALER: WorkerId = WorkerId(WORKERS);
pub(crate) const FIRST: WorkerId = WorkerId(0);
pub(crate) const SECOND: WorkerId = WorkerId(1);

/// A primary and its backup.
pub(crate) const PAIR: &[&[u16]] = &[&[1], &[0]];
/// Two primaries and the backup of both.
pub(crate) const STAR: &[&[u16]] = &[&[2], &[2], &[0, 1]];

pub(crate) struct Bench {
    pub(crate) keeper: Keeper,
    pub(crate) now: Time,
    pub(crate) peers: Vec<Peer>,
    /// Participants that say nothing by themselves.
    pub(crate) muted: BTreeSet<WorkerId>,
    /// Whether probes are answered only when the test says so.
    pub(crate) hold_probes: bool,
    pub(crate) held: Vec<BackendId>,
    /// What has been published last.
    pub(crate) view: View,
    pub(crate) settled: u64,
    pub(crate) changes: Vec<Change>,
    pub(crate) still_down: Vec<(BackendId, StillDown)>,
    pub(crate) verified: Vec<(WorkerId, ConnectionId)>,
    pub(crate) probes: Vec<(Time, BackendId)>,
    purged: BTreeSet<(WorkerId, BackendId, u32)>,
    has_healer: bool,
}

pub(crate) struct Peer {
    /// Whether it answers probes.
    pub(crate) alive: bool,
    /// How a probe fails if it does not.
    pub(crate) failure: Failure,
    pub(crate) answer: ProbeAnswer,
}

pub(crate) fn id(backend: u16) -> BackendId {
    BackendId(backend)
}

impl Bench {
    pub(crate) fn new(partners: &[&[u16]]) -> Self {
        Self::with(partners, |_| {}, |_, _| {})
    }

    pub(crate) fn with(
        partners: &[&[u16]],
        configure: impl FnOnce(&mut KeeperConfig),
        prepare: impl FnOnce(&mut Keeper, Time),
    ) -> Self {
        let now = Time(1_000_000_000);
        let ids = |list: &&[u16]| list.iter().copied().map(BackendId).collect();
        let mut config = KeeperConfig {
            addresses: (0..partners.len())
                .map(|index| format!("10.0.0.{index}:11211"))
                .collect(),
            partners: partners.iter().map(ids).collect(),
            workers: usize::from(WORKERS),
            stay_down: false,
            probe_delay_ms_min: 100,
            probe_delay_ms_max: 1_000,
            settle_ms: 5_000,
            hold_ms_max: 0,
            jitter_seed: 7,
        };
        configure(&mut config);
        let mut keeper = Keeper::new(config, now);
        prepare(&mut keeper, now);
        let peer = |index| Peer {
            alive: true,
            failure: Failure::Refused,
            answer: ProbeAnswer {
                known: None,
                version: None,
                identity: Some(Identity {
                    pid: 10 + index,
                    started_unix_s: 1_000,
                    uptime_s: 2,
                    connections: 5,
                    sets: 5,
                    items_stored: 5,
                }),
                items: 3,
                flushes: 0,
                explicit_cas: false,
                lingering: Some(false),
            },
        };
        let mut bench = Self {
            keeper,
            now,
            peers: (0..partners.len() as u64).map(peer).collect(),
            muted: BTreeSet::new(),
            hold_probes: false,
            held: Vec::new(),
            view: View::initial(partners.len()),
            settled: 0,
            changes: Vec::new(),
            verified: Vec::new(),
            probes: Vec::new(),
            still_down: Vec::new(),
            purged: BTreeSet::new(),
            has_healer: partners.iter().any(|partners| !partners.is_empty()),
        };
        bench.run();
        bench
    }

    fn participants(&self) -> impl Iterator<Item = WorkerId> + use<> {
        (0..WORKERS + u16::from(self.has_healer)).map(WorkerId)
    }

    /// Until the keeper waits for time to pass or for the test.
    pub(crate) fn run(&mut self) {
        for _ in 0..10_000 {
            match self.keeper.poll(self.now) {
                Output::Wait(_) => return,
                Output::Publish(view) => {
                    assert!(view.epoch > self.view.epoch, "epochs grow");
                    self.view = View::clone(&view);
                    for participant in self.participants() {
                        if !self.muted.contains(&participant) {
                            self.follow(participant);
                        }
                    }
                }
                Output::Settled(epoch) => {
                    assert!(epoch > self.settled, "what has settled stays so");
                    self.settled = epoch;
                }
                Output::Probe(backend) => {
                    self.probes.push((self.now, backend));
                    self.held.push(backend);
                    if !self.hold_probes {
                        self.answer_probe(backend);
                    }
                }
                Output::Verified(worker, connection) => self.verified.push((worker, connection)),
                Output::Changed(change) => self.changes.push(change),
                Output::StillDown(backend, why) => self.still_down.push((backend, why)),
            }
        }
        panic!("the keeper never rests");
    }

    /// A participant does what the View in force asks of it.
    pub(crate) fn follow(&mut self, participant: WorkerId) {
        for (index, backend) in self.view.backends.clone().iter().enumerate() {
            let id = BackendId(index as u16);
            let task = (participant, id, backend.since_epoch as u32);
            if backend.phase == Phase::Purging && self.purged.insert(task) {
                let report = Report::Purged {
                    backend: id,
                    incarnation: backend.incarnation,
                };
                self.keeper.on_report(self.now, participant, report);
            }
        }
        let epoch = self.view.epoch;
        let report = Report::Acknowledged { epoch };
        self.keeper.on_report(self.now, participant, report);
    }

    pub(crate) fn unmute(&mut self, participant: WorkerId) {
        self.muted.remove(&participant);
        self.follow(participant);
        self.run();
    }

    /// Answers the probe that is under way.
    pub(crate) fn answer_probe(&mut self, backend: BackendId) {
        let position = self.held.iter().position(|held| *held == backend);
        self.held.remove(position.expect("a probe is under way"));
        let peer = &mut self.peers[backend.index()];
        if let Some(identity) = &mut peer.answer.identity {
            identity.connections += 1;
        }
        let result = if peer.alive {
            Ok(peer.answer)
        } else {
            Err(peer.failure)
        };
        self.keeper.on_probe(self.now, backend, result);
    }

    pub(crate) fn answer(&mut self, backend: u16) {
        self.answer_probe(id(backend));
        self.run();
    }

    pub(crate) fn pass_ms(&mut self, ms: u64) {
        for _ in 0..ms.div_ceil(10) {
            self.now = self.now.after_ms(10);
            self.run();
        }
    }

    pub(crate) fn say(&mut self, who: WorkerId, report: Report) {
        self.keeper.on_report(self.now, who, report);
        self.run();
    }

    pub(crate) fn incarnation(&self, backend: u16) -> u32 {
        self.keeper.view().backends[usize::from(backend)].incarnation
    }

    /// A worker sees a backend fail, and it answers no probe.
    pub(crate) fn kill(&mut self, backend: u16) {
        self.peers[usize::from(backend)].alive = false;
        self.fail(backend);
    }

    /// A worker sees a backend fail.
    pub(crate) fn fail(&mut self, backend: u16) {
        let report = Report::Failed {
            backend: id(backend),
            incarnation: self.incarnation(backend),
            failure: Failure::Reset,
        };
        self.say(FIRST, report);
    }

    /// It answers again, and a while passes.
    pub(crate) fn revive(&mut self, backend: u16) {
        self.peers[usize::from(backend)].alive = true;
        self.pass_ms(1_200);
    }

    /// As [`Self::revive`], as another process that holds nothing.
    pub(crate) fn revive_empty(&mut self, backend: u16) {
        self.restart(backend, 0);
        self.revive(backend);
    }

    /// From now on another process answers there.
    pub(crate) fn restart(&mut self, backend: u16, items: u64) {
        let answer = &mut self.peers[usize::from(backend)].answer;
        answer.items = items;
        answer.flushes = 0;
        answer.identity.as_mut().unwrap().pid += 100;
    }

    pub(crate) fn connect(&mut self, who: WorkerId, backend: u16, generation: u32) -> ConnectionId {
        let connection = ConnectionId {
            backend: id(backend),
            generation,
        };
        let incarnation = self.incarnation(backend);
        let report = Report::Connected {
            connection,
            incarnation,
        };
        self.say(who, report);
        connection
    }

    pub(crate) fn copied(&mut self, target: u16, source: u16) {
        let report = Report::Copied {
            target: id(target),
            incarnation: self.incarnation(target),
            source: id(source),
        };
        self.say(HEALER, report);
    }

    pub(crate) fn busy(&mut self, target: u16, busy: bool) {
        self.left(target, if busy { Left::Many } else { Left::None });
    }

    pub(crate) fn left(&mut self, target: u16, left: Left) {
        let target = id(target);
        self.say(HEALER, Report::Left { target, left });
    }

    pub(crate) fn lacks(&mut self, target: u16, source: Option<u16>) {
        let report = Report::Lacks {
            target: id(target),
            source: source.map(BackendId),
        };
        self.say(HEALER, report);
    }

    pub(crate) fn phase(&self, backend: u16) -> Phase {
        self.view.backends[usize::from(backend)].phase
    }

    pub(crate) fn sources(&self, backend: u16) -> Vec<u16> {
        let sources = &self.view.backends[usize::from(backend)].sources;
        sources.iter().map(|source| source.0).collect()
    }

    pub(crate) fn missed(&self, backend: u16) -> bool {
        self.keeper.remains(id(backend)).missed
    }

    /// Phases that a backend has entered since the last call.
    pub(crate) fn walked(&mut self, backend: u16) -> Vec<Phase> {
        let backend = id(backend);
        let all = std::mem::take(&mut self.changes);
        let (its, others) = all
            .into_iter()
            .partition(|change| change.backend == backend);
        self.changes = others;
        let its: Vec<Change> = its;
        its.iter().map(|change| change.to).collect()
    }
}
