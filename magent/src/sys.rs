//! What magent asks the kernel for itself: open files, another user, a life in the background.
//!
//! # Invariants
//!
//! - The one `unsafe` of this crate is in [`fork`].
//! - [`Identity::assume`] either leaves the process unable to become root again or fails.
//!
//! Not here: sockets (`listen`), the order in which these steps happen (`main`).

use std::ffi::CString;
use std::fs::File;
use std::io;

use anyhow::{Context as _, Result, bail, ensure};
use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::{self, ForkResult, Gid, Group, Pid, Uid, User};

/// Descriptors of the process itself: standard streams, log, pid file, and one each for the event
/// queue and its wake-up of every worker. Rounded up; a few too many cost nothing.
const OPEN_FILES_OWN: u64 = 64;

/// With room for fewer clients than this, and than were asked for, the proxy does not start.
const CLIENTS_FEW: u64 = 256;

/// What the process will have open at the most.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OpenFiles {
    /// Client connections.
    pub(crate) clients: u64,
    /// Connections to all backends.
    pub(crate) backend_connections: u64,
    /// Listening sockets, over all workers.
    pub(crate) listeners: u64,
}

impl OpenFiles {
    fn total(self) -> u64 {
        self.clients + self.backend_connections + self.listeners + OPEN_FILES_OWN
    }

    /// Raises the limit on open files so that all of them fit, or as many clients as it can be raised for.
    ///
    /// A limit that is high enough stays as it is: the operator may have a reason for it.
    pub(crate) fn reserve(self) -> Result<Room> {
        let needed = self.total();
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).context("limit on open files")?;
        // Root may raise the hard limit too, unless it lives in a container that took this right.
        if soft >= needed || setrlimit(Resource::RLIMIT_NOFILE, needed, hard.max(needed)).is_ok() {
            return Ok(Room::ForAll);
        }
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).context("limit on open files")?;
        let others = needed - self.clients;
        let asked = self.clients;
        let clients = hard.saturating_sub(others);
        let why = format!(
            "{asked} clients (-n) and {others} other connections and files need {needed} open files, \
             but the limit is {hard}; run \"ulimit -n {needed}\" before the start or set \
             LimitNOFILE={needed} in the systemd unit"
        );
        // A start script that worked with magent 0.6 goes on working, but a proxy for nobody helps nobody.
        if clients < CLIENTS_FEW.min(asked) {
            bail!("{why}");
        }
        Ok(Room::For {
            clients,
            notice: format!("serving at most {clients} clients: {why}"),
        })
    }
}

/// How many clients the limit on open files leaves room for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    /// As many as were asked for.
    ForAll,
    /// Fewer.
    For {
        /// How many.
        clients: u64,
        /// What the operator should hear.
        notice: String,
    },
}

/// Signals that wait until somebody catches them. Without this, one that comes between the first listener
/// and the last handler would end the process without its files being removed.
#[derive(Debug)]
pub(crate) struct HeldSignals(SigSet);

impl HeldSignals {
    /// Lets SIGTERM, SIGINT and SIGHUP wait from here on. Call it before there are other threads.
    pub(crate) fn hold() -> Result<Self> {
        let signals = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP]);
        signals.thread_block().context("cannot hold signals")?;
        Ok(Self(signals))
    }

    /// Delivers those that have come, and all that follow.
    pub(crate) fn release(&self) -> Result<()> {
        self.0.thread_unblock().context("cannot release signals")
    }
}

/// Whom to become once everything that needs root is done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Identity {
    uid: Option<Uid>,
    gid: Option<Gid>,
    /// Name of the user, for its other groups.
    name: Option<CString>,
}

/// What became of [`Identity::assume`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Assumed {
    /// The process is what was asked for.
    Done,
    /// Nothing was asked for, and the process is root.
    StillRoot,
    /// Only root can change who it is.
    NotRoot,
}

