//! Shapes: what has to come together before a protection is needed.
//!
//! Most holes need several things at once, which chance alone brings together too seldom. A shape narrows what a
//! seed draws, and plans its faults.
//!
//! Not here: what faults do (`faults`), what all seeds draw (`options`).

use magent_core::Time;
use magent_core::config::Limits;
use magent_core::placement::Phase;
use magent_node::Crawler;

use crate::client::micros;
use crate::faults::{FAULTS, Fault, PlannedFault};
use crate::network::{Handle, LinkId};
use crate::options::{Chunks, Faults, Options};
use crate::rng::Rng;
use crate::world::{Event, World};

/// What comes together in a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// What was drawn.
    Plain,
    /// Everyone wants the same few keys at once.
    Rush,
    /// The same; the last worker always hears late, and only the first one loses connections.
    Late,
    /// Primary and backup fail in turn, one while the other catches up.
    Handover,
    /// What is being copied is overwritten or deleted.
    Overwrites,
    /// A primary returns to a backup that catches up itself.
    Juniors,
    /// The primary is silent now and then, never for long, and backups evict.
    Silences,
    /// The primary is stopped now and then, for so long that it is given up.
    Hangs,
    /// The proxy is killed while the primary is away.
    Away,
    /// Many clients of one worker share their gets, and connections are lost with these unanswered.
    Crowd,
}

impl Shape {
    /// Its name in docs/simulator.md.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Rush => " rush",
            Self::Late => " late",
            Self::Handover => " handover",
            Self::Overwrites => " overwrites",
            Self::Juniors => " juniors",
            Self::Silences => " silences",
            Self::Hangs => " hangs",
            Self::Away => " away",
            Self::Crowd => " crowd",
        }
    }
}

impl Options {
    /// Narrowed to a shape, mostly.
    pub(crate) fn shaped(self, rng: &mut Rng) -> Self {
        match rng.below(100) {
            0..=12 => self.rush(rng),
            13..=23 => self.rush(rng).late(rng),
            24..=49 => self.handover(rng),
            50..=67 => self.handover(rng).overwrites(rng),
            68..=70 => self.handover(rng).juniors(rng),
            71..=74 => self.silences(rng),
            75..=80 => self.hangs(rng),
            81..=85 => self.away(rng),
            86..=90 => self.crowd(rng),
            _ => self,
        }
    }

    /// Everyone wants the same few keys while connections come and go and one worker hears of it late: what
    /// workers disagree about for a moment is seen only in a crowd.
    fn rush(self, rng: &mut Rng) -> Self {
        Self {
            workers: rng.pick(&[2, 2, 3]),
            primaries: 1,
            backups: 1,
            clients: 5,
            requests: self.requests.max(100),
            depth_max: rng.pick(&[2, 8]),
            keys: rng.pick(&[1, 3]),
            counting: rng.chance(40),
            read_percent: rng.pick(&[20, 50]),
            private: false,
            faults: Faults::OneVictim,
            flapping: true,
            shape: Shape::Rush,
            fault_count: rng.len_between(1, 10),
            busy_ms: 60,
            evicting: false,
            chunks: Chunks::Whole,
            latency_us_max: rng.pick(&[50, 50, 1_000]),
            serve_us_max: rng.pick(&[20, 20, 1_000]),
            lag_us_max: rng.pick(&[50, 10_000, 40_000]),
            flush_per_mille: 0,
            large_percent: 0,
            disconnect_per_mille: 0,
            slow_readers: false,
            limits: Limits {
                probe_delay_ms_min: rng.pick(&[1, 5]),
                fail_ms: 150,
                request_ms: 1_000,
                ..self.limits
            },
            ..self
        }
    }

