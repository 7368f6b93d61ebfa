//! Users: real clients that log in, files that change, and backends that want a password themselves.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use super::harness::{
    Client, Cluster, Endpoint, Magent, Memcached, QUICK_PROBES, free_endpoint, magent_path,
    run_magent, run_script, wait_for, wait_until,
};

const JOE: &[u8] = b"set x 0 0 10\r\njoe secret\r\n";
const DENIED: &[u8] = b"CLIENT_ERROR authentication failure\r\n";

/// A file of users.
struct Users {
    dir: TempDir,
}

impl Users {
    /// With joe, whose password is `secret`.
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let this = Self { dir };
        this.add("joe", "secret", &[]);
        this
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("users")
    }

    fn arg(&self) -> String {
        self.path().to_str().unwrap().to_owned()
    }

    /// By `magent passwd`, with the password on standard input.
    fn add(&self, name: &str, password: &str, extra: &[&str]) {
        let mut process = Command::new(magent_path())
            .arg("passwd")
            .arg(self.path())
            .arg(name)
            .args(extra)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = process.stdin.take().unwrap();
        writeln!(stdin, "{password}").unwrap();
        drop(stdin);
        assert!(process.wait().unwrap().success(), "{name}");
    }

    fn list(&self) -> String {
        run_magent(&["passwd", &self.arg(), "--list"]).stdout
    }
}

fn start(users: &Users, backends: &[Memcached]) -> Magent {
    let primaries: Vec<_> = backends.iter().map(|backend| &backend.endpoint).collect();
    Magent::start(&primaries, &[], &["--auth-file", &users.arg()])
}

fn hang_up(magent: &Magent) {
    let pid = Pid::from_raw(magent.pid().try_into().unwrap());
    kill(pid, Signal::SIGHUP).unwrap();
}

fn login(endpoint: &Endpoint) -> Client {
    let mut client = Client::connect(endpoint);
    client.ask(JOE, b"STORED\r\n");
    client
}

fn address(magent: &Magent) -> [String; 2] {
    let address = magent.endpoint.tcp();
    [address.ip().to_string(), address.port().to_string()]
}

#[test]
fn clients_of_others_log_in() {
    let users = Users::new();
    users.add("shop", "two words", &["--prefix", "shop:"]);
    let cluster = Cluster::start_patient(3, 2, &["--auth-file", &users.arg()]);
    let [host, port] = address(&cluster.magent);
    for script in ["python-pylibmc/login.py", "php-memcached/login.php"] {
        for (user, password, expected) in [
            ("joe", "secret", "in"),
            ("shop", "two words", "in"),
            ("joe", "Secret", "out"),
            ("bob", "secret", "out"),
        ] {
            run_script(script, &[&host, &port, user, password, expected]);
        }
    }
    let mut client = login(&cluster.magent.endpoint);
    for key in ["pylibmc", "php", "shop:pylibmc", "shop:php"] {
        assert_eq!(client.get(key).as_deref(), Some(&b"value"[..]), "{key}");
    }
    let log = cluster.magent.log();
    assert!(log.contains("user \"joe\" from "), "{log}");
    assert!(log.contains("no such user"), "{log}");
    assert!(!log.contains("secret") && !log.contains("Secret"), "{log}");
}

#[test]
fn php_sessions_log_in() {
    let users = Users::new();
    let cluster = Cluster::start_patient(3, 2, &["--auth-file", &users.arg()]);
    let [host, port] = address(&cluster.magent);
    for (password, count, expected) in [
        ("secret", "0", "in"),
        ("secret", "1", "in"),
        ("wrong", "2", "out"),
        ("secret", "2", "in"),
    ] {
        run_script(
            "php-sessions/login.php",
            &[&host, &port, "joe", password, "session", count, expected],
        );
    }
}

