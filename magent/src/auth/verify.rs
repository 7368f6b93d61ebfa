//! The threads that check passwords, and what they remember.
//!
//! A check takes milliseconds on purpose, and PHP connects for each page. So the password that was right is
//! remembered for a while, as a keyed hash: whoever reads this process's memory finds no password, and nothing that
//! is of use in another process.
//!
//! # Invariants
//!
//! - A worker never waits: it is answered at once, or hears of it later ([`Verifier::check`]).
//! - What waits is bounded, in all and by address, and equal logins wait as one. Who is remembered does not wait.
//! - What is remembered goes by the user's line too: another password in the file is another hash.
//! - Who does not exist costs as much as who does.
//!
//! Not here: what a client is told (`magent_core::engine`).

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use magent_core::auth::{Checked, Credentials, Users};
use magent_core::engine::ClientId;
use ring::hmac;
use ring::rand::SystemRandom;

use super::file::{User, UserTable};
use crate::log::{RateLimiter, Verdict};
use crate::worker::{Handle, ToWorker, time_since};

/// Threads that check. Two, so that one guesser does not hold up everybody; not more, so that workers have cores.
const THREADS: usize = 2;

/// Logins that wait. A quarter of a second of work for each thread.
const QUEUE_MAX: usize = 32;

/// Of these, from one address.
const QUEUE_OF_ADDRESS_MAX: usize = 8;

/// How long a password that was right is remembered, from when it was last given.
const REMEMBER: Duration = Duration::from_secs(60);

/// How many of them are.
const REMEMBERED_MAX: usize = 4_096;

/// Wrong passwords for a user from an address before more of them have to wait.
const FREE_FAILURES: u32 = 3;

/// Longest wait. Guessing gets nowhere; who mistyped is back soon.
const DELAY_MAX: Duration = Duration::from_secs(10);

/// When failures are forgotten.
const FORGET: Duration = Duration::from_secs(600);

/// How many users and addresses with failures are known.
const FAILURES_MAX: usize = 4_096;

/// Lines about wrong passwords in the log, in each minute.
const LOGGED_PER_MINUTE: u32 = 20;

/// A login, without saying which.
type Tag = [u8; 32];

/// Where a client comes from; `None`: from this machine, by a unix socket.
pub(crate) type Peer = Option<IpAddr>;

/// Checks passwords.
#[derive(Clone)]
pub(crate) struct Verifier(Arc<Shared>);

struct Shared {
    key: hmac::Key,
    started: Instant,
    state: Mutex<State>,
    work: Condvar,
}

struct State {
    table: Arc<UserTable>,
    remembered: Remembered,
    /// Logins that nobody looks at yet, oldest first.
    queue: VecDeque<Tag>,
    /// These, and those that are being looked at.
    jobs: HashMap<Tag, Job>,
    failures: Failures,
    /// For the log.
    log: RateLimiter<()>,
}

/// A login that waits.
struct Job {
    credentials: Credentials,
    user: Option<Arc<User>>,
    waiting: Vec<Waiting>,
}

struct Waiting {
    worker: Handle,
    client: ClientId,
    peer: Peer,
}

