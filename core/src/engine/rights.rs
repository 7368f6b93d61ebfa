//! What a user may do: keys with a prefix of its own, and reads alone.
//!
//! A key gets its prefix where its request is read, so placement, slots, what is remembered and what is healed know
//! nothing of prefixes. It loses it again where an answer leaves.
//!
//! # Invariants
//!
//! - A user with a prefix names no key of another user, and empties nobody's backends.
//! - A client never sees its prefix.
//! - Who has all rights pays one comparison per request.
//!
//! Not here: who a client is (`auth`).

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::clients::Client;
use super::exchange::{Exchange, Form, Kind};
use super::start::kind_of_meta;
use super::{ClientId, Engine, encode};
use crate::Time;
use crate::auth::{Access, Rights};
use crate::proto::binary::{Command, Packet, Status};
use crate::proto::{
    Bad, KEY_LEN_MAX, Keys, Meta, MetaVerb, ProtoError, Request, Store, Told, meta,
};

/// Room for a key with its prefix.
type Room = [u8; KEY_LEN_MAX];

/// Longest key with its prefix that a meta command can name in base64.
const DECODED_LEN_MAX: usize = KEY_LEN_MAX / 4 * 3;

impl Client {
    /// Bytes that the keys of its requests get.
    pub(super) fn prefix_len(&self) -> u8 {
        let rights = self.session.rights.as_ref();
        let len = rights.map_or(0, |rights| rights.prefix().len());
        u8::try_from(len).expect("Rights bounds prefixes")
    }

    /// Its rights, unless it has all.
    fn limits(&self) -> Option<Arc<Rights>> {
        let rights = self.session.rights.as_ref()?;
        rights.are_limited().then(|| Arc::clone(rights))
    }
}

impl Engine {
    /// Starts a request as far as the client's rights go.
    pub(super) fn start(&mut self, now: Time, id: ClientId, request: &Request<'_>) {
        match self.clients[id.index as usize].limits() {
            None => self.start_allowed(now, id, request),
            Some(rights) => self.start_limited(now, id, &rights, request),
        }
    }

    fn start_limited(&mut self, now: Time, id: ClientId, rights: &Rights, request: &Request<'_>) {
        if let Some(error) = forbids(rights, request) {
            self.refuse_request(id, refusal(request, error));
            return;
        }
        let mut room = [0; KEY_LEN_MAX];
        match with_prefix(rights.prefix(), request, &mut room) {
            Some(request) => self.start_allowed(now, id, &request),
            None => self.refuse_request(id, refusal(request, ProtoError::BadFormat)),
        }
    }

    /// Starts a packet as far as the client's rights go.
    pub(super) fn start_packet(&mut self, now: Time, id: ClientId, packet: &Packet<'_>) {
        let Some(rights) = self.clients[id.index as usize].limits() else {
            self.start_allowed_packet(now, id, packet);
            return;
        };
        if forbids_packet(&rights, packet) {
            self.refuse_read_packet(id, packet, Status::AuthError);
            return;
        }
        let mut room = [0; KEY_LEN_MAX];
        let is_key = !packet.key.is_empty()
            && !matches!(packet.opcode.command, Command::Stat | Command::Config)
            && !self.is_discovery(packet.key);
        match joined(rights.prefix(), packet.key, &mut room) {
            _ if !is_key => self.start_allowed_packet(now, id, packet),
            Some(key) => self.start_allowed_packet(now, id, &Packet { key, ..*packet }),
            None => self.refuse_read_packet(id, packet, Status::Invalid),
        }
    }
}

/// What `rights` have against a request.
fn forbids(rights: &Rights, request: &Request<'_>) -> Option<ProtoError> {
    let read_only = rights.access() == Access::ReadOnly;
    let writes = match request {
        // It concerns every user's keys.
        Request::FlushAll { .. } => return Some(ProtoError::Forbidden),
        // So does what the others show, and forgetting what was counted.
        Request::Stats { args } => {
            return (!matches!(*args, b"" | b"magent")).then_some(ProtoError::Forbidden);
        }
        Request::Get { .. }
        | Request::Config { .. }
        | Request::Version
        | Request::Verbosity { .. }
        | Request::Quit
        | Request::MetaNoop => false,
        Request::Meta(meta) => kind_of_meta(meta).1 != Kind::Read,
        Request::GetAndTouch { .. }
        | Request::Store(_)
        | Request::Delete { .. }
        | Request::Arith { .. }
        | Request::Touch { .. } => true,
    };
    (writes && read_only).then_some(ProtoError::ReadOnly)
}

fn forbids_packet(rights: &Rights, packet: &Packet<'_>) -> bool {
    match packet.opcode.command {
        Command::Flush => true,
        Command::Stat => !matches!(packet.key, b"" | b"magent"),
        Command::Get
        | Command::GetK
        | Command::Config
        | Command::Noop
        | Command::Version
        | Command::Quit
        | Command::SaslMechanisms
        | Command::SaslAuth
        | Command::SaslStep => false,
        Command::Gat
        | Command::GatK
        | Command::Touch
        | Command::Set
        | Command::Add
        | Command::Replace
        | Command::Append
        | Command::Prepend
        | Command::Delete
        | Command::Increment
        | Command::Decrement => rights.access() == Access::ReadOnly,
    }
}

