//! A stand-in for the healer: it copies from store to store in no time, unless the test holds it back.
//!
//! It knows nothing of connections, and it never has a copy that was not looked at again.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use magent_core::keeper::{Left, Report};
use magent_core::placement::{Phase, View, plan};
use magent_core::{BackendId, WorkerId};
use magent_node::Session;

use super::Rig;

/// What it has to do.
#[derive(Default)]
pub(crate) struct Healer {
    /// Whether it copies nothing before the test says so, and then claims to be busy with each backend that returns.
    pub(crate) slow: bool,
    /// Keys that workers have handed over, by backend that lacks them. Grows until the test looks.
    pub(crate) recopied: Vec<(BackendId, String)>,
    view: Option<View>,
    waiting: BTreeSet<(BackendId, Box<[u8]>)>,
    busy: BTreeSet<BackendId>,
}

impl Rig {
    pub(super) fn report_as_healer(&mut self, report: Report) {
        let keeper = self.keeper.as_mut().unwrap();
        keeper.on_report(self.now, WorkerId(self.workers), report);
    }

    /// What a View asks of it.
    pub(super) fn heal(&mut self, view: &View) {
        if self.placement.partners().iter().all(Vec::is_empty) {
            return;
        }
        let before = self.healer.view.replace(view.clone());
        for (index, is) in view.backends.iter().enumerate() {
            let target = BackendId(u16::try_from(index).unwrap());
            let was = before.as_ref().map(|before| &before.backends[index]);
            let begins = was.is_none_or(|was| was.since_epoch != is.since_epoch);
            if is.phase == Phase::Purging && begins {
                if self.healer.slow {
                    self.set_busy(target, true);
                }
                let incarnation = is.incarnation;
                let backend = target;
                self.report_as_healer(Report::Purged {
                    backend,
                    incarnation,
                });
            }
        }
        self.report_as_healer(Report::Acknowledged { epoch: view.epoch });
        self.copy();
    }

    pub(super) fn recopy(&mut self, backend: BackendId, keys: Vec<Box<[u8]>>) {
        for key in keys {
            let text = String::from_utf8_lossy(&key).into_owned();
            self.healer.recopied.push((backend, text));
            self.healer.waiting.insert((backend, key));
        }
        if self.keeper.is_some() {
            self.copy();
        }
    }

    /// What a backend missed while another process took its place: deleted, unless it is as at the other one.
    pub(super) fn missed(&mut self, backend: BackendId, keys: Vec<Box<[u8]>>) {
        let now = magent_node::Time(self.now.0);
        for key in &keys {
            let route = self.placement.route(key);
            let other = match route.backup {
                Some(backup) if route.primary == backend => backup,
                _ => route.primary,
            };
            let item = |id: BackendId| {
                let store = self.peers[id.index()].store.as_ref();
                let item = store.and_then(|store| store.peek(key, now));
                item.map(|item| (item.value.to_vec(), item.client_flags))
            };
            if item(backend) == item(other) {
                continue;
            }
            if let Some(store) = self.peers[backend.index()].store.as_mut() {
                let request = [b"delete ", &key[..], b"\r\n"].concat();
                let next = Session::new().receive(store, now, &request, &mut Vec::new());
                assert_eq!(next, magent_node::Next::Continue);
            }
        }
        self.recopy(backend, keys);
    }

    /// A healer that was held back has copied everything to this backend.
    pub(crate) fn catches_up(&mut self, backend: usize) {
        let target = BackendId(u16::try_from(backend).unwrap());
        self.healer
            .waiting
            .retain(|(waiting, _)| *waiting != target);
        self.set_busy(target, false);
        self.run();
    }

    fn set_busy(&mut self, target: BackendId, busy: bool) {
        let changed = if busy {
            self.healer.busy.insert(target)
        } else {
            self.healer.busy.remove(&target)
        };
        if changed {
            let left = if busy { Left::Many } else { Left::None };
            self.report_as_healer(Report::Left { target, left });
        }
    }

