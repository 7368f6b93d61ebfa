//! What is counted: the one table of counters.
//!
//! Each worker has a [`Counters`] of its own and is the only one that writes it; whoever wants a sum
//! reads all of them. Reads are relaxed: a sum may be a few requests old.
//!
//! Not here: what the counters are called in Prometheus or on the page (derived from [`Counter::ALL`]).

use std::sync::atomic::{AtomicU64, Ordering};

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
    Gets, "cmd_get", "Keys asked for by get, gets, gat, gats and mg.";
    GetHits, "get_hits", "Keys found.";
    GetMisses, "get_misses", "Keys not found.";
    Sets, "cmd_set", "Storage commands: set, add, replace, append, prepend, cas, ms.";
    Touches, "cmd_touch", "Commands that set an expiry: touch, gat, gats.";
    Flushes, "cmd_flush", "flush_all commands.";
    Others, "cmd_other", "Commands of all other kinds.";
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
    Diverted, "diverted_total", "Writes sent to one backend only because the other is down.";
    Mended, "mended_total", "Copies deleted because the two backends of a key disagreed.";
    Timeouts, "timeouts_total", "Requests that were not answered within --request-ms.";
    DeadKeys, "dead_keys_total", "Requests for keys all of whose backends were down.";
    Remembered, "remembered_total", "Keys remembered for an absent backend.";
    RememberedOverflows, "remembered_overflows_total", "Times that an absent backend missed more keys than can be remembered.";
    Purged, "purged_total", "Remembered keys deleted on a backend that returned.";
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