    /// A rush in which the last worker always hears late of what the first one has seen.
    fn late(self, rng: &mut Rng) -> Self {
        let style = rng.below(4);
        let appending = style >= 2;
        Self {
            workers: 2,
            counting: false,
            locking: false,
            deleting: style == 0,
            appending,
            keys: if appending { 8 } else { rng.pick(&[2, 5]) },
            noreply_percent: 0,
            shape: Shape::Late,
            fault_count: rng.len_between(2, 6),
            requests: 300,
            busy_ms: 150,
            latency_us_max: rng.pick(&[50, 300]),
            lag_us_max: rng.pick(&[5_000, 10_000, 20_000]),
            ..self
        }
    }

    /// Primary and backup fail in turn, mostly one while the other catches up, under many writes: who leads then
    /// must have what was acknowledged since it came back, and nothing else.
    fn handover(self, rng: &mut Rng) -> Self {
        let style = rng.below(4);
        Self {
            workers: rng.pick(&[1, 2]),
            proxies: 1,
            primaries: 1,
            // So that their numbers differ, and one that was seen on one is met on another.
            backups: if style == 0 { 2 } else { 1 },
            explicit_cas: style != 0 && self.explicit_cas,
            comparing: style == 0,
            clients: 5,
            requests: 250,
            depth_max: rng.pick(&[2, 8]),
            keys: if style >= 2 { 8 } else { rng.pick(&[2, 5, 8]) },
            counting: false,
            locking: false,
            noreply_percent: 0,
            appending: style == 1,
            deleting: style >= 2,
            read_percent: 50,
            private: false,
            faults: Faults::Wild,
            shape: Shape::Handover,
            fault_count: rng.len_between(4, 12),
            busy_ms: 200,
            evicting: false,
            kills: false,
            nat: false,
            flushed_by_others: false,
            crawler: Crawler::Enabled,
            chunks: Chunks::Whole,
            latency_us_max: rng.pick(&[300, 1_000, 3_000]),
            serve_us_max: rng.pick(&[20, 1_000]),
            lag_us_max: rng.pick(&[50, 50, 5_000, 20_000]),
            flush_per_mille: 0,
            large_percent: 0,
            slow_readers: false,
            limits: Limits {
                probe_delay_ms_min: rng.pick(&[1, 5]),
                probe_delay_ms_max: 10,
                fail_ms: 240,
                request_ms: 2_000,
                ..self.limits
            },
            ..self
        }
    }

    /// The primary is stopped for a little longer than it takes to give it up, and then executes what it was sent.
    fn hangs(self, rng: &mut Rng) -> Self {
        Self {
            proxies: 1,
            primaries: 1,
            backups: 1,
            keys: rng.pick(&[3, 8]),
            counting: false,
            locking: false,
            private: false,
            faults: Faults::OneVictim,
            flapping: false,
            shape: Shape::Hangs,
            fault_count: rng.len_between(2, 6),
            busy_ms: 1_000,
            requests: self.requests.max(150),
            evicting: false,
            kills: false,
            nat: rng.chance(20),
            flushed_by_others: false,
            chunks: Chunks::Whole,
            latency_us_max: 300,
            serve_us_max: 1_000,
            lag_us_max: 50,
            flush_per_mille: 0,
            large_percent: 0,
            read_percent: 50,
            limits: Limits {
                fail_ms: 80,
                probe_delay_ms_min: 1,
                probe_delay_ms_max: 5,
                request_ms: 800,
                ..self.limits
            },
            ..self
        }
    }

    /// The proxy is killed while the primary is away with its items.
    fn away(self, rng: &mut Rng) -> Self {
        Self {
            proxies: 1,
            primaries: 1,
            backups: 1,
            keys: 8,
            private: false,
            faults: Faults::OneVictim,
            flapping: false,
            kills: true,
            shape: Shape::Away,
            fault_count: rng.len_between(2, 5),
            busy_ms: 400,
            requests: 200,
            evicting: false,
            flushed_by_others: false,
            flush_per_mille: 0,
            large_percent: 0,
            disconnect_per_mille: 0,
            ..self
        }
    }

