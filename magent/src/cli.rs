//! The table of flags: parsing, `--help`, the man pages and the completions are made from it.
//!
//! # Invariants
//!
//! - Every command line that magent 0.6 took is taken, with the same meaning.
//! - A limit's flag, range, default and reason come from `magent_core::config::LIMITS`.
//! - What is wrong with an argument names the argument and says what is expected.
//!
//! Adding a flag: an [`Arg`] here, its use in `options`, `UPDATE_GOLDEN=1 cargo test --test cli`.

mod tls;
mod values;

use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::{self, ErrorKind, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;

use anyhow::Result;
use clap::builder::EnumValueParser;
use clap::error::ErrorKind as UsageErrorKind;
use clap::{Arg, ArgAction, ArgMatches, Command, ValueHint, value_parser};
use clap_complete::Shell;
use magent_core::config::{BackupPlacement, HEAL_RATE, LIMITS, Limit, OnOverflow};
use magent_core::scheme::{HashFilter, HashTag, LockRules, SCHEMES, WeightUse};
use magent_core::server::ServerSpec;

use crate::auth::passwd::PasswdOptions;
use crate::options::advertise::HostPort;
use crate::options::{DemoOptions, Options, RouteOptions, RouteOutput, StateDir};
pub(crate) use values::octal;
pub(crate) use values::{HealRate, SchemeArg};
use values::{Unit, hedge, network, number, one_of, without_subject};

/// What the command line asks for.
pub(crate) enum Action {
    /// The proxy.
    Serve(Box<Options>),
    /// `magent demo`.
    Demo(DemoOptions),
    /// `magent route`.
    Route(Box<RouteOptions>),
    /// `magent passwd`.
    Passwd(PasswdOptions),
    /// Text: the schemes, a man page, a completion script.
    Print(Vec<u8>),
}

/// Why the command line asks for nothing that can be done, or only for help.
pub(crate) struct UsageError(Box<clap::Error>);

impl UsageError {
    /// Prints it where it belongs. Help is what was asked for, so it is a success.
    pub(crate) fn report(&self) -> ExitCode {
        // Nothing can be done about a standard error that takes nothing.
        drop(self.0.print());
        u8::try_from(self.0.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from)
    }
}

/// Understands the command line.
pub(crate) fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Action, UsageError> {
    let mut command = command();
    let matches = match command.try_get_matches_from_mut(args) {
        Ok(matches) => matches,
        Err(err) => return Err(UsageError(Box::new(err))),
    };
    action(&matches).map_err(|err| {
        let name = matches
            .subcommand_name()
            .filter(|name| matches!(*name, "route" | "passwd"));
        let command = match name {
            Some(name) => command
                .find_subcommand_mut(name)
                .expect("it was just parsed"),
            None => &mut command,
        };
        UsageError(Box::new(
            command.error(UsageErrorKind::ValueValidation, format!("{err:#}")),
        ))
    })
}

fn action(matches: &ArgMatches) -> Result<Action> {
    let options = matches.subcommand().map_or(matches, |(_, options)| options);
    if let Ok(Some(SchemeArg::List)) = options.try_get_one("scheme") {
        return Ok(Action::Print(scheme_list().into_bytes()));
    }
    Ok(match matches.subcommand_name() {
        Some("demo") => Action::Demo(DemoOptions::new(options)),
        Some("route") => Action::Route(Box::new(RouteOptions::new(options)?)),
        Some("passwd") => Action::Passwd(PasswdOptions::new(options)?),
        Some("man") => Action::Print(man_page(options.get_one::<String>("page"))?),
        Some("completions") => {
            let shell = *options.get_one::<Shell>("shell").expect("required");
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut command(), "magent", &mut script);
            Action::Print(script)
        }
        Some(name) => unreachable!("subcommand {name} is not in the table"),
        None => Action::Serve(Box::new(Options::new(matches)?)),
    })
}

/// Writes to standard output. A reader that has seen enough (`| head`) is no error.
pub(crate) fn print(text: &[u8]) -> Result<ExitCode> {
    match io::stdout().write_all(text) {
        Err(err) if err.kind() != ErrorKind::BrokenPipe => Err(err.into()),
        Ok(()) | Err(_) => Ok(ExitCode::SUCCESS),
    }
}

