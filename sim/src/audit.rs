//! The end of a run: does it become calm, and was nothing hidden?
//!
//! Not here: what may be read (`check`).

use magent_core::BackendId;
use magent_core::stats::Counter;

use crate::check::{Reader, Violation, violation};
use crate::client::{Client, micros};
use crate::faults::PlannedFault;
use crate::network::End;
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
            for client in &mut self.clients {
                client.requests_left = 0;
                client.slow = false;
            }
            self.calm_clients();
        }
        let Some(wrong) = self.unrest() else {
            self.note_state("world", "everything is up and answered");
            self.done = true;
            return;
        };
        if micros(self.now) / 1_000 > self.options.busy_ms + self.calm_ms_max() {
            self.fail(violation("not live", wrong));
            return;
        }
        const LOOK_US: u64 = 2_000;
        self.after_us(LOOK_US, Event::Look);
    }

    /// The longest that it may take until all is well: requests expire, probes find everyone, Views settle.
    const fn calm_ms_max(&self) -> u64 {
        let limits = &self.options.limits;
        limits.request_ms + 4 * limits.fail_ms + 4 * limits.probe_delay_ms_max + 500
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
        for (index, proxy) in self.proxies.iter().enumerate() {
            if !proxy.is_healthy() {
                return Some(format!("proxy {index}: not every backend is up"));
            }
            for (worker, (this, counters)) in
                proxy.workers.iter().zip(proxy.counters.iter()).enumerate()
            {
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

    /// Every key is read once more.
    pub(crate) fn audit(&mut self) {
        if self.history.keys.is_empty() {
            return;
        }
        let index = self.clients.len();
        self.clients
            .push(Client::new(self.history.keys.len(), 0, false, false));
        self.connect_client(index, None);
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
        let desyncs = self.counter(Counter::Desyncs);
        if desyncs > 0 {
            let text =
                format!("{desyncs} connections, although every backend kept to the protocol");
            self.fail(violation("out of step", text));
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
                self.history
                    .check_found(reader, key, &value, Some(client_flags))
                    .map_err(|found| {
                        violation(found.check, format!("backend {index}: {}", found.text))
                    })?;
            }
        }
        Ok(())
    }
}