impl Identity {
    /// Looks up `-u` and `-g`, each a name or a number.
    pub(crate) fn resolve(user: Option<&str>, group: Option<&str>) -> Result<Self> {
        let mut identity = Self::default();
        if let Some(text) = user {
            let entry = match text.parse() {
                Ok(number) => {
                    identity.uid = Some(Uid::from_raw(number));
                    User::from_uid(Uid::from_raw(number)).with_context(|| user_text(text))?
                }
                Err(_) => User::from_name(text).with_context(|| user_text(text))?,
            };
            if let Some(entry) = entry {
                identity.uid = Some(entry.uid);
                identity.gid = Some(entry.gid);
                identity.name = Some(CString::new(entry.name).expect("it came as a C string"));
            }
            ensure!(identity.uid.is_some(), "{}: no such user", user_text(text));
        }
        if let Some(text) = group {
            identity.gid = Some(match text.parse() {
                Ok(number) => Gid::from_raw(number),
                Err(_) => {
                    let entry = Group::from_name(text).with_context(|| group_text(text))?;
                    entry
                        .with_context(|| format!("{}: no such group", group_text(text)))?
                        .gid
                }
            });
        }
        ensure!(
            identity.uid.is_none() || identity.gid.is_some(),
            "{}: no such user, so its group must be given with -g",
            user_text(user.unwrap_or_default())
        );
        Ok(identity)
    }

    /// The numbers that files made for the later process should belong to; `None` if nothing
    /// changes hands.
    pub(crate) fn owner(&self) -> Option<(Option<u32>, Option<u32>)> {
        (Uid::effective().is_root() && (self.uid.is_some() || self.gid.is_some()))
            .then(|| (self.uid.map(Uid::as_raw), self.gid.map(Gid::as_raw)))
    }

    /// Becomes that user and group, for good.
    pub(crate) fn assume(&self) -> Result<Assumed> {
        if !Uid::effective().is_root() {
            let uid_is_right = self.uid.is_none_or(|uid| uid == Uid::current());
            let gid_is_right = self.gid.is_none_or(|gid| gid == Gid::current());
            return Ok(if uid_is_right && gid_is_right {
                Assumed::Done
            } else {
                Assumed::NotRoot
            });
        }
        if let Some(gid) = self.gid {
            match &self.name {
                Some(name) => unistd::initgroups(name, gid).context("initgroups")?,
                None => unistd::setgroups(&[gid]).context("setgroups")?,
            }
            unistd::setgid(gid).with_context(|| format!("cannot become group {gid}"))?;
        }
        let Some(uid) = self.uid else {
            return Ok(Assumed::StillRoot);
        };
        unistd::setuid(uid).with_context(|| format!("cannot become user {uid}"))?;
        if !uid.is_root() {
            // A process that could go back would only look as if it had given anything up.
            ensure!(
                unistd::setuid(Uid::from_raw(0)) == Err(Errno::EPERM),
                "could become root again after becoming user {uid}"
            );
        }
        Ok(Assumed::Done)
    }
}

fn user_text(text: &str) -> String {
    format!("user {text:?} (-u)")
}

fn group_text(text: &str) -> String {
    format!("group {text:?} (-g)")
}

/// Which of the two processes this is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Forked {
    /// The one that was there before.
    Parent {
        /// The other.
        child: Pid,
    },
    /// The new one.
    Child,
}

/// Splits the process in two.
///
/// # Panics
///
/// If a second thread exists: it would be missing in the child, with whatever lock it holds.
#[expect(unsafe_code, reason = "there is no safe way to go to the background")]
pub(crate) fn fork() -> io::Result<Forked> {
    if let Ok(threads) = std::fs::read_dir("/proc/self/task") {
        assert_eq!(threads.count(), 1, "fork comes before all threads");
    }
    // SAFETY: the obligation is to call only async-signal-safe functions in the child of a process
    // with several threads. There is one thread, as was just checked.
    Ok(match unsafe { unistd::fork() }? {
        ForkResult::Parent { child } => Forked::Parent { child },
        ForkResult::Child => Forked::Child,
    })
}

/// Lets go of the directory and the terminal that the process was started in.
///
/// # Errors
///
/// If one of the steps fails; standard error still works then.
pub(crate) fn detach_from_terminal() -> Result<()> {
    let null = File::options()
        .read(true)
        .write(true)
        .open("/dev/null")
        .context("/dev/null")?;
    std::env::set_current_dir("/").context("/")?;
    unistd::dup2_stdin(&null).context("standard input")?;
    unistd::dup2_stdout(&null).context("standard output")?;
    unistd::dup2_stderr(&null).context("standard error")?;
    Ok(())
}
