//! Start, background, end: the command line as magent 0.6's users type it.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use super::harness::{
    Client, Cluster, Endpoint, Magent, Memcached, free_endpoint, loopback, run_magent, wait_for,
    wait_until,
};

#[test]
fn sigterm_finishes_what_is_in_flight_and_exits_0() {
    let mut cluster = Cluster::start(3, 0, &[]);
    let key = cluster.key_on(0, 1);
    let mut client = cluster.magent.client();
    let mut idle = cluster.magent.client();
    client.set(&key, b"value");
    idle.ask(b"mn\r\n", b"MN\r\n");
    cluster.primaries[0].stop();
    client.send(format!("get {key}\r\n").as_bytes());
    cluster.magent.terminate();
    wait_until("no more clients are accepted", || {
        Client::try_connect(&cluster.magent.endpoint).is_err()
    });
    cluster.primaries[0].cont();
    // A machine so slow that the stop counts as a failure gives a miss, but an answer.
    let answer = client.rest();
    let hit = format!("VALUE {key} 0 5\r\nvalue\r\nEND\r\n").into_bytes();
    assert!(
        answer == hit || answer == b"END\r\n",
        "{}",
        answer.escape_ascii()
    );
    assert_eq!(idle.rest(), b"");
    assert_eq!(cluster.magent.wait_for_exit().code(), Some(0));
}

#[test]
fn sigterm_with_nothing_in_flight_exits_0_and_removes_the_pid_file() {
    let dir = TempDir::new().unwrap();
    let pid_file = dir.path().join("magent.pid");
    let mut cluster = Cluster::start(1, 1, &["--pid-file", pid_file.to_str().unwrap()]);
    let pid = fs::read_to_string(&pid_file).unwrap();
    assert_eq!(pid.trim(), cluster.magent.pid().to_string());
    cluster.magent.terminate();
    assert_eq!(cluster.magent.wait_for_exit().code(), Some(0));
    assert!(!pid_file.exists());
}

#[test]
fn sigterm_does_not_wait_for_ever_for_a_hung_backend() {
    let mut cluster = Cluster::start(1, 0, &["--request-ms", "60000", "--drain-ms", "200"]);
    let mut client = cluster.magent.client();
    client.set("key", b"value");
    cluster.primaries[0].stop();
    client.send(b"get key\r\n");
    cluster.magent.terminate();
    assert_eq!(cluster.magent.wait_for_exit().code(), Some(0));
}

/// The article's command line, its addresses replaced by loopback ones.
#[test]
fn the_articles_command_line_goes_to_the_background_and_serves() {
    let [front, backends @ ..]: [_; 6] =
        std::array::from_fn(|n| loopback(10 + n.try_into().unwrap_or(0)));
    let started: Vec<Memcached> = backends
        .iter()
        .map(|ip| Memcached::start_at(Endpoint::Tcp((*ip, 11211).into()), &[]))
        .collect();
    let user = nix::unistd::geteuid().to_string();
    let line = format!(
        "-u {user} -n 51200 -l {front} -p 12000 -s {}:11211 -s {}:11211 -s {}:11211 \
         -b {}:11211 -b {}:11211",
        backends[0], backends[1], backends[2], backends[3], backends[4],
    );
    let ended = run_magent(&line.split(' ').collect::<Vec<_>>());
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let daemon = Daemon::find(&front.to_string());
    // No waiting: it listened before the command returned.
    let mut client = Client::connect(&Endpoint::Tcp((front, 12000).into()));
    for n in 1..=6 {
        client.set(&format!("snsgou{n}"), b"value");
    }
    let items: u64 = started
        .iter()
        .map(|backend| backend.stat("curr_items"))
        .sum();
    assert_eq!(items, 12, "each key is held twice");
    daemon.terminate();
    assert_eq!(client.rest(), b"");
}

