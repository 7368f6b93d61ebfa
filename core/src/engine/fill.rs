//! What a backend cannot be told because nobody knows the keys: it gets what is read.
//!
//! Where an authority does not list its keys (`lru_crawler metadump` refused), a follower that lacks its items
//! stays behind it, and each item that a client finds is handed to the healer to be copied.
//!
//! # Invariants
//!
//! - The healer is told of a key once, not for every read of it, until so many were told that they are forgotten:
//!   a copy too many costs little, and later writes reach the follower without the healer.
//! - While every source can be walked a read pays for one look at a flag.
//!
//! Not here: when a backend is to be filled this way (`keeper`), the copy (`heal`).

use std::collections::BTreeSet;

use super::Engine;
use super::exchange::ExchangeId;
use crate::BackendId;
use crate::placement::{Order, View};

/// Keys that the healer was told of, over all backends, by this worker.
const TOLD_KEYS_MAX: usize = 65_536;

/// What is filled by reads.
#[derive(Debug, Default)]
pub(super) struct Fill {
    /// Whether any backend is.
    wanted: bool,
    /// By hash: two keys that share one are copied when the set is forgotten.
    told: BTreeSet<(BackendId, u64)>,
}

impl Fill {
    /// Another View: a backend that failed meanwhile has to be told again.
    pub(super) fn on_view(&mut self, before: &View, view: &View) {
        self.wanted = view.backends.iter().any(|backend| backend.fill);
        let pairs = before.backends.iter().zip(&view.backends);
        let again = pairs
            .clone()
            .any(|(was, is)| was.incarnation != is.incarnation || was.fill != is.fill);
        if again {
            self.told.clear();
        }
    }
}

impl Engine {
    /// A read has found its item.
    pub(super) fn fill_follower(&mut self, exchange: ExchangeId) {
        if !self.fill.wanted {
            return;
        }
        let this = &self.exchanges[exchange];
        let hash = this.hash;
        let Some(follower) = self.plan(this.primary, this.backup).follower else {
            return;
        };
        let is_filled = self.view.backends[follower.backend.index()].fill;
        if !is_filled || follower.order != Order::After {
            return;
        }
        if self.fill.told.len() >= TOLD_KEYS_MAX {
            self.fill.told.clear();
        }
        if self.fill.told.insert((follower.backend, hash)) {
            self.recopy(exchange, follower.backend);
        }
    }
}