    /// Many clients of one worker ask for the same few keys, and write them in between, while a slow backend has
    /// earlier gets to answer: most gets share a batch. Connections are lost with such batches unanswered, or
    /// answered in part.
    fn crowd(self, rng: &mut Rng) -> Self {
        let chunks = rng.pick(&[Chunks::Whole, Chunks::Parts, Chunks::Bytes]);
        // In both cases earlier gets are in flight most of the time.
        let (latency_us_max, serve_us_max) = match chunks {
            Chunks::Whole => (50, 1_000),
            Chunks::Parts | Chunks::Bytes => (2_000, 20),
        };
        Self {
            proxies: 1,
            workers: 1,
            primaries: 1,
            backups: rng.pick(&[0, 1, 1]),
            clients: rng.len_between(8, 20),
            requests: 120,
            depth_max: rng.pick(&[1, 4, 8]),
            keys: rng.pick(&[2, 3, 5]),
            counting: false,
            locking: false,
            private: false,
            faults: Faults::OneVictim,
            flapping: false,
            kills: false,
            evicting: false,
            flushed_by_others: false,
            shape: Shape::Crowd,
            fault_count: rng.len_between(2, 12),
            busy_ms: rng.pick(&[60, 150]),
            chunks,
            latency_us_max,
            serve_us_max,
            lag_us_max: 50,
            large_percent: 0,
            meta_percent: rng.pick(&[0, 20]),
            read_percent: rng.pick(&[50, 80]),
            flush_per_mille: 0,
            disconnect_per_mille: rng.pick(&[0, 10]),
            limits: Limits {
                fail_ms: 200,
                request_ms: 1_000,
                probe_delay_ms_min: 1,
                probe_delay_ms_max: 20,
                gather_keys_max: rng.pick(&[3, 100]),
                gather_us: 10_000,
                gather_answer_len: rng.pick(&[64, 16_384]),
                ..self.limits
            },
            ..self
        }
    }

    /// The primary is silent for a while and then goes on: reads are hedged. Its backup has not everything, and
    /// yet nothing is missed.
    fn silences(self, rng: &mut Rng) -> Self {
        Self {
            proxies: 1,
            primaries: 1,
            backups: 1,
            keys: rng.pick(&[3, 8]),
            counting: false,
            private: false,
            faults: Faults::OneVictim,
            flapping: false,
            shape: Shape::Silences,
            fault_count: rng.len_between(2, 8),
            busy_ms: 1_000,
            evicting: false,
            kills: false,
            flushed_by_others: false,
            chunks: Chunks::Whole,
            latency_us_max: 300,
            serve_us_max: 20,
            flush_per_mille: 0,
            read_percent: 80,
            limits: Limits {
                fail_ms: 300,
                request_ms: 2_000,
                ..self.limits
            },
            ..self
        }
    }

    /// Keys are overwritten, or deleted, while they are copied. The backend that they are copied from dies in the
    /// moment in which an old copy is taken back: what is taken back too much is not copied again.
    fn overwrites(self, rng: &mut Rng) -> Self {
        let style = rng.below(10);
        Self {
            backups: 1,
            explicit_cas: false,
            comparing: false,
            storing: style < 5,
            deleting: (5..8).contains(&style),
            appending: style >= 8,
            meta_percent: 0,
            // So that they are not done before the first backend dies.
            depth_max: rng.pick(&[2, 4, 8]),
            busy_ms: 150,
            keys: rng.pick(&[16, 32]),
            shape: Shape::Overwrites,
            fault_count: rng.len_between(2, 5),
            latency_us_max: rng.pick(&[1_000, 3_000]),
            serve_us_max: 20,
            lag_us_max: 50,
            ..self
        }
    }