    /// Copies what can be copied.
    fn copy(&mut self) {
        let Some(view) = self.healer.view.take_if(|_| !self.healer.slow) else {
            return;
        };
        for (index, is) in view.backends.iter().enumerate() {
            let target = BackendId(u16::try_from(index).unwrap());
            self.copy_keys(&view, target);
            if is.phase != Phase::CatchingUp {
                continue;
            }
            for &source in &is.sources {
                self.copy_share(source, target);
                self.report_as_healer(Report::Copied {
                    target,
                    incarnation: is.incarnation,
                    source,
                });
            }
        }
        self.healer.view = Some(view);
    }

    /// Single keys that workers have handed over.
    fn copy_keys(&mut self, view: &View, target: BackendId) {
        let phase = view.backends[target.index()].phase;
        let waiting = std::mem::take(&mut self.healer.waiting);
        let (keys, others) = waiting.into_iter().partition(|(to, _)| *to == target);
        self.healer.waiting = others;
        for (_, key) in keys {
            let route = self.placement.route(&key);
            let standing =
                |backend: BackendId| (backend, view.backends[backend.index()].standing());
            let plan = plan(standing(route.primary), route.backup.map(standing));
            match plan.authority {
                _ if phase == Phase::Up => {}
                Some(authority) if authority != target && phase == Phase::CatchingUp => {
                    self.copy_key(authority, target, &key);
                }
                Some(authority) if authority == target => {
                    let other = if route.primary == target {
                        route.backup
                    } else {
                        Some(route.primary)
                    };
                    let report = Report::Lacks {
                        target,
                        source: other,
                    };
                    self.report_as_healer(report);
                }
                Some(_) | None => {
                    self.healer.waiting.insert((target, key));
                }
            }
        }
        let busy = self.healer.waiting.iter().any(|(to, _)| *to == target);
        self.set_busy(target, busy);
    }

    fn copy_share(&mut self, source: BackendId, target: BackendId) {
        let now = magent_node::Time(self.now.0);
        let Some(store) = &self.peers[source.index()].store else {
            return;
        };
        let keys: Vec<Vec<u8>> = store
            .items(now)
            .map(|item| item.key.to_vec())
            .filter(|key| {
                let route = self.placement.route(key);
                let pair = [Some(route.primary), route.backup];
                pair.contains(&Some(source)) && pair.contains(&Some(target))
            })
            .collect();
        for key in keys {
            self.copy_key(source, target, &key);
        }
    }

    /// By adding: what is there is newer.
    fn copy_key(&mut self, source: BackendId, target: BackendId, key: &[u8]) {
        let now = magent_node::Time(self.now.0);
        let Some(store) = &self.peers[source.index()].store else {
            return;
        };
        let Some(item) = store.peek(key, now) else {
            return;
        };
        let (flags, ttl) = (item.client_flags, item.ttl_s.unwrap_or(0));
        let len = item.value.len();
        // Some keys can be named in base64 only.
        let mut encoded = [0; 336];
        let encoded_len = STANDARD.encode_slice(key, &mut encoded).unwrap();
        let (key, key_form) = if key.iter().any(|byte| matches!(byte, b' ' | b'\n' | 0)) {
            (&encoded[..encoded_len], " b")
        } else {
            (key, "")
        };
        let rest = format!(" {len} F{flags} T{ttl} ME{key_form}\r\n");
        let request = [b"ms ", key, rest.as_bytes(), item.value, b"\r\n"].concat();
        let store = self.peers[target.index()].store.as_mut().unwrap();
        let mut out = Vec::new();
        let next = Session::new().receive(store, now, &request, &mut out);
        assert_eq!(next, magent_node::Next::Continue);
        assert!(matches!(&out[..], b"HD\r\n" | b"NS\r\n"));
    }
}