fn man_page(page: Option<&String>) -> Result<Vec<u8>> {
    let mut command = command();
    // Sets the full names of the subcommands.
    command.build();
    let command = match page {
        Some(page) => command
            .find_subcommand(page)
            .expect("checked by the parser")
            .clone(),
        None => command,
    };
    let name = command.get_bin_name().unwrap_or("magent").replace(' ', "-");
    let mut page = Vec::new();
    clap_mangen::Man::new(command)
        .title(name)
        .render(&mut page)?;
    let page = String::from_utf8(page)?;
    // What follows the options is laid out by hand: each heading gets its section, and lines stay
    // as they are.
    let Some((options, rest)) = page.split_once(".SH EXTRA\n") else {
        return Ok(page.into());
    };
    let (extra, version) = rest.split_at(rest.find(".SH VERSION").unwrap_or(rest.len()));
    let mut text = options.to_owned();
    for line in extra.lines() {
        match line.strip_suffix(':') {
            Some(heading) if !line.starts_with(' ') => {
                writeln!(text, ".SH {}\n.nf", heading.to_uppercase())?;
            }
            Some(_) | None if line.is_empty() => writeln!(text, ".fi")?,
            Some(_) | None => writeln!(text, "{line}")?,
        }
    }
    writeln!(text, ".fi\n{version}")?;
    Ok(text.into())
}

fn command() -> Command {
    Command::new("magent")
        .version(env!("CARGO_PKG_VERSION"))
        .about("A high-availability proxy for memcached")
        .long_about(ABOUT)
        .override_usage(USAGE)
        .after_help("Try \"magent --help\" for more on each of these, and examples.")
        .after_long_help(AFTER_HELP)
        .max_term_width(100)
        .disable_help_subcommand(true)
        .subcommand_help_heading("Commands")
        .args_conflicts_with_subcommands(true)
        // As with getopt, the last one counts.
        .args_override_self(true)
        .args(listening())
        .args(servers())
        .args(placement())
        .args(behaviour())
        .args(users())
        .args(tls::args())
        .args(healing())
        .args(process())
        .args(logging())
        .next_help_heading("Limits and timeouts")
        .args(limits())
        .mut_arg("clients_max", |arg| arg.short('n').help_heading(LISTENING))
        .mut_arg("connections_per_backend_max", |arg| {
            arg.short('i').help_heading(SERVERS)
        })
        .subcommands([demo(), route(), passwd(), man(), completions()])
}

const LISTENING: &str = "Where clients connect";
const SERVERS: &str = "memcached servers";
const PLACEMENT: &str = "Which server has a key";
const BEHAVIOUR: &str = "What clients may do and see";
const USERS: &str = "Users and passwords";
const HEALING: &str = "When a backend fails and returns";
const PROCESS: &str = "Process";
const LOGGING: &str = "Log and events";

/// What is said if there is no `-s`.
pub(crate) const NO_PRIMARY: &str = "no memcached server given: name each with -s, for example
  magent -s 192.168.1.4:11211 -s 192.168.1.5:11211 -b 192.168.1.7:11211
To see magent at work without any server: magent demo";

const USAGE: &str = "magent [OPTIONS] -s SERVER... [-b SERVER...]
       magent demo
       magent route [OPTIONS] -s SERVER... [-b SERVER...] KEY...";

const ABOUT: &str = "A high-availability proxy for memcached

Clients talk to magent as to one memcached server. It spreads their keys over the servers of -s, \
the primaries, keeps a second copy of each item on the servers of -b, the backups, and goes on \
when one of them dies.";

const AFTER_HELP: &str = "\
Servers:
  A SERVER is written [NAME=][tls:]ADDRESS[*WEIGHT]:
    192.168.1.4                  port 11211
    cache-1.example.com:11212    looked up again at each reconnect
    [2001:db8::4]:11211          IPv6 goes in brackets
    unix:/run/memcached.sock     a unix socket
    node0=192.168.1.4*2          placed by its name, with a double share of keys
    tls:192.168.1.4              spoken to with TLS; keys do not move

