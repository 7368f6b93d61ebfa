//! Many clients share their gets of a few hot keys and write these in between: each sees its own writes, in order,
//! while backends are killed under it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier};

use super::harness::{Client, Cluster, wait_until};

const CLIENTS: usize = 32;
const KEYS: usize = 5;
/// A key that nobody writes.
const MISSING: usize = KEYS;
/// Requests that a client sends before it reads an answer, at most.
const DEPTH_MAX: usize = 24;

/// A client and what it may be told: of each key, by each writer, nothing older than it has been told before, and of
/// its own writes the last one, unless somebody else has written since.
struct Reader {
    id: usize,
    client: Client,
    keys: Arc<Vec<String>>,
    /// By key and writer: the newest number that was seen, or written.
    newest: BTreeMap<(usize, usize), u64>,
    written: u64,
    /// Whether backends fail.
    failures: bool,
    rng: fastrand::Rng,
}

/// A request that has been sent.
enum Sent {
    /// With the number that it writes.
    Set(usize, u64),
    Get(Vec<usize>),
}

impl Reader {
    fn new(id: usize, client: Client, keys: Arc<Vec<String>>, failures: bool) -> Self {
        Self {
            id,
            client,
            keys,
            newest: BTreeMap::new(),
            written: 0,
            failures,
            rng: fastrand::Rng::with_seed(id as u64),
        }
    }

    /// One pipeline, asked and answered. Yields the number of its requests.
    fn round(&mut self) -> u64 {
        let mut line = String::new();
        let mut sent = Vec::new();
        for _ in 0..self.rng.usize(1..=DEPTH_MAX) {
            let key = self.rng.usize(..KEYS);
            match self.rng.u8(..10) {
                0..2 => {
                    self.written += 1;
                    let value = format!("{} {} {}", self.id, self.written, "v".repeat(key * 100));
                    let key_name = &self.keys[key];
                    let len = value.len();
                    line.push_str(&format!("set {key_name} 0 0 {len}\r\n{value}\r\n"));
                    sent.push(Sent::Set(key, self.written));
                }
                2..8 => {
                    line.push_str(&format!("get {}\r\n", self.keys[key]));
                    sent.push(Sent::Get(vec![key]));
                }
                _ => {
                    // Some of them twice, some of them missing.
                    let keys: Vec<usize> = (0..6).map(|_| self.rng.usize(..=MISSING)).collect();
                    let names: Vec<&str> = keys.iter().map(|&key| &*self.keys[key]).collect();
                    line.push_str(&format!("get {}\r\n", names.join(" ")));
                    sent.push(Sent::Get(keys));
                }
            }
        }
        self.client.send(line.as_bytes());
        let count = sent.len() as u64;
        for request in sent {
            match request {
                Sent::Set(key, number) => {
                    self.client.expect(b"STORED\r\n");
                    let newest = self.newest.entry((key, self.id)).or_default();
                    *newest = number.max(*newest);
                }
                Sent::Get(keys) => {
                    for key in keys.into_iter().filter(|&key| key != MISSING) {
                        self.read_value(key);
                    }
                    self.client.expect(b"END\r\n");
                }
            }
        }
        count
    }

    /// The next value is this key's, and not older than what was known.
    #[track_caller]
    fn read_value(&mut self, key: usize) {
        let header = String::from_utf8(self.client.line()).unwrap();
        let value = String::from_utf8(self.client.line()).unwrap();
        let expected = format!("VALUE {} 0 {}", self.keys[key], value.len());
        assert_eq!(header, expected, "client {}: {value}", self.id);
        let words: Vec<&str> = value.splitn(3, ' ').collect();
        assert_eq!(words[2], "v".repeat(key * 100), "another key's value");
        let (writer, number): (usize, u64) = (words[0].parse().unwrap(), words[1].parse().unwrap());
        let newest = self.newest.entry((key, writer)).or_default();
        assert!(
            *newest <= number,
            "client {} was told {number} of writer {writer} after {newest}",
            self.id
        );
        // Nor is a write seen by a get that was asked for before it, unless that get was asked again at a backup that
        // had executed the write.
        let own_newest = if self.failures { self.written } else { *newest };
        assert!(
            writer != self.id || number <= own_newest,
            "client {} was told its {number} before it was written",
            self.id
        );
        *newest = number;
    }
}

