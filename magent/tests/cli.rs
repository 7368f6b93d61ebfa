//! The command line as a user meets it: the binary itself, its words and its exit status.
//!
//! `UPDATE_GOLDEN=1 cargo test -p magent --test cli` rewrites what it is expected to say, the man
//! pages and the completions among it; the diff is to be reviewed.
#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests; a panic is their way to fail"
)]

use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid};
use tempfile::TempDir;

// ---- Words ----------------------------------------------------------------------------------

#[test]
fn help() {
    check_golden("magent/tests/golden/help-short.txt", &printed(&["-h"]));
    check_golden("magent/tests/golden/help.txt", &printed(&["--help"]));
    check_golden(
        "magent/tests/golden/help-route.txt",
        &printed(&["route", "--help"]),
    );
    check_golden(
        "magent/tests/golden/help-demo.txt",
        &printed(&["demo", "--help"]),
    );
    check_golden(
        "magent/tests/golden/help-passwd.txt",
        &printed(&["passwd", "--help"]),
    );
    check_golden(
        "magent/tests/golden/scheme-list.txt",
        &printed(&["--scheme", "list"]),
    );
    assert_eq!(
        printed(&["route", "--scheme", "list"]),
        printed(&["--scheme", "list"])
    );
    // As with getopt, the last one counts.
    let overridden = ["--scheme", "magent", "--scheme", "list"];
    assert_eq!(printed(&overridden), printed(&["--scheme", "list"]));
    assert_eq!(
        printed(&["--version"]),
        format!("magent {}\n", env!("CARGO_PKG_VERSION"))
    );
}

#[test]
fn man_pages_and_completions() {
    check_golden("man/magent.1", &printed(&["man"]));
    check_golden("man/magent-demo.1", &printed(&["man", "demo"]));
    check_golden("man/magent-route.1", &printed(&["man", "route"]));
    check_golden("man/magent-passwd.1", &printed(&["man", "passwd"]));
    check_golden(
        "contrib/completions/magent.bash",
        &printed(&["completions", "bash"]),
    );
    check_golden(
        "contrib/completions/_magent",
        &printed(&["completions", "zsh"]),
    );
    check_golden(
        "contrib/completions/magent.fish",
        &printed(&["completions", "fish"]),
    );
}

/// Command lines that are refused, in the order of the golden file.
const REFUSED: &[&[&str]] = &[
    &[],
    &["-b", "192.168.1.7"],
    &["-p"],
    &["-p", "99999", "-s", "a"],
    &["-p", "http", "-s", "a"],
    &["-p", "0", "-s", "a"],
    &["-p", "0", "-l", "127.0.0.1", "-s", "a"],
    &["-l", "192.168.1.2:0", "-s", "a"],
    &["-l", "[::1", "-s", "a"],
    &["-a", "9", "-s", "a"],
    &[
        "-f",
        "/too-long/xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
        "-s",
        "a",
    ],
    &["-n", "0", "-s", "a"],
    &["-n", "many", "-s", "a"],
    &["-i", "0", "-s", "a"],
    &["-i", "2", "--threads", "3", "-s", "a"],
    &["--threads", "0", "-s", "a"],
    &["-s", ""],
    &["-s", "192.168.1.4:0"],
    &["-s", "192.168.1"],
    &["-s", "::1"],
    &["-s", "192.168.1.4*0"],
    &["-s", "192.168.1.4:11211:2"],
    &["-s", "unix:memcached.sock"],
    &["-s", "a", "-s", "a:11211"],
    &["-s", "a", "-b", "b", "-b", "b"],
    &["-s", "a", "--scheme", "ketama"],
    &["-s", "a", "--scheme", "ketama/md6"],
    &["-s", "a", "--scheme", "ketma/md5"],
    &["-s", "a", "--scheme", "round-robin"],
    &["-s", "a", "-k", "--scheme", "magent"],
    &["-s", "a*0.5", "-k"],
    &["-s", "a", "--hash-tag", "{"],
    &["-s", "a", "--hash-filter", "braces"],
    &["-s", "a", "--hash-tag", "{}", "--hash-filter", "tags:{}"],
    &["-s", "a", "--hash-seed", "x"],
    &["-s", "a", "--lock-with-data", "redis"],
    &["-s", "a", "--advertise", "192.168.1.2"],
    &["-s", "a", "--advertise-version", "2"],
    &["-s", "a", "--lock-with-data", "memcached:a b"],
    &["-s", "a", "--request-ms", "9"],
    &["-s", "a", "--max-memory", "1t"],
    &["-s", "a", "--hedge-ms", "soon"],
    &["-s", "a", "--hedge-ms", "60001"],
    &["-s", "a", "--hedge-ms", "500"],
    &["-s", "a", "--hedge-ms", "30", "--fail-ms", "20"],
    &["-s", "a", "--heal-rate", "0"],
    &["-s", "a", "--heal-rate", "fast"],
    &["-s", "a", "--heal-rate", "1000,"],
    &["-s", "a", "--heal-rate", "1000,1k"],
    &["-s", "a", "--heal-rate", "1000,1m,1"],
    &["-s", "a", "--on-overflow", "restart"],
    &["-s", "a", "--backup-placement", "near"],
    &["-s", "a", "--event-webhook", "localhost:8080"],
    &["-s", "a", "--event-webhook", "ftp://localhost"],
    &["-s", "a", "--event-webhook", "http://"],
    &["-s", "a", "-u", "no-such-user"],
    &["-s", "a", "-u", "4000000000"],
    &["-s", "a", "-g", "no-such-group"],
    &["-s", "a", "--fore"],
    &["-s", "a", "b"],
    &["-x"],
    &["rout", "-s", "a"],
    &["-s", "a", "route", "k"],
    &["route", "-s", "a"],
    &["route", "k"],
    &["route", "-s", "a", "--format", "json", "k"],
    &["route", "-s", "a", "--format", "csv", "--summary", "k"],
    &["demo", "-p", "x"],
    &["completions", "tcsh"],
];