impl Verifier {
    /// Starts the threads. They end with the process.
    pub(crate) fn start(table: UserTable, started: Instant) -> io::Result<Self> {
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new())
            .map_err(|_| io::Error::other("the kernel has no random numbers"))?;
        let this = Self(Arc::new(Shared {
            key,
            started,
            state: Mutex::new(State {
                table: Arc::new(table),
                remembered: Remembered::default(),
                queue: VecDeque::new(),
                jobs: HashMap::new(),
                failures: Failures::default(),
                log: RateLimiter::new(LOGGED_PER_MINUTE, 60_000),
            }),
            work: Condvar::new(),
        }));
        for _ in 0..THREADS {
            let shared = Arc::clone(&this.0);
            std::thread::Builder::new()
                .name("login".to_owned())
                .spawn(move || shared.run())?;
        }
        Ok(this)
    }

    /// The users are these from now on. Workers are told with `tell`, before they can be told of a login by them.
    pub(crate) fn set_users(&self, table: UserTable, tell: impl FnOnce(&Arc<Users>)) {
        let mut state = self.0.lock();
        tell(table.users());
        state.table = Arc::new(table);
    }

    /// Whether it is who it says; `None` if `worker` is told later.
    pub(crate) fn check(
        &self,
        credentials: Credentials,
        peer: Peer,
        worker: &Handle,
        client: ClientId,
    ) -> Option<Checked> {
        let shared = &self.0;
        let now = Instant::now();
        let mut state = shared.lock();
        let user = state.table.get(&credentials.user).cloned();
        let tag = shared.tag(&credentials, user.as_deref());
        if let Some(user) = &user
            && state.remembered.has(&tag, now)
        {
            return Some(Checked::Granted(Arc::clone(&user.rights)));
        }
        let peer = network(peer);
        if state.failures.waits(peer, &credentials.user, now) {
            return Some(Checked::Busy);
        }
        let waiting = Waiting {
            worker: worker.clone(),
            client,
            peer,
        };
        if let Some(job) = state.jobs.get_mut(&tag) {
            job.waiting.push(waiting);
            return None;
        }
        if state.is_full_for(peer) {
            return Some(Checked::Busy);
        }
        let job = Job {
            credentials,
            user,
            waiting: vec![waiting],
        };
        state.jobs.insert(tag, job);
        state.queue.push_back(tag);
        shared.work.notify_one();
        None
    }
}

impl State {
    fn is_full_for(&self, peer: Peer) -> bool {
        let of_peer = |job: &&Job| job.waiting.first().is_some_and(|first| first.peer == peer);
        self.queue.len() >= QUEUE_MAX
            || self.jobs.values().filter(of_peer).count() >= QUEUE_OF_ADDRESS_MAX
    }

    /// A login was wrong; yields what the log is to say. Not here: writing it may take a while.
    fn on_failure(&mut self, job: &Job, now: Instant, started: Instant) -> Vec<String> {
        let name = &job.credentials.user;
        let problem = match job.user {
            Some(_) => "wrong password",
            None => "no such user",
        };
        let mut lines = Vec::new();
        for waiting in &job.waiting {
            self.failures.add(waiting.peer, name, now);
            let Verdict::Log { suppressed } = self.log.on_event(time_since(started), ()) else {
                continue;
            };
            let more = match suppressed {
                0 => String::new(),
                count => format!(" ({count} more like it were not logged)"),
            };
            let (name, from) = (ShownName(name), ShownPeer(waiting.peer));
            lines.push(format!("user \"{name}\" from {from}: {problem}{more}"));
        }
        lines
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic ends the process.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tag(&self, credentials: &Credentials, user: Option<&User>) -> Tag {
        let hash = user.map_or("", |user| &user.hash_text);
        let mut context = hmac::Context::with_key(&self.key);
        for part in [
            &credentials.user,
            credentials.password.expose(),
            hash.as_bytes(),
        ] {
            // With their lengths, so that no two logins read alike.
            context.update(&part.len().to_le_bytes());
            context.update(part);
        }
        let mut tag = Tag::default();
        tag.copy_from_slice(context.sign().as_ref());
        tag
    }

    /// What a thread does.
    fn run(&self) {
        loop {
            let mut state = self.lock();
            let tag = loop {
                match state.queue.pop_front() {
                    Some(tag) => break tag,
                    None => {
                        let woken = self.work.wait(state);
                        state = woken.unwrap_or_else(PoisonError::into_inner);
                    }
                }
            };
            let Some(job) = state.jobs.get(&tag) else {
                continue;
            };
            let (credentials, user) = (job.credentials.clone(), job.user.clone());
            let somebody = state.table.somebody().cloned();
            drop(state);
            let right = is_right(&credentials, user.as_deref(), somebody.as_deref());
            for line in self.finish(tag, user.filter(|_| right)) {
                tracing::warn!("{line}");
            }
        }
    }

    /// A login was looked at: it was that of `user`, or wrong. Yields what the log is to say.
    fn finish(&self, tag: Tag, user: Option<Arc<User>>) -> Vec<String> {
        let mut state = self.lock();
        let Some(job) = state.jobs.remove(&tag) else {
            return Vec::new();
        };
        let now = Instant::now();
        let (checked, lines) = match user {
            Some(user) => {
                state.remembered.add(tag, now);
                for waiting in &job.waiting {
                    state.failures.forget(waiting.peer, &job.credentials.user);
                }
                (Checked::Granted(Arc::clone(&user.rights)), Vec::new())
            }
            None => (Checked::Denied, state.on_failure(&job, now, self.started)),
        };
        for Waiting { worker, client, .. } in job.waiting {
            worker.tell(ToWorker::Checked(client, checked.clone()));
        }
        lines
    }
}

/// Takes as long for nobody as for somebody.
fn is_right(credentials: &Credentials, user: Option<&User>, somebody: Option<&User>) -> bool {
    let password = credentials.password.expose();
    match (user, somebody) {
        (Some(user), _) => user.has_password(password),
        (None, Some(somebody)) => {
            // It may even be right: of somebody else.
            std::hint::black_box(somebody.has_password(password));
            false
        }
        (None, None) => false,
    }
}

/// One network of IPv6 is one guesser.
fn network(peer: Peer) -> Peer {
    peer.map(|ip| match ip.to_canonical() {
        IpAddr::V4(ip) => ip.into(),
        IpAddr::V6(ip) => {
            let [a, b, c, d, ..] = ip.segments();
            IpAddr::from([a, b, c, d, 0, 0, 0, 0])
        }
    })
}

/// Logins that were right.
#[derive(Default)]
struct Remembered {
    until: HashMap<Tag, Instant>,
}

impl Remembered {
    fn has(&mut self, tag: &Tag, now: Instant) -> bool {
        let Some(until) = self.until.get_mut(tag).filter(|until| **until > now) else {
            return false;
        };
        *until = now + REMEMBER;
        true
    }

