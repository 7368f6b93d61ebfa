//! PHP's sessions while a memcached is killed or hangs, in the middle of page views.
//!
//! The views are those of real PHP processes (`php-sessions/views.php`), which know what their visitors' sessions
//! must hold. Sessions that all of them view count each view once: a lock that two hold at a time loses one.
//!
//! `SESSION_SEED=N SESSION_ROUNDS=100 cargo test -p magent --test e2e php_sessions` goes on for longer.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use std::{panic, thread};

use tempfile::TempDir;

use super::harness::{
    Cluster, DEADLINE, Endpoint, Process, free_endpoint, keep_doing, number, program, wait_for,
    wait_until,
};

/// PHP processes per test: enough for sessions to be fought for.
const PROCESS_COUNT: u64 = 3;

/// Reads are answered by the other backend, writes wait, and nobody is given up.
const SHORT_HANG: Duration = Duration::from_secs(1);

/// Far more than a busy machine stands still, and less than clients wait.
const PATIENT: [&str; 4] = ["--fail-ms", "3000", "--request-ms", "20000"];

#[test]
fn php_memcached_in_binary_outlives_killed_memcacheds() {
    check_killed("memcached", "binary");
}

#[test]
fn php_memcached_in_text_outlives_killed_memcacheds() {
    check_killed("memcached", "text");
}

#[test]
fn pecl_memcache_outlives_killed_memcacheds() {
    check_killed("memcache", "text");
}

#[test]
fn php_memcached_outlives_hung_memcacheds() {
    check_hung("memcached", "binary");
}

#[test]
fn pecl_memcache_outlives_hung_memcacheds() {
    check_hung("memcache", "text");
}

#[test]
fn a_sessions_lock_is_kept_with_its_data_if_that_is_asked_for() {
    let cluster = Cluster::start_patient(3, 2, &["--lock-with-data", "php"]);
    for (handler, prefix, lock_prefix, lock_suffix) in [
        ("memcached", "memc.sess.key.", "memc.sess.key.lock.", ""),
        ("memcache", "", "", ".lock"),
    ] {
        let ids = (0..6).map(|n| format!("{n}kq5ssnh3lo7rfl6dq3p6v9e5m"));
        let views: Vec<(String, Process)> = ids
            .map(|id| {
                let address = cluster.magent.endpoint.tcp();
                let view = Process::start(&script("hold.php"), |command| {
                    command
                        .args([handler, &address.ip().to_string()])
                        .args([&address.port().to_string(), &id]);
                });
                (id, view)
            })
            .collect();
        for (id, _) in &views {
            let data = format!("{prefix}{id}");
            let lock = format!("{lock_prefix}{id}{lock_suffix}");
            let [data, lock] = [data, lock].map(|key| {
                wait_for(&format!("{key} is there"), || {
                    let holders = cluster.holders(&key);
                    (holders.len() == 2).then_some(holders)
                })
            });
            assert_eq!(data, lock, "{handler}: {id}");
        }
    }
}

#[test]
fn a_site_with_php_memcached_and_nothing_configured_outlives_each_memcached() {
    check_site("memcached", "");
}

#[test]
fn a_site_with_pecl_memcache_and_nothing_configured_outlives_each_memcached() {
    check_site("memcache", "tcp://");
}

/// The article's sessions: nothing in php.ini but save_handler and save_path, cookies and all, while each of the
/// memcacheds is killed and comes back.
#[track_caller]
fn check_site(handler: &str, scheme: &str) {
    let mut cluster = Cluster::start_patient(3, 2, &[]);
    let site = free_endpoint();
    let _server = Process::start(&program("php"), |command| {
        let address = cluster.magent.endpoint.tcp();
        command
            .args(["-d", &format!("session.save_handler={handler}")])
            .args(["-d", &format!("session.save_path={scheme}{address}")])
            .args(["-S", &site.tcp().to_string()])
            .arg(script("site.php"))
            .stdout(Stdio::null())
            .stderr(Stdio::null());
    });
    wait_until("the site is there", || {
        TcpStream::connect(site.tcp()).is_ok()
    });
    let views = AtomicU64::new(0);
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let visitor = scope.spawn(|| {
            let mut visitor = Visitor::new(&site);
            while !is_over.load(Ordering::Relaxed) {
                let count = views.fetch_add(1, Ordering::Relaxed) + 1;
                assert_eq!(visitor.view(), count.to_string(), "page view {count}");
            }
        });
        let wait_for_views = |more: u64| {
            let enough = views.load(Ordering::Relaxed) + more;
            wait_until("the visitor goes on", || {
                visitor.is_finished() || views.load(Ordering::Relaxed) >= enough
            });
        };
        for index in 0..5 {
            wait_for_views(10);
            let backend = cluster.backend_mut(index);
            let name = backend.endpoint.clone();
            backend.kill9();
            cluster.magent.wait_until_state(&name, &["down"]);
            wait_for_views(10);
            cluster.backend_mut(index).restart();
            cluster.magent.wait_until_healed();
        }
        wait_for_views(10);
        is_over.store(true, Ordering::Relaxed);
        if let Err(panic) = visitor.join() {
            panic::resume_unwind(panic);
        }
    });
}

/// A browser that keeps its cookie.
struct Visitor<'a> {
    site: &'a Endpoint,
    cookie: String,
}

impl<'a> Visitor<'a> {
    fn new(site: &'a Endpoint) -> Self {
        let cookie = String::new();
        Self { site, cookie }
    }