    /// A backup and a primary return while the crawler of another primary is busy: the backup catches up from that
    /// one, and leads the keys of the one that returned behind it.
    fn juniors(self, rng: &mut Rng) -> Self {
        Self {
            primaries: 2,
            backups: 1,
            explicit_cas: false,
            comparing: false,
            appending: false,
            storing: true,
            deleting: false,
            locking: false,
            meta_percent: 0,
            depth_max: rng.pick(&[1, 2]),
            keys: 8,
            shape: Shape::Juniors,
            busy_ms: 300,
            fault_count: rng.len_between(1, 3),
            latency_us_max: rng.pick(&[1_000, 3_000]),
            serve_us_max: 20,
            lag_us_max: 50,
            limits: Limits {
                // All has to be copied, and not just what was missed.
                remembered_keys_max: 2,
                ..self.limits
            },
            ..self
        }
    }
}

/// A fault, when it begins, and how long it lasts.
type Planned = (usize, Fault, u64, u64);

impl World {
    /// What happens before the calm.
    pub(crate) fn plan(&mut self) {
        let busy_us = self.options.busy_ms * 1_000;
        for index in 0..self.clients.len() {
            let at = self.rng.below(busy_us / 10 + 1);
            self.wake_client(index, at);
        }
        // A primary that has never been away is read, so its first failure is the one that matters.
        let victim = match self.options.shape {
            Shape::Rush | Shape::Late | Shape::Crowd => 0,
            Shape::Plain
            | Shape::Handover
            | Shape::Overwrites
            | Shape::Juniors
            | Shape::Silences
            | Shape::Hangs
            | Shape::Away => self.rng.index(self.backends.len()),
        };
        for _ in 0..self.options.fault_count {
            let begins = self.rng.below(busy_us);
            let planned = match self.options.shape {
                Shape::Plain | Shape::Rush => self.plan_any(begins, victim),
                Shape::Late => vec![(0, Fault::Sever, begins, self.rng.between(500, 3_000))],
                Shape::Handover => self.plan_handover(begins),
                Shape::Overwrites => {
                    vec![(0, Fault::CrashEmpty, begins, self.rng.below(3_000))]
                }
                Shape::Juniors => self.plan_juniors(begins),
                Shape::Silences => {
                    let fault = self.rng.pick(&[Fault::Pause, Fault::CutOne]);
                    let lasts = self.rng.below(self.options.limits.fail_ms * 600);
                    vec![(0, fault, begins, lasts)]
                }
                Shape::Hangs => self.plan_hang(begins),
                Shape::Away => self.plan_away(begins),
                Shape::Crowd => self.plan_crowd(begins),
            };
            for (backend, fault, begins, lasts) in planned {
                self.schedule_fault(backend, fault, begins, lasts);
            }
        }
        if self.options.evicting || self.options.shape == Shape::Silences {
            self.after_us(1, Event::Evict);
        }
        self.after_us(busy_us, Event::Look);
    }

    fn any_length(&mut self) -> u64 {
        match self.rng.below(3) {
            0 => self.rng.below(5_000),
            1 => self.rng.below(self.options.limits.fail_ms * 2_000),
            _ => self.rng.below(self.options.busy_ms * 500),
        }
    }

    fn plan_any(&mut self, begins: u64, victim: usize) -> Vec<Planned> {
        let backend = match self.options.faults {
            Faults::Wild => self.rng.index(self.backends.len()),
            Faults::OneVictim | Faults::None => victim,
        };
        let fault = if self.options.flapping && self.rng.chance(95) {
            Fault::ResetOne
        } else {
            self.draw_fault()
        };
        vec![(backend, fault, begins, self.any_length())]
    }

    /// The connection that everybody shares goes, now and then with the process.
    fn plan_crowd(&mut self, begins: u64) -> Vec<Planned> {
        let fault = self.rng.pick(&[
            Fault::ResetOne,
            Fault::Reset,
            Fault::Reset,
            Fault::Sever,
            Fault::CrashWarm,
            Fault::CrashEmpty,
        ]);
        vec![(0, fault, begins, self.rng.between(500, 5_000))]
    }

