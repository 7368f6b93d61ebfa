//! Is what a later process of this proxy has to know on the disk? Keeps the state file up to date.
//!
//! The control thread asks before it tells anybody of a new View or of a connection that may be used. If something
//! in the file is out of date, it is written on another thread, and what was to be told waits for that.
//!
//! # Invariants
//!
//! - One write at a time; what became known meanwhile is in the next one.
//! - Without a directory, and without backups, nothing is kept and nobody waits.
//! - A file that cannot be written, or not within [`WRITE_MS_MAX`], is said in the log and holds up nobody: clients
//!   come before a crash of the proxy that may never happen.
//! - What the file says about backends of another configuration stays in it.
//!
//! Not here: the file (`state`), what is true (`magent_core::keeper`, `fence`).

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use magent_core::config::Config;
use magent_core::keeper::{Identity, Keeper, Remains};
use magent_core::{BackendId, Time};

use crate::fence::Fence;
use crate::listen::ListenOptions;
use crate::state::{BackendIdentity, BackendState, State, StateError, StateFile};

/// Longest time that anybody waits for the disk.
const WRITE_MS_MAX: u64 = 1_000;

/// What has become of a write.
#[derive(Debug)]
pub(crate) struct Written {
    file: StateFile,
    result: io::Result<()>,
}

/// A write to be done where it may take its time.
#[derive(Debug)]
pub(crate) struct Write {
    file: StateFile,
    state: State,
}

impl Write {
    /// Does it. Waits for the disk.
    pub(crate) fn perform(mut self) -> Written {
        let result = self.file.write(&self.state);
        Written {
            file: self.file,
            result,
        }
    }
}

/// Whether everything is on the disk.
#[derive(Debug)]
pub(crate) enum Kept {
    /// It is, or nothing is kept.
    All,
    /// Not before this write is done.
    After(Box<Write>),
    /// Not before a write that is under way.
    Later,
}

/// See the module's page.
#[derive(Debug)]
pub(crate) struct Ledger {
    place: Place,
    /// What was written last, or was tried to be.
    last: State,
    /// What the file says about backends that are not in the configuration.
    others: BTreeMap<String, BackendState>,
    /// By backend.
    names: Vec<String>,
    /// Whether the last write failed.
    fails: bool,
}

#[derive(Debug)]
enum Place {
    Nowhere,
    File(StateFile),
    BeingWritten {
        /// Until then what depends on it waits.
        until: Time,
        /// Whether somebody has been told that it takes too long.
        overdue: bool,
    },
}

impl Ledger {
    /// Takes the state file of this proxy and tells keeper and fence what is in it.
    ///
    /// # Errors
    ///
    /// If there is a file that cannot be read, or another process has it.
    pub(crate) fn open(
        dir: Option<&Path>,
        listen: &ListenOptions,
        config: &Config,
        wait: Duration,
    ) -> Result<Self> {
        let mut this = Self {
            place: Place::Nowhere,
            last: State::default(),
            others: BTreeMap::new(),
            names: config.backends.iter().map(ToString::to_string).collect(),
            fails: false,
        };
        let Some(dir) = dir.filter(|_| config.has_backups()) else {
            return Ok(this);
        };
        match StateFile::open(dir, listen, wait) {
            Ok((file, state)) => {
                this.place = Place::File(file);
                this.last = state.unwrap_or_default();
                let mut others = this.last.backends.clone();
                others.retain(|name, _| !this.names.contains(name));
                this.others = others;
            }
            // The start has said so.
            Err(err @ StateError::NoMemory { .. }) => tracing::debug!("{err}"),
            Err(err @ (StateError::Held { .. } | StateError::Unknown { .. })) => {
                return Err(err.into());
            }
        }
        Ok(this)
    }

    /// Tells what the file says. Before anything else is.
    pub(crate) fn restore(&self, now: Time, keeper: &mut Keeper, fence: &mut Fence) {
        for (index, name) in (0..).zip(&self.names) {
            let backend = BackendId(index);
            if let Some(state) = self.last.backends.get(name) {
                fence.restore(backend, &state.connections);
                let remains = Remains {
                    identity: state.identity.as_ref().map(identity_of),
                    missed: state.missed,
                };
                keeper.restore(now, backend, remains);
            }
        }
    }