Examples:
  Three primaries and two backups, in the background. With the same but for
  -l on a second machine, no machine is a single point of failure:
    magent -u root -n 51200 -l 192.168.1.2 -p 12000 \\
      -s 192.168.1.4:11211 -s 192.168.1.5:11211 -s 192.168.1.6:11211 \\
      -b 192.168.1.7:11211 -b 192.168.1.8:11211
  See it at work, with no server and nothing to set up:
    magent demo
  Under systemd or in a container:
    magent -D -u nobody -s 192.168.1.4 -s 192.168.1.5 -b 192.168.1.7
  In twemproxy's place, with all keys where they are:
    magent --scheme ketama/fnv1a_64 -s one=192.168.1.4 -s two=192.168.1.5
  With TLS on both sides, beside a plain unix socket:
    magent -l tls:0.0.0.0:11212,unix:/run/magent.sock --tls-cert magent.pem \\
      --backend-tls --backend-tls-ca ca.pem -s 192.168.1.4 -s 192.168.1.5
  Where do these keys go?
    magent route -s 192.168.1.4 -s 192.168.1.5 -b 192.168.1.7 user:1 user:2

Signals:
  TERM, INT  accept nobody new, finish what is in flight, exit
  HUP        open the log file again; read users, certificates and keys again

Exit status:
  0  listening (in the background), or stopped by TERM
  1  could not start, or could not go on
  2  something is wrong with the command line";

fn listening() -> Vec<Arg> {
    vec![
        text("listen", "ADDRESS")
            .short('l')
            .action(ArgAction::Append)
            .value_hint(ValueHint::Hostname)
            .help("Address to listen on, tls:ADDRESS or unix:PATH; repeat it or use commas")
            .long_help(
                "Address to listen on: an IPv4 or IPv6 address or a name of this machine, with \
                 :PORT if it is not that of -p. Repeat it or separate several by commas. By \
                 default, all IPv4 addresses. tls:ADDRESS for a port that speaks TLS (--tls-cert), \
                 unix:PATH for a unix socket, with ,mode=0770 if its permissions are not those of \
                 -a. tcp:ADDRESS,proxy-protocol, or tls:, for a port that a load balancer connects \
                 to, which says by the PROXY protocol where clients come from",
            ),
        Arg::new("port")
            .short('p')
            .long("port")
            .value_name("PORT")
            .value_parser(|text: &str| number(text, 0, u16::MAX))
            .default_value("11211")
            .help("TCP port to listen on; 0 for none"),
        path("socket")
            .short('f')
            .help("Unix socket to listen on as well, or alone with -p 0"),
        Arg::new("socket-mode")
            .short('a')
            .long("socket-mode")
            .alias("unix-mask")
            .value_name("MODE")
            .value_parser(octal)
            .default_value("700")
            .help("Permissions of the unix socket, in octal"),
        text("proxy-protocol-from", "NETWORKS")
            .action(ArgAction::Append)
            .value_delimiter(',')
            .value_parser(network)
            .help("Load balancers whose PROXY header is believed, such as 10.0.0.0/8,192.0.2.1")
            .long_help(
                "Load balancers that connect to listeners with proxy-protocol: networks or \
                 addresses, separated by commas. They must send a PROXY header, of version 1 or 2, \
                 ahead of each client's first byte; connections from anywhere else are closed",
            ),
    ]
    .into_iter()
    .map(|arg| arg.help_heading(LISTENING))
    .collect()
}

fn servers() -> [Arg; 2] {
    let server = |id, short| {
        Arg::new(id)
            .short(short)
            .long(id)
            .value_name("SERVER")
            .action(ArgAction::Append)
            .value_hint(ValueHint::Hostname)
            .value_parser(|text: &str| {
                ServerSpec::from_str(text).map_err(|err| format!("{}", err.problem()))
            })
            .help_heading(SERVERS)
    };
    [
        server("server", 's')
            .help("Primary: ADDRESS[:PORT], repeated for each")
            .long_help(
                "Primary server, repeated for each. Their order matters: it is part of where keys \
                 go, so it must be the same in every proxy",
            ),
        server("backup", 'b')
            .help("Backup: ADDRESS[:PORT], repeated for each")
            .long_help(
                "Backup server, repeated for each. Each item is kept on one primary and one \
                 backup, and served from the backup while its primary is down",
            ),
    ]
}

