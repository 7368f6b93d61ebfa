//! Clients that never pause, remember what was acknowledged, and check every answer against it.
//!
//! # Invariants
//!
//! - Each client has keys of its own, so what a key must hold is known exactly.
//! - Every value is written once only, so an old value is told from the right one.
//! - After an error or a wrong answer it is unknown what a key holds: it is counted, and the key is not
//!   judged until the next acknowledged write.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::client::Outcome;
use super::{Client, Endpoint, wait_until};

/// Running clients.
#[derive(Debug)]
pub(crate) struct Load {
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<Report>>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    answered_count: AtomicU64,
}

/// What the clients saw.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// Requests that got an answer.
    pub(crate) answered_count: u64,
    /// Error lines and connections that broke.
    pub(crate) errors: Vec<String>,
    /// Reads that missed an acknowledged value.
    pub(crate) lost: Vec<String>,
    /// Reads that saw something older than the last acknowledged write or delete.
    pub(crate) old: Vec<String>,
    /// Writes whose outcome does not fit what was acknowledged, such as an `add` over a value.
    pub(crate) misjudged: Vec<String>,
    /// Longest time from a request to its answer.
    pub(crate) stall_max: Duration,
}

impl Load {
    /// Starts `client_count` clients of `endpoint`.
    pub(crate) fn start(endpoint: &Endpoint, client_count: u64) -> Self {
        let shared = Arc::new(Shared::default());
        let clients = (0..client_count)
            .map(|id| {
                let (endpoint, shared) = (endpoint.clone(), Arc::clone(&shared));
                std::thread::spawn(move || LoadClient::new(id, endpoint).run(&shared))
            })
            .collect();
        let load = Self { shared, clients };
        load.wait_for_answers(client_count * 100);
        load
    }

    /// Waits until the clients have had `count` more answers.
    #[track_caller]
    pub(crate) fn wait_for_answers(&self, count: u64) {
        let answered = || self.shared.answered_count.load(Ordering::Relaxed);
        let goal = answered() + count;
        wait_until("the load goes on", || {
            answered() >= goal || self.clients.iter().any(JoinHandle::is_finished)
        });
    }

    /// Stops the clients, has each read all of its keys once more, and adds up what they saw.
    #[track_caller]
    pub(crate) fn finish(self) -> Report {
        self.shared.stop.store(true, Ordering::Relaxed);
        let mut total = Report::default();
        for client in self.clients {
            total.add(client.join().unwrap());
        }
        println!("{total}");
        total
    }
}

impl Report {
    /// Fails unless every answer was right.
    #[track_caller]
    pub(crate) fn assert_perfect(&self) {
        let wrong = [&self.errors, &self.lost, &self.old, &self.misjudged];
        assert!(
            wrong.iter().all(|list| list.is_empty()),
            "{self}\nerrors: {:#?}\nlost: {:#?}\nold: {:#?}\nmisjudged: {:#?}",
            first(&self.errors),
            first(&self.lost),
            first(&self.old),
            first(&self.misjudged)
        );
    }

    fn add(&mut self, other: Self) {
        self.answered_count += other.answered_count;
        self.errors.extend(other.errors);
        self.lost.extend(other.lost);
        self.old.extend(other.old);
        self.misjudged.extend(other.misjudged);
        self.stall_max = self.stall_max.max(other.stall_max);
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} answers, {} errors, {} lost, {} old, {} misjudged, longest stall {:?}",
            self.answered_count,
            self.errors.len(),
            self.lost.len(),
            self.old.len(),
            self.misjudged.len(),
            self.stall_max
        )
    }
}

fn first(messages: &[String]) -> &[String] {
    &messages[..messages.len().min(5)]
}

/// What a key must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Known {
    Absent,
    Is(String),
    /// A write went wrong: either is right.
    Unknown,
}