    /// Mostly the first one goes for a moment.
    fn plan_handover(&mut self, begins: u64) -> Vec<Planned> {
        let (backend, fault) = self.draw_handover();
        let lasts = match backend {
            0 => self.rng.below(5_000),
            _ => self.any_length(),
        };
        let mut planned = vec![(backend, fault, begins, lasts)];
        if self.rng.chance(15) {
            // Both at once, and soon back, in any order.
            for backend in 0..self.backends.len() {
                let lasts = self.rng.below(20_000);
                planned.push((backend, Fault::Refuse, begins, lasts));
                if self.rng.chance(30) {
                    planned.push((backend, Fault::Slow, begins + lasts, 30_000));
                }
            }
        }
        planned
    }

    fn plan_juniors(&mut self, begins: u64) -> Vec<Planned> {
        let first = self.rng.index(2);
        let (other, backup) = (1 - first, 2);
        let fault = self
            .rng
            .pick(&[Fault::CrashWarm, Fault::CrashEmpty, Fault::Refuse]);
        let away = self.rng.between(10_000, 60_000);
        let catching_up = away + self.rng.between(10_000, 60_000);
        let dies = begins + self.rng.below(away / 2);
        vec![
            (first, fault, begins, away),
            (other, Fault::Busy, begins, catching_up),
            (backup, Fault::CrashEmpty, dies, self.rng.below(3_000)),
            (backup, Fault::Busy, dies + 3_000, catching_up),
        ]
    }

    /// It is stopped for a little longer than it takes to give it up; when it goes on, it may take its time.
    fn plan_hang(&mut self, begins: u64) -> Vec<Planned> {
        let fail_us = self.options.limits.fail_ms * 1_000;
        let lasts = self.rng.between(fail_us, 2 * fail_us);
        let mut planned = vec![(0, Fault::Pause, begins, lasts)];
        // Where nobody can tell whether it has read everything, it is not slow for longer than settle_ms.
        if !self.options.nat && self.rng.chance(50) {
            let slow = self.rng.below(fail_us);
            planned.push((0, Fault::Slow, begins, lasts + slow));
        }
        planned
    }

    fn plan_away(&mut self, begins: u64) -> Vec<Planned> {
        let fault = self
            .rng
            .pick(&[Fault::Cut, Fault::CrashWarm, Fault::Refuse]);
        let lasts = self.any_length();
        let kill = (
            0,
            Fault::Kill(0),
            begins + self.rng.below(lasts + 1),
            self.rng.below(20_000),
        );
        vec![(0, fault, begins, lasts), kill]
    }

    pub(crate) fn schedule_fault(
        &mut self,
        backend: usize,
        fault: Fault,
        begins_us: u64,
        lasts_us: u64,
    ) {
        let index = self.faults.len();
        self.faults.push(PlannedFault { backend, fault });
        let busy_us = self.options.busy_ms * 1_000;
        let now_us = micros(self.now);
        let ends_us = (now_us + begins_us + lasts_us).min(busy_us).max(now_us);
        self.after_us(begins_us, Event::FaultBegins(index));
        self.at(Time(ends_us * 1_000), Event::FaultEnds(index));
    }