fn placement() -> [Arg; 7] {
    [
        Arg::new("ketama")
            .short('k')
            .long("ketama")
            .action(ArgAction::SetTrue)
            .conflicts_with("scheme")
            .help("Short for --scheme ketama/md5")
            .long_help(
                "Short for --scheme ketama/md5: with it, adding a server moves only that server's \
                 share of the keys. magent 0.6 placed keys otherwise with -k, nearly all of them \
                 on one server; --scheme magent06-ketama keeps that",
            ),
        Arg::new("scheme")
            .long("scheme")
            .value_name("NAME")
            .value_parser(|text: &str| {
                SchemeArg::from_str(text).map_err(|err| without_subject(&err))
            })
            .help("How keys are placed [default: magent]; \"list\" explains them all")
            .long_help(
                "How keys are placed. Each scheme puts every key where another program puts it, so \
                 that magent can take that program's place over a warm cache. \"list\" explains \
                 them all. By default magent, which is what magent 0.6 does without -k",
            ),
        Arg::new("hash-tag")
            .long("hash-tag")
            .value_name("XY")
            .value_parser(|text: &str| HashTag::from_str(text).map_err(|err| without_subject(&err)))
            .help("twemproxy's hash_tag: place keys by what is between X and Y, such as {}"),
        text("hash-seed", "STRING").help("memcached proxy's seed, for schemes with xxh3"),
        Arg::new("hash-filter")
            .long("hash-filter")
            .value_name("FILTER")
            .value_parser(|text: &str| {
                HashFilter::from_str(text).map_err(|err| without_subject(&err))
            })
            .conflicts_with("hash-tag")
            .help("memcached proxy's filter: stop:STRING or tags:XY")
            .long_help(
                "memcached proxy's filter. stop:STRING places keys by what precedes STRING \
                 (mcrouter's users need stop:|#|), tags:XY by what is between X and Y",
            ),
        lock_with_data(),
        text("backup-placement", "HOW")
            .value_parser(one_of([
                ("apart", BackupPlacement::Apart),
                ("hash", BackupPlacement::Hash),
            ]))
            .default_value("apart")
            .help("apart: a key's backup is on another host than its primary; hash: anywhere")
            .long_help(
                "Where a key's backup is. apart: where it would be on the host of the key's \
                 primary, the next backup that is on another one is taken, if there is one; hosts \
                 are compared as they are written, the port and loopback do not count. hash: \
                 wherever the scheme puts it, as magent 0.6 does",
            ),
    ]
    .map(|arg| arg.help_heading(PLACEMENT))
}

fn lock_with_data() -> Arg {
    Arg::new("lock-with-data")
        .long("lock-with-data")
        .value_name("HANDLER")
        .action(ArgAction::Append)
        .value_parser(|text: &str| LockRules::from_str(text).map_err(|err| without_subject(&err)))
        .help("Keep the locks of PHP's sessions with their data: php, or one handler")
        .long_help(
            "Place the lock of a PHP session as the session itself, so that a page view needs \
                 one primary instead of two. memcached:PREFIX: PREFIXlock.ID as PREFIXID, for \
                 php-memcached; PREFIX is its memcached.sess_prefix, by default memc.sess.key. \
                 memcache: ID.lock as ID, for pecl-memcache. php: both, by default. Repeat it for \
                 several. No other key moves",
        )
}

fn behaviour() -> [Arg; 4] {
    [
        Arg::new("no-flush")
            .long("no-flush")
            .action(ArgAction::SetTrue)
            .help("Refuse flush_all, which empties every server"),
        Arg::new("read-error")
            .long("read-error")
            .action(ArgAction::SetTrue)
            .help("Answer reads with an error if primary and backup are down; else they miss"),
        text("advertise", "HOST:PORT")
            .action(ArgAction::Append)
            .value_delimiter(',')
            .value_parser(HostPort::from_str)
            .value_hint(ValueHint::Hostname)
            .help("Proxies that clients with auto discovery are told, this one included")
            .long_help(
                "Proxies that clients with auto discovery are told, this one included, as the \
                 answer to \"config get cluster\" and \"get AmazonElastiCache:cluster\". Repeat it \
                 or separate several by commas; it should be the same in all of them. Without it \
                 these are an unknown command and an ordinary key",
            ),
        text("advertise-version", "N")
            .value_parser(value_parser!(u64).range(1..=i64::MAX.cast_unsigned()))
            .requires("advertise")
            .help("Version of that list [default: when this process started]")
            .long_help(
                "Version of the list of --advertise, to be raised whenever it changes: clients \
                 take over the list with the highest one. By default the time at which this \
                 process started, in seconds, so that the proxy that was started last is believed",
            ),
    ]
    .map(|arg| arg.help_heading(BEHAVIOUR))
}

