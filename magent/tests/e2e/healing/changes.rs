//! One client's changes while a backend is away: what was acknowledged, kind by kind.

use super::super::harness::{Client, Item, Items, Moment, key_at, unix_now};

/// Keys of one primary, each changed in its own way in every round.
pub(super) struct Changes {
    overwritten: Vec<String>,
    deleted: Vec<String>,
    counted: Vec<String>,
    touched: Vec<String>,
    round: u64,
    /// Of those that were touched, in their order.
    touched_until: Vec<Option<Moment>>,
}

const KEYS_OF_A_KIND: u32 = 25;

impl Changes {
    /// Stores them.
    #[track_caller]
    pub(super) fn prepare(client: &mut Client) -> Self {
        let mut keys = |kind: u32, value: &[u8]| -> Vec<String> {
            let keys = (0..KEYS_OF_A_KIND).map(|n| key_at(3, 0, 1_000 * kind + n));
            keys.inspect(|key| client.set(key, value)).collect()
        };
        Self {
            overwritten: keys(1, b"before"),
            deleted: keys(2, b"before"),
            counted: keys(3, b"0"),
            touched: keys(4, b"touched"),
            round: 0,
            touched_until: Vec::new(),
        }
    }

    /// Overwrites, deletes, counts and touches, all at once.
    #[track_caller]
    pub(super) fn make(&mut self, client: &mut Client) {
        self.round += 1;
        for key in &self.overwritten {
            client.set(key, format!("round {}", self.round).as_bytes());
        }
        for key in &self.deleted {
            // Stored again first, so that old stores of it wait in the stopped backend's buffers.
            client.set(key, format!("round {}", self.round).as_bytes());
            client.delete(key);
        }
        for key in &self.counted {
            assert_eq!(
                client.try_command(&format!("incr {key} 1")).unwrap(),
                self.round.to_string()
            );
        }
        // Another one in each round; above 30 days it would be a date.
        let exptime = 10_000 + 1_000 * (self.round % 1_000);
        self.touched_until.clear();
        for key in &self.touched {
            let sent_at = unix_now();
            assert_eq!(
                client
                    .try_command(&format!("touch {key} {exptime}"))
                    .unwrap(),
                "TOUCHED"
            );
            self.touched_until.push(Moment::after(sent_at, exptime));
        }
    }

    /// Compares what a client reads with what was acknowledged.
    #[track_caller]
    pub(super) fn check(&self, client: &mut Client) {
        let all = [
            &self.overwritten,
            &self.deleted,
            &self.counted,
            &self.touched,
        ];
        let keys: Vec<&str> = all.into_iter().flatten().map(String::as_str).collect();
        let values = client.get_many(&keys);
        for (key, item) in self.expected() {
            let key = String::from_utf8(key).unwrap();
            assert_eq!(values.get(&key), Some(&item.value), "{key}");
        }
        for key in &self.deleted {
            assert_eq!(values.get(key), None, "{key} was deleted");
        }
    }

    /// What must not be anywhere.
    pub(super) fn deleted(&self) -> impl Iterator<Item = String> {
        self.deleted.clone().into_iter()
    }

    /// What must be there.
    pub(super) fn expected(&self) -> Items {
        let item = |value: String, expires| Item {
            client_flags: 0,
            expires,
            value: value.into_bytes(),
        };
        let mut items = Items::new();
        for key in &self.overwritten {
            items.insert(
                key.clone().into_bytes(),
                item(format!("round {}", self.round), None),
            );
        }
        for key in &self.counted {
            items.insert(key.clone().into_bytes(), item(self.round.to_string(), None));
        }
        for (key, &until) in self.touched.iter().zip(&self.touched_until) {
            items.insert(key.clone().into_bytes(), item("touched".to_owned(), until));
        }
        items
    }
}
