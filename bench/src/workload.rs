//! The table of workloads: what clients do, how many of them, and how fast.
//!
//! Adding one is a row here; help, reports and tests read the table.
//!
//! Not here: how a workload is carried out (`generator`).

use crate::wire::Command;

/// One way of using a memcached.
#[derive(Clone, Debug)]
pub(crate) struct Workload {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    /// The command of requests that are not sets.
    pub(crate) read: Command,
    /// Share of requests that are sets.
    pub(crate) set_percent: u8,
    pub(crate) keys_per_request: u32,
    pub(crate) value_len: usize,
    pub(crate) key_count: u32,
    pub(crate) connections: u32,
    /// Requests in flight per connection.
    pub(crate) depth: u32,
    pub(crate) pace: Pace,
    pub(crate) transport: Transport,
}

/// What requests go over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Plain,
    Tls,
}

/// When the next request is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    /// As soon as an answer has come (closed loop).
    Closed,
    /// At this many requests per second over all connections, answered or not (open loop).
    Rate(u64),
    /// Open loop at half of what the baseline reaches in a closed loop.
    HalfOfBaseline,
    /// Once, all connections at the same time; then they are held and nothing happens.
    Never,
}

impl Workload {
    /// The workload called `name`.
    pub(crate) fn find(name: &str) -> Option<&'static Self> {
        WORKLOADS.iter().find(|workload| workload.name == name)
    }

    pub(crate) fn names() -> Vec<&'static str> {
        WORKLOADS.iter().map(|workload| workload.name).collect()
    }

    /// Whether anything is read, so that it must be stored first.
    pub(crate) fn reads(&self) -> bool {
        self.set_percent < 100
    }

    /// The same without TLS, for what does not speak it.
    pub(crate) fn plain(&self) -> Self {
        Self {
            transport: Transport::Plain,
            ..self.clone()
        }
    }

    /// The same with classic gets, for a proxy that knows nothing else.
    pub(crate) fn classic(&self) -> Self {
        Self {
            read: Command::Get,
            ..self.clone()
        }
    }
}

/// The table as text for `--help`.
pub(crate) fn help() -> String {
    let rows = WORKLOADS
        .iter()
        .map(|row| format!("  {:<14} {}", row.name, row.about));
    let rows: Vec<String> = rows.collect();
    format!("Workloads:\n{}", rows.join("\n"))
}

/// Connections that are held and do nothing. Not in the table: it has no cost per request.
pub(crate) const IDLE: Workload = Workload {
    name: "idle",
    about: "connections that are held and do nothing",
    connections: 20_000,
    pace: Pace::Never,
    ..GET
};

/// What rows leave out: the smallest request, one at a time, by 50 clients.
const GET: Workload = Workload {
    name: "get",
    about: "get of 100 B, 50 connections, one request at a time",
    read: Command::Get,
    set_percent: 0,
    keys_per_request: 1,
    value_len: 100,
    key_count: 10_000,
    connections: 50,
    depth: 1,
    pace: Pace::Closed,
    transport: Transport::Plain,
};

/// Every workload. Key counts keep a workload's values below 100 MB.
pub(crate) const WORKLOADS: &[Workload] = &[
    GET,
    Workload {
        name: "get-pipelined",
        about: "get of 100 B, 50 connections, 16 requests in flight on each",
        depth: 16,
        ..GET
    },
    Workload {
        name: "mixed",
        about: "90 % get, 10 % set of 1 KiB, 100 connections",
        set_percent: 10,
        value_len: 1 << 10,
        connections: 100,
        ..GET
    },
    Workload {
        name: "multiget",
        about: "get of 50 keys of 100 B each, 20 connections",
        keys_per_request: 50,
        connections: 20,
        ..GET
    },
    Workload {
        name: "get-large",
        about: "get of 100 KiB, 10 connections",
        value_len: 100 << 10,
        key_count: 500,
        connections: 10,
        ..GET
    },
    Workload {
        name: "get-many",
        about: "get of 100 B, 2,000 connections, one request at a time",
        connections: 2_000,
        ..GET
    },
    Workload {
        name: "meta-get",
        about: "mg of 100 B with value and flags, 50 connections (classic get where mg is unknown)",
        read: Command::MetaGet,
        ..GET
    },
    Workload {
        name: "binary-get",
        about: "get of 100 B in the binary protocol, 50 connections (classic get where it is unknown)",
        read: Command::BinaryGet,
        ..GET
    },
    Workload {
        name: "binary-piped",
        about: "the same, 16 requests in flight on each connection",
        read: Command::BinaryGet,
        depth: 16,
        ..GET
    },
    Workload {
        name: "tls-get",
        about: "get of 100 B over TLS, 50 connections (plain where TLS is not spoken)",
        transport: Transport::Tls,
        ..GET
    },
    Workload {
        name: "tls-piped",
        about: "the same, 16 requests in flight on each connection",
        transport: Transport::Tls,
        depth: 16,
        ..GET
    },
    Workload {
        name: "tls-large",
        about: "get of 100 KiB over TLS, 10 connections (plain where TLS is not spoken)",
        transport: Transport::Tls,
        value_len: 100 << 10,
        key_count: 500,
        connections: 10,
        ..GET
    },
    Workload {
        name: "set",
        about: "set of 100 B, 50 connections, one request at a time",
        set_percent: 100,
        ..GET
    },
    Workload {
        name: "set-large",
        about: "set of 900 KiB, 4 connections",
        set_percent: 100,
        value_len: 900 << 10,
        key_count: 64,
        connections: 4,
        ..GET
    },
    Workload {
        name: "rate",
        about: "get of 100 B at half of the baseline's throughput (open loop, 50 connections)",
        pace: Pace::HalfOfBaseline,
        ..GET
    },
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::KEYS_PER_REQUEST_MAX;

    #[test]
    fn rows_are_sound() {
        let mut names = Workload::names();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), WORKLOADS.len(), "two workloads with one name");
        for row in WORKLOADS {
            let name = row.name;
            assert_eq!(Workload::find(name).map(|found| found.name), Some(name));
            assert!(row.set_percent <= 100, "{name}");
            assert!(
                row.keys_per_request <= KEYS_PER_REQUEST_MAX.min(row.key_count),
                "{name}"
            );
            assert!(row.connections > 0 && row.depth > 0, "{name}");
            let stored = row.value_len * usize::try_from(row.key_count).unwrap();
            assert!(stored <= 100_000_000, "{name} stores {stored} bytes");
            assert!(
                row.value_len < 1 << 20,
                "{name}: above memcached's largest item"
            );
            assert!(help().contains(name) && help().contains(row.about));
        }
        assert!(Workload::find("nonsense").is_none());
    }

    #[test]
    fn classic_twin_differs_only_in_the_command() {
        let meta = Workload::find("meta-get").unwrap();
        assert_eq!(meta.classic().read, Command::Get);
        assert_eq!(meta.classic().connections, meta.connections);
        assert!(!Workload::find("set-large").unwrap().reads());
    }
}