fn users() -> [Arg; 2] {
    [
        path("auth-file")
            .short('Y')
            .help("File of users, as \"magent passwd\" writes it: clients have to log in")
            .long_help(
                "File of users, one a line, as \"magent passwd\" writes it. With it clients have to \
                 log in: by SASL PLAIN in the binary protocol, and in text with a first set whose \
                 value is \"user password\". Read again on SIGHUP",
            ),
        path("backend-auth-file")
            .help("File with user:password for backends that were started with -Y")
            .long_help(
                "File whose first line is user:password, for backends that were started with \
                 memcached -Y. Not for memcached -S (SASL), which speaks the binary protocol only",
            ),
    ]
    .map(|arg| arg.help_heading(USERS))
}

fn healing() -> [Arg; 4] {
    [
        text("hedge-ms", "MS")
            .value_parser(hedge)
            .default_value("auto")
            .help("Wait for an answer to a read before the backup is asked too; 0 for never")
            .long_help(
                "Longest wait for the first byte of an answer to a read before the key's other \
                 backend is asked as well. auto follows what answers take, so that few reads are \
                 asked twice; 0 switches it off. It must be less than --fail-ms",
            ),
        text("heal-rate", "ITEMS[,BYTES]")
            .value_parser(HealRate::from_str)
            .default_value(HealRate::default().to_string())
            .help("Items, and bytes, a second that are copied to a backend that has returned")
            .long_help(
                "Items, and bytes of them, a second that are copied to a backend that has \
                 returned, so that it catches up without slowing down clients. With ITEMS alone \
                 the bytes stay at their default",
            ),
        text("on-overflow", "WHAT")
            .value_parser(one_of([
                ("flush", OnOverflow::Flush),
                ("stay-down", OnOverflow::StayDown),
            ]))
            .default_value("flush")
            .help("What becomes of a backend that missed more than can be remembered")
            .long_help(
                "What becomes of a backend that missed more acknowledged writes than can be \
                 remembered (--remember-keys) when it returns. flush: it is emptied and gets its \
                 items from its partner. stay-down: it is not used until it was restarted empty",
            ),
        Arg::new("state-dir")
            .long("state-dir")
            .value_name("DIR")
            .value_parser(StateDir::from_str)
            .value_hint(ValueHint::DirPath)
            .help("Directory to remember over a restart which backends missed writes; or none")
            .long_help(
                "Directory for a small file that names the backends that have missed writes, so \
                 that a proxy that was killed meanwhile does not read old data from them. It is \
                 made if it is not there. By default /var/lib/magent if that is there and can be \
                 written. none, or an empty DIR, switches it off",
            ),
    ]
    .map(|arg| arg.help_heading(HEALING))
}

fn process() -> Vec<Arg> {
    vec![
        text("user", "USER")
            .short('u')
            .value_hint(ValueHint::Username)
            .help("User, by name or number, to become once the ports are open"),
        text("group", "GROUP")
            .short('g')
            .help("Group, by name or number, to become; by default the user's own"),
        Arg::new("foreground")
            .short('D')
            .long("foreground")
            .action(ArgAction::SetTrue)
            .help("Stay in the foreground and log to standard error")
            .long_help(
                "Stay in the foreground and log to standard error. Without it, magent goes to the \
                 background as soon as it listens; until then it reports errors as usual, and its \
                 exit status says whether it started",
            ),
        Arg::new("threads")
            .long("threads")
            .value_name("N")
            .value_parser(|text: &str| number::<u16>(text, 1, 256))
            .help("Worker threads [default: one per core, at most 4]"),
        path("pid-file").help("File to write the process id to; one magent at a time can hold it"),
    ]
    .into_iter()
    .map(|arg| arg.help_heading(PROCESS))
    .collect()
}

fn logging() -> [Arg; 4] {
    [
        verbose(),
        path("log-file")
            .help("File to log to; by default syslog in the background")
            .long_help(
                "File to log to, opened again on SIGHUP. By default standard error with -D, and \
                 syslog in the background; where there is no syslog, /var/log/magent.log or a \
                 file in the temporary directory, and magent says which",
            ),
        text("on-event", "COMMAND")
            .value_hint(ValueHint::CommandString)
            .help("Command for sh -c when a backend is down, returned, healed or missed too much"),
        text("event-webhook", "URL")
            .value_hint(ValueHint::Url)
            .help("http or https address to post the same events to, as JSON; @FILE holds it")
            .long_help(
                "http or https address to post the same events to, as JSON. @FILE reads it from a \
                 file, so that a secret in it is not seen in the list of processes",
            ),
    ]
    .map(|arg| arg.help_heading(LOGGING))
}

