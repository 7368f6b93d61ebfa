//! Processes of proxies: started, killed, started again with what their state file says.
//!
//! Not here: what a process does (`proxy`, `control`).

use magent_core::Time;
use magent_core::breaks::Break;

use crate::network::{Closed, End, LinkId, Peer};
use crate::proxy::Proxy;
use crate::workload::{Effect, Outcome, Quiet};
use crate::world::World;

impl World {
    /// Starts a proxy, for the first time or again.
    pub(crate) fn start_proxy(&mut self, slot: usize) {
        let mut config = self.options.config();
        config.process.unix_start_s += self.now.0 / 1_000_000_000;
        let jitter = self.rng.below(u64::MAX);
        let disk = self.disks[slot]
            .as_ref()
            .filter(|_| !self.options.breaks.has(Break::StateFile));
        let timing = (jitter, self.options.settle_ms);
        let proxy = Proxy::new(slot, &config, timing, self.now, disk);
        let index = self.proxies.len();
        self.proxies.push(proxy);
        self.slots[slot] = Some(index);
        self.look_for_splits();
        let now = self.now;
        for worker in 0..self.options.workers {
            self.proxies[index].workers[worker].engine.connect_all(now);
            self.wake_worker(index, worker, now);
        }
        self.run_control(index);
    }

    /// `kill -9` of a proxy: its connections end, nothing is finished.
    pub(crate) fn kill_proxy(&mut self, slot: usize) {
        let Some(proxy) = self.slots[slot].take() else {
            return;
        };
        self.note_state(&format!("p{proxy}"), "is killed");
        self.proxies[proxy].dead = true;
        self.tear(proxy);
        let ids: Vec<LinkId> = (0..self.links.len())
            .filter(|&index| self.links[index].proxy == proxy && self.links[index].proxy_open)
            .map(|index| LinkId(u32::try_from(index).expect("runs are short")))
            .collect();
        for id in ids {
            match self.links[id.index()].peer {
                Peer::Backend(_) => self.bury_end(id),
                Peer::Client(_) => {
                    let closed = self.rng.pick(&[Closed::Fin, Closed::Reset]);
                    self.links[id.index()].proxy_open = false;
                    self.close_direction(id, End::Peer, closed);
                }
            }
        }
        self.look_for_splits();
    }

    /// It is started again, unless it runs.
    pub(crate) fn revive_proxy(&mut self, slot: usize) {
        if self.slots[slot].is_none() {
            self.note_state(&format!("p{}", self.proxies.len()), "starts");
            self.start_proxy(slot);
        }
    }

    /// Writes that were under way through a proxy may have reached one copy and not the other.
    fn tear(&mut self, proxy: usize) {
        let since = Time(
            self.now
                .0
                .saturating_sub(self.options.limits.request_ms * 2_000_000),
        );
        let flushing = |effect| matches!(effect, Effect::Flush);
        let torn: Vec<usize> = self
            .history
            .ops
            .iter()
            .filter(|op| op.proxy == proxy && (op.effect != Effect::None || op.conditional))
            .filter(|op| match op.outcome {
                Outcome::Pending => true,
                Outcome::Unknown => op.invoked >= since || op.quiet == Quiet::No,
                Outcome::Done | Outcome::Declined | Outcome::Refused => false,
            })
            .flat_map(|op| {
                if flushing(op.effect) {
                    (0..self.history.keys.len()).collect()
                } else {
                    op.keys.clone()
                }
            })
            .collect();
        for key in torn {
            self.torn[key] = true;
        }
    }
}
