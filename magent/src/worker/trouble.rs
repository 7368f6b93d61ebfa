//! What the log says of clients that cannot be served: in few lines, however many they are.
//!
//! Not here: counters of the same (`magent_core::stats`).

use std::fmt::Display;
use std::net::SocketAddr;

use magent_core::Time;

use super::Worker;
use crate::log::Verdict;

/// Lines of each kind in a minute, of each worker.
pub(super) const TROUBLES_PER_MINUTE: u32 = 10;

/// A TLS handshake begins with this: the kind of its first record, and the major version.
pub(super) const TLS_HELLO: &[u8] = &[0x16, 0x03];

/// Kinds of trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Trouble {
    /// A handshake failed.
    TlsFailed,
    /// No TLS where it is spoken.
    PlainOnTls,
    /// TLS where it is not spoken.
    TlsOnPlain,
    /// The beginning took too long.
    TooSlow,
    /// The beginning had to make room for others.
    Crowded,
    /// A PROXY header that is none, or from the wrong place.
    ProxyRefused,
}

impl Worker {
    /// Logs trouble with the client at `peer`, unless there was much of it.
    pub(super) fn complain(
        &mut self,
        now: Time,
        peer: Option<SocketAddr>,
        trouble: Trouble,
        detail: impl Display,
    ) {
        let Verdict::Log { suppressed } = self.troubles.on_event(now, trouble) else {
            return;
        };
        let more = match suppressed {
            0 => String::new(),
            count => format!(" ({count} more like it were not logged)"),
        };
        let who = peer.map_or_else(
            || "client of the unix socket".to_owned(),
            |peer| format!("client {peer}"),
        );
        match trouble {
            Trouble::TlsFailed => tracing::warn!("{who}: TLS handshake failed: {detail}{more}"),
            Trouble::PlainOnTls => {
                tracing::warn!("{who}: speaks no TLS, on a port that expects it{more}");
            }
            Trouble::TlsOnPlain => tracing::warn!(
                "{who}: speaks TLS, on a port without; --listen tls:ADDRESS makes one with{more}"
            ),
            Trouble::TooSlow | Trouble::Crowded | Trouble::ProxyRefused => {
                tracing::warn!("{who}: closed: {detail}{more}");
            }
        }
    }
}