fn verbose() -> Arg {
    Arg::new("verbose")
        .short('v')
        .long("verbose")
        .action(ArgAction::Count)
        .help("Log the route of each request, with shortened keys; -vv with whole keys")
}

/// Limits with a flag each.
pub(crate) fn own_flags() -> impl Iterator<Item = &'static Limit> {
    LIMITS
        .iter()
        .filter(|row| row.flag.is_some_and(|flag| flag != HEAL_RATE))
}

fn limits() -> impl Iterator<Item = Arg> {
    own_flags().filter_map(|row| {
        let long = row.flag?.trim_start_matches('-');
        let unit = Unit::of(row);
        // The table's reasons are documentation with backquotes, and begin with a sentence that
        // stands for itself.
        let reason = row
            .reason
            .replace('`', "\"")
            .replace("SERVER_ERROR.", "SERVER_ERROR");
        let summary = reason
            .split(". ")
            .next()
            .unwrap_or_default()
            .trim_end_matches('.');
        Some(
            Arg::new(row.name)
                .long(long)
                .value_name(unit.value_name())
                .value_parser(move |text: &str| unit.parse(text, row))
                .default_value(unit.write(row.default))
                .help(summary.to_owned())
                .long_help(reason.trim_end_matches('.').to_owned()),
        )
    })
}

fn demo() -> Command {
    Command::new("demo")
        .about("Run a proxy with five small memcacheds in one process, to try things out")
        .args_override_self(true)
        .arg(
            Arg::new("port")
                .short('p')
                .long("port")
                .value_name("PORT")
                .value_parser(|text: &str| number(text, 0, u16::MAX))
                .default_value("12000")
                .help("TCP port of the proxy, on 127.0.0.1; 0 for any that is free"),
        )
        .arg(verbose())
}

fn route() -> Command {
    // The proxy's own command line with "route" put before it works too: what places no keys is
    // taken and not shown.
    let unused = listening()
        .into_iter()
        .chain(behaviour())
        .chain(users())
        .chain(tls::args())
        .chain(healing())
        .chain(process())
        .chain(logging());
    let unused = unused
        .chain(limits())
        .map(|arg| match arg.get_id().as_str() {
            "clients_max" => arg.short('n'),
            "connections_per_backend_max" => arg.short('i'),
            _ => arg,
        });
    Command::new("route")
        .about("Print the primary and the backup of each key, without asking any server")
        .override_usage("magent route [OPTIONS] -s SERVER... [-b SERVER...] KEY...")
        .after_help(ROUTE_AFTER_HELP)
        .args_override_self(true)
        .args(servers())
        .args(placement())
        .args(unused.map(|arg| arg.hide(true)))
        .next_help_heading("Keys and output")
        .arg(
            Arg::new("key")
                .value_name("KEY")
                .action(ArgAction::Append)
                .value_parser(value_parser!(OsString))
                .help("Keys to place; - reads them from standard input, one a line"),
        )
        .arg(
            Arg::new("format")
                .long("format")
                .value_name("FORMAT")
                .value_parser(EnumValueParser::<RouteOutput>::new())
                .default_value("text")
                .help("text for people, csv for programs: key,primary_index,backup_index"),
        )
        .arg(
            Arg::new("summary")
                .long("summary")
                .action(ArgAction::SetTrue)
                .conflicts_with("format")
                .help("Print the share of each server instead, as numbers and bars"),
        )
}

const ROUTE_AFTER_HELP: &str = "\
Options of the proxy:
  All of them are accepted, so that its command line can be used as it is, with
  \"route\" put before it. Those that place no keys have no effect.

Examples:
  magent route -s 192.168.1.4 -s 192.168.1.5 -b 192.168.1.7 user:1 user:2
  magent route -k -s 192.168.1.4 -s 192.168.1.5 --summary - < keys.txt";