/// Keys of each client; few, so that every one is written and read many times in a run.
const KEYS_PER_CLIENT: usize = 64;
/// The last of them are counters, for `incr`.
const COUNTERS_PER_CLIENT: usize = 8;
/// Errors after which a client gives up: what follows says nothing more.
const ERRORS_PER_CLIENT_MAX: usize = 100;

struct LoadClient {
    id: u64,
    endpoint: Endpoint,
    connection: Option<Client>,
    known: Vec<Known>,
    rng: fastrand::Rng,
    written_count: u64,
    report: Report,
}

impl LoadClient {
    fn new(id: u64, endpoint: Endpoint) -> Self {
        Self {
            id,
            endpoint,
            connection: None,
            known: vec![Known::Absent; KEYS_PER_CLIENT],
            rng: fastrand::Rng::with_seed(id),
            written_count: 0,
            report: Report::default(),
        }
    }

    fn run(mut self, shared: &Shared) -> Report {
        while !shared.stop.load(Ordering::Relaxed)
            && self.report.errors.len() < ERRORS_PER_CLIENT_MAX
        {
            let index = self.rng.usize(..KEYS_PER_CLIENT);
            let plain = index < KEYS_PER_CLIENT - COUNTERS_PER_CLIENT;
            let started_at = Instant::now();
            let outcome = match (self.rng.u8(..100), plain) {
                (0..40, _) => self.get(index),
                (40..50, _) => self.get_many(),
                (50..75, _) => self.store("set", index),
                (75..85, _) => self.delete(index),
                (85..95, true) => self.store("add", index),
                (95.., true) => self.store("replace", index),
                (85.., false) => self.incr(index),
            };
            self.report.stall_max = self.report.stall_max.max(started_at.elapsed());
            self.count(outcome);
            shared.answered_count.fetch_add(1, Ordering::Relaxed);
        }
        for index in 0..KEYS_PER_CLIENT {
            let outcome = self.get(index);
            self.count(outcome);
        }
        self.report
    }

    fn count(&mut self, outcome: Outcome<()>) {
        match outcome {
            Ok(()) => self.report.answered_count += 1,
            Err(err) => {
                self.connection = None;
                self.report.errors.push(err);
            }
        }
    }

    fn get(&mut self, index: usize) -> Outcome<()> {
        let key = self.key(index);
        let value = self
            .connected()?
            .try_get(&key)
            .map_err(|err| format!("get {key}: {err}"))?;
        self.judge(index, value);
        Ok(())
    }

    fn get_many(&mut self) -> Outcome<()> {
        let mut indexes: Vec<usize> = (0..8).map(|_| self.rng.usize(..KEYS_PER_CLIENT)).collect();
        indexes.sort_unstable();
        indexes.dedup();
        let keys: Vec<String> = indexes.iter().map(|&index| self.key(index)).collect();
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        let mut values = self
            .connected()?
            .try_get_many(&keys)
            .map_err(|err| format!("multiget: {err}"))?;
        for (index, key) in indexes.into_iter().zip(keys) {
            self.judge(index, values.remove(key));
        }
        Ok(())
    }

    fn store(&mut self, verb: &str, index: usize) -> Outcome<()> {
        let (key, value) = (self.key(index), self.fresh_value(index));
        let before = std::mem::replace(&mut self.known[index], Known::Unknown);
        let answer = self
            .connected()?
            .try_store(verb, &key, value.as_bytes())
            .map_err(|err| format!("{verb} {key}: {err}"))?;
        let fits = match (answer.as_str(), verb, &before) {
            ("STORED", "add", Known::Is(_)) | ("STORED", "replace", Known::Absent) => false,
            ("NOT_STORED", "add", Known::Absent) | ("NOT_STORED", "replace", Known::Is(_)) => false,
            ("STORED", ..) | ("NOT_STORED", "add" | "replace", _) => true,
            _ => return Err(format!("{verb} {key}: unexpected {answer}")),
        };
        if !fits {
            self.misjudged(&format!("{verb} {key}"), &answer, &before);
        }
        self.known[index] = match answer.as_str() {
            "STORED" => Known::Is(value),
            _ if fits => before,
            _ => Known::Unknown,
        };
        Ok(())
    }

