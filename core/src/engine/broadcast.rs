//! Commands that concern every backend: `flush_all` and `stats`; and `version`.
//!
//! # Invariants
//!
//! - `stats` is answered within `stats_ms`; who has not answered by then is named, not waited for.
//! - A flush is acknowledged only when no worker reads a backend that has missed it.
//! - A flush reaches a backend that catches up after those that it is copied from: else what was read there
//!   before could be stored here behind it.
//! - A delayed flush that a backend misses, or forgets in a restart, is told it again when it returns.
//! - Items and bytes are summed over primaries: backups hold the same items a second time.
//!
//! Not here: what is counted (`stats`).

use std::collections::BTreeMap;
use std::io::Write as _;

use super::backends::Leg;
use super::exchange::{ExchangeId, Form, Kind, Quiet, Verdict};
use super::{ClientId, Engine};
use crate::config::Flush;
use crate::keeper::Failure;
use crate::placement::{Standing, Version};
use crate::proto::response::Line;
use crate::stats::{Counter, total};
use crate::{BackendId, Time};

/// A command under way to all backends.
#[derive(Debug)]
pub(crate) struct Broadcast {
    what: What,
    line: Vec<u8>,
    /// Who has not answered.
    waiting: Vec<BackendId>,
    /// Who is asked when all those have answered: the last one first.
    later: Vec<BackendId>,
    /// Who failed, refused, or could not be asked.
    missing: Vec<BackendId>,
    /// Whether anyone refused.
    refused: bool,
    /// When it is answered without those that are still waited for.
    pub due: Option<Time>,
    /// By backend: what it said.
    said: BTreeMap<BackendId, BTreeMap<Vec<u8>, Vec<u8>>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Flush {
        /// When it takes effect, if that is later.
        at: Option<Time>,
    },
    Stats(Group),
}

/// The groups of statistics that are asked of backends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Group {
    General,
    Settings,
    Items,
    Slabs,
    Reset,
}

/// How the values of several backends become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Merge {
    Sum,
    Max,
    Min,
    First,
    /// The proxy says it about itself, or says nothing.
    Own,
}

/// Statistics that are not sums. Everything else that is a number is summed.
const MERGES: &[(&str, Merge)] = &[
    ("pid", Merge::Own),
    ("auth_cmds", Merge::Own),
    ("auth_errors", Merge::Own),
    ("uptime", Merge::Own),
    ("time", Merge::Own),
    ("version", Merge::Own),
    ("libevent", Merge::Own),
    ("pointer_size", Merge::Own),
    ("rusage_user", Merge::Own),
    ("rusage_system", Merge::Own),
    ("threads", Merge::Own),
    ("max_connections", Merge::Own),
    ("curr_connections", Merge::Own),
    ("total_connections", Merge::Own),
    ("rejected_connections", Merge::Own),
    ("connection_structures", Merge::Own),
    ("bytes_read", Merge::Own),
    ("bytes_written", Merge::Own),
    ("accepting_conns", Merge::Min),
    ("hash_power_level", Merge::Max),
    ("hash_is_expanding", Merge::Max),
    ("slab_reassign_running", Merge::Max),
    ("lru_crawler_running", Merge::Max),
    ("active_slabs", Merge::Max),
    // stats settings
    ("item_size_max", Merge::Min),
    ("maxbytes", Merge::Sum),
    // stats items and slabs, behind the class
    ("age", Merge::Max),
    ("age_hot", Merge::Max),
    ("age_warm", Merge::Max),
    ("chunk_size", Merge::First),
    ("chunks_per_page", Merge::First),
];

/// Groups that only make sense for one memcached.
const OF_ONE_BACKEND: &[&[u8]] = &[
    b"cachedump",
    b"conns",
    b"detail",
    b"sizes",
    b"extstore",
    b"proxy",
];

impl Engine {
    pub(super) fn version_reply(&self) -> Vec<u8> {
        // The lowest, so that a client never uses what one of the backends lacks. Before any has told its
        // version nothing newer than the oldest supported one may be promised.
        const OLDEST_SUPPORTED: Version = Version {
            major: 1,
            minor: 4,
            patch: 0,
        };
        let lowest = self
            .view
            .backends
            .iter()
            .filter_map(|backend| backend.version)
            .min();
        format!("VERSION {}\r\n", lowest.unwrap_or(OLDEST_SUPPORTED)).into_bytes()
    }