/// Starts the clients, lets `faults` happen, and ends them. Every client checks every answer.
fn under_hot_load(
    cluster: &mut Cluster,
    failures: bool,
    faults: impl FnOnce(&mut Cluster, &dyn Fn(u64)),
) {
    let keys: Vec<String> = (0..=MISSING)
        .map(|n| cluster.key_on(n % cluster.primaries.len(), u32::try_from(n).unwrap()))
        .collect();
    let mut client = cluster.magent.client();
    for (n, key) in keys[..MISSING].iter().enumerate() {
        client.set(
            key,
            format!("{CLIENTS} 0 {}", "v".repeat(n * 100)).as_bytes(),
        );
    }
    let keys = Arc::new(keys);
    let stop = AtomicBool::new(false);
    let failed = AtomicBool::new(false);
    let answers = AtomicU64::new(0);
    let begin = Barrier::new(CLIENTS);
    std::thread::scope(|scope| {
        for id in 0..CLIENTS {
            let mut reader = Reader::new(id, cluster.magent.client(), Arc::clone(&keys), failures);
            let (stop, failed, answers, begin) = (&stop, &failed, &answers, &begin);
            scope.spawn(move || {
                // Whoever fails tells the others, so that nobody waits for its answers.
                let mut outcome = FailedUnless {
                    told: failed,
                    over: false,
                };
                begin.wait();
                while !stop.load(Ordering::Relaxed) && !failed.load(Ordering::Relaxed) {
                    answers.fetch_add(reader.round(), Ordering::Relaxed);
                }
                outcome.over = true;
            });
        }
        let wait_for_answers = |count: u64| {
            let goal = answers.load(Ordering::Relaxed) + count;
            wait_until("the clients go on", || {
                answers.load(Ordering::Relaxed) >= goal || failed.load(Ordering::Relaxed)
            });
        };
        wait_for_answers(10_000);
        faults(cluster, &wait_for_answers);
        stop.store(true, Ordering::Relaxed);
    });
    let stats = cluster.magent.client().stats("magent");
    let number = |name: &str| stats[name].parse::<u64>().unwrap();
    let (keys, batches) = (number("batch_keys_total"), number("batches_total"));
    println!("{keys} keys in {batches} batches");
    assert!(keys > batches, "nothing was gathered");
}

/// Says on drop that its thread has failed, unless it is over.
struct FailedUnless<'a> {
    told: &'a AtomicBool,
    over: bool,
}

impl Drop for FailedUnless<'_> {
    fn drop(&mut self) {
        if !self.over {
            self.told.store(true, Ordering::Relaxed);
        }
    }
}

#[test]
fn who_shares_gets_sees_his_own_writes_while_backends_are_killed() {
    let mut cluster = Cluster::start(2, 1, &["--threads", "1"]);
    under_hot_load(&mut cluster, true, |cluster, wait_for_answers| {
        for index in 0..2 {
            cluster.primaries[index].kill9();
            wait_for_answers(10_000);
            cluster.primaries[index].restart();
            cluster.magent.wait_until_healed();
            wait_for_answers(5_000);
        }
    });
}

/// Workers share no batches, but the keys: what one has written the others must not take back.
#[test]
fn who_shares_keys_with_other_workers_sees_his_own_writes() {
    let mut cluster = Cluster::start_patient(2, 1, &["--threads", "2"]);
    under_hot_load(&mut cluster, false, |_, wait_for_answers| {
        wait_for_answers(20_000);
    });
}