fn passwd() -> Command {
    Command::new("passwd")
        .about("Write the file of users for --auth-file")
        .override_usage(
            "magent passwd FILE USER [--prefix PREFIX] [--read-only]\n       \
             magent passwd FILE USER --delete\n       magent passwd FILE --list",
        )
        .after_help(PASSWD_AFTER_HELP)
        .args_override_self(true)
        .arg(
            Arg::new("file")
                .value_name("FILE")
                .required(true)
                .value_parser(value_parser!(PathBuf))
                .value_hint(ValueHint::FilePath)
                .help("File of users; made if it is not there, for its owner alone"),
        )
        .arg(
            Arg::new("name")
                .value_name("USER")
                .help("User to add, or to give another password"),
        )
        .arg(
            text("prefix", "PREFIX")
                .help("What all keys of this user begin with on the servers, unseen by the user"),
        )
        .arg(
            Arg::new("read-only")
                .long("read-only")
                .action(ArgAction::SetTrue)
                .help("The user may read and nothing else"),
        )
        .arg(
            Arg::new("delete")
                .long("delete")
                .action(ArgAction::SetTrue)
                .requires("name")
                .conflicts_with_all(["prefix", "read-only"])
                .help("Take the user out of the file"),
        )
        .arg(
            Arg::new("list")
                .long("list")
                .action(ArgAction::SetTrue)
                .conflicts_with_all(["name", "prefix", "read-only", "delete"])
                .help("Print the users and what they may do"),
        )
}

const PASSWD_AFTER_HELP: &str = "\
The password is asked for twice, or read from standard input if that is no
terminal. A user that is there already keeps its prefix and stays read-only
unless they are given anew. Running proxies read the file again on SIGHUP.

Examples:
  magent passwd /etc/magent/users shop --prefix shop:
  pwgen -s 32 1 | magent passwd /etc/magent/users dashboard --read-only";

fn man() -> Command {
    let pages = ["demo", "route", "passwd"];
    Command::new("man")
        .about("Print the man page")
        .hide(true)
        .arg(
            Arg::new("page")
                .value_name("COMMAND")
                .value_parser(pages)
                .help("Page of a command instead of that of magent"),
        )
}

fn completions() -> Command {
    Command::new("completions")
        .about("Print a script that completes options")
        .hide(true)
        .arg(
            Arg::new("shell")
                .value_name("SHELL")
                .required(true)
                .value_parser(value_parser!(Shell)),
        )
}

fn text(id: &'static str, value_name: &'static str) -> Arg {
    Arg::new(id).long(id).value_name(value_name)
}

fn path(id: &'static str) -> Arg {
    text(id, "PATH")
        .value_parser(value_parser!(PathBuf))
        .value_hint(ValueHint::FilePath)
}

/// `--scheme list`.
fn scheme_list() -> String {
    let mut list = String::from(SCHEME_LIST_HEAD);
    for info in &SCHEMES {
        let mut line = |text: &str| {
            list.push_str(text);
            list.push('\n');
        };
        line("");
        line(&info.pattern());
        line(&format!("    {}", info.about));
        line(&format!("    as in: {}", info.origin));
        line(match info.weights {
            WeightUse::Ignored => "    weights: ignored",
            WeightUse::Whole => "    weights: whole numbers",
            WeightUse::Fraction => "    weights: from 0 to 1",
        });
        if !info.hashes().is_empty() {
            let names = info.hashes().iter().map(|hash| hash.name());
            line(&format!(
                "    HASH: {}",
                names.collect::<Vec<_>>().join(", ")
            ));
        }
    }
    write!(list, "{SCHEME_LIST_TAIL}").expect("a String takes all that is written");
    list
}

const SCHEME_LIST_HEAD: &str = "\
Each scheme places every key where another program places it, bit for bit.
Keys stay where they are only if the servers are given in that program's order,
with its names and weights.
";

const SCHEME_LIST_TAIL: &str = "
--hash-tag and --hash-filter go with all of them, --hash-seed with those that
hash keys with xxh3. \"magent route --summary\" shows how evenly a scheme spreads
your keys.
";

/// What options of listeners become, for the test of what they mean.
#[cfg(test)]
pub(crate) fn parse_listening<'a>(words: impl Iterator<Item = &'a str>) -> ArgMatches {
    let command = Command::new("magent").args(listening());
    command.get_matches_from(std::iter::once("magent").chain(words))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_consistent_and_explained() {
        command().debug_assert();
        let mut all = command();
        all.build();
        for command in std::iter::once(&all).chain(all.get_subcommands()) {
            assert!(command.get_about().is_some(), "{}", command.get_name());
            for arg in command.get_arguments().filter(|arg| !arg.is_positional()) {
                assert!(arg.get_help().is_some(), "{} {arg}", command.get_name());
            }
        }
    }
}
