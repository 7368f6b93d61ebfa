//! Clients that never pause, remember what was acknowledged, and check every answer against it.
//!
//! # Invariants
//!
//! - Each client has keys of its own, so what a key must hold is known exactly.
//! - Every value is written once only, so an old value is told from the right one.
//! - After an error or a wrong answer it is unknown what a key holds: it is counted, and the key is not
//!   judged until the next acknowledged write.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::client::Outcome;
use super::items::{Item, Items, Moment, unix_now};
use super::{Client, Endpoint, wait_for, wait_until};

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
    /// Reads that saw something older than the last acknowledged write.
    pub(crate) old: Vec<String>,
    /// Writes whose outcome does not fit what was acknowledged, such as an `add` over a value.
    pub(crate) misjudged: Vec<String>,
    /// Reads that saw a value that was deleted.
    pub(crate) resurrected: Vec<String>,
    /// Longest time from a read to its answer, of those that found everything.
    pub(crate) hit_stall_max: Duration,
    /// The same of those that missed something: a follower's miss is no answer, so they wait for longer.
    pub(crate) miss_stall_max: Duration,
    /// Longest time from another request to its answer.
    pub(crate) write_stall_max: Duration,
    /// What there must be, and nothing else under the clients' keys, as far as that is known.
    pub(crate) expected: Items,
}

impl Load {
    /// Starts `client_count` clients of `endpoint`.
    pub(crate) fn start(endpoint: &Endpoint, client_count: u64) -> Self {
        Self::start_as(endpoint, 0..client_count)
    }

    /// The same with these numbers, for more than one load on the same backends: keys go by number.
    pub(crate) fn start_as(endpoint: &Endpoint, ids: Range<u64>) -> Self {
        let shared = Arc::new(Shared::default());
        let client_count = ids.end - ids.start;
        let clients = ids
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
        assert!(self.errors.is_empty(), "{self}\n{:#?}", first(&self.errors));
        self.assert_right();
    }

    /// Fails unless every answer was right, or an error.
    #[track_caller]
    pub(crate) fn assert_right(&self) {
        let wrong = [&self.lost, &self.old, &self.resurrected, &self.misjudged];
        assert!(
            wrong.iter().all(|list| list.is_empty()),
            "{self}\nlost: {:#?}\nold: {:#?}\nresurrected: {:#?}\nmisjudged: {:#?}",
            first(&self.lost),
            first(&self.old),
            first(&self.resurrected),
            first(&self.misjudged)
        );
    }

    /// Longest time from a request to its answer.
    pub(crate) fn stall_max(&self) -> Duration {
        let reads = self.hit_stall_max.max(self.miss_stall_max);
        reads.max(self.write_stall_max)
    }

    fn add(&mut self, other: Self) {
        self.answered_count += other.answered_count;
        self.errors.extend(other.errors);
        self.lost.extend(other.lost);
        self.old.extend(other.old);
        self.resurrected.extend(other.resurrected);
        self.misjudged.extend(other.misjudged);
        self.hit_stall_max = self.hit_stall_max.max(other.hit_stall_max);
        self.miss_stall_max = self.miss_stall_max.max(other.miss_stall_max);
        self.write_stall_max = self.write_stall_max.max(other.write_stall_max);
        self.expected.extend(other.expected);
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} answers, {} errors, {} lost, {} old, {} resurrected, {} misjudged, longest stall {:?} of a \
             hit, {:?} of a miss, {:?} of a write",
            self.answered_count,
            self.errors.len(),
            self.lost.len(),
            self.old.len(),
            self.resurrected.len(),
            self.misjudged.len(),
            self.hit_stall_max,
            self.miss_stall_max,
            self.write_stall_max
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
    Is(Held),
    /// A write went wrong: either is right.
    Unknown,
}

/// What kind of answer there was.
enum Answer {
    Found,
    Missed,
    OfAWrite,
}