    fn delete(&mut self, index: usize) -> Outcome<()> {
        let key = self.key(index);
        let before = std::mem::replace(&mut self.known[index], Known::Unknown);
        let answer = self
            .connected()?
            .try_command(&format!("delete {key}"))
            .map_err(|err| format!("delete {key}: {err}"))?;
        match (answer.as_str(), &before) {
            ("DELETED", Known::Absent) | ("NOT_FOUND", Known::Is(_)) => {
                self.misjudged(&format!("delete {key}"), &answer, &before);
            }
            ("DELETED" | "NOT_FOUND", _) => {}
            _ => return Err(format!("delete {key}: unexpected {answer}")),
        }
        self.known[index] = Known::Absent;
        Ok(())
    }

    fn incr(&mut self, index: usize) -> Outcome<()> {
        let key = self.key(index);
        let before = std::mem::replace(&mut self.known[index], Known::Unknown);
        let answer = self
            .connected()?
            .try_command(&format!("incr {key} 1"))
            .map_err(|err| format!("incr {key}: {err}"))?;
        let fits = match &before {
            Known::Is(value) => next(value) == answer,
            Known::Absent => answer == "NOT_FOUND",
            Known::Unknown => true,
        };
        if !fits {
            self.misjudged(&format!("incr {key}"), &answer, &before);
        }
        self.known[index] = match answer.as_str() {
            // Nothing was changed: what was unknown stays so.
            "NOT_FOUND" if fits => before,
            "NOT_FOUND" => Known::Unknown,
            number => Known::Is(number.to_owned()),
        };
        Ok(())
    }

    fn misjudged(&mut self, command: &str, answer: &str, before: &Known) {
        self.report
            .misjudged
            .push(format!("{command} with {before:?}: {answer}"));
    }

    /// Compares what was read with what must be there.
    fn judge(&mut self, index: usize, value: Option<Vec<u8>>) {
        let key = self.key(index);
        let value = value.map(|value| String::from_utf8_lossy(&value).into_owned());
        match (&self.known[index], &value) {
            (Known::Is(expected), None) => {
                self.report.lost.push(format!("get {key}: no {expected}"));
            }
            (Known::Is(expected), Some(value)) if value != expected => {
                self.report
                    .old
                    .push(format!("get {key}: {value}, not {expected}"));
            }
            (Known::Absent, Some(value)) => {
                self.report
                    .old
                    .push(format!("get {key}: {value}, which was deleted"));
            }
            (Known::Is(_), Some(_)) | (Known::Absent, None) | (Known::Unknown, _) => return,
        }
        // Counted once: what the next read sees is not judged by this one.
        self.known[index] = Known::Unknown;
    }

    fn key(&self, index: usize) -> String {
        format!("load-{}-{index}", self.id)
    }

    /// A value never written before: a number for counters, about 100 bytes otherwise.
    fn fresh_value(&mut self, index: usize) -> String {
        self.written_count += 1;
        if index < KEYS_PER_CLIENT - COUNTERS_PER_CLIENT {
            format!(
                "{:-<100}",
                format!("value {} of {} ", self.written_count, self.key(index))
            )
        } else {
            // Far enough apart that no number of increments makes two of them meet.
            (self.written_count * 1_000_000_000).to_string()
        }
    }

    fn connected(&mut self) -> Outcome<&mut Client> {
        if self.connection.is_none() {
            self.connection = Some(Client::try_connect(&self.endpoint)?);
        }
        Ok(self.connection.as_mut().expect("connected above"))
    }
}

fn next(number: &str) -> String {
    (number.trim_end().parse::<u64>().unwrap() + 1).to_string()
}
