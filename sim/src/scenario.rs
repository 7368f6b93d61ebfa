//! What a scenario does to the world by hand: clients that say bytes, faults at a chosen moment.
//!
//! ```
//! use sim::{Options, World};
//!
//! let mut world = World::new(Options::quiet());
//! let client = world.client(0);
//! world.say(client, "set a 0 0 1\r\nx\r\nget a\r\n");
//! world.expect(client, "STORED\r\nVALUE a 0 1\r\nx\r\nEND\r\n");
//! ```
//!
//! Not here: what seeds do (`client`, `world`).

use magent_core::BackendId;
use magent_core::placement::Phase;
use magent_core::stats::Counters;

use crate::client::Client;
use crate::faults::Fault;
use crate::network::{Closed, End};
use crate::world::World;

/// A client of a scenario.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hand(usize);

/// Nothing in a scenario takes longer, in milliseconds.
const WAIT_MS: u64 = 10_000;

impl World {
    /// A client with a connection to this worker.
    pub fn client(&mut self, worker: usize) -> Hand {
        let index = self.clients.len();
        let mut client = Client::new(self.history.keys.len(), 0, false, false);
        client.manual = true;
        self.clients.push(client);
        self.connect_client(index, Some(worker));
        Hand(index)
    }

    /// The client sends these bytes.
    pub fn say(&mut self, client: Hand, text: &str) {
        if let Some(link) = self.clients[client.0].link {
            self.send(link, End::Proxy, text.as_bytes());
        }
    }

    /// The client's connection is reset.
    pub fn reset(&mut self, client: Hand) {
        if let Some(link) = self.clients[client.0].link.take() {
            self.links[link.index()].peer_open = false;
            self.close_direction(link, End::Proxy, Closed::Reset);
        }
    }

    /// Waits until the client has heard as much as expected.
    ///
    /// # Panics
    ///
    /// If it hears something else, or nothing for long.
    #[track_caller]
    pub fn expect(&mut self, client: Hand, expected: &str) {
        let deadline = self.now.after_ms(WAIT_MS);
        self.step_until(|world| {
            world.clients[client.0].received.len() >= expected.len() || world.now > deadline
        });
        let heard = std::mem::take(&mut self.clients[client.0].received);
        assert_eq!(String::from_utf8_lossy(&heard), expected);
    }

    /// What the client has heard since it was last asked.
    pub fn heard(&mut self, client: Hand) -> String {
        let heard = std::mem::take(&mut self.clients[client.0].received);
        String::from_utf8_lossy(&heard).into_owned()
    }

    /// Something goes wrong with a backend.
    pub fn begin(&mut self, backend: usize, fault: Fault) {
        self.note_state(&format!("backend {backend}"), &format!("{fault:?} begins"));
        self.inflict(backend, fault);
    }

    /// It is well again.
    pub fn end(&mut self, backend: usize, fault: Fault) {
        self.note_state(&format!("backend {backend}"), &format!("{fault:?} ends"));
        self.mend(backend, fault);
    }

    /// This worker hears nothing of the keeper until it is told to.
    pub fn deafen(&mut self, worker: usize) {
        let proxy = self.first_proxy();
        self.proxies[proxy].workers[worker].deaf = true;
    }

    /// It hears what it has missed.
    pub fn undeafen(&mut self, worker: usize) {
        let proxy = self.first_proxy();
        self.proxies[proxy].workers[worker].deaf = false;
        self.wake_worker_soon(proxy, worker);
    }

    /// Lets time pass.
    pub fn run_ms(&mut self, ms: u64) {
        self.run_us(ms * 1_000);
    }

    /// Lets a moment pass.
    pub fn run_us(&mut self, us: u64) {
        let until = magent_core::Time(self.now.0 + us * 1_000);
        self.at(until, crate::world::Event::Nothing);
        self.step_until(|world| world.now >= until);
    }

    /// Lets things happen until this holds.
    ///
    /// # Panics
    ///
    /// If it does not for long.
    #[track_caller]
    pub fn run_until(&mut self, over: impl Fn(&Self) -> bool) {
        let deadline = self.now.after_ms(WAIT_MS);
        self.step_until(|world| over(world) || world.now > deadline);
        assert!(over(self), "it does not come about: {:?}", self.trace());
    }

    /// Whether the keeper has this backend in this phase.
    #[must_use]
    pub fn is_in(&self, backend: usize, phase: Phase) -> bool {
        let proxy = self.first_proxy();
        self.proxies[proxy].keeper.view().backends[backend].phase == phase
    }

    /// Whether the keeper of every proxy has this backend in this phase.
    #[must_use]
    pub fn all_are_in(&self, backend: usize, phase: Phase) -> bool {
        let mut proxies = self.slots.iter().flatten();
        proxies.all(|&proxy| self.proxies[proxy].keeper.view().backends[backend].phase == phase)
    }

    fn first_proxy(&self) -> usize {
        self.slots[0].expect("the first proxy runs")
    }

    /// The backend that a key has as its primary, and the one that it has as its backup.
    #[must_use]
    pub fn route(&self, key: &str) -> (usize, Option<usize>) {
        let route = self.placement.route(key.as_bytes());
        (route.primary.index(), route.backup.map(BackendId::index))
    }

    /// Bytes that the first proxy holds for clients and requests.
    #[must_use]
    pub fn memory_len(&self) -> u64 {
        let counters = &self.proxies[self.first_proxy()].counters;
        counters.iter().map(Counters::memory_len).sum()
    }

    /// What a backend holds.
    #[must_use]
    pub fn item(&self, backend: usize, key: &str) -> Option<String> {
        let now = magent_node::Time(self.now.0);
        let item = self.backends[backend].store.peek(key.as_bytes(), now)?;
        Some(String::from_utf8_lossy(item.value).into_owned())
    }

    /// How many seconds an item of a backend has left; `None` if it has no end, or is not there.
    #[must_use]
    pub fn ttl_s(&self, backend: usize, key: &str) -> Option<u32> {
        let now = magent_node::Time(self.now.0);
        self.backends[backend]
            .store
            .peek(key.as_bytes(), now)?
            .ttl_s
    }
}
