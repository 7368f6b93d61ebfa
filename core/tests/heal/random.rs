//! Random interleavings: whatever happens in between, in the end the target has what its authority has.
//!
//! One target, one source, few keys. A worker writes to the source at once and tells the target later, in order;
//! the healer's messages come in any order that its connections allow. The target fails and returns. Sometimes it
//! returns as one that another proxy may have filled meanwhile, and still fills.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use magent_core::keeper::{Left, Report};
use magent_core::known;
use magent_core::placement::Phase;
use magent_node::Crawler;

use super::lab::Lab;
use super::{S, T};

/// splitmix64 (Steele, Lea, Flood 2014).
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// What the worker still has to tell the target.
enum Leg {
    /// The outcome of a write. With `recopy` the copy is deleted and made anew.
    Write {
        key: String,
        command: String,
        recopy: bool,
    },
    /// The deletion of a key that it missed.
    Purge(String),
    /// The names of all of them, for the healer.
    Missed,
}

struct Run {
    lab: Lab,
    rng: Rng,
    legs: VecDeque<Leg>,
    /// Keys whose write is under way.
    locked: BTreeSet<String>,
    remembered: BTreeSet<String>,
    /// Keys that the target was told to have since it returned.
    told: BTreeSet<String>,
    purging: Vec<Box<[u8]>>,
    /// Whether the target lacks the share.
    lacks: bool,
    worker_purged: bool,
    healer_purged: bool,
    left: Left,
    version: u64,
    trace: String,
}

impl Run {
    fn new(seed: u64) -> Self {
        let mut rng = Rng(seed);
        let keys_max = [3, 6, 1_000][usize::try_from(rng.below(3)).unwrap()];
        let window = 1 + rng.below(5);
        let mut lab = Lab::with(1, 1, |config| {
            config.limits.heal_keys_max = keys_max;
            config.limits.heal_window = window;
            // Slow is not silent here.
            config.limits.fail_ms = 60_000;
        });
        lab.answer_len = [1, 7, usize::MAX][usize::try_from(rng.below(3)).unwrap()];
        let lacks = rng.below(2) == 0;
        for number in 0..8 {
            if rng.below(3) > 0 {
                let command = format!("set k{number} {number} 0 1\r\n0\r\n");
                lab.ask(S, &command);
                if !lacks {
                    lab.ask(T, &command);
                }
            }
        }
        Self {
            lab,
            rng,
            legs: VecDeque::new(),
            locked: BTreeSet::new(),
            remembered: BTreeSet::new(),
            told: BTreeSet::new(),
            purging: Vec::new(),
            lacks,
            worker_purged: false,
            healer_purged: false,
            left: Left::None,
            version: 0,
            trace: format!("keys_max={keys_max} window={window} lacks={lacks}\n"),
        }
    }

    fn phase(&self) -> Phase {
        self.lab.view.backends[T.index()].phase
    }

    fn note(&mut self, text: &str) {
        self.trace.push_str(text.trim_end());
        self.trace.push('\n');
    }

    /// A client writes; the target hears of it later.
    fn write(&mut self) {
        let key = format!("k{}", self.rng.below(8));
        if self.locked.contains(&key) {
            return;
        }
        self.version += 1;
        let version = self.version;
        let ttl = [0, 50, 90][usize::try_from(self.rng.below(3)).unwrap()];
        let len = version.to_string().len();
        let set = format!("set {key} {version} {ttl} {len}\r\n{version}\r\n");
        let delete = format!("delete {key}\r\n");
        let (command, outcome) = match self.rng.below(8) {
            0..=2 => (set.clone(), Some(set)),
            3 => (delete.clone(), Some(delete)),
            4 => (format!("touch {key} {ttl}\r\n"), None),
            5 => (format!("append {key} 0 0 {len}\r\n{version}\r\n"), None),
            6 => (format!("md {key} I T60\r\n"), None),
            // A client that comes for the win.
            _ => (format!("mg {key} v\r\n"), Some(String::new())),
        };
        let answer = self.lab.ask(S, &command);
        self.note(&format!("S {command:?}: {answer:?}"));
        let done = !["NOT_FOUND", "NOT_STORED", "NF"]
            .iter()
            .any(|refusal| answer.starts_with(refusal));
        if outcome.as_ref().is_some_and(String::is_empty) || (outcome.is_none() && !done) {
            return;
        }
        if self.phase() == Phase::Down {
            self.remembered.insert(key);
            return;
        }
        self.locked.insert(key.clone());
        let recopy = outcome.is_none();
        self.legs.push_back(Leg::Write {
            command: outcome.unwrap_or_else(|| format!("delete {key}\r\n")),
            key,
            recopy,
        });
    }