#[test]
fn a_wrong_argument_names_itself() {
    let mut transcript = String::new();
    for args in REFUSED {
        // Whatever is accepted by mistake does not start either.
        let safety = ["--pid-file", "/does-not-exist/magent.pid"];
        let safety = if args.first().is_none_or(|arg| arg.starts_with('-')) {
            &safety[..]
        } else {
            &[]
        };
        let output = magent(safety.iter().chain(*args)).output().unwrap();
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {stderr}");
        assert!(output.stdout.is_empty(), "{args:?}");
        let quoted = args
            .iter()
            .map(|arg| if arg.is_empty() { "''" } else { arg });
        let line = quoted.collect::<Vec<_>>().join(" ");
        writeln!(transcript, "$ magent {line}").unwrap();
        // The usage lines are the same every time, and `help` has them.
        let said = stderr.split("\n\nUsage:").next().unwrap();
        let said = said.split("\n\nFor more information").next().unwrap();
        let said = said.trim_end().replace("  --pid-file <PATH>\n", "");
        writeln!(transcript, "{said}\n").unwrap();
    }
    check_golden("magent/tests/golden/refused.txt", &transcript);
}

// ---- Start ----------------------------------------------------------------------------------

#[test]
fn to_the_background_and_back() {
    let files = Files::new();
    let port = free_port().to_string();
    // The article's command line, on loopback and with fewer clients: 51,200 take a limit on open
    // files that not every machine grants.
    let mut args = vec!["-u", "root", "-n", "512", "-l", "127.0.0.1", "-p", &port];
    args.extend([
        "-s",
        "127.0.0.1:1",
        "-s",
        "127.0.0.1:2",
        "-s",
        "127.0.0.1:3",
    ]);
    args.extend(["-b", "127.0.0.1:4", "-b", "127.0.0.1:5"]);

    // `output` ends only when nobody holds the pipes any more: the terminal is let go of.
    let output = files.magent(&args).output().unwrap();
    assert_eq!(text(&output.stdout), "");
    let expected = if Uid::effective().is_root() {
        ""
    } else {
        "magent: only root can change to the user of -u and the group of -g\n"
    };
    assert_eq!(text(&output.stderr), expected);
    assert_eq!(output.status.code(), Some(0));
    let daemon = Daemon::of(&files);
    TcpStream::connect(format!("127.0.0.1:{port}")).unwrap();
    assert_eq!(fs::read_link(daemon.proc("cwd")).unwrap(), Path::new("/"));
    for fd in ["fd/0", "fd/1", "fd/2"] {
        assert_eq!(
            fs::read_link(daemon.proc(fd)).unwrap(),
            Path::new("/dev/null")
        );
    }
    let summary = format!("listening on 127.0.0.1:{port}; primaries 3, backups 2, scheme magent");
    assert!(files.log().contains(&summary), "{}", files.log());

    // A second one on the same port, however it is started.
    let second = Files::new();
    for foreground in [&[][..], &["-D"]] {
        let output = second
            .magent(args.iter().chain(foreground))
            .output()
            .unwrap();
        let stderr = text(&output.stderr);
        let expected = format!(
            "magent: cannot listen on 127.0.0.1:{port}: the port is taken, perhaps by another \
             magent or a memcached; \"ss -ltnp sport = :{port}\" shows by whom\n"
        );
        let last_line = stderr.split_inclusive('\n').next_back().unwrap();
        assert_eq!(last_line, expected);
        assert_eq!(output.status.code(), Some(1));
        assert!(
            second.log().contains("the port is taken"),
            "{}",
            second.log()
        );
        assert!(!second.pid_file().exists());
    }

    daemon.signal(Signal::SIGTERM);
    wait_until("the pid file is gone", || !files.pid_file().exists());
    wait_until("the port is free", || {
        TcpStream::connect(format!("127.0.0.1:{port}")).is_err()
    });
}