    pub(super) fn start_flush(&mut self, now: Time, id: ClientId, delay: &[u8], noreply: bool) {
        if self.flush == Flush::Refused {
            self.answer_locally(id, b"CLIENT_ERROR flush_all not allowed\r\n", noreply);
            return;
        }
        self.count(Counter::Flushes);
        // memcached has one time in mind: a later flush takes the place of one that has not come.
        let at = self.flush_time(now, delay);
        self.delayed_flush = at;
        let mut line = b"flush_all".to_vec();
        if !delay.is_empty() {
            line.push(b' ');
            line.extend_from_slice(delay);
        }
        line.extend_from_slice(b"\r\n");
        let what = What::Flush { at };
        self.start_broadcast(now, id, what, &line, Form::Line, noreply);
    }

    pub(super) fn start_stats(&mut self, now: Time, id: ClientId, args: &[u8]) {
        let group = match args {
            b"" => Group::General,
            b"settings" => Group::Settings,
            b"items" => Group::Items,
            b"slabs" => Group::Slabs,
            b"reset" => Group::Reset,
            b"magent" => {
                let reply = self.own_stats(now);
                self.answer_locally(id, &reply, false);
                return;
            }
            _ if !OF_ONE_BACKEND.iter().any(|group| args.starts_with(group)) => {
                self.answer_locally(id, b"ERROR\r\n", false);
                return;
            }
            _ => {
                let reply = b"CLIENT_ERROR the proxy knows: stats, stats magent, items, slabs, settings, reset; \
                    ask a backend for others\r\n";
                self.answer_locally(id, reply, false);
                return;
            }
        };
        self.count(Counter::Others);
        let mut line = b"stats".to_vec();
        if !args.is_empty() {
            line.push(b' ');
            line.extend_from_slice(args);
        }
        line.extend_from_slice(b"\r\n");
        self.start_broadcast(now, id, What::Stats(group), &line, Form::Stats, false);
    }

    fn start_broadcast(
        &mut self,
        now: Time,
        id: ClientId,
        what: What,
        line: &[u8],
        form: Form,
        noreply: bool,
    ) {
        let exchange = self.admit(id, Kind::Broadcast);
        self.exchanges[exchange].quiet = if noreply { Quiet::Noreply } else { Quiet::No };
        self.exchanges[exchange].arrived = now;
        self.exchanges.link(exchange);
        let backends = (0..self.backends.len()).map(super::backends::backend_id);
        let (missing, mut waiting): (Vec<_>, Vec<_>) =
            backends.partition(|&backend| self.standing(backend) == Standing::Absent);
        let mut later = Vec::new();
        if matches!(what, What::Flush { .. }) {
            waiting.sort_by_key(|&backend| std::cmp::Reverse(self.copied_from(backend)));
            let first = |&backend: &BackendId| self.standing(backend) == Standing::InStep;
            later = waiting.extract_if(.., |backend| !first(backend)).collect();
        }
        let due = match what {
            What::Flush { .. } => None,
            What::Stats(_) => Some(now.after_ms(self.limits.stats_ms)),
        };
        self.broadcasts.push((
            exchange,
            Broadcast {
                what,
                line: line.to_vec(),
                waiting: waiting.clone(),
                later,
                missing: missing.clone(),
                refused: false,
                due,
                said: BTreeMap::new(),
            },
        ));
        self.exchanges.retain(exchange);
        if matches!(what, What::Flush { .. }) {
            for backend in missing {
                self.miss_this_flush(exchange, backend);
            }
        }
        for backend in waiting {
            self.send_to(
                now,
                backend,
                exchange,
                Leg::Broadcast,
                form,
                Some((line, false)),
            );
        }
        self.go_on_broadcasting(now, exchange);
    }

    /// Asks the next backend, if all that were asked have answered.
    fn go_on_broadcasting(&mut self, now: Time, exchange: ExchangeId) {
        loop {
            let Some(broadcast) = self.broadcast_mut(exchange) else {
                return;
            };
            if !broadcast.waiting.is_empty() {
                return;
            }
            let Some(backend) = broadcast.later.pop() else {
                self.finish_broadcast_if_over(exchange);
                return;
            };
            if self.standing(backend) == Standing::Absent {
                self.miss_this_flush(exchange, backend);
                if let Some(broadcast) = self.broadcast_mut(exchange) {
                    broadcast.missing.push(backend);
                }
                continue;
            }
            let Some(broadcast) = self.broadcast_mut(exchange) else {
                return;
            };
            broadcast.waiting.push(backend);
            let line = std::mem::take(&mut broadcast.line);
            let other = Some((&line[..], false));
            self.send_to(now, backend, exchange, Leg::Broadcast, Form::Line, other);
            if let Some(broadcast) = self.broadcast_mut(exchange) {
                broadcast.line = line;
            }
        }
    }