    fn add(&mut self, tag: Tag, now: Instant) {
        if self.until.len() >= REMEMBERED_MAX {
            self.until.retain(|_, until| *until > now);
        }
        if self.until.len() >= REMEMBERED_MAX {
            let oldest = self.until.iter().min_by_key(|(_, until)| **until);
            let oldest = *oldest.expect("it is full").0;
            self.until.remove(&oldest);
        }
        self.until.insert(tag, now + REMEMBER);
    }
}

/// Logins that were wrong, by who tried and as whom.
#[derive(Default)]
struct Failures {
    known: HashMap<(Peer, Box<[u8]>), Failed>,
}

struct Failed {
    count: u32,
    /// No earlier login is looked at.
    next_at: Instant,
    forget_at: Instant,
}

impl Failures {
    fn waits(&self, peer: Peer, user: &[u8], now: Instant) -> bool {
        let failed = self.known.get(&(peer, user.into()));
        failed.is_some_and(|failed| failed.next_at > now)
    }

    fn add(&mut self, peer: Peer, user: &[u8], now: Instant) {
        self.make_room(now);
        let failed = self.known.entry((peer, user.into())).or_insert(Failed {
            count: 0,
            next_at: now,
            forget_at: now,
        });
        if failed.forget_at < now {
            failed.count = 0;
        }
        failed.count = failed.count.saturating_add(1);
        failed.forget_at = now + FORGET;
        if let Some(over) = failed.count.checked_sub(FREE_FAILURES) {
            let delay = Duration::from_secs(1) * 2_u32.saturating_pow(over.min(8));
            failed.next_at = now + delay.min(DELAY_MAX);
        }
    }

    fn make_room(&mut self, now: Instant) {
        if self.known.len() < FAILURES_MAX {
            return;
        }
        self.known.retain(|_, failed| failed.forget_at > now);
        if self.known.len() < FAILURES_MAX {
            return;
        }
        // A part at a time: whoever tries many names must not make this a habit.
        let mut times: Vec<_> = self.known.values().map(|failed| failed.forget_at).collect();
        let (_, &mut middle, _) = times.select_nth_unstable(FAILURES_MAX / 2);
        self.known.retain(|_, failed| failed.forget_at > middle);
    }

