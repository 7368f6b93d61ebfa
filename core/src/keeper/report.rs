//! What the keeper is told: by workers, by the healer and by probes.

use crate::BackendId;
use crate::engine::ConnectionId;
use crate::known::Process;
use crate::placement::Version;

/// What a worker or the healer tells the keeper.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Report {
    /// A connection failed. The worker already treats the backend as absent.
    Failed {
        /// Which backend.
        backend: BackendId,
        /// The incarnation that failed.
        incarnation: u32,
        /// How.
        failure: Failure,
    },
    /// A new connection is there. It is used when [`super::Output::Verified`] says that nobody else answers.
    Connected {
        /// Which connection.
        connection: ConnectionId,
        /// The incarnation that it was made for.
        incarnation: u32,
    },
    /// The backend owes an answer and has been silent for the hedge delay.
    Suspect {
        /// Which backend.
        backend: BackendId,
        /// The incarnation that is silent.
        incarnation: u32,
    },
    /// What the participant remembered has been deleted on the backend.
    Purged {
        /// Which backend.
        backend: BackendId,
        /// The incarnation that was purged.
        incarnation: u32,
    },
    /// From the healer: a worker has given it more to purge.
    Purging {
        /// Which backend.
        backend: BackendId,
        /// The incarnation that is purged.
        incarnation: u32,
    },
    /// The backend has missed acknowledged writes that cannot be named.
    Overflow {
        /// Which backend.
        backend: BackendId,
    },
    /// The participant lives by this epoch, and what it had begun in earlier ones is finished.
    Acknowledged {
        /// Which epoch.
        epoch: u64,
    },
    /// From the healer: the share of `source` has been copied.
    Copied {
        /// The backend that caught up.
        target: BackendId,
        /// Its incarnation.
        incarnation: u32,
        /// The backend that it was copied from.
        source: BackendId,
    },
    /// From the healer: keys cannot be copied, because their authority is gone or they are too many to name.
    Lacks {
        /// The backend without them.
        target: BackendId,
        /// The backend that has them; `None` if that can be any.
        source: Option<BackendId>,
    },
    /// From the healer: how many single keys it has to copy to the backend.
    Left {
        /// The backend.
        target: BackendId,
        /// How many.
        left: Left,
    },
    /// From the healer: the source does not say what it has, so only what is read there can be copied.
    Unwalkable {
        /// The backend that lacks items.
        target: BackendId,
        /// The backend that cannot be walked.
        source: BackendId,
    },
}

macro_rules! failures {
    ($($variant:ident, $name:literal, $doc:literal;)+) => {
        /// How a backend failed.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Failure {
            $(#[doc = $doc] $variant,)+
        }

        impl Failure {
            /// Every failure, in the order of the table.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// For logs and `stats magent`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }
        }
    };
}

failures! {
    Refused, "connection refused", "Nobody listens there.";
    Unreachable, "unreachable", "The network knows no way, or the kernel gave another error.";
    Unresolved, "name not resolved", "The host's name has no address.";
    ConnectTimeout, "connect timed out", "No connection within fail_ms.";
    Reset, "connection lost", "Closed by the backend while it owed answers.";
    Silent, "silent", "Not a byte for fail_ms while it owed answers.";
    Desync, "answer out of step", "An answer that fits no request.";
    Overflowed, "missed too much", "It returned, but missed more than it can be purged of.";
    TlsFailed, "TLS handshake failed", "It closed the connection or said something unexpected before TLS was agreed on.";
    TlsSilent, "no answer to the TLS handshake", "Not within fail_ms, though it accepted the connection.";
    TlsPlain, "it does not speak TLS", "It answered without TLS.";
    TlsExpired, "its certificate has expired", "Or is not valid yet.";
    TlsUntrusted, "its certificate is not trusted", "No authority that is trusted here has signed it.";
    TlsWrongName, "its certificate is for another name", "It names other hosts than the one that was connected to.";
    TlsRefusedUs, "it wants a client certificate", "It has none from us, or not one that it takes.";
    BadProbe, "not a memcached", "A probe's answer that no memcached gives.";
    LoginWanted, "wants a password: name it with --backend-auth-file", "It was started with -Y, and this proxy has no password for it.";
    LoginRefused, "refuses the password of --backend-auth-file", "Its file of -Y has another password for this user, or no such user.";
    BinaryOnly, "speaks the binary protocol only: start it with -Y FILE instead of -S", "It was started with -S (SASL). Nothing can be healed in the binary protocol: walks and TTLs exist in text only.";
    Unfinished, "not in step when the proxy last ended", "Its state file says so.";
    Restarted, "restarted", "Another process answers at its address than before.";
}

impl Failure {
    /// Whether somebody may be there who was merely too slow.
    pub(super) const fn is_late(self) -> bool {
        matches!(self, Self::Silent | Self::ConnectTimeout)
    }
}

/// Why a backend that answers probes is still down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StillDown {
    /// Not every worker has stopped using it.
    Unsettled,
    /// It may still execute what it was sent before it went down.
    Lingering {
        /// For how long it has answered probes, in milliseconds.
        answered_ms: u64,
        /// How long is taken for a proof that it has nothing left, where there is no other.
        settle_ms: u64,
    },
    /// It missed more than can be named: somebody has to restart it empty.
    MissedTooMuch,
}

/// How many single keys are left to copy to a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Left {
    /// None.
    #[default]
    None,
    /// As few as are copied in a moment: conditional commands may wait for them.
    Few,
    /// More.
    Many,
}

/// What tells one process of memcached from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// Its process id; always 1 in many containers.
    pub pid: u64,
    /// When it started, in Unix seconds: `time - uptime`.
    pub started_unix_s: i64,
    /// How long it had been running when it was asked, in seconds.
    pub uptime_s: u64,
    /// Connections that it ever accepted.
    pub connections: u64,
    /// Sets that it ever executed.
    pub sets: u64,
    /// Items that it ever stored.
    pub items_stored: u64,
}

impl Identity {
    /// Whether `later`, asked after `self`, cannot be the same process.
    ///
    /// A successor with the same process id starts later than `self` was asked. So the counters, which also fall
    /// with `stats reset`, count only where the two starts can be too close to be told apart.
    #[must_use]
    pub const fn is_replaced_by(&self, later: &Self) -> bool {
        /// Starts are told apart to the second, and the clock may have been set in between.
        const YOUNG_S: u64 = 3;
        // It was asked over a new connection each time.
        let fell = (later.connections <= self.connections && self.connections > 0)
            || later.sets < self.sets
            || later.items_stored < self.items_stored;
        self.pid != later.pid
            || self.started_unix_s.abs_diff(later.started_unix_s) > 1
            || (fell && self.uptime_s <= YOUNG_S)
    }
}

/// What an answered probe says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProbeAnswer {
    /// The version, if it could be read.
    pub version: Option<Version>,
    /// Who answers; `None` if `stats` does not say.
    pub identity: Option<Identity>,
    /// Items that it holds.
    pub items: u64,
    /// The process that the mark of this pool names ([`crate::known`]), if one is there.
    pub known: Option<Process>,
    /// Whether it takes the CAS unique that an item is given (meta flag `E`).
    pub explicit_cas: bool,
    /// `flush_all` that it ever executed.
    pub flushes: u64,
    /// Whether it still has connections of ours that we have given up; `None` if it cannot be told.
    pub lingering: Option<bool>,
}

/// What was known about a backend when an earlier process of this proxy ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Remains {
    /// Who answered there.
    pub identity: Option<Identity>,
    /// Whether it may have missed acknowledged writes.
    pub missed: bool,
}