    /// Whether what is known now is on the disk.
    pub(crate) fn keep(&mut self, now: Time, keeper: &Keeper, fence: &Fence) -> Kept {
        match &mut self.place {
            Place::Nowhere => return Kept::All,
            Place::File(_) => {}
            Place::BeingWritten { until, .. } if now < *until => return Kept::Later,
            Place::BeingWritten { overdue, .. } => {
                if !std::mem::replace(overdue, true) {
                    tracing::error!("the state file takes longer to write than {WRITE_MS_MAX} ms");
                }
                return Kept::All;
            }
        }
        let state = self.state(keeper, fence);
        if says_the_same(&state, &self.last) {
            return Kept::All;
        }
        let being_written = Place::BeingWritten {
            until: now.after_ms(WRITE_MS_MAX),
            overdue: false,
        };
        let Place::File(file) = std::mem::replace(&mut self.place, being_written) else {
            unreachable!("the other places were looked at");
        };
        self.last = state.clone();
        Kept::After(Box::new(Write { file, state }))
    }

    /// When it may answer differently although nothing has happened.
    pub(crate) const fn due(&self) -> Option<Time> {
        match self.place {
            Place::BeingWritten {
                until,
                overdue: false,
            } => Some(until),
            Place::Nowhere | Place::File(_) | Place::BeingWritten { .. } => None,
        }
    }

    /// A write is done.
    pub(crate) fn on_written(&mut self, written: Written) {
        let path = written.file.path().display();
        match written.result {
            Ok(()) if self.fails => tracing::info!("{path}: can be written again"),
            Ok(()) => {}
            Err(ref err) if !self.fails => tracing::error!(
                "cannot write {path}: {err}; if magent is killed now, it will not know which backends \
                 have missed writes"
            ),
            Err(_) => {}
        }
        self.fails = written.result.is_err();
        self.place = Place::File(written.file);
    }

    fn state(&self, keeper: &Keeper, fence: &Fence) -> State {
        let mut backends = self.others.clone();
        for (index, name) in (0..).zip(&self.names) {
            let backend = BackendId(index);
            let remains = keeper.remains(backend);
            let state = BackendState {
                missed: remains.missed,
                identity: remains.identity.as_ref().map(kept_identity),
                connections: fence.addresses(backend),
            };
            backends.insert(name.clone(), state);
        }
        State {
            pid: std::process::id(),
            backends,
        }
    }
}

/// Whether a later process would do the same with both. Counters grow with every probe, and an earlier count serves
/// as well.
fn says_the_same(a: &State, b: &State) -> bool {
    let same = |a: &BackendState, b: &BackendState| {
        let process = |state: &BackendState| {
            let identity = state.identity?;
            Some((identity.pid, identity.started))
        };
        a.missed == b.missed && a.connections == b.connections && process(a) == process(b)
    };
    a.backends.len() == b.backends.len()
        && a.backends.iter().all(|(name, a)| {
            let b = b.backends.get(name);
            b.is_some_and(|b| same(a, b))
        })
}

const fn identity_of(kept: &BackendIdentity) -> Identity {
    Identity {
        pid: kept.pid,
        started_unix_s: kept.started,
        // A process that was young then and one that took its place within a second are told apart by pid alone.
        uptime_s: u64::MAX,
        connections: kept.total_connections,
        sets: kept.cmd_set,
        items_stored: kept.total_items,
    }
}

