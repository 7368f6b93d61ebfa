//! What is counted: the one table of counters.
//!
//! Each worker has a [`Counters`] of its own and is the only one that writes it; whoever wants a sum
//! reads all of them. Reads are relaxed: a sum may be a few requests old.
//!
//! Not here: what the counters are called in Prometheus or on the page (derived from [`Counter::ALL`]).

use std::sync::atomic::{AtomicU64, Ordering};

use crate::Time;

macro_rules! counters {
    ($($variant:ident, $name:literal, $help:literal;)+) => {
        /// Something that is counted.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Counter {
            $(#[doc = $help] $variant,)+
        }

        impl Counter {
            /// Every counter, in the order of the table.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// Its name in `stats magent`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// What it counts.
            #[must_use]
            pub const fn help(self) -> &'static str {
                match self { $(Self::$variant => $help,)+ }
            }
        }
    };
}

counters! {
    ClientsOpened, "clients_opened_total", "Client connections accepted.";
    ClientsClosed, "clients_closed_total", "Client connections closed, by either side.";
    ClientsRefused, "clients_refused_total", "Client connections refused because of --max-clients.";
    ClientsOverrun, "clients_overrun_total", "Clients closed because they did not take their answers.";
    TlsHandshakes, "tls_handshakes_total", "TLS handshakes with clients that succeeded.";
    TlsResumed, "tls_resumed_total", "Of these, those that took up an earlier session and so were cheap.";
    TlsFailures, "tls_failures_total", "TLS handshakes with clients that failed, were cut or took too long.";
    ProxyRefusals, "proxy_refusals_total", "Connections closed for want of a right PROXY header from a trusted address.";
    Gets, "cmd_get", "Keys asked for by get, gets, gat, gats and mg.";
    GetHits, "get_hits", "Keys found.";
    GetMisses, "get_misses", "Keys not found.";
    Sets, "cmd_set", "Storage commands: set, add, replace, append, prepend, cas, ms.";
    Touches, "cmd_touch", "Commands that set an expiry: touch, gat, gats.";
    Flushes, "cmd_flush", "flush_all commands.";
    Others, "cmd_other", "Commands of all other kinds.";
    AuthCmds, "auth_cmds", "Logins tried by clients.";
    AuthErrors, "auth_errors", "Logins that failed: a wrong password, or an unknown user.";
    ProtocolErrors, "protocol_errors_total", "Requests answered with an error without asking a backend.";
    NoreplyErrors, "noreply_errors_total", "Errors that a client did not hear of because it said noreply.";
    BytesRead, "bytes_read", "Bytes read from clients.";
    BytesWritten, "bytes_written", "Bytes written to clients.";
    BackendBytesRead, "backend_bytes_read", "Bytes read from backends.";
    BackendBytesWritten, "backend_bytes_written", "Bytes written to backends.";
    Batches, "batches_total", "Gathered gets sent to backends.";
    BatchKeys, "batch_keys_total", "Keys in gathered gets: divided by batches_total, how well requests are gathered.";
    BackendFailures, "backend_failures_total", "Backend connections that failed: refused, reset, silent or out of step.";
    Desyncs, "desyncs_total", "Backend connections closed because an answer fitted no request.";
    Retried, "retried_total", "Reads asked again at another backend because the first failed.";
    Suspects, "suspects_total", "Times that a backend owed an answer and was silent for the hedge delay.";
    Hedged, "hedged_total", "Reads asked at their other backend as well, because the first was silent.";
    HedgesWon, "hedges_won_total", "Of these, those that the other backend answered first.";
    Diverted, "diverted_total", "Writes sent to one backend only because the other is down.";
    Mended, "mended_total", "Copies deleted because the two backends of a key disagreed.";
    Timeouts, "timeouts_total", "Requests that were not answered within --request-ms.";
    DeadKeys, "dead_keys_total", "Requests for keys all of whose backends were down.";
    Remembered, "remembered_total", "Keys remembered for an absent backend.";
    RememberedOverflows, "remembered_overflows_total", "Times that an absent backend missed more keys than can be remembered.";
    Purged, "purged_total", "Remembered keys that a backend was rid of when it returned.";
    MemoryRefusals, "memory_refusals_total", "Requests refused because of --max-memory.";
}

/// The counters of one worker.
#[derive(Debug)]
pub struct Counters {
    counts: Vec<AtomicU64>,
    clients_open: AtomicU64,
    memory_len: AtomicU64,
    remembered: AtomicU64,
}

impl Default for Counters {
    fn default() -> Self {
        let counts = Counter::ALL.iter().map(|_| AtomicU64::new(0)).collect();
        Self {
            counts,
            clients_open: AtomicU64::new(0),
            memory_len: AtomicU64::new(0),
            remembered: AtomicU64::new(0),
        }
    }
}

impl Counters {
    /// Adds `count`. Only the owning worker calls this, so a load and a store do without a locked
    /// instruction.
    pub fn add(&self, counter: Counter, count: u64) {
        let cell = &self.counts[counter as usize];
        cell.store(
            cell.load(Ordering::Relaxed).wrapping_add(count),
            Ordering::Relaxed,
        );
    }

    /// The count so far.
    #[must_use]
    pub fn count(&self, counter: Counter) -> u64 {
        self.counts[counter as usize].load(Ordering::Relaxed)
    }