    /// Its place among those that are copied from: one that is in step comes first, then who returned first.
    fn copied_from(&self, backend: BackendId) -> u64 {
        match self.standing(backend) {
            Standing::InStep => 0,
            Standing::Junior(seniority) => seniority,
            Standing::Following | Standing::Absent => u64::MAX,
        }
    }

    /// When a flush takes effect; `None`: at once.
    fn flush_time(&self, now: Time, delay: &[u8]) -> Option<Time> {
        // memcached: REALTIME_MAXDELTA, 30 days. What is more is a date.
        const RELATIVE_MAX_S: i64 = 30 * 24 * 3_600;
        let delay_s: i64 = std::str::from_utf8(delay).ok()?.parse().ok()?;
        let delay_s = if delay_s > RELATIVE_MAX_S {
            let started = i64::try_from(self.process.unix_start_s).ok()?;
            let uptime = i64::try_from(now.ms_since(self.started) / 1_000).ok()?;
            delay_s - started - uptime
        } else {
            delay_s
        };
        let delay_s = u64::try_from(delay_s).ok().filter(|&delay_s| delay_s > 0)?;
        Some(now.after_ms(delay_s * 1_000))
    }

    /// An absent backend is told of a delayed flush when it returns; any other is made up for then.
    fn miss_this_flush(&mut self, exchange: ExchangeId, backend: BackendId) {
        let is_delayed =
            |broadcast: &mut Broadcast| matches!(broadcast.what, What::Flush { at: Some(_) });
        if !self.broadcast_mut(exchange).is_some_and(is_delayed) {
            self.miss_flush(backend);
        }
    }

    fn broadcast_mut(&mut self, exchange: ExchangeId) -> Option<&mut Broadcast> {
        self.broadcasts
            .iter_mut()
            .find(|(id, _)| *id == exchange)
            .map(|(_, broadcast)| broadcast)
    }

    /// A backend failed before it answered.
    pub(super) fn on_broadcast_lost(
        &mut self,
        now: Time,
        exchange: ExchangeId,
        backend: BackendId,
    ) {
        let Some(broadcast) = self.broadcast_mut(exchange) else {
            return;
        };
        broadcast.waiting.retain(|&id| id != backend);
        broadcast.missing.push(backend);
        broadcast.said.remove(&backend);
        if matches!(broadcast.what, What::Flush { .. }) {
            self.miss_this_flush(exchange, backend);
        }
        self.go_on_broadcasting(now, exchange);
    }

    /// A backend answered with one line.
    pub(super) fn on_broadcast_verdict(
        &mut self,
        now: Time,
        exchange: ExchangeId,
        backend: BackendId,
        verdict: Verdict,
    ) {
        let Some(broadcast) = self.broadcast_mut(exchange) else {
            return;
        };
        broadcast.waiting.retain(|&id| id != backend);
        if verdict != Verdict::Done {
            broadcast.refused = true;
            broadcast.missing.push(backend);
        }
        self.go_on_broadcasting(now, exchange);
    }