    /// What the page says.
    fn view(&mut self) -> String {
        let mut connection = TcpStream::connect(self.site.tcp()).unwrap();
        connection.set_read_timeout(Some(DEADLINE)).unwrap();
        let request = format!("GET / HTTP/1.0\r\nCookie: {}\r\n\r\n", self.cookie);
        connection.write_all(request.as_bytes()).unwrap();
        let mut page = String::new();
        connection.read_to_string(&mut page).unwrap();
        let (headers, body) = page.split_once("\r\n\r\n").unwrap();
        let cookie = headers
            .lines()
            .find_map(|line| line.strip_prefix("Set-Cookie: "));
        if let Some(cookie) = cookie {
            self.cookie = cookie.split(';').next().unwrap().to_owned();
        }
        body.to_owned()
    }
}

#[track_caller]
fn check_killed(handler: &str, protocol: &str) {
    check(handler, protocol, |cluster, index, views| {
        let backend = cluster.backend_mut(index);
        let name = backend.endpoint.clone();
        backend.kill9();
        cluster.magent.wait_until_state(&name, &["down"]);
        views.wait_for_more(20);
        cluster.backend_mut(index).restart();
    });
}

/// For a moment, or until it is given up.
#[track_caller]
fn check_hung(handler: &str, protocol: &str) {
    let rounds = Cell::new(0);
    check(handler, protocol, |cluster, index, views| {
        let backend = cluster.backend_mut(index);
        let name = backend.endpoint.clone();
        backend.stop();
        if rounds.replace(rounds.get() + 1) % 2 == 0 {
            keep_doing(SHORT_HANG, || views.check_alive());
        } else {
            cluster.magent.wait_until_state(&name, &["down"]);
            views.wait_for_more(20);
        }
        cluster.backend_mut(index).cont();
    });
}

#[track_caller]
fn check(handler: &str, protocol: &str, fault: impl Fn(&mut Cluster, usize, &mut Views)) {
    let seed = number("SESSION_SEED", 1);
    println!("SESSION_SEED={seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut cluster = Cluster::start(3, 2, &PATIENT);
    let mut views = Views::start(&cluster, handler, protocol, seed);
    for _ in 0..number("SESSION_ROUNDS", 4) {
        views.wait_for_more(rng.usize(20..60));
        fault(&mut cluster, rng.usize(..5), &mut views);
        // Only what has its items back may lose its partner; a state can lag behind by a moment.
        for _ in 0..2 {
            cluster.magent.wait_until_healed();
            views.wait_for_more(1);
        }
    }
    let said = views.finish();
    let wrong: Vec<&str> = said
        .lines()
        .filter(|line| line.starts_with("wrong"))
        .collect();
    assert!(
        wrong.is_empty(),
        "{handler}, {protocol}:\n{}",
        wrong.join("\n"),
    );
    check_shared(&said);
}

/// Each view of a shared session was counted once, whoever's it was.
#[track_caller]
fn check_shared(said: &str) {
    let mut counts: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for line in said.lines().filter_map(|line| line.strip_prefix("shared ")) {
        let (session, count) = line.split_once(' ').unwrap();
        counts
            .entry(session)
            .or_default()
            .push(count.parse().unwrap());
    }
    assert!(!counts.is_empty(), "nobody viewed a shared session");
    for (session, mut counts) in counts {
        counts.sort_unstable();
        let expected: Vec<usize> = (1..=counts.len()).collect();
        assert_eq!(counts, expected, "views of shared session {session}");
    }
}

/// PHP processes that view pages.
struct Views {
    processes: Vec<Process>,
    dir: TempDir,
}

impl Views {
    fn start(cluster: &Cluster, handler: &str, protocol: &str, seed: u64) -> Self {
        let dir = TempDir::new().unwrap();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e/php-sessions/views.php");
        let address = cluster.magent.endpoint.tcp();
        let start = |n: u64| {
            Process::start(&script, |command| {
                command
                    .args([handler, &address.ip().to_string()])
                    .args([&address.port().to_string(), protocol])
                    .arg((seed * PROCESS_COUNT + n).to_string())
                    .arg(dir.path().join("end"))
                    .stdout(File::create(log_of(&dir, n)).unwrap());
            })
        };
        let processes = (0..PROCESS_COUNT).map(start).collect();
        Self { processes, dir }
    }

    /// Waits until each process has had so many more views.
    #[track_caller]
    fn wait_for_more(&mut self, count: usize) {
        self.check_alive();
        for n in 0..PROCESS_COUNT {
            let path = log_of(&self.dir, n);
            let views = || fs::read_to_string(&path).unwrap().matches("ok\n").count();
            let enough = views() + count;
            wait_until(&format!("process {n} has {enough} views"), || {
                views() >= enough
            });
        }
    }

    /// None has ended by itself.
    #[track_caller]
    fn check_alive(&mut self) {
        for process in &mut self.processes {
            assert!(process.exited().is_none(), "PHP has ended");
        }
    }

    /// Ends them; what they said.
    fn finish(mut self) -> String {
        File::create(self.dir.path().join("end")).unwrap();
        for process in &mut self.processes {
            wait_until("PHP ends", || process.exited().is_some());
        }
        let said = (0..PROCESS_COUNT).map(|n| fs::read_to_string(log_of(&self.dir, n)).unwrap());
        said.collect()
    }
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/e2e/php-sessions")
        .join(name)
}

fn log_of(dir: &TempDir, n: u64) -> PathBuf {
    dir.path().join(format!("views-{n}"))
}