/// One acknowledged item.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Held {
    value: String,
    client_flags: u32,
    expires: Option<Moment>,
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
            let started_at = Instant::now();
            let outcome = if self.rng.bool() {
                self.read(index)
            } else {
                self.write(index).map(|()| Answer::OfAWrite)
            };
            let longest = match outcome {
                Ok(Answer::Found) => Some(&mut self.report.hit_stall_max),
                Ok(Answer::Missed) => Some(&mut self.report.miss_stall_max),
                Ok(Answer::OfAWrite) => Some(&mut self.report.write_stall_max),
                // Counted as what it is.
                Err(_) => None,
            };
            if let Some(longest) = longest {
                *longest = (*longest).max(started_at.elapsed());
            }
            self.count(outcome);
            shared.answered_count.fetch_add(1, Ordering::Relaxed);
        }
        for index in 0..KEYS_PER_CLIENT {
            let outcome = self.get(index);
            self.count(outcome);
        }
        self.expect()
    }

    /// Everything that is known to be there.
    fn expect(mut self) -> Report {
        for index in 0..KEYS_PER_CLIENT {
            if let Known::Is(held) = &self.known[index] {
                let item = Item {
                    client_flags: held.client_flags,
                    expires: held.expires,
                    value: held.value.clone().into_bytes(),
                };
                self.report
                    .expected
                    .insert(self.key(index).into_bytes(), item);
            }
        }
        self.report
    }

    fn read(&mut self, index: usize) -> Outcome<Answer> {
        match self.rng.u8(..5) {
            0 => self.get_many(),
            _ => self.get(index),
        }
    }

    fn write(&mut self, index: usize) -> Outcome<()> {
        let plain = index < KEYS_PER_CLIENT - COUNTERS_PER_CLIENT;
        match (self.rng.u8(..60), plain) {
            (0..22, _) => self.store("set", index),
            (22..32, _) => self.delete(index),
            (32..36, _) => self.touch(index),
            (36..42, true) => self.store("add", index),
            (42..48, true) => self.store("replace", index),
            (48..54, true) => self.append(index),
            (54.., true) => self.cas(index),
            (36.., false) => self.incr(index),
        }
    }

    fn count(&mut self, outcome: Outcome<Answer>) {
        match outcome {
            Ok(_) => self.report.answered_count += 1,
            Err(err) => {
                self.connection = None;
                self.report.errors.push(err);
            }
        }
    }

    fn get(&mut self, index: usize) -> Outcome<Answer> {
        self.get_these(&[index], "get")
    }

    fn get_many(&mut self) -> Outcome<Answer> {
        let mut indexes: Vec<usize> = (0..8).map(|_| self.rng.usize(..KEYS_PER_CLIENT)).collect();
        indexes.sort_unstable();
        indexes.dedup();
        self.get_these(&indexes, "multiget")
    }

    fn get_these(&mut self, indexes: &[usize], what: &str) -> Outcome<Answer> {
        let keys: Vec<String> = indexes.iter().map(|&index| self.key(index)).collect();
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        let mut items = self
            .connected()?
            .try_get_items(&keys)
            .map_err(|err| format!("{what} {}: {err}", keys.join(" ")))?;
        let answer = if items.len() == keys.len() {
            Answer::Found
        } else {
            Answer::Missed
        };
        for (&index, key) in indexes.iter().zip(keys) {
            self.judge(index, items.remove(key));
        }
        Ok(answer)
    }

    fn store(&mut self, verb: &str, index: usize) -> Outcome<()> {
        let (key, value) = (self.key(index), self.fresh_value(index));
        let (exptime, client_flags) = (self.exptime(), self.rng.u32(..));
        let before = std::mem::replace(&mut self.known[index], Known::Unknown);
        let sent_at = unix_now();
        let answer = self
            .connected()?
            .try_store_item(verb, &key, client_flags, exptime, value.as_bytes())
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
            "STORED" => Known::Is(Held {
                value,
                client_flags,
                expires: Moment::after(sent_at, exptime),
            }),
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
            Known::Is(held) => next(&held.value) == answer,
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
            number => match before {
                Known::Is(held) => Known::Is(Held {
                    value: number.to_owned(),
                    ..held
                }),
                // Its flags and expiry are not known.
                Known::Absent | Known::Unknown => Known::Unknown,
            },
        };
        Ok(())
    }

    fn append(&mut self, index: usize) -> Outcome<()> {
        let (key, more) = (self.key(index), self.fresh_value(index));
        let before = std::mem::replace(&mut self.known[index], Known::Unknown);
        let answer = self
            .connected()?
            .try_store("append", &key, more.as_bytes())
            .map_err(|err| format!("append {key}: {err}"))?;
        let fits = match (answer.as_str(), &before) {
            ("STORED", Known::Absent) | ("NOT_STORED", Known::Is(_)) => false,
            ("STORED" | "NOT_STORED", _) => true,
            _ => return Err(format!("append {key}: unexpected {answer}")),
        };
        if !fits {
            self.misjudged(&format!("append {key}"), &answer, &before);
            return Ok(());
        }
        self.known[index] = match before {
            Known::Is(held) => Known::Is(Held {
                value: held.value + &more,
                ..held
            }),
            other @ (Known::Absent | Known::Unknown) => other,
        };
        Ok(())
    }

    /// `gets` and `cas`. After a failover between the two it is right that the version is not known.
    fn cas(&mut self, index: usize) -> Outcome<()> {
        let (key, value) = (self.key(index), self.fresh_value(index));
        let (exptime, client_flags) = (self.exptime(), self.rng.u32(..));
        let Some((item, version)) = self
            .connected()?
            .try_gets(&key)
            .map_err(|err| format!("gets {key}: {err}"))?
        else {
            self.judge(index, None);
            return Ok(());
        };
        self.judge(index, Some(item));
        let before = std::mem::replace(&mut self.known[index], Known::Unknown);
        let head = format!(
            "cas {key} {client_flags} {exptime} {} {version}",
            value.len()
        );
        let sent_at = unix_now();
        let answer = self
            .connected()?
            .try_command(&format!("{head}\r\n{value}"))
            .map_err(|err| format!("cas {key}: {err}"))?;
        let fits = match (answer.as_str(), &before) {
            ("NOT_FOUND", Known::Is(_)) => false,
            ("STORED" | "EXISTS" | "NOT_FOUND", _) => true,
            _ => return Err(format!("cas {key}: unexpected {answer}")),
        };
        if !fits {
            self.misjudged(&format!("cas {key}"), &answer, &before);
        }
        self.known[index] = match answer.as_str() {
            "STORED" => Known::Is(Held {
                value,
                client_flags,
                expires: Moment::after(sent_at, exptime),
            }),
            "EXISTS" => before,
            _ => Known::Unknown,
        };
        Ok(())
    }

    fn touch(&mut self, index: usize) -> Outcome<()> {
        let (key, exptime) = (self.key(index), self.exptime());
        let before = std::mem::replace(&mut self.known[index], Known::Unknown);
        let sent_at = unix_now();
        let answer = self
            .connected()?
            .try_command(&format!("touch {key} {exptime}"))
            .map_err(|err| format!("touch {key}: {err}"))?;
        let fits = match (answer.as_str(), &before) {
            ("TOUCHED", Known::Absent) | ("NOT_FOUND", Known::Is(_)) => false,
            ("TOUCHED" | "NOT_FOUND", _) => true,
            _ => return Err(format!("touch {key}: unexpected {answer}")),
        };
        if !fits {
            self.misjudged(&format!("touch {key}"), &answer, &before);
            return Ok(());
        }
        self.known[index] = match before {
            Known::Is(held) => Known::Is(Held {
                expires: Moment::after(sent_at, exptime),
                ..held
            }),
            other @ (Known::Absent | Known::Unknown) => other,
        };
        Ok(())
    }

    /// None, or one that does not come while the test runs.
    fn exptime(&mut self) -> u64 {
        if self.rng.bool() {
            0
        } else {
            self.rng.u64(1_000..100_000)
        }
    }

    fn misjudged(&mut self, command: &str, answer: &str, before: &Known) {
        self.report
            .misjudged
            .push(format!("{command} with {before:?}: {answer}"));
    }

    /// Compares what was read with what must be there.
    fn judge(&mut self, index: usize, item: Option<(u32, Vec<u8>)>) {
        let key = self.key(index);
        let seen = item.map(|(flags, value)| (flags, String::from_utf8_lossy(&value).into_owned()));
        let report = &mut self.report;
        match (&self.known[index], seen) {
            (Known::Is(held), None) => report.lost.push(format!("{key}: no {held:?}")),
            (Known::Is(held), Some((flags, value)))
                if value != held.value || flags != held.client_flags =>
            {
                report
                    .old
                    .push(format!("{key}: {value} with flags {flags}, not {held:?}"));
            }
            (Known::Absent, Some((_, value))) => {
                report
                    .resurrected
                    .push(format!("{key}: {value}, which was deleted"));
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
            // A proxy that was killed is started again: that the connection broke has been counted.
            let connection = wait_for("the proxy accepts", || {
                Client::try_connect(&self.endpoint).ok()
            });
            self.connection = Some(connection);
        }
        Ok(self.connection.as_mut().expect("connected above"))
    }
}

fn next(number: &str) -> String {
    (number.trim_end().parse::<u64>().unwrap() + 1).to_string()
}