    /// A line of statistics. Yields whether it was the last.
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "a line of any other kind is out of step"
    )]
    pub(super) fn on_stats_line(
        &mut self,
        now: Time,
        exchange: ExchangeId,
        backend: BackendId,
        line: &Line<'_>,
        _raw: &[u8],
    ) -> Result<bool, Failure> {
        match *line {
            Line::Stat { name, value } => {
                if let Some(broadcast) = self.broadcast_mut(exchange) {
                    let said = broadcast.said.entry(backend).or_default();
                    said.insert(name.to_vec(), value.to_vec());
                }
                Ok(false)
            }
            Line::End | Line::Reset => {
                self.on_broadcast_verdict(now, exchange, backend, Verdict::Done);
                Ok(true)
            }
            Line::Error | Line::ClientError(_) | Line::ServerError(_) => {
                self.on_broadcast_verdict(now, exchange, backend, Verdict::Refused);
                Ok(true)
            }
            _ => Err(Failure::Desync),
        }
    }

    pub(super) fn expire_broadcasts(&mut self, now: Time) {
        let due =
            |(_, broadcast): &(ExchangeId, Broadcast)| broadcast.due.is_some_and(|due| due <= now);
        while let Some(position) = self.broadcasts.iter().position(due) {
            let (exchange, broadcast) = &mut self.broadcasts[position];
            let exchange = *exchange;
            let late = std::mem::take(&mut broadcast.waiting);
            for backend in late {
                broadcast.said.remove(&backend);
                broadcast.missing.push(backend);
            }
            self.finish_broadcast_if_over(exchange);
        }
    }

    /// Broadcasts that waited for an epoch look again.
    pub(super) fn finish_held_broadcasts(&mut self) {
        let under_way: Vec<ExchangeId> = self.broadcasts.iter().map(|(id, _)| *id).collect();
        for exchange in under_way {
            self.finish_broadcast_if_over(exchange);
        }
    }

    fn finish_broadcast_if_over(&mut self, exchange: ExchangeId) {
        let over = |(id, broadcast): &(ExchangeId, Broadcast)| {
            *id == exchange
                && broadcast.waiting.is_empty()
                && broadcast.later.is_empty()
                && !self.is_held(exchange, broadcast)
        };
        let Some(position) = self.broadcasts.iter().position(over) else {
            return;
        };
        let (_, broadcast) = self.broadcasts.swap_remove(position);
        if !self.exchanges[exchange].done {
            let reply = match broadcast.what {
                What::Flush { .. } => self.flush_reply(&broadcast),
                What::Stats(Group::Reset) => b"RESET\r\n".to_vec(),
                What::Stats(group) => self.stats_reply(group, &broadcast),
            };
            self.exchanges[exchange].reply.extend_from_slice(&reply);
            self.complete(exchange);
        }
        self.release(exchange);
    }

    /// Whether another worker may still read a backend that has missed the flush.
    fn is_held(&self, exchange: ExchangeId, broadcast: &Broadcast) -> bool {
        let settled = |&backend: &BackendId| self.absence_is_settled(backend);
        matches!(broadcast.what, What::Flush { .. })
            && self.has_backups
            && !self.exchanges[exchange].done
            && !broadcast.missing.iter().all(settled)
    }

    fn names_of(&self, backends: &[BackendId]) -> String {
        let names: Vec<&str> = backends
            .iter()
            .map(|backend| self.names[backend.index()].as_str())
            .collect();
        names.join(",")
    }

    fn flush_reply(&self, broadcast: &Broadcast) -> Vec<u8> {
        // One that is absent is flushed when it returns, if its items have a second copy.
        let made_up_for = self.has_backups && !broadcast.refused;
        if broadcast.missing.is_empty() || made_up_for {
            return b"OK\r\n".to_vec();
        }
        let names = self.names_of(&broadcast.missing);
        format!("SERVER_ERROR flushed, but not on {names}\r\n").into_bytes()
    }

    fn stats_reply(&self, group: Group, broadcast: &Broadcast) -> Vec<u8> {
        let mut out = Vec::new();
        if group == Group::General {
            self.own_general_stats(&mut out);
        }
        // Backups count only where no primary has said anything: they hold the same items.
        let primaries: Vec<_> = broadcast
            .said
            .iter()
            .filter(|(backend, _)| self.is_primary[backend.index()])
            .map(|(_, said)| said)
            .collect();
        let mut merged: BTreeMap<&[u8], Vec<u8>> = BTreeMap::new();
        for said in primaries {
            for (name, value) in said {
                let rule = merge_of(name);
                if rule == Merge::Own && group == Group::General {
                    continue;
                }
                match merged.get_mut(name.as_slice()) {
                    Some(sum) => merge(rule, sum, value),
                    None => {
                        merged.insert(name, value.clone());
                    }
                }
            }
        }
        for (name, value) in merged {
            push_stat(&mut out, name, &value);
        }
        if !broadcast.missing.is_empty() {
            let names = self.names_of(&broadcast.missing);
            push_stat(&mut out, b"magent_absent", names.as_bytes());
        }
        out.extend_from_slice(b"END\r\n");
        out
    }

    /// What memcached's monitors expect about the process they talk to.
    fn own_general_stats(&self, out: &mut Vec<u8>) {
        let all = &self.all_counters;
        let open: u64 = all.iter().map(crate::stats::Counters::clients_open).sum();
        let uptime = self.turn_at.ms_since(self.started) / 1_000;
        let version = self.version_reply();
        let version = &version[b"VERSION ".len()..version.len() - 2];
        let numbers = [
            ("pid", u64::from(self.process.pid)),
            ("uptime", uptime),
            ("time", self.process.unix_start_s + uptime),
        ];
        for (name, number) in numbers {
            push_number(out, name, number);
        }
        push_stat(out, b"version", version);
        let numbers = [
            ("pointer_size", u64::from(usize::BITS)),
            ("max_connections", self.limits.clients_max),
            ("curr_connections", open),
            ("total_connections", total(all, Counter::ClientsOpened)),
            ("rejected_connections", total(all, Counter::ClientsRefused)),
            ("auth_cmds", total(all, Counter::AuthCmds)),
            ("auth_errors", total(all, Counter::AuthErrors)),
            ("bytes_read", total(all, Counter::BytesRead)),
            ("bytes_written", total(all, Counter::BytesWritten)),
            ("threads", all.len() as u64),
        ];
        for (name, number) in numbers {
            push_number(out, name, number);
        }
    }

    /// `stats magent`.
    fn own_stats(&self, now: Time) -> Vec<u8> {
        let mut out = Vec::new();
        let all = &self.all_counters;
        push_stat(
            &mut out,
            b"magent_version",
            env!("CARGO_PKG_VERSION").as_bytes(),
        );
        push_number(&mut out, "uptime", now.ms_since(self.started) / 1_000);
        push_number(&mut out, "workers", all.len() as u64);
        push_number(&mut out, "epoch", self.view.epoch);
        let open: u64 = all.iter().map(crate::stats::Counters::clients_open).sum();
        push_number(&mut out, "clients_open", open);
        let remembered: u64 = all.iter().map(crate::stats::Counters::remembered).sum();
        push_number(&mut out, "remembered_keys", remembered);
        let memory: u64 = all.iter().map(crate::stats::Counters::memory_len).sum();
        push_number(&mut out, "memory_len", memory);
        for &counter in Counter::ALL {
            push_number(&mut out, counter.name(), total(all, counter));
        }
        for id in (0..self.backends.len()).map(super::backends::backend_id) {
            self.backend_stats(now, id, &mut out);
        }
        out.extend_from_slice(b"END\r\n");
        out
    }

    fn backend_stats(&self, now: Time, id: BackendId, out: &mut Vec<u8>) {
        let view = &self.view.backends[id.index()];
        let prefix = format!("backend:{}", self.names[id.index()]);
        let text = |out: &mut Vec<u8>, what: &str, value: &str| {
            push_stat(out, format!("{prefix}:{what}").as_bytes(), value.as_bytes());
        };
        let number = |out: &mut Vec<u8>, what: &str, number: u64| {
            push_number(out, &format!("{prefix}:{what}"), number);
        };
        text(out, "state", view.phase.name());
        let phase_ms = now.ms_since(self.backends[id.index()].phase_since);
        number(out, "state_seconds", phase_ms / 1_000);
        number(out, "failures", view.incarnation.into());
        if let Some(version) = view.version {
            text(out, "version", &version.to_string());
        }
        let progress = &self.progress[id.index()];
        number(out, "remembered_keys", progress.remembered());
        let copying = progress.look(now);
        if !copying.active {
            return;
        }
        let numbers = [
            ("items", copying.items_done),
            ("items_skipped", copying.items_skipped),
            ("items_total", copying.items_total),
            ("bytes", copying.bytes_done),
            ("percent", copying.percent()),
            ("items_per_second", copying.items_per_s()),
        ];
        for (name, count) in numbers {
            number(out, &format!("catch_up_{name}"), count);
        }
        if let Some(ms) = copying.remaining_ms() {
            number(out, "catch_up_seconds_left", ms.div_ceil(1_000));
        }
    }
}

fn push_stat(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    for part in [b"STAT ", name, b" ", value, b"\r\n"] {
        out.extend_from_slice(part);
    }
}

fn push_number(out: &mut Vec<u8>, name: &str, number: u64) {
    write!(out, "STAT {name} {number}\r\n").expect("writing to a Vec cannot fail");
}

fn merge_of(name: &[u8]) -> Merge {
    // `items:3:age` and `3:chunk_size` go by what stands behind the class.
    let last = name.rsplit(|&byte| byte == b':').next().unwrap_or(name);
    MERGES
        .iter()
        .find(|(known, _)| known.as_bytes() == last)
        .map_or(Merge::Sum, |row| row.1)
}

fn merge(rule: Merge, sum: &mut Vec<u8>, value: &[u8]) {
    let number = |text: &[u8]| std::str::from_utf8(text).ok()?.parse::<u64>().ok();
    let (Some(left), Some(right)) = (number(sum), number(value)) else {
        return;
    };
    let result = match rule {
        Merge::Sum => left.saturating_add(right),
        Merge::Max => left.max(right),
        Merge::Min => left.min(right),
        Merge::First | Merge::Own => return,
    };
    *sum = result.to_string().into_bytes();
}
