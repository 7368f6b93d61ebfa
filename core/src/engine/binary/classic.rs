//! Packets that are sent as classic commands, because meta commands are not there or do something else.
//!
//! A memcached before 1.6.10 takes the value of an `ms` for commands, so while any backend is that old,
//! everything is classic ([`View::without_meta`](crate::placement::View::without_meta)). What classic commands
//! cannot do is lost:
//!
//! | packet | without meta |
//! | --- | --- |
//! | all that store, count or touch | the answer has no unique |
//! | `Increment`, `Decrement` | a counter that is not there is not made |
//! | `Touch` | the answer has client flags of 0 |
//! | `Append`, `Prepend`, `Delete` and counting with a unique | `Not supported` |
//! | any with a key that only base64 can name | `Invalid arguments` |
//!
//! And memcached, of whatever version, drops the old item when it refuses an `ms` for its size, whatever the mode;
//! of binary and classic commands only `Set` does. So large stores on a condition are classic too. Those with a
//! key that only base64 can name, and `Append` and `Prepend` with a unique, have no classic form and stay meta.

use super::super::exchange::{Class, Outcome};
use super::super::explicit::VALUE_LEN_MAX;
use super::super::{ClientId, Engine};
use crate::Time;
use crate::proto::binary::{Command, Packet, Status};
use crate::proto::{Decimal, GetVerb, Store, StoreVerb};
use crate::stats::Counter;

impl Engine {
    /// Starts a packet as a classic command, if it should be one. Text can name its key.
    pub(super) fn start_as_classic(
        &mut self,
        now: Time,
        id: ClientId,
        packet: &Packet<'_>,
    ) -> bool {
        let verb = store_verb(packet);
        let is_large = packet.value_len > VALUE_LEN_MAX;
        let large_on_condition = is_large && packet.opcode.command != Command::Set;
        match verb {
            Some(verb) if self.lacks_meta || large_on_condition => {
                self.start_classic_store(now, id, verb, packet);
            }
            None if self.lacks_meta => self.start_classic_line(now, id, packet),
            _ => return false,
        }
        true
    }

    fn start_classic_store(
        &mut self,
        now: Time,
        id: ClientId,
        verb: StoreVerb,
        packet: &Packet<'_>,
    ) {
        let numbers = [packet.client_flags(), super::exptime(packet), packet.cas];
        let [client_flags, exptime, cas] = numbers.map(Decimal::new);
        let store = Store {
            verb,
            key: packet.key,
            client_flags: client_flags.digits(),
            exptime: exptime.digits(),
            value_len: packet.value_len,
            cas: cas.digits(),
            noreply: false,
        };
        self.start_store(now, id, &store);
    }

    fn start_classic_line(&mut self, now: Time, id: ClientId, packet: &Packet<'_>) {
        let key = packet.key;
        let exptime = Decimal::new(super::exptime(packet));
        let delta = Decimal::new(packet.delta());
        let repeated = Class::Conditional(Outcome::Repeat);
        let command = packet.opcode.command;
        if packet.cas != 0 {
            self.refuse_read_packet(id, packet, Status::NotSupported);
            return;
        }
        if matches!(command, Command::Gat | Command::GatK) {
            let exptime = Some(exptime.digits());
            self.start_key(now, id, GetVerb::Gets, exptime, (key, None), true, true);
            return;
        }
        let (verb, number, class): (&[u8], &[u8], Class) = if command == Command::Increment {
            (b"incr ", delta.digits(), repeated)
        } else if command == Command::Decrement {
            (b"decr ", delta.digits(), repeated)
        } else if command == Command::Touch {
            self.count(Counter::Touches);
            let class = Class::Conditional(Outcome::Touch);
            (b"touch ", exptime.digits(), class)
        } else {
            assert!(command == Command::Delete, "{command:?} stores nothing");
            (b"delete ", b"", Class::Remove)
        };
        let blank: &[u8] = if number.is_empty() { b"" } else { b" " };
        let line = [verb, key, blank, number];
        let key_start = u16::try_from(verb.len()).expect("verbs are short");
        self.start_line(now, id, &line, key_start, key.len(), class, false);
    }
}

/// The classic command that stores as `packet` does, if there is one.
fn store_verb(packet: &Packet<'_>) -> Option<StoreVerb> {
    const COMPARING: &[(Command, StoreVerb)] = &[
        (Command::Set, StoreVerb::Cas),
        (Command::Add, StoreVerb::Cas),
        (Command::Replace, StoreVerb::Cas),
    ];
    const PLAIN: &[(Command, StoreVerb)] = &[
        (Command::Set, StoreVerb::Set),
        (Command::Add, StoreVerb::Add),
        (Command::Replace, StoreVerb::Replace),
        (Command::Append, StoreVerb::Append),
        (Command::Prepend, StoreVerb::Prepend),
    ];
    let verbs = if packet.cas == 0 { PLAIN } else { COMPARING };
    let row = verbs.iter().find(|row| row.0 == packet.opcode.command);
    row.map(|row| row.1)
}
