//! The end of a run: does it become calm, and was nothing hidden?
//!
//! Not here: what may be read (`check`).

use magent_core::BackendId;
use magent_core::stats::Counter;
use magent_node::Crawler;

use crate::check::{Reader, Violation, violation};
use crate::client::{Client, micros};
use crate::faults::PlannedFault;
use crate::network::End;
use crate::shapes::Shape;
use crate::workload::{Key, KeyKind};
use crate::world::{Event, World};

impl World {
    // -- Calm --

    /// From the end of the busy time on: is everything as it should be?
    pub(crate) fn on_look(&mut self) {
        if !self.is_calm {
            self.is_calm = true;
            self.note_state("world", "calm");
            for index in 0..self.faults.len() {
                let PlannedFault { backend, fault } = self.faults[index];
                self.mend(backend, fault);
            }
            for slot in 0..self.slots.len() {
                self.revive_proxy(slot);
            }
            for client in &mut self.clients {
                client.requests_left = 0;
                client.slow = false;
            }
            self.calm_clients();
        }
        let quiet_us = 3 * (self.options.lag_us_max + self.options.latency_us_max) + 10_000;
        let wrong = match (self.unrest(), self.quiet_since) {
            (None, Some(since)) if micros(self.now) >= micros(since) + quiet_us => {
                self.note_state("world", "everything is up and answered");
                self.done = true;
                return;
            }
            (None, since) => {
                // What is under way may still change it.
                self.quiet_since = since.or(Some(self.now));
                self.after_us(2_000, Event::Look);
                return;
            }
            (Some(wrong), _) => wrong,
        };
        self.quiet_since = None;
        if micros(self.now) / 1_000 > self.options.busy_ms + self.calm_ms_max() {
            self.fail(violation("not live", wrong));
            return;
        }
        // The longer it takes, the less often.
        let waited_us = micros(self.now).saturating_sub(self.options.busy_ms * 1_000);
        self.after_us(2_000 + waited_us / 20, Event::Look);
    }

    /// The longest that it may take until all is well: requests expire, probes find everyone, Views settle.
    fn calm_ms_max(&self) -> u64 {
        // The key that tells other proxies of a walk, if the walk was broken off.
        const LOCK_MS: u64 = 11_000;
        // Catch-up, BUSY crawlers and all.
        const HEAL_MS: u64 = 5_000;
        let limits = &self.options.limits;
        let settle_ms = 4 * self.options.settle_ms;
        let locks = 2 * self.options.proxies as u64;
        let walk_ms = HEAL_MS + locks * LOCK_MS + settle_ms;
        limits.request_ms + 4 * limits.fail_ms + 4 * limits.probe_delay_ms_max + 500 + walk_ms
    }

    /// What is not yet as it should be.
    pub(crate) fn unrest(&self) -> Option<String> {
        if let Some(index) = self.backends.iter().position(|backend| !backend.is_well()) {
            return Some(format!("backend {index} was not mended"));
        }
        if let Some(client) = self.waiting_client() {
            return Some(format!(
                "client {client} waits: {}",
                self.oldest_unanswered(client)
            ));
        }
        for index in self.slots.iter().flatten().copied() {
            let proxy = &self.proxies[index];
            if proxy.probes.iter().any(Option::is_some) {
                return Some(format!("proxy {index}: asks who is there"));
            }
            if !proxy.is_healthy(self.options.crawler == Crawler::Enabled) {
                return Some(format!("proxy {index}: not every backend is up"));
            }
            for (worker, (this, counters)) in
                proxy.workers.iter().zip(proxy.counters.iter()).enumerate()
            {
                let connected = |slot: &Option<_>| matches!(slot, Some((_, Some(_))));
                if self.options.backups > 0 && !this.backends.iter().all(connected) {
                    return Some(format!("worker {worker} is not connected"));
                }
                if !this.engine.is_drained() {
                    return Some(format!("worker {worker} still has clients or requests"));
                }
                if counters.memory_len() != 0 || counters.clients_open() != 0 {
                    return Some(format!(
                        "worker {worker} holds {} bytes and {} clients although nobody is there",
                        counters.memory_len(),
                        counters.clients_open()
                    ));
                }
            }
        }
        None
    }

    // -- Audit --

    /// Every key is read once more through every proxy.
    pub(crate) fn audit(&mut self) {
        for slot in 0..self.slots.len() {
            if let Some(proxy) = self.slots[slot] {
                self.audit_through(proxy);
            }
        }
        let desyncs = self.counter(Counter::Desyncs);
        if desyncs > 0 {
            let text =
                format!("{desyncs} connections, although every backend kept to the protocol");
            self.fail(violation("out of step", text));
        }
    }