#[test]
fn the_background_keeps_a_log_file_and_a_pid_file() {
    let dir = TempDir::new().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let mut backend = Memcached::start();
    let endpoint = free_endpoint();
    let [ip, port] = ip_and_port(&endpoint);
    let server = backend.endpoint.to_string();
    let (pid_file, log_file) = (path("pid"), path("log"));
    let ended = run_magent(&[
        "-l",
        &ip,
        "-p",
        &port,
        "-s",
        &server,
        "--pid-file",
        &pid_file,
        "--log-file",
        &log_file,
    ]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let daemon = Daemon {
        pid: fs::read_to_string(path("pid"))
            .unwrap()
            .trim()
            .parse()
            .unwrap(),
    };
    let mut client = Client::connect(&endpoint);
    client.set("key", b"value");
    backend.kill9();
    wait_until("it is noticed", || {
        client.try_store("set", "key", b"x").is_err()
    });
    // Someone who asks why finds the backend's name.
    wait_until("the log names the backend", || {
        fs::read_to_string(path("log"))
            .unwrap()
            .contains(&backend.endpoint.to_string())
    });
    daemon.terminate();
    wait_until("the pid file is removed", || {
        !dir.path().join("pid").exists()
    });
}

#[test]
fn a_start_up_error_is_reported_before_going_to_the_background() {
    let cluster = Cluster::start(1, 0, &[]);
    let [ip, port] = ip_and_port(&cluster.magent.endpoint);
    let server = cluster.primaries[0].endpoint.to_string();
    for background in [&[][..], &["-D"]] {
        let ended = run_magent(&[&["-l", &ip, "-p", &port, "-s", &server], background].concat());
        assert!(
            !matches!(ended.code, None | Some(0)),
            "a second magent on the port: {ended:?}"
        );
        assert!(ended.stderr.contains(&format!("{ip}:{port}")), "{ended:?}");
    }
}

#[test]
fn a_wrong_argument_names_itself_and_exits_2() {
    for (args, named) in [
        (&["--nosuch"][..], "--nosuch"),
        (&["-s", "127.0.0.1:99999"], "99999"),
        (&["-s", "127.0.0.1", "-p", "x"], "-p"),
        (&["-s", "127.0.0.1", "-n", "0"], "max-clients"),
        (&["-s", "127.0.0.1", "--scheme", "nosuch"], "nosuch"),
        (&["-l", "127.0.0.1"], "-s"),
        (
            &["-s", "127.0.0.1", "-l", "not an address"],
            "not an address",
        ),
    ] {
        let ended = run_magent(args);
        assert_eq!(ended.code, Some(2), "{args:?}: {ended:?}");
        assert!(ended.stderr.contains(named), "{args:?}: {ended:?}");
    }
}

#[test]
fn help_and_version_exit_0() {
    for (arg, expected) in [
        ("-h", "-s"),
        ("--help", "--threads"),
        ("--version", "magent"),
    ] {
        let ended = run_magent(&[arg]);
        assert_eq!(ended.code, Some(0), "{arg}: {ended:?}");
        assert!(ended.stdout.contains(expected), "{arg}: {ended:?}");
    }
}

#[test]
fn a_stale_unix_socket_is_taken_over_and_a_live_one_is_not() {
    let dir = TempDir::new().unwrap();
    let backend = Memcached::start();
    let path = dir.path().join("magent.sock");
    let endpoint = Endpoint::Unix(path.clone());
    let args = ["-s".to_owned(), backend.endpoint.to_string()];
    let mut first = Magent::start_at(endpoint.clone(), &args);
    first.kill9();
    let second = Magent::start_at(endpoint, &args);
    second.client().set("key", b"value");
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o700, 0o700, "{mode:o}");
    let third = run_magent(&[
        "-D",
        "-p",
        "0",
        "-f",
        path.to_str().unwrap(),
        "-s",
        &args[1],
    ]);
    assert!(!matches!(third.code, None | Some(0)), "{third:?}");
    assert_eq!(second.client().get("key"), Some(b"value".to_vec()));
}

#[test]
fn the_demo_prints_what_to_type_next_and_serves() {
    let endpoint = super::harness::free_endpoint_localhost();
    let port = endpoint.tcp().port().to_string();
    let demo = Magent::start_command(endpoint, &["demo", "-p", &port]);
    wait_until("the banner names the port", || demo.log().contains(&port));
    let mut client = demo.client();
    for n in 1..=6 {
        client.ask(
            format!("add snsgou{n} 0 0 5\r\nvalue\r\n").as_bytes(),
            b"STORED\r\n",
        );
        assert_eq!(client.get(&format!("snsgou{n}")), Some(b"value".to_vec()));
    }
}

fn ip_and_port(endpoint: &Endpoint) -> [String; 2] {
    let address = endpoint.tcp();
    [address.ip().to_string(), address.port().to_string()]
}

/// A magent in the background; ended when dropped.
struct Daemon {
    pid: i32,
}

impl Daemon {
    /// The one process whose command line has `argument`, which only this test uses.
    fn find(argument: &str) -> Self {
        let pid = wait_for("the daemon is found", || {
            fs::read_dir("/proc").unwrap().find_map(|entry| {
                let entry = entry.unwrap();
                let pid = entry.file_name().to_str()?.parse().ok()?;
                let line = fs::read(entry.path().join("cmdline")).ok()?;
                let words: Vec<&[u8]> = line.split(|&byte| byte == 0).collect();
                let found = words.contains(&argument.as_bytes()) && words.contains(&&b"-b"[..]);
                found.then_some(pid)
            })
        });
        Self { pid }
    }

    fn terminate(&self) {
        kill(Pid::from_raw(self.pid), Signal::SIGTERM).unwrap();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It has mostly ended by itself. The pid is not reused within the moment since it was found.
        kill(Pid::from_raw(self.pid), Signal::SIGKILL).ok();
    }
}