    /// Sets the number of open client connections.
    pub fn set_clients_open(&self, count: u64) {
        self.clients_open.store(count, Ordering::Relaxed);
    }

    /// Open client connections.
    #[must_use]
    pub fn clients_open(&self) -> u64 {
        self.clients_open.load(Ordering::Relaxed)
    }

    /// Sets the bytes of requests and answers held.
    pub fn set_memory_len(&self, len: u64) {
        self.memory_len.store(len, Ordering::Relaxed);
    }

    /// Sets the number of keys remembered for absent backends.
    pub fn set_remembered(&self, count: u64) {
        self.remembered.store(count, Ordering::Relaxed);
    }

    /// Keys remembered for absent backends.
    #[must_use]
    pub fn remembered(&self) -> u64 {
        self.remembered.load(Ordering::Relaxed)
    }

    /// Bytes of requests and answers held.
    #[must_use]
    pub fn memory_len(&self) -> u64 {
        self.memory_len.load(Ordering::Relaxed)
    }
}

/// The sum of `counter` over all workers.
#[must_use]
pub fn total(workers: &[Counters], counter: Counter) -> u64 {
    workers.iter().map(|counters| counters.count(counter)).sum()
}

/// What a backend has missed, and how far the copying to it has come. Everybody may read it.
#[derive(Debug, Default)]
pub struct Progress {
    items_done: AtomicU64,
    items_total: AtomicU64,
    items_skipped: AtomicU64,
    bytes_done: AtomicU64,
    /// In nanoseconds; 0 while nothing is copied.
    since: AtomicU64,
    remembered: AtomicU64,
}

impl Progress {
    /// A catch-up begins.
    pub fn begin(&self, now: Time) {
        self.items_done.store(0, Ordering::Relaxed);
        self.items_total.store(0, Ordering::Relaxed);
        self.items_skipped.store(0, Ordering::Relaxed);
        self.bytes_done.store(0, Ordering::Relaxed);
        self.since.store(now.0.max(1), Ordering::Relaxed);
    }

    /// It is over, or broken off. What was done stays to be read.
    pub fn end(&self) {
        self.since.store(0, Ordering::Relaxed);
    }

    /// One more item is copied, or needs no copy.
    pub fn item_done(&self, value_len: u64) {
        self.items_done.fetch_add(1, Ordering::Relaxed);
        self.bytes_done.fetch_add(value_len, Ordering::Relaxed);
    }

    /// That item could not be copied: too large for the backend, or about to expire.
    pub fn item_skipped(&self) {
        self.items_skipped.fetch_add(1, Ordering::Relaxed);
    }

    /// So many items will have to be looked at, as far as is known.
    pub fn set_items_total(&self, count: u64) {
        self.items_total.store(count, Ordering::Relaxed);
    }

    /// A worker remembers so many keys for the backend, and did remember so many before.
    pub fn set_remembered(&self, before: u64, count: u64) {
        self.remembered
            .fetch_add(count.wrapping_sub(before), Ordering::Relaxed);
    }

    /// Keys that all workers remember for the backend.
    #[must_use]
    pub fn remembered(&self) -> u64 {
        self.remembered.load(Ordering::Relaxed)
    }

    /// What there is to say at this moment.
    #[must_use]
    pub fn look(&self, now: Time) -> Copying {
        let since = self.since.load(Ordering::Relaxed);
        let items_done = self.items_done.load(Ordering::Relaxed);
        Copying {
            active: since != 0,
            items_done,
            items_total: self.items_total.load(Ordering::Relaxed).max(items_done),
            items_skipped: self.items_skipped.load(Ordering::Relaxed),
            bytes_done: self.bytes_done.load(Ordering::Relaxed),
            elapsed_ms: if since == 0 {
                0
            } else {
                now.ms_since(Time(since))
            },
        }
    }
}

/// A look at a [`Progress`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Copying {
    /// Whether items are being copied.
    pub active: bool,
    /// Items that are copied or need no copy.
    pub items_done: u64,
    /// Items to be looked at, as far as is known; never less than `items_done`.
    pub items_total: u64,
    /// Of these, items that could not be copied: too large for the backend, or about to expire.
    pub items_skipped: u64,
    /// Bytes of the values copied.
    pub bytes_done: u64,
    /// Since the beginning; 0 unless `active`.
    pub elapsed_ms: u64,
}

impl Copying {
    /// Whole percent of the items; 100 if there are none.
    #[must_use]
    pub const fn percent(&self) -> u64 {
        if self.items_total == 0 {
            return 100;
        }
        self.items_done.saturating_mul(100) / self.items_total
    }

    /// Items per second so far.
    #[must_use]
    pub const fn items_per_s(&self) -> u64 {
        if self.elapsed_ms == 0 {
            return 0;
        }
        self.items_done.saturating_mul(1_000) / self.elapsed_ms
    }

    /// Milliseconds until all is copied, at the rate so far; `None` before there is one.
    #[must_use]
    pub const fn remaining_ms(&self) -> Option<u64> {
        let left = self.items_total - self.items_done;
        if self.items_done == 0 || self.elapsed_ms == 0 {
            return None;
        }
        Some(left.saturating_mul(self.elapsed_ms) / self.items_done)
    }
}