/// What a memcached with `-Y` says to each of these, one at a time, the proxy says too.
#[test]
fn strangers_are_told_what_memcached_tells_them() {
    let users = Users::new();
    let passwords = passwords("joe:secret\n");
    let options = ["-Y", passwords.path().to_str().unwrap()];
    let memcached = Memcached::start_at(free_endpoint(), &options);
    let backends = [Memcached::start()];
    let magent = start(&users, &backends);
    let mut direct = Client::connect(&memcached.endpoint);
    let mut proxied = magent.client();
    for request in [
        "get a",
        "mg a v",
        "mn",
        "ms a 10",
        "delete a noreply",
        "version",
        "stats",
        "flush_all",
        "quit",
        "garbage",
        "",
        "set x 0 0",
        "set x 0 0 -1",
        "set x 0 0 abc",
        "watch",
        "verbosity 1",
        "GET / HTTP/1.1",
        "set x 0 0 9\r\njoe wrong",
        "set x 0 0 9\r\njoesecret",
        "set x 0 0 11\r\njoe\tsecret ",
        "set x 0 0 9 noreply\r\nbob wrong",
        "set x 0 0 0\r\n",
    ] {
        let request = format!("{request}\r\n");
        let expected = direct.ask_line(request.as_bytes());
        assert_eq!(proxied.ask_line(request.as_bytes()), expected, "{request}");
    }
    for client in [&mut direct, &mut proxied] {
        client.ask(JOE, b"STORED\r\n");
        client.ask(b"get a\r\n", b"END\r\n");
    }
}