    fn audit_through(&mut self, proxy: usize) {
        if self.history.keys.is_empty() {
            return;
        }
        let index = self.clients.len();
        self.clients
            .push(Client::new(self.history.keys.len(), 0, false, false));
        self.connect_client_to(index, proxy, None);
        let mut bytes = Vec::new();
        for key in 0..self.history.keys.len() {
            let start = bytes.len();
            let op = self.make(index, &mut bytes, |maker| maker.make_audit(key));
            self.invoke(index, op, &bytes[start..]);
        }
        if let Some(link) = self.clients[index].link {
            self.send(link, End::Proxy, &bytes);
        }
        let deadline = self.now.after_ms(2 * self.options.limits.request_ms);
        self.step_until(|world| world.clients[index].expected.len() == 0 || world.now > deadline);
        if self.clients[index].expected.len() > 0 {
            self.fail(violation("unanswered", "the last reads"));
        }
    }

    /// No backend holds what must not be read any more, or another's key.
    pub(crate) fn check_copies(&mut self) -> Result<(), Violation> {
        for index in 0..self.backends.len() {
            let now = magent_node::Time(self.now.0);
            let items: Vec<(Vec<u8>, Vec<u8>, u32)> = self.backends[index]
                .store
                .items(now)
                .map(|item| (item.key.to_vec(), item.value.to_vec(), item.client_flags))
                .collect();
            for (name, value, client_flags) in items {
                self.tally.copies += 1;
                let shown = String::from_utf8_lossy(&name).into_owned();
                if name == WALK_LOCK || name == self.mark_key {
                    continue;
                }
                let Some(key) = self.history.keys.iter().position(|key| key.bytes == name) else {
                    return Err(violation(
                        "foreign key",
                        format!("{shown} on backend {index}"),
                    ));
                };
                let route = self.placement.route(&name);
                let id = BackendId(u16::try_from(index).expect("few backends"));
                if route.primary != id && route.backup != Some(id) {
                    return Err(violation(
                        "misplaced",
                        format!("{shown} on backend {index}"),
                    ));
                }
                let reader = Reader {
                    id: u32::MAX,
                    connection: u32::MAX,
                    from: self.now,
                    until: self.now,
                };
                let checked = self
                    .history
                    .check_found(reader, key, &value, Some(client_flags))
                    .map_err(|found| {
                        violation(found.check, format!("backend {index}: {}", found.text))
                    });
                self.unless_split(reader, key, checked)?;
            }
        }
        Ok(())
    }

    /// What can be read at a primary is on its backup, too, and the same.
    pub(crate) fn check_in_step(&mut self) -> Result<(), Violation> {
        let may_differ = self.options.evicting
            || self.options.shape == Shape::Silences
            || self.options.crawler != Crawler::Enabled;
        if may_differ || self.emptied.contains(&true) {
            return Ok(());
        }
        for key in 0..self.history.keys.len() {
            self.check_pair(key)?;
        }
        Ok(())
    }

    fn check_pair(&mut self, key: usize) -> Result<(), Violation> {
        let Key { bytes, kind, .. } = &self.history.keys[key];
        let route = self.placement.route(bytes);
        // Only the one that leads knows of those who win.
        let (Some(backup), true) = (route.backup, *kind != KeyKind::Vivify) else {
            return Ok(());
        };
        let now = magent_node::Time(self.now.0);
        let peek = |backend: BackendId| self.backends[backend.index()].store.peek(bytes, now);
        let Some(item) = peek(route.primary) else {
            return Ok(());
        };
        if item.ttl_s.is_some_and(|ttl_s| ttl_s <= 2) {
            return Ok(());
        }
        let name = String::from_utf8_lossy(bytes).into_owned();
        let copy = peek(backup);
        if copy.is_none() && *kind == KeyKind::Expiring {
            // One that had a second left was not copied, and then a client gave it more.
            return Ok(());
        }
        let only_ends = copy
            .is_some_and(|copy| (copy.value, copy.client_flags) == (item.value, item.client_flags));
        let wrong = match copy {
            None => "is not there".to_owned(),
            Some(copy) if copy.value != item.value => {
                format!("is {:?}, not {:?}", shown(copy.value), shown(item.value))
            }
            Some(copy) if copy.client_flags != item.client_flags => "has other flags".to_owned(),
            Some(copy) => match (item.ttl_s, copy.ttl_s) {
                (None, None) => String::new(),
                (Some(ours), Some(theirs)) if ours.abs_diff(theirs) <= 2 => String::new(),
                (ours, theirs) => format!("lives for {theirs:?} s, not {ours:?}"),
            },
        };
        if wrong.is_empty() {
            self.tally.pairs += 1;
            return Ok(());
        }
        if self.torn[key] {
            self.tally.torn += 1;
            return Ok(());
        }
        let unordered = if only_ends {
            self.history.has_unordered_ends(key)
        } else {
            self.history.has_unordered_writes(key)
        };
        if unordered {
            self.tally.overlapped += 1;
            return Ok(());
        }
        let text = format!("{name}: the copy on backend {backup} {wrong}");
        let reader = Reader {
            id: u32::MAX,
            connection: u32::MAX,
            from: self.now,
            until: self.now,
        };
        self.unless_split(reader, key, Err(violation("copies differ", text)))
    }
}

fn shown(value: &[u8]) -> String {
    let cut = &value[..value.len().min(30)];
    cut.escape_ascii().to_string()
}

/// The key by which proxies tell each other of a walk.
const WALK_LOCK: &[u8] = b"magent.walk";