    /// The target hears the next thing from the worker.
    fn tell(&mut self) {
        match self.legs.pop_front() {
            None => {}
            Some(Leg::Missed) => {
                let keys: Vec<String> = std::mem::take(&mut self.remembered).into_iter().collect();
                let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
                self.note(&format!("T has missed {keys:?}"));
                if !keys.is_empty() {
                    self.lab.missed(T, &keys);
                    self.follow();
                }
            }
            Some(Leg::Purge(key)) => {
                self.lab.ask(T, format!("delete {key}\r\n"));
                self.note(&format!("T purges {key}"));
            }
            Some(Leg::Write {
                key,
                command,
                recopy,
            }) => {
                self.lab.ask(T, &command);
                self.note(&format!("T {command:?}"));
                self.locked.remove(&key);
                if command.starts_with("set") {
                    self.told.insert(key.clone());
                } else {
                    self.told.remove(&key);
                }
                if recopy {
                    self.lab.recopy(T, &[&key]);
                }
            }
        }
        let is_of_purge = |leg: &Leg| matches!(leg, Leg::Purge(_) | Leg::Missed);
        let purged = !self.legs.iter().any(is_of_purge);
        if self.phase() == Phase::Purging && purged && !self.worker_purged {
            self.worker_purged = true;
            let keys = std::mem::take(&mut self.purging);
            let keys: Vec<&str> = keys
                .iter()
                .map(|key| str::from_utf8(key).unwrap())
                .collect();
            self.lab.recopy(T, &keys);
            self.remembered.clear();
        }
    }

    /// Another proxy, for which the target is back already, copies an item to it.
    fn fill(&mut self) {
        let key = format!("k{}", self.rng.below(8));
        let now = magent_node::Time(self.lab.now.0);
        let Some(item) = self.lab.nodes[S.index()].store.peek(key.as_bytes(), now) else {
            return;
        };
        if item.stale {
            return;
        }
        let (flags, ttl) = (item.client_flags, item.ttl_s.unwrap_or(0));
        let value = String::from_utf8(item.value.to_vec()).unwrap();
        let command = format!("set {key} {flags} {ttl} {}\r\n{value}\r\n", value.len());
        self.lab.ask(T, &command);
        self.note(&format!("T is filled by another: {command:?}"));
    }

    /// The target is lost, with what it was told and all that it holds.
    fn fail(&mut self) {
        self.note("T fails");
        self.lab.cut(T);
        self.lab.fail(T, &[]);
        for leg in std::mem::take(&mut self.legs) {
            if let Leg::Write { key, .. } = leg {
                self.remembered.insert(key);
            }
        }
        self.locked.clear();
        self.told.clear();
        self.purging.clear();
    }

    fn purge(&mut self) {
        self.worker_purged = false;
        self.healer_purged = false;
        if self.rng.below(2) == 0 {
            self.note("T returns and is known");
            self.legs.push_back(Leg::Missed);
            self.lab.return_known(T);
            return;
        }
        self.note("T returns");
        self.purging = self
            .remembered
            .iter()
            .map(|key| key.as_bytes().into())
            .collect();
        let legs = self.remembered.iter().cloned().map(Leg::Purge);
        self.legs.extend(legs);
        self.lab.set_phase(T, Phase::Purging);
    }

    fn catch_up(&mut self) {
        self.note("T catches up");
        let sources: &[_] = if self.lacks { &[S] } else { &[] };
        self.lab.catch_up(T, sources);
    }

    /// What the keeper makes of the healer's reports.
    fn follow(&mut self) {
        let incarnation = self.lab.view.backends[T.index()].incarnation;
        let (mut lacks, mut failed) = (false, false);
        for report in std::mem::take(&mut self.lab.reports) {
            self.trace.push_str(&format!("{report:?}\n"));
            match report {
                Report::Copied {
                    incarnation: of, ..
                } if of == incarnation => self.lacks = false,
                Report::Purged {
                    incarnation: of, ..
                } if of == incarnation => {
                    self.healer_purged = true;
                }
                Report::Purging {
                    incarnation: of, ..
                } if of == incarnation => {
                    self.healer_purged = false;
                }
                Report::Left { left, .. } => {
                    assert_ne!(self.left, left, "it says so once");
                    self.left = left;
                }
                Report::Lacks { .. } => {
                    self.lacks = true;
                    lacks = true;
                }
                Report::Failed {
                    backend,
                    incarnation: of,
                    ..
                } if of == incarnation => {
                    assert_eq!(backend, T);
                    failed = true;
                }
                Report::Failed { .. }
                | Report::Copied { .. }
                | Report::Purged { .. }
                | Report::Purging { .. }
                | Report::Acknowledged { .. }
                | Report::Connected { .. } => {}
                Report::Suspect { .. } | Report::Overflow { .. } | Report::Unwalkable { .. } => {
                    panic!("{report:?}")
                }
            }
        }
        if failed && self.phase() != Phase::Down {
            self.fail();
        }
        if lacks && self.phase() == Phase::CatchingUp {
            self.lab
                .publish(|view| view.backends[T.index()].sources = vec![S]);
        }
        if self.phase() == Phase::Purging && self.worker_purged && self.healer_purged {
            self.catch_up();
        }
    }