/// A request that was understood and is refused. As with other errors, `noreply` hides it and `q` does not.
fn refusal(request: &Request<'_>, error: ProtoError) -> Bad {
    let payload = |value_len: u32| u64::from(value_len) + 2;
    let (swallow, noreply) = match *request {
        Request::Store(store) => (payload(store.value_len), store.noreply),
        Request::Meta(meta) if meta.verb == MetaVerb::Set => (payload(meta.value_len), false),
        Request::Delete { noreply, .. }
        | Request::Arith { noreply, .. }
        | Request::Touch { noreply, .. }
        | Request::Verbosity { noreply }
        | Request::FlushAll { noreply, .. } => (0, noreply),
        Request::Get { .. }
        | Request::GetAndTouch { .. }
        | Request::Config { .. }
        | Request::Version
        | Request::Stats { .. }
        | Request::Quit
        | Request::MetaNoop
        | Request::Meta(_) => (0, false),
    };
    Bad {
        error,
        used: 0,
        swallow,
        told: if noreply { Told::No } else { Told::Yes },
    }
}

/// The same request of the key with its prefix; `None` if that is too long. Keys of gets stay as they are: they get
/// theirs one by one, when they are started.
fn with_prefix<'a>(
    prefix: &[u8],
    request: &Request<'a>,
    room: &'a mut Room,
) -> Option<Request<'a>> {
    if prefix.is_empty() {
        return Some(*request);
    }
    Some(match *request {
        Request::Get { keys, .. } | Request::GetAndTouch { keys, .. } => {
            return all_fit(prefix, keys).then_some(*request);
        }
        Request::Store(store) => Request::Store(Store {
            key: joined(prefix, store.key, room)?,
            ..store
        }),
        Request::Delete { key, noreply } => Request::Delete {
            key: joined(prefix, key, room)?,
            noreply,
        },
        Request::Arith {
            verb,
            key,
            delta,
            noreply,
        } => Request::Arith {
            verb,
            key: joined(prefix, key, room)?,
            delta,
            noreply,
        },
        Request::Touch {
            key,
            exptime,
            noreply,
        } => Request::Touch {
            key: joined(prefix, key, room)?,
            exptime,
            noreply,
        },
        Request::Meta(meta) => Request::Meta(Meta {
            key: joined_token(prefix, &meta, room)?,
            ..meta
        }),
        Request::FlushAll { .. }
        | Request::Config { .. }
        | Request::Version
        | Request::Verbosity { .. }
        | Request::Stats { .. }
        | Request::Quit
        | Request::MetaNoop => *request,
    })
}

fn all_fit(prefix: &[u8], mut keys: Keys<'_>) -> bool {
    keys.all(|key| prefix.len() + key.len() <= KEY_LEN_MAX)
}

/// `key` behind `prefix`, if that is a key.
pub(super) fn joined<'r>(prefix: &[u8], key: &[u8], room: &'r mut Room) -> Option<&'r [u8]> {
    let len = prefix.len() + key.len();
    let joined = room.get_mut(..len)?;
    let (front, back) = joined.split_at_mut(prefix.len());
    front.copy_from_slice(prefix);
    back.copy_from_slice(key);
    Some(joined)
}

/// The same of a meta command's key, which may be in base64.
fn joined_token<'r>(prefix: &[u8], meta: &Meta<'_>, room: &'r mut Room) -> Option<&'r [u8]> {
    if !meta.letters.has(b'b') {
        return joined(prefix, meta.key, room);
    }
    let (mut scratch, mut both) = ([0; KEY_LEN_MAX], [0; KEY_LEN_MAX]);
    let key = joined(prefix, meta::decode_key(meta.key, &mut scratch), &mut both)?;
    if key.len() > DECODED_LEN_MAX {
        return None;
    }
    let len = STANDARD.encode_slice(key, room).ok()?;
    Some(&room[..len])
}

impl Exchange {
    /// The key as the client knows it. `scratch` holds what was in base64.
    pub(super) fn own_key<'a>(&'a self, scratch: &'a mut Room) -> &'a [u8] {
        let key = if self.letters.has(b'b') {
            meta::decode_key(self.key(), scratch)
        } else {
            self.key()
        };
        key.get(usize::from(self.prefix_len)..).unwrap_or_default()
    }

    /// Takes the prefix out of the first line of an answer in text.
    pub(super) fn hide_prefix(&mut self) {
        const VALUE: &[u8] = b"VALUE ";
        if self.prefix_len == 0 || self.asked.is_some() {
            return;
        }
        match self.kind {
            Kind::Fetch(_) | Kind::Read | Kind::Write => {}
            Kind::Local | Kind::Upload | Kind::Broadcast => return,
        }
        if self.reply.starts_with(VALUE) {
            let prefix = VALUE.len()..VALUE.len() + usize::from(self.prefix_len);
            self.reply.drain(prefix);
        } else if self.write.form == Form::Meta {
            self.hide_prefix_of_meta();
        }
    }

    /// A meta answer repeats the key where it was asked to, in base64 if the item was stored so.
    fn hide_prefix_of_meta(&mut self) {
        let line_len = memchr::memchr(b'\n', &self.reply).unwrap_or(self.reply.len());
        let line = self.reply[..line_len].trim_ascii_end();
        let words = || line.split(|&byte| byte == b' ').skip(1);
        let is_debug = line.starts_with(b"ME ");
        let Some(word) = words().find(|word| is_debug || word.starts_with(b"k")) else {
            return;
        };
        let start = word.as_ptr().addr() - line.as_ptr().addr() + usize::from(!is_debug);
        let end = word.as_ptr().addr() - line.as_ptr().addr() + word.len();
        let in_base64 = if is_debug {
            line[start..end] != *self.key() || self.letters.has(b'b')
        } else {
            words().any(|word| word == b"b")
        };
        let mut scratch = [0; KEY_LEN_MAX];
        let mut encoded = [0; encode::ENCODED_LEN_MAX];
        let own = self.own_key(&mut scratch);
        let shown = if in_base64 {
            encode::base64(own, &mut encoded)
        } else {
            own
        };
        let shown = shown.to_vec();
        self.reply.splice(start..end, shown);
    }
}