    fn forget(&mut self, peer: Peer, user: &[u8]) {
        self.known.remove(&(peer, user.into()));
    }
}

/// A name that anybody may have sent: shortened and harmless.
struct ShownName<'a>(&'a [u8]);

impl fmt::Display for ShownName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const LEN_MAX: usize = 32;
        write!(f, "{}", self.0[..self.0.len().min(LEN_MAX)].escape_ascii())?;
        if self.0.len() > LEN_MAX {
            f.write_str("…")?;
        }
        Ok(())
    }
}

struct ShownPeer(Peer);

impl fmt::Display for ShownPeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(ip) => ip.fmt(f),
            None => f.write_str("the unix socket"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const JOE: &[u8] = b"joe";

    fn peer(last: u8) -> Peer {
        Some(IpAddr::from([10, 0, 0, last]))
    }

    #[test]
    fn failures_make_a_user_wait_at_one_address() {
        let mut failures = Failures::default();
        let now = Instant::now();
        for _ in 1..FREE_FAILURES {
            failures.add(peer(1), JOE, now);
            assert!(!failures.waits(peer(1), JOE, now));
        }
        failures.add(peer(1), JOE, now);
        assert!(failures.waits(peer(1), JOE, now));
        assert!(!failures.waits(peer(2), JOE, now));
        assert!(!failures.waits(peer(1), b"ann", now));
        assert!(!failures.waits(peer(1), JOE, now + Duration::from_secs(1)));
        for _ in 0..40 {
            failures.add(peer(1), JOE, now);
        }
        let late = now + DELAY_MAX;
        assert!(failures.waits(
            peer(1),
            JOE,
            late.checked_sub(Duration::from_millis(1)).unwrap()
        ));
        assert!(!failures.waits(peer(1), JOE, late));
        failures.forget(peer(1), JOE);
        assert!(!failures.waits(peer(1), JOE, now));
    }

    #[test]
    fn what_is_known_of_failures_is_bounded() {
        let mut failures = Failures::default();
        let now = Instant::now();
        for number in 0..2 * FAILURES_MAX {
            failures.add(peer(1), number.to_string().as_bytes(), now);
        }
        assert!(failures.known.len() <= FAILURES_MAX);
    }

    #[test]
    fn a_success_is_remembered_for_a_minute_after_its_last_use() {
        let mut remembered = Remembered::default();
        let now = Instant::now();
        let tag = [1; 32];
        assert!(!remembered.has(&tag, now));
        remembered.add(tag, now);
        assert!(remembered.has(&tag, now + REMEMBER / 2));
        assert!(remembered.has(&tag, now + REMEMBER));
        assert!(!remembered.has(&tag, now + 2 * REMEMBER));
        for number in 0..2 * REMEMBERED_MAX as u64 {
            let mut tag = [0; 32];
            tag[..8].copy_from_slice(&number.to_le_bytes());
            remembered.add(tag, now + Duration::from_nanos(number));
        }
        assert_eq!(remembered.until.len(), REMEMBERED_MAX);
    }

    #[test]
    fn names_in_the_log_are_harmless() {
        assert_eq!(ShownName(b"joe").to_string(), "joe");
        assert_eq!(ShownName(b"a\n\x1b\"").to_string(), "a\\n\\x1b\\\"");
        assert_eq!(ShownName(&[b'a'; 40]).to_string().chars().count(), 33);
    }

    #[test]
    fn an_ipv6_network_is_one_address() {
        let ip = |text: &str| network(Some(text.parse().unwrap()));
        assert_eq!(ip("2001:db8::1"), ip("2001:db8::ffff:2"));
        assert_ne!(ip("2001:db8::1"), ip("2001:db8:0:1::1"));
        assert_eq!(ip("::ffff:10.0.0.1"), peer(1));
    }
}