const fn kept_identity(identity: &Identity) -> BackendIdentity {
    BackendIdentity {
        pid: identity.pid,
        started: identity.started_unix_s,
        total_connections: identity.connections,
        cmd_set: identity.sets,
        total_items: identity.items_stored,
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use magent_core::WorkerId;
    use magent_core::keeper::{Failure, KeeperConfig, Output, ProbeAnswer};
    use magent_core::placement::Phase;
    use magent_core::scheme::{Scheme, SchemeOptions};
    use magent_core::server::ServerSpec;
    use tempfile::TempDir;

    use super::*;
    use crate::fence::{LookFor, Owner};

    const PRIMARY: BackendId = BackendId(0);
    const NOW: Time = Time(0);

    /// A process of the proxy: one worker, one primary, one backup.
    struct Process {
        keeper: Keeper,
        fence: Fence,
        ledger: Ledger,
    }

    impl Process {
        fn start(dir: &TempDir) -> Self {
            let server = |text: &str| text.parse::<ServerSpec>().unwrap();
            let config = Config::new(
                vec![server("127.0.0.1:1")],
                vec![server("127.0.0.1:2")],
                Scheme::magent(),
                SchemeOptions::default(),
            );
            let listen = ListenOptions {
                tcp: vec![SocketAddr::from(([127, 0, 0, 1], 3)).into()],
                ..ListenOptions::default()
            };
            let config = config.unwrap();
            let ledger = Ledger::open(Some(dir.path()), &listen, &config, Duration::ZERO).unwrap();
            let keeper_config = KeeperConfig {
                addresses: config.backends.iter().map(ToString::to_string).collect(),
                partners: vec![vec![BackendId(1)], vec![BackendId(0)]],
                workers: 1,
                stay_down: false,
                probe_delay_ms_min: 100,
                probe_delay_ms_max: 100,
                settle_ms: 1_000,
                hold_ms_max: 0,
                jitter_seed: 0,
            };
            let mut this = Self {
                keeper: Keeper::new(keeper_config, NOW),
                fence: Fence::new(2),
                ledger,
            };
            this.ledger.restore(NOW, &mut this.keeper, &mut this.fence);
            this
        }

        fn keep(&mut self) -> Kept {
            self.ledger.keep(NOW, &self.keeper, &self.fence)
        }

        fn keep_all(&mut self) {
            while let Kept::After(write) = self.keep() {
                self.ledger.on_written(write.perform());
            }
        }

        fn is_down(&mut self) -> bool {
            while !matches!(self.keeper.poll(NOW), Output::Wait(_)) {}
            self.keeper.view().backends[0].phase == Phase::Down
        }
    }

    #[test]
    fn a_later_process_knows_who_missed_what_and_which_connections_there_were() {
        let dir = tempfile::tempdir().unwrap();
        let mut first = Process::start(&dir);
        let identity = Identity {
            pid: 7,
            started_unix_s: 1_000,
            uptime_s: u64::MAX,
            connections: 1,
            sets: 2,
            items_stored: 3,
        };
        let answer = ProbeAnswer {
            version: None,
            identity: Some(identity),
            items: 3,
            known: None,
            explicit_cas: false,
            flushes: 0,
            lingering: Some(false),
        };
        first.keeper.on_probe(NOW, PRIMARY, Ok(answer));
        let local = SocketAddr::from(([127, 0, 0, 1], 99));
        let owner = Owner::Worker(WorkerId(0));
        first.fence.on_connected(PRIMARY, owner, Some(local));
        assert!(!first.is_down());
        first.keep_all();
        drop(first);

        let mut second = Process::start(&dir);
        assert!(!second.is_down());
        assert_eq!(second.keeper.remains(PRIMARY).identity, Some(identity));
        assert_eq!(
            second.fence.look_for(PRIMARY),
            LookFor::Addresses(vec![local])
        );
        second.keeper.on_probe(NOW, PRIMARY, Err(Failure::Refused));
        second.keep_all();
        drop(second);

        assert!(Process::start(&dir).is_down());
    }

    #[test]
    fn what_becomes_known_during_a_write_is_in_the_next_one() {
        let dir = tempfile::tempdir().unwrap();
        let mut process = Process::start(&dir);
        let Kept::After(first) = process.keep() else {
            panic!("nothing was kept before");
        };
        assert!(matches!(process.keep(), Kept::Later));
        process
            .fence
            .on_connected(PRIMARY, Owner::Worker(WorkerId(0)), None);
        assert!(matches!(process.keep(), Kept::Later));
        let late = process.ledger.due().unwrap();
        let overdue = process.ledger.keep(late, &process.keeper, &process.fence);
        assert!(matches!(overdue, Kept::All), "clients come first");
        process.ledger.on_written(first.perform());
        let Kept::After(second) = process.keep() else {
            panic!("the connection is not kept");
        };
        process.ledger.on_written(second.perform());
        assert!(matches!(process.keep(), Kept::All));
    }
}