#[test]
fn a_pid_file_has_one_owner() {
    let files = Files::new();
    let (one, other) = (files.path("one.sock"), files.path("other.sock"));
    let args = |socket: &Path| {
        ["-p", "0", "-s", "a", "-u", "root", "-f"]
            .map(OsString::from)
            .into_iter()
            .chain([socket.into()])
    };
    assert_eq!(
        files.magent(args(&one)).output().unwrap().status.code(),
        Some(0)
    );
    let daemon = Daemon::of(&files);
    let output = files.magent(args(&other)).output().unwrap();
    let expected = format!(
        "magent: pid file {}: another magent holds it, pid {}\n",
        files.pid_file().display(),
        daemon.pid
    );
    let stderr = text(&output.stderr);
    assert_eq!(stderr.split_inclusive('\n').next_back().unwrap(), expected);
    assert_eq!(output.status.code(), Some(1));
    assert!(!other.exists(), "a failed start leaves no socket behind");

    daemon.kill();
    assert_eq!(
        files.magent(args(&other)).output().unwrap().status.code(),
        Some(0)
    );
    let second = Daemon::of(&files);
    assert_ne!(second.pid, daemon.pid);
}

#[test]
fn unix_socket() {
    let files = Files::new();
    let socket = files.path("magent.sock");
    let mut args: Vec<OsString> = ["-p", "0", "-s", "a", "-a", "770", "-f"]
        .map(Into::into)
        .into();
    args.push(socket.clone().into());

    assert_eq!(files.magent(&args).output().unwrap().status.code(), Some(0));
    let first = Daemon::of(&files);
    UnixStream::connect(&socket).unwrap();
    assert_eq!(
        fs::metadata(&socket).unwrap().permissions().mode() & 0o777,
        0o770
    );
    let output = magent(
        args.iter()
            .map(OsString::as_os_str)
            .chain([OsStr::new("-D")]),
    )
    .output()
    .unwrap();
    let stderr = text(&output.stderr);
    let why = "another program answers on it, perhaps another magent\n";
    assert!(
        stderr.ends_with(&format!("cannot listen on {}: {why}", socket.display())),
        "{stderr}"
    );
    assert_eq!(output.status.code(), Some(1));

    // What a crash leaves behind is no obstacle.
    first.kill();
    assert!(socket.exists());
    assert_eq!(files.magent(&args).output().unwrap().status.code(), Some(0));
    let second = Daemon::of(&files);
    UnixStream::connect(&socket).unwrap();
    second.signal(Signal::SIGTERM);
    wait_until("the socket is removed", || !socket.exists());
}