#[test]
fn a_user_that_may_only_read_and_one_with_a_prefix() {
    let users = Users::new();
    users.add("eve", "secret", &["--read-only"]);
    users.add("shop", "secret", &["--prefix", "shop:"]);
    assert_eq!(users.list(), "joe\neve read-only\nshop prefix=shop:\n");
    let mode = fs::metadata(users.path()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let backends = [Memcached::start(), Memcached::start()];
    let magent = start(&users, &backends);
    let mut joe = login(&magent.endpoint);
    let mut eve = magent.client();
    eve.ask(b"set x 0 0 10\r\neve secret\r\n", b"STORED\r\n");
    let mut shop = magent.client();
    shop.ask(b"set x 0 0 11\r\nshop secret\r\n", b"STORED\r\n");
    shop.ask(b"set k 0 0 1\r\n1\r\n", b"STORED\r\n");
    shop.ask(b"mg k k v\r\n", b"VA 1 kk\r\n1\r\n");
    shop.ask(
        b"flush_all\r\n",
        b"CLIENT_ERROR this user may not do that\r\n",
    );
    joe.ask(b"get shop:k\r\n", b"VALUE shop:k 0 1\r\n1\r\nEND\r\n");
    eve.ask(b"get shop:k\r\n", b"VALUE shop:k 0 1\r\n1\r\nEND\r\n");
    eve.ask(
        b"delete shop:k\r\n",
        b"CLIENT_ERROR this user may only read\r\n",
    );
    eve.ask(b"delete shop:k noreply\r\nmn\r\n", b"MN\r\n");
    shop.ask(b"get k\r\n", b"VALUE k 0 1\r\n1\r\nEND\r\n");
    assert_eq!(shop.stats("")["auth_cmds"], "3");
}

#[test]
fn the_file_is_read_again_on_sighup() {
    let users = Users::new();
    let backends = [Memcached::start()];
    let magent = start(&users, &backends);
    users.add("ann", "secret", &[]);
    let mut joe = login(&magent.endpoint);
    magent
        .client()
        .ask(b"set x 0 0 10\r\nann secret\r\n", DENIED);
    hang_up(&magent);
    wait_until("a new user comes in", || {
        let said = magent.client().ask_line(b"set x 0 0 10\r\nann secret\r\n");
        said.starts_with("STORED")
    });
    joe.ask(b"get k\r\n", b"END\r\n");

    // A file that is wrong changes nothing.
    let good = fs::read_to_string(users.path()).unwrap();
    fs::write(users.path(), format!("{good}\nbroken\n")).unwrap();
    hang_up(&magent);
    let line = wait_for("the log says what is wrong", || {
        let log = magent.log();
        let found = log.lines().find(|line| line.contains("expected NAME:HASH"));
        found.map(str::to_owned)
    });
    assert!(line.contains("users:4: "), "{line}");
    assert!(line.contains("the users stay as they were"), "{line}");
    joe.ask(b"get k\r\n", b"END\r\n");

    // Who has another password is closed, and the old one is wrong.
    fs::write(users.path(), good).unwrap();
    users.add("joe", "another", &[]);
    hang_up(&magent);
    assert_eq!(joe.rest(), b"");
    // The other worker may hear of it later.
    wait_until("the old password is wrong", || {
        magent.client().ask_line(JOE).starts_with("CLIENT_ERROR")
    });
    let mut joe = magent.client();
    joe.ask(b"set x 0 0 11\r\njoe another\r\n", b"STORED\r\n");
    let deleted = run_magent(&["passwd", &users.arg(), "joe", "--delete"]);
    assert_eq!(deleted.code, Some(0), "{}", deleted.stderr);
    hang_up(&magent);
    assert_eq!(joe.rest(), b"");
    assert_eq!(users.list(), "ann\n");
}

#[test]
fn a_guesser_does_not_keep_others_out() {
    let users = Users::new();
    users.add("ann", "secret", &[]);
    let backends = [Memcached::start()];
    let magent = start(&users, &backends);
    drop(login(&magent.endpoint));
    let mut guesser = magent.client();
    for _ in 0..3 {
        guesser.ask(b"set x 0 0 9\r\njoe wrong\r\n", DENIED);
    }
    assert_eq!(guesser.rest(), b"", "closed");
    // More of them are not looked at, the right password neither, for somebody whom nobody remembers.
    let said = magent.client().ask_line(b"set x 0 0 9\r\njoe guess\r\n");
    assert!(said.starts_with("SERVER_ERROR too many logins"), "{said}");
    login(&magent.endpoint).ask(b"get k\r\n", b"END\r\n");
    magent
        .client()
        .ask(b"set x 0 0 10\r\nann secret\r\n", b"STORED\r\n");
}

/// After its start a web server opens many connections at once, all for one user: they wait as one.
#[test]
fn many_log_in_at_once() {
    let users = Users::new();
    let backends = [Memcached::start()];
    let magent = start(&users, &backends);
    let at_once = |logins: &mut dyn Iterator<Item = String>| -> Vec<String> {
        let mut clients: Vec<Client> = logins
            .map(|login| {
                let mut client = magent.client();
                client.send(format!("set x 0 0 {}\r\n{login}\r\n", login.len()).as_bytes());
                client
            })
            .collect();
        let answers = clients.iter_mut().map(Client::line);
        answers
            .map(|line| String::from_utf8(line).unwrap())
            .collect()
    };
    let said = at_once(&mut (0..100).map(|_| "joe secret".to_owned()));
    assert!(
        said.iter().all(|line| line.starts_with("STORED")),
        "{said:?}"
    );
    // Guesses wait for each other, and not for ever.
    let said = at_once(&mut (0..100).map(|number| format!("user{number} guess")));
    let count = |start: &str| said.iter().filter(|line| line.starts_with(start)).count();
    assert_eq!(
        count("CLIENT_ERROR authentication failure") + count("SERVER_ERROR too many"),
        100
    );
    assert!(count("SERVER_ERROR too many") > 0, "{said:?}");
    login(&magent.endpoint).ask(b"get k\r\n", b"END\r\n");
}

#[test]
fn a_wrong_file_of_users_is_said_at_the_start() {
    let users = Users::new();
    let good = fs::read_to_string(users.path()).unwrap();
    fs::write(users.path(), format!("{good}joe:secret\n")).unwrap();
    let endpoint = free_endpoint().tcp();
    let ended = run_magent(&[
        "-D",
        "-l",
        &endpoint.ip().to_string(),
        "-p",
        &endpoint.port().to_string(),
        "-s",
        "127.0.0.1",
        "--state-dir",
        "none",
        "--auth-file",
        &users.arg(),
    ]);
    assert_eq!(ended.code, Some(1));
    assert!(
        ended.stderr.contains("users:2: the hash is wrong"),
        "{}",
        ended.stderr
    );
}

// -- Backends --

/// A file of passwords for `memcached -Y`, and for `--backend-auth-file`.
fn passwords(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

#[test]
fn backends_that_want_a_password_are_healed() {
    let file = passwords("joe:secret\n");
    let path = file.path().to_str().unwrap().to_owned();
    let start = || Memcached::start_at(free_endpoint(), &["-Y", &path]);
    let (primary, mut backup) = (start(), start());
    let extra = [&["--backend-auth-file", &path][..], &QUICK_PROBES].concat();
    let magent = Magent::start(&[&primary.endpoint], &[&backup.endpoint], &extra);
    let mut client = magent.client();
    client.ask(b"set k 0 0 1\r\n1\r\n", b"STORED\r\n");
    for backend in [&primary, &backup] {
        login(&backend.endpoint).ask(b"get k\r\n", b"VALUE k 0 1\r\n1\r\nEND\r\n");
    }
    backup.kill9();
    magent.wait_until_state(&backup.endpoint, &["down"]);
    client.ask(
        b"set k 0 0 1\r\n2\r\nset l 0 0 1\r\n3\r\n",
        b"STORED\r\nSTORED\r\n",
    );
    backup.restart();
    magent.wait_until_healed();
    login(&backup.endpoint).ask(
        b"get k l\r\n",
        b"VALUE k 0 1\r\n2\r\nVALUE l 0 1\r\n3\r\nEND\r\n",
    );
    assert!(!magent.log().contains("secret"));
}

/// Whether a proxy in front of `backend` comes to say so of it.
#[track_caller]
fn says(backend: &Memcached, extra: &[&str], expected: &str) {
    let extra = [extra, &QUICK_PROBES].concat();
    let backup = Memcached::start();
    for backups in [&[][..], &[&backup.endpoint]] {
        let magent = Magent::start(&[&backend.endpoint], backups, &extra);
        magent.wait_until_state(&backend.endpoint, &["down"]);
        let line = format!("down: {expected}");
        wait_until(&line, || magent.log().contains(&line));
        magent.client().ask(b"get k\r\n", b"END\r\n");
    }
}

#[test]
fn a_backend_that_cannot_be_talked_to_is_told_with_the_remedy() {
    let [theirs, wrong] = ["joe:secret\n", "joe:wrong\n"].map(passwords);
    let path = |file: &tempfile::NamedTempFile| file.path().to_str().unwrap().to_owned();
    let backend = Memcached::start_at(free_endpoint(), &["-Y", &path(&theirs)]);
    says(
        &backend,
        &[],
        "wants a password: name it with --backend-auth-file",
    );
    says(
        &backend,
        &["--backend-auth-file", &path(&wrong)],
        "refuses the password of --backend-auth-file",
    );
    let conf = TempDir::new().unwrap();
    fs::write(conf.path().join("memcached.conf"), "mech_list: plain\n").unwrap();
    let conf = format!("SASL_CONF_PATH={}", conf.path().display());
    let binary = Memcached::start_as(&["env", &conf], free_endpoint(), &["-S"]);
    const REMEDY: &str = "speaks the binary protocol only: start it with -Y FILE instead of -S";
    says(&binary, &[], REMEDY);
    says(&binary, &["--backend-auth-file", &path(&theirs)], REMEDY);
}

#[test]
fn a_backend_that_wants_no_password_does_not_keep_it() {
    let file = passwords("joe:secret\n");
    let backend = Memcached::start();
    let extra = ["--backend-auth-file", file.path().to_str().unwrap()];
    let magent = Magent::start(&[&backend.endpoint], &[], &extra);
    magent.client().ask(b"set k 0 0 1\r\n1\r\n", b"STORED\r\n");
    assert_eq!(backend.value("magent.login"), None);
    magent.client().ask(b"get magent.login\r\n", b"END\r\n");
}