    /// A backend has executed what the healer asked for: for some protections, the worst moment for something to go
    /// wrong.
    pub(crate) fn on_healer_served(&mut self, backend: usize, id: LinkId, bytes: &[u8]) {
        let by_healer = matches!(self.links[id.index()].handle, Handle::Heal(_));
        if self.is_calm || !by_healer {
            return;
        }
        match (self.options.shape, bytes) {
            // A copy is stored: it has not been looked at again.
            (Shape::Handover, [b'm', b's', ..]) => self.fail_partners(backend, 30),
            (Shape::Handover, [b'm', b'd', ..]) => self.fail_partners(backend, 100),
            // A copy is taken back. Not while the target is rid of what it was left with.
            (Shape::Overwrites, [b'm', b'd', ..]) if self.options.storing => {
                let proxy = self.links[id.index()].proxy;
                let phase = self.proxies[proxy].view.backends[backend].phase;
                if phase == Phase::CatchingUp {
                    self.fail_partners(backend, 100);
                }
            }
            (Shape::Overwrites, [b'm', b's', ..]) if self.options.deleting => {
                self.fail_partners(backend, 50);
            }
            (Shape::Overwrites, [b'm', b'g', ..]) => {
                let reads = bytes.windows(3).any(|word| word == b" v ");
                if reads {
                    self.stall_in_copy(backend);
                }
            }
            _ => {}
        }
    }

    /// Items have been read here: either the copies come late, or something else that makes them out of date.
    fn stall_in_copy(&mut self, source: usize) {
        let lasts = self.rng.between(1_000, 8_000);
        if self.options.deleting && self.rng.chance(50) {
            // What workers have sent to delete them comes later.
            self.schedule_fault(source, Fault::Stall, 0, lasts);
            return;
        }
        // What workers repeat on the target comes later.
        let fault = if self.options.appending {
            Fault::Stall
        } else {
            Fault::StallHealer
        };
        for target in self.partners(source) {
            self.schedule_fault(target, fault, 0, lasts);
        }
    }

    /// Primaries of a backup, backups of a primary.
    fn partners(&self, backend: usize) -> impl Iterator<Item = usize> + use<> {
        let primaries = self.options.primaries;
        let is_primary = backend < primaries;
        (0..self.backends.len()).filter(move |&other| (other < primaries) != is_primary)
    }

    /// Backends that `target` copies from fail soon, each with this probability.
    fn fail_partners(&mut self, target: usize, percent: u64) {
        for source in self.partners(target) {
            if !self.rng.chance(percent) {
                continue;
            }
            let soon_us = self.options.latency_us_max * (110 - percent) / 200;
            let begins = self.rng.below(soon_us);
            let lasts = self.rng.below(10_000);
            let fault = self
                .rng
                .pick(&[Fault::Refuse, Fault::Refuse, Fault::CrashEmpty]);
            self.schedule_fault(source, fault, begins, lasts);
        }
    }

    /// What goes wrong next, where a seed has its way.
    pub(crate) fn draw_fault(&mut self) -> Fault {
        let slot = self.rng.index(self.options.proxies);
        if self.options.kills && self.rng.chance(20) {
            return Fault::Kill(slot);
        }
        if self.options.proxies > 1 && self.options.cut_from && self.rng.chance(25) {
            return Fault::CutFrom(slot);
        }
        if self.options.flushed_by_others && self.rng.chance(20) {
            return Fault::Flush;
        }
        let fault = self.rng.pick(FAULTS);
        // Items of an unknown process are flushed only if somebody else has the right ones.
        let flushed = self.options.faults == Faults::OneVictim && self.options.backups > 0;
        if matches!(fault, Fault::Foreign | Fault::ForeignFlushed) && !flushed {
            return Fault::CrashWarm;
        }
        fault
    }

    /// What goes wrong in a handover, and with whom: mostly the first one goes for a moment.
    pub(crate) fn draw_handover(&mut self) -> (usize, Fault) {
        if self.rng.chance(70) {
            let fault = self.rng.pick(&[
                Fault::ResetOne,
                Fault::CrashWarm,
                Fault::CrashEmpty,
                Fault::CrashEmpty,
            ]);
            return (0, fault);
        }
        let fault = self.rng.pick(&[
            Fault::ResetOne,
            Fault::Reset,
            Fault::Refuse,
            Fault::Slow,
            Fault::CrashWarm,
            Fault::CrashEmpty,
        ]);
        (self.rng.index(self.backends.len()), fault)
    }
}