#[test]
fn root_is_given_up() {
    if !Uid::effective().is_root() {
        // Nothing to give up: `to_the_background_and_back` sees what is said then.
        return;
    }
    let files = Files::new();
    let socket = files.path("magent.sock");
    let nobody = nix::unistd::User::from_name("nobody").unwrap().unwrap();
    let mut args: Vec<OsString> = ["-p", "0", "-s", "a", "-u", "nobody", "-f"]
        .map(Into::into)
        .into();
    args.push(socket.clone().into());
    assert_eq!(files.magent(&args).output().unwrap().status.code(), Some(0));
    let daemon = Daemon::of(&files);
    let (uid, gid) = (nobody.uid, nobody.gid);
    assert_eq!(daemon.status("Uid"), format!("{uid}\t{uid}\t{uid}\t{uid}"));
    assert_eq!(daemon.status("Gid"), format!("{gid}\t{gid}\t{gid}\t{gid}"));
    assert_eq!(
        daemon.status("Groups").trim(),
        gid.to_string(),
        "root's groups are gone"
    );
    assert_eq!(daemon.status("CapEff"), "0000000000000000");
    use std::os::unix::fs::MetadataExt as _;
    for path in [&socket, &files.log_file()] {
        assert_eq!(
            fs::metadata(path).unwrap().uid(),
            uid.as_raw(),
            "{}",
            path.display()
        );
    }
    daemon.signal(Signal::SIGTERM);
    // The directory is root's, so that the file cannot be removed.
    wait_until("the pid file names nobody", || {
        fs::read(files.pid_file()).unwrap().is_empty()
    });
    drop(daemon);

    args.extend(["-g", "12345"].map(Into::into));
    assert_eq!(files.magent(&args).output().unwrap().status.code(), Some(0));
    let daemon = Daemon::of(&files);
    assert_eq!(daemon.status("Gid"), "12345\t12345\t12345\t12345");
}

#[test]
fn the_state_directory_is_ready_or_missed() {
    let files = Files::new();
    let root = Uid::effective().is_root();
    let (socket, state) = (files.path("magent.sock"), files.path("state"));
    let mut args: Vec<OsString> = ["-p0", "-sa", "-f"].map(Into::into).into();
    args.push(socket.into());
    if root {
        args.extend(["-u", "nobody"].map(Into::into));
    }
    args.push("--state-dir".into());

    let with_directory = args
        .iter()
        .map(OsString::as_os_str)
        .chain([state.as_os_str()]);
    let output = files.magent(with_directory).output().unwrap();
    assert_eq!(text(&output.stderr), "");
    let daemon = Daemon::of(&files);
    use std::os::unix::fs::MetadataExt as _;
    let owner = fs::metadata(&state).unwrap().uid();
    assert_eq!(
        daemon.status("Uid").split('\t').next(),
        Some(&*owner.to_string())
    );
    daemon.signal(Signal::SIGTERM);
    wait_until("it has ended", || !daemon.proc("exe").exists());
    drop(daemon);

    // Neither a directory that cannot be made nor one that cannot be written keeps it from starting.
    let (no_parent, no_directory) = (files.path("no/state"), files.path("file"));
    fs::write(&no_directory, "").unwrap();
    for (path, why) in [
        (&no_parent, "No such file or directory (os error 2)"),
        (&no_directory, "not a directory"),
    ] {
        let with_path = args
            .iter()
            .map(OsString::as_os_str)
            .chain([path.as_os_str()]);
        let output = files.magent(with_path).output().unwrap();
        let expected = format!(
            "magent: which backends missed writes is not kept over a restart: {}: {why}; \
             --state-dir names a directory for it, or none\n",
            path.display()
        );
        assert_eq!(text(&output.stderr), expected);
        assert_eq!(output.status.code(), Some(0));
        let daemon = Daemon::of(&files);
        daemon.signal(Signal::SIGTERM);
        wait_until("it has ended", || !daemon.proc("exe").exists());
    }
}

#[test]
fn log_file_is_opened_again_on_hup() {
    let files = Files::new();
    let socket = files.path("magent.sock");
    let args = [
        OsStr::new("-p0"),
        OsStr::new("-sa"),
        OsStr::new("-f"),
        socket.as_os_str(),
    ];
    assert_eq!(files.magent(args).output().unwrap().status.code(), Some(0));
    let daemon = Daemon::of(&files);
    fs::rename(files.log_file(), files.path("magent.log.1")).unwrap();
    daemon.signal(Signal::SIGHUP);
    wait_until("there is a log file again", || files.log_file().exists());
}