    fn act(&mut self) {
        match self.rng.below(100) {
            0..50 => {
                let choice = usize::try_from(self.rng.below(3)).unwrap();
                if let Some(step) = self.lab.step(choice) {
                    self.note(&format!("{step:?}"));
                }
            }
            50..70 => self.tell(),
            70..85 => self.write(),
            85..95 => {
                let ms = [0, 1, 30, 120][usize::try_from(self.rng.below(4)).unwrap()];
                self.lab.tick(ms);
            }
            95 => {
                let crawler = [Crawler::Busy, Crawler::Enabled];
                let choice = usize::try_from(self.rng.below(2)).unwrap();
                self.lab.nodes[S.index()].store.set_crawler(crawler[choice]);
            }
            96 if self.phase() != Phase::Down && self.rng.below(4) == 0 => self.fail(),
            97 if self.phase() == Phase::Down => self.fill(),
            _ if self.phase() == Phase::Down => self.purge(),
            _ => {}
        }
        self.follow();
    }

    /// Faults and writes end; so does the catch-up.
    fn end(&mut self) {
        self.lab.nodes[S.index()]
            .store
            .set_crawler(Crawler::Enabled);
        if self.phase() == Phase::Down {
            self.purge();
        }
        for _ in 0..1_000 {
            self.tell();
            self.lab.pass_ms(20);
            self.follow();
            let over = self.legs.is_empty() && !self.lacks && self.left == Left::None;
            if over && self.phase() == Phase::CatchingUp {
                return;
            }
        }
        panic!("it never ends");
    }
}

/// Prints what happened if a run fails.
struct OnPanic<'a>(u64, &'a str);

impl Drop for OnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("seed {}: {}", self.0, self.1);
        }
    }
}

fn run(seed: u64, at_the_end: impl FnOnce(&mut Run)) -> BTreeMap<&'static str, u64> {
    let mut run = Run::new(seed);
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        run.fail();
        for _ in 0..600 {
            run.act();
        }
        at_the_end(&mut run);
    }));
    if let Err(panic) = outcome {
        let _at_the_end = OnPanic(seed, &run.trace);
        std::panic::resume_unwind(panic);
    }
    let counts = ["ms", "md"].map(|verb| (verb, run.lab.told(T, verb) as u64));
    counts.into_iter().collect()
}

#[test]
fn in_the_end_the_target_has_what_its_authority_has() {
    let mut removed = 0;
    for seed in 0..200 {
        let counts = run(seed, |run| {
            run.end();
            // An answer takes seconds here. How far the clocks went meanwhile is not known.
            run.lab.assert_equal_within(T, S, 4);
        });
        removed += counts["md"];
    }
    assert!(removed > 250, "too little happens: {removed}");
}

/// The source fails at some moment. The target leads: it must have all that it was told since it returned, and
/// nothing that is older than what the source has.
#[test]
fn when_the_source_fails_nothing_is_old_and_nothing_is_lost() {
    let mut dirty = 0;
    for seed in 0..200 {
        run(seed, |run| {
            if run.phase() != Phase::CatchingUp {
                return;
            }
            run.lab.settles = false;
            run.lab.kill(S);
            run.lab.fail(S, &[T]);
            let epoch = run.lab.view.epoch;
            let acknowledged = Report::Acknowledged { epoch };
            if !run.lab.reports.contains(&acknowledged) {
                dirty += 1;
            }
            run.lab.settle_down();
            assert!(run.lab.has_said(acknowledged));
            while !run.legs.is_empty() {
                run.tell();
            }
            for key in &run.told {
                assert!(run.lab.value(T, key).is_some(), "{key} is lost");
            }
            let now = magent_node::Time(run.lab.now.0);
            let (source, target) = (&run.lab.nodes[S.index()], &run.lab.nodes[T.index()]);
            for item in target.store.items(now) {
                if item.key.starts_with(known::PREFIX) {
                    continue;
                }
                let led = source.store.peek(item.key, now);
                let led = led.unwrap_or_else(|| panic!("{item:?} came back"));
                assert_eq!(
                    (item.value, item.client_flags),
                    (led.value, led.client_flags)
                );
            }
        });
    }
    assert!(dirty > 15, "too little happens: {dirty}");
}