/// A machine without syslog, such as a container: the log is never nowhere.
#[test]
fn without_syslog_there_is_a_file() {
    if UnixStream::connect("/dev/log").is_ok() || Path::new("/dev/log").exists() {
        return;
    }
    let files = Files::new();
    fs::set_permissions(files.dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let socket = files.path("magent.sock");
    let mut command = as_nobody(&files);
    command
        .args(["-p", "0", "-s", "a", "-f"])
        .arg(&socket)
        .arg("--pid-file")
        .arg(files.pid_file());
    let output = command.env("TMPDIR", files.dir.path()).output().unwrap();
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    let daemon = Daemon::of(&files);
    let path = stderr.strip_prefix("magent: nothing listens on /dev/log, so the log is ");
    let path = path
        .and_then(|rest| rest.split(';').next())
        .unwrap_or_else(|| panic!("{stderr}"));
    let path = path.rsplit("; ").next().unwrap();
    assert!(
        fs::read_to_string(path).unwrap().contains("magent"),
        "{path}"
    );
    drop(daemon);
}

#[test]
fn too_few_open_files_says_what_to_set() {
    let files = Files::new();
    fs::set_permissions(files.dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
    // Not as root, who could raise the limit.
    let binary = as_nobody(&files);
    let mut shell = Command::new("sh");
    shell
        .args(["-c", "ulimit -n 150 && exec \"$0\" \"$@\""])
        .arg(binary.get_program());
    shell.args([
        "-n",
        "100",
        "-s",
        "a",
        "-b",
        "b",
        "-i",
        "4",
        "--threads",
        "2",
        "-p0",
        "-f",
    ]);
    shell
        .arg(files.path("magent.sock"))
        .arg("--pid-file")
        .arg(files.pid_file());
    let output = drop_root(&mut shell).output().unwrap();
    let _daemon = files.pid_file().exists().then(|| Daemon::of(&files));
    // 2 backends × 4, 1 listener × 2, 64 of its own.
    assert_eq!(
        text(&output.stderr),
        "magent: 100 clients (-n) and 74 other connections and files need 174 open files, but the \
         limit is 150; run \"ulimit -n 174\" before the start or set LimitNOFILE=174 in the systemd \
         unit\n"
    );
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn fewer_open_files_than_asked_for_serve_fewer_clients() {
    let files = Files::new();
    fs::set_permissions(files.dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
    // Not as root, who could raise the limit.
    let binary = as_nobody(&files);
    let mut shell = Command::new("sh");
    shell
        .args(["-c", "ulimit -n 500 && exec \"$0\" \"$@\""])
        .arg(binary.get_program())
        .args(["-n51200", "-sa", "-i4", "--threads=2", "-p0", "-f"])
        .arg(files.path("magent.sock"))
        .arg("--pid-file")
        .arg(files.pid_file());
    let output = drop_root(&mut shell).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let _daemon = Daemon::of(&files);
    // 1 backend × 4, 1 listener × 2, 64 of its own.
    let expected = "serving at most 430 clients: 51200 clients (-n) and 70 other connections and files \
                    need 51270 open files, but the limit is 500; run \"ulimit -n 51270\" before the \
                    start or set LimitNOFILE=51270 in the systemd unit";
    assert!(
        text(&output.stderr).contains(expected),
        "{}",
        text(&output.stderr)
    );
}

#[test]
fn what_placement_the_operator_should_know_of() {
    let said = |args: &[&str], expected: &str| {
        let files = Files::new();
        let socket = files.path("magent.sock");
        let mut command = files.magent(["-D", "-p0"]);
        let child = command
            .arg("-f")
            .arg(socket)
            .args(args)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let _child = Running(child);
        wait_until(expected, || {
            fs::read_to_string(files.log_file()).is_ok_and(|log| log.contains(expected))
        });
    };
    said(
        &["-k", "-s", "a", "-s", "b"],
        "WARN -k is ketama/md5, which libmemcached and twemproxy share; magent 0.6 placed keys \
         otherwise, nearly all on one server: --scheme magent06-ketama keeps that",
    );
    let three = [
        "-s",
        "127.0.0.1:21211",
        "-s",
        "127.0.0.1:21212",
        "-s",
        "127.0.0.1:21213",
    ];
    let skewed = [&["--scheme", "ketama/crc32"], &three[..]].concat();
    said(&skewed, "WARN scheme ketama/crc32 is uneven over -s: ");
    said(
        &["-s", "a", "-s", "b", "-b", "a:1", "-b", "A:2"],
        "WARN every backup of a:11211 is on the same host, which takes both copies of its keys with \
         it: add a backup (-b) on another",
    );
    said(
        &["-s", "a", "-s", "b", "-b", "b"],
        "WARN keys of b:11211 have no second copy: it is the only backup itself",
    );
    said(
        &["-s", "a", "-s", "b", "-b", "a:1", "-b", "c"],
        "WARN 49 % of keys have another backup than scheme magent names, because that is on the host of \
         their primary (a:11211); \"magent route\" shows which, --backup-placement hash leaves them \
         there",
    );
}

// ---- route ----------------------------------------------------------------------------------

/// The article's test: which of snsgou1 … snsgou6 it found on which server.
#[test]
fn route_of_the_article() {
    let keys = [
        "snsgou1", "snsgou2", "snsgou3", "snsgou4", "snsgou5", "snsgou6",
    ];
    let args = [&["route"], &ARTICLE[..], &keys].concat();
    check_golden("magent/tests/golden/route.txt", &printed(&args));
    let args = [&["route", "--format", "csv"], &ARTICLE[..], &keys].concat();
    assert_eq!(
        printed(&args),
        "key,primary_index,backup_index\r\nsnsgou1,2,1\r\nsnsgou2,0,0\r\nsnsgou3,1,1\r\n\
         snsgou4,2,0\r\nsnsgou5,0,1\r\nsnsgou6,1,0\r\n"
    );
}

/// All of the article's command line, as it stands there.
const ARTICLE: [&str; 18] = [
    "-u",
    "root",
    "-n",
    "51200",
    "-l",
    "192.168.1.2",
    "-p",
    "12000",
    "-s",
    "192.168.1.4:11211",
    "-s",
    "192.168.1.5:11211",
    "-s",
    "192.168.1.6:11211",
    "-b",
    "192.168.1.7:11211",
    "-b",
    "192.168.1.8:11211",
];

/// Two machines, each with a primary and a backup, and a third backup.
const SHARED: &[&str] = &[
    "-s",
    "10.0.0.4",
    "-s",
    "10.0.0.5",
    "-b",
    "10.0.0.4:11212",
    "-b",
    "10.0.0.5:11212",
    "-b",
    "10.0.0.6",
];

#[test]
fn route_shows_backups_that_were_moved() {
    let keys = [
        "snsgou1", "snsgou2", "snsgou3", "snsgou4", "snsgou5", "snsgou6",
    ];
    let route = |option: &[&str]| printed(&[&["route"], SHARED, option, &keys].concat());
    let shown = route(&[]) + &route(&["--backup-placement", "hash"]);
    check_golden("magent/tests/golden/route-moved.txt", &shown);

    let mut keys = String::new();
    for n in 0..10_000 {
        writeln!(keys, "key-{n}").unwrap();
    }
    let summary = |option: &[&str]| {
        let args = [&["route", "--summary", "-"], SHARED, option].concat();
        let output = with_stdin(magent(args), keys.as_bytes());
        text(&output.stdout).to_owned()
    };
    let shown = summary(&[]) + "\n" + &summary(&["--backup-placement", "hash"]);
    check_golden("magent/tests/golden/route-summary-moved.txt", &shown);
}

#[test]
fn options_may_be_written_as_getopt_allows() {
    let expected = printed(&[
        "route", "--ketama", "--server", "a", "--server", "b", "key-1",
    ]);
    for args in [
        &["route", "-ksa", "-sb", "key-1"][..],
        &["route", "-vvkDsa", "-sb", "-n51200", "-p12000", "key-1"],
        &["route", "-s", "a", "-s", "b", "key-1", "-k"],
        &["route", "-s=a", "-s=b", "-k", "--", "key-1"],
        &["route", "-p1", "-p2", "-k", "-k", "-sa", "-sb", "key-1"],
    ] {
        assert_eq!(printed(args), expected, "{args:?}");
    }
}

#[test]
fn route_reads_keys_as_bytes() {
    let args = ["route", "-s", "a", "--format", "csv", "first", "-", "last"];
    let keys = b"plain\ncrlf\r\n\nwith,comma\nwith\"quote\n\xff\xfe\x00\nno end".as_slice();
    let expected = b"key,primary_index,backup_index\r\nfirst,0,\r\nplain,0,\r\ncrlf,0,\r\n\
        \"with,comma\",0,\r\n\"with\"\"quote\",0,\r\n\xff\xfe\x00,0,\r\nno end,0,\r\nlast,0,\r\n";
    let output = with_stdin(magent(args), keys);
    assert_eq!(
        output.stdout.escape_ascii().to_string(),
        expected.escape_ascii().to_string()
    );

    // Only arguments can hold these.
    let key = OsStr::from_bytes(b"a\nb\xff");
    let csv = magent(["route", "-s", "a", "--format", "csv"])
        .arg(key)
        .output()
        .unwrap();
    assert_eq!(
        csv.stdout,
        b"key,primary_index,backup_index\r\n\"a\nb\xff\",0,\r\n"
    );
    let lines = magent(["route", "-s", "a"]).arg(key).output().unwrap();
    assert_eq!(
        text(&lines.stdout),
        "PRIMARY  BACKUP  KEY\na:11211  -       a\\nb\\xff\n"
    );
}

#[test]
fn route_shows_locks_that_are_placed_as_their_data() {
    let keys = [
        "memc.sess.key.2kq5ssnh3lo7rfl6dq3p6v9e5m",
        "memc.sess.key.lock.2kq5ssnh3lo7rfl6dq3p6v9e5m",
        "2kq5ssnh3lo7rfl6dq3p6v9e5m",
        "2kq5ssnh3lo7rfl6dq3p6v9e5m.lock",
        "cron.lock",
    ];
    let route = |option: &[&str]| printed(&[&["route"], &ARTICLE[..], option, &keys].concat());
    let shown = route(&[]) + &route(&["--lock-with-data", "php"]);
    check_golden("magent/tests/golden/route-locks.txt", &shown);
}

#[test]
fn route_summary() {
    let mut keys = String::new();
    for n in 0..10_000 {
        writeln!(keys, "key-{n}").unwrap();
    }
    let command = magent(["route", "--summary"].iter().chain(&ARTICLE).chain(&["-"]));
    let output = with_stdin(command, keys.as_bytes());
    check_golden(
        "magent/tests/golden/route-summary.txt",
        text(&output.stdout),
    );
    let args = "route --summary -k -s a -s big=b*2 -s unix:/c.sock -".split(' ');
    let output = with_stdin(magent(args), keys.as_bytes());
    check_golden(
        "magent/tests/golden/route-summary-weighted.txt",
        text(&output.stdout),
    );
    let output = with_stdin(magent(["route", "--summary", "-s", "a", "-"]), b"");
    assert!(text(&output.stdout).starts_with("0 keys, scheme magent\n"));
}

#[test]
fn route_stops_when_nobody_reads() {
    let mut child = magent(["route", "-s", "a", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    // Fails once the other side has stopped reading, which is what is to be seen.
    let mut stdin = child.stdin.take().unwrap();
    while stdin.write_all(&b"key\n".repeat(10_000)).is_ok() {}
    let output = child.wait_with_output().unwrap();
    assert_eq!(text(&output.stderr), "");
    assert_eq!(output.status.code(), Some(0));
}

/// Every vector of the core's golden files, through the command line.
#[test]
fn route_places_keys_as_the_programs_do() {
    let dir = repository().join("core/tests/golden");
    let mut list = csv::Reader::from_path(dir.join("schemes.csv")).unwrap();
    let mut files = 0;
    for row in list.records().map(Result::unwrap) {
        let (file, scheme, weights, options) = (&row[0], &row[1], &row[2], &row[3]);
        let mut vectors = csv::Reader::from_path(dir.join(file)).unwrap();
        let vectors: Vec<(String, usize)> = vectors.deserialize().map(Result::unwrap).collect();
        let names: Vec<_> = options
            .strip_prefix("names ")
            .into_iter()
            .flat_map(|names| names.split(','))
            .collect();
        let mut command = magent(["route", "--format", "csv", "--scheme", scheme]);
        for (index, weight) in weights.split(',').enumerate() {
            let name = names
                .get(index)
                .map(|name| format!("{name}="))
                .unwrap_or_default();
            let port = 21_211 + index;
            command.args(["-s", &format!("{name}127.0.0.1:{port}*{weight}")]);
        }
        if names.is_empty() {
            command.args(options.split_whitespace());
        }
        let keys: String = vectors.iter().map(|(key, _)| format!("{key}\n")).collect();
        let output = with_stdin(
            {
                command.arg("-");
                command
            },
            keys.as_bytes(),
        );
        let mut routes = csv::Reader::from_reader(output.stdout.as_slice());
        let routes: Vec<(String, usize, Option<usize>)> =
            routes.deserialize().map(Result::unwrap).collect();
        assert_eq!(
            routes.len(),
            vectors.len(),
            "{file}: {}",
            text(&output.stderr)
        );
        for ((key, index), route) in vectors.into_iter().zip(routes) {
            assert_eq!(route, (key, index, None), "{file}");
        }
        files += 1;
    }
    assert!(files > 100, "{files}");
}

// ---- Helpers --------------------------------------------------------------------------------

fn magent(args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_magent"));
    // The help is as wide as the terminal.
    command
        .args(args)
        .env("COLUMNS", "100")
        .env("NO_COLOR", "1")
        .stdin(Stdio::null());
    command
}

/// What is printed by a command line that works.
#[track_caller]
fn printed(args: &[&str]) -> String {
    let output = magent(args).output().unwrap();
    assert_eq!(text(&output.stderr), "", "{args:?}");
    assert_eq!(output.status.code(), Some(0), "{args:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn with_stdin(mut command: Command, input: &[u8]) -> Output {
    let piped = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = piped.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    thread::scope(|scope| {
        // A child that fails at once does not read; its output says why.
        scope.spawn(move || stdin.write_all(input).is_ok());
        child.wait_with_output().unwrap()
    })
}

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

#[track_caller]
fn check_golden(path: &str, actual: &str) {
    let path = repository().join(path);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, actual).unwrap();
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(
        actual,
        expected,
        "{} differs; UPDATE_GOLDEN=1 rewrites it",
        path.display()
    );
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

/// Fails if it takes long; an idle machine takes milliseconds.
#[track_caller]
fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        thread::park_timeout(Duration::from_millis(2));
    }
}

/// A directory for what one magent leaves on disk.
struct Files {
    dir: TempDir,
}

impl Files {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        // Others must be able to reach the socket.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn pid_file(&self) -> PathBuf {
        self.path("magent.pid")
    }

    fn log_file(&self) -> PathBuf {
        self.path("magent.log")
    }

    fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap()
    }

    fn magent(&self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Command {
        // Whatever this machine has in /var/lib, and `args` may say otherwise.
        let mut command = magent(["--state-dir", "none"]);
        command
            .args(args)
            .arg("--pid-file")
            .arg(self.pid_file())
            .arg("--log-file")
            .arg(self.log_file());
        command
    }
}

/// magent for a user without rights, from a place where that user finds it.
fn as_nobody(files: &Files) -> Command {
    let binary = files.path("magent");
    // Written by another process: had this one the file open for writing, a child that another
    // test forks meanwhile would have so too, and the file could not be run ("text file busy").
    let copied = Command::new("cp")
        .arg(env!("CARGO_BIN_EXE_magent"))
        .arg(&binary)
        .status();
    assert!(copied.unwrap().success());
    let mut command = Command::new(binary);
    command.stdin(Stdio::null());
    drop_root(&mut command);
    command
}

fn drop_root(command: &mut Command) -> &mut Command {
    if Uid::effective().is_root() {
        command.uid(65_534).gid(65_534)
    } else {
        command
    }
}

/// A magent in the background.
struct Daemon {
    pid: Pid,
}

impl Daemon {
    fn of(files: &Files) -> Self {
        let pid = fs::read_to_string(files.pid_file()).unwrap();
        Self {
            pid: Pid::from_raw(pid.trim_end().parse().unwrap()),
        }
    }

    fn proc(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{name}", self.pid))
    }

    /// A line of `/proc/PID/status`.
    fn status(&self, name: &str) -> String {
        let status = fs::read_to_string(self.proc("status")).unwrap();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t"));
        line.unwrap().to_owned()
    }

    fn signal(&self, signal: Signal) {
        kill(self.pid, signal).unwrap();
    }

    /// As a crash would, and waits for the end. Whoever inherited the process may leave it unburied.
    fn kill(&self) {
        self.signal(Signal::SIGKILL);
        wait_until("the process is dead", || {
            fs::read_to_string(self.proc("stat")).map_or(true, |stat| stat.contains(") Z "))
        });
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Err(err) = kill(self.pid, Signal::SIGKILL) {
            assert_eq!(err, Errno::ESRCH, "the test has ended it already");
        }
    }
}

/// A child that does not outlive its test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}
