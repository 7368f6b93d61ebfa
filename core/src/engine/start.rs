//! Requests become exchanges: what goes to backends, and what kind of command it is.
//!
//! # Invariants
//!
//! - What goes to a backend asks for exactly one answer: `noreply` and `q` stay at the client's edge.
//! - Numbers that only the server may interpret (exptimes, flags) are passed on as the client wrote them.
//!
//! Not here: when a request is read (`clients`), whom it is sent to (`reads`, `writes`, `broadcast`).

use super::clients::{Multiget, Reading};
use super::exchange::{Class, Exchange, ExchangeId, Form, Kind, Outcome, Quiet};
use super::{ClientId, Engine, rights};
use crate::Time;
use crate::proto::{
    ArithVerb, GetVerb, KEY_LEN_MAX, Keys, Letters, Meta, MetaVerb, Request, Store, StoreVerb,
    encode_decimal, meta,
};
use crate::scheme::{KEYS_AT_ONCE, KeyHash};
use crate::stats::Counter;

impl Engine {
    /// The request is complete: its time runs from here.
    pub(super) fn arm(&mut self, now: Time, exchange: ExchangeId) {
        self.exchanges[exchange].arrived = now;
        self.exchanges.link(exchange);
    }

    /// Where the exchange's key lives.
    pub(super) fn place(&mut self, exchange: ExchangeId, placement_key: &[u8]) {
        self.place_hashed(exchange, placement_key, None);
    }

    /// The same for a key whose hash may be known.
    fn place_hashed(&mut self, exchange: ExchangeId, placement_key: &[u8], hash: Option<KeyHash>) {
        let route = match hash {
            Some(hash) => self.placement.route_hashed(placement_key, hash),
            None => self.placement.route(placement_key),
        };
        let this = &mut self.exchanges[exchange];
        this.primary = route.primary;
        this.backup = route.backup;
        this.hash = xxhash_rust::xxh3::xxh3_64(placement_key);
    }

    pub(super) fn start_allowed(&mut self, now: Time, id: ClientId, request: &Request<'_>) {
        match *request {
            Request::Get { verb, keys } => self.start_multiget(now, id, verb, None, keys),
            Request::GetAndTouch {
                verb,
                exptime,
                keys,
            } => {
                self.start_multiget(now, id, verb, Some(exptime), keys);
            }
            Request::Store(store) => self.start_store(now, id, &store),
            Request::Delete { key, noreply } => {
                let line = [&b"delete "[..], key];
                self.start_line(now, id, &line, 7, key.len(), Class::Remove, noreply);
            }
            Request::Arith {
                verb,
                key,
                delta,
                noreply,
            } => {
                let verb: &[u8] = match verb {
                    ArithVerb::Incr => b"incr ",
                    ArithVerb::Decr => b"decr ",
                };
                let class = Class::Conditional(Outcome::Repeat);
                self.start_line(
                    now,
                    id,
                    &[verb, key, b" ", delta],
                    5,
                    key.len(),
                    class,
                    noreply,
                );
            }
            Request::Touch {
                key,
                exptime,
                noreply,
            } => {
                self.count(Counter::Touches);
                let class = Class::Conditional(Outcome::Touch);
                let line = [&b"touch "[..], key, b" ", exptime];
                self.start_line(now, id, &line, 6, key.len(), class, noreply);
            }
            Request::FlushAll { delay, noreply } => self.start_flush(now, id, delay, noreply),
            Request::Version => {
                let reply = self.version_reply();
                self.answer_locally(id, &reply, false);
            }
            // Backends keep their own verbosity; the proxy's is the operator's.
            Request::Verbosity { noreply } => self.answer_locally(id, b"OK\r\n", noreply),
            Request::Stats { args } => self.start_stats(now, id, args),
            Request::Quit => self.stop_reading(id),
            Request::Config { key } => self.start_config(id, key),
            Request::MetaNoop => self.answer_locally(id, b"MN\r\n", false),
            Request::Meta(meta) => self.start_meta(now, id, &meta),
        }
    }

    /// A classic command of one line and one key: `parts` without its CR LF, the key at `key_start`.
    #[expect(clippy::too_many_arguments, reason = "each is a word of the one line")]
    pub(super) fn start_line(
        &mut self,
        now: Time,
        id: ClientId,
        parts: &[&[u8]],
        key_start: u16,
        key_len: usize,
        class: Class,
        noreply: bool,
    ) {
        self.count(Counter::Others);
        let exchange = self.admit(id, Kind::Write);
        let this = &mut self.exchanges[exchange];
        for part in parts {
            this.wire.extend_from_slice(part);
        }
        this.wire.extend_from_slice(b"\r\n");
        this.key = key_start..key_start + key_len_u16(key_len);
        this.quiet = if noreply { Quiet::Noreply } else { Quiet::No };
        self.begin_write(now, exchange, class, Form::Line);
    }

    /// A write is complete.
    pub(super) fn begin_write(
        &mut self,
        now: Time,
        exchange: ExchangeId,
        class: Class,
        form: Form,
    ) {
        let this = &mut self.exchanges[exchange];
        this.write.class = class;
        this.write.form = form;
        if !this.letters.has(b'b') {
            let (start, end) = (usize::from(this.key.start), usize::from(this.key.end));
            let mut key = [0; KEY_LEN_MAX];
            key[..end - start].copy_from_slice(&this.wire[start..end]);
            self.place(exchange, &key[..end - start]);
        }
        self.arm(now, exchange);
        self.dispatch_write(now, exchange);
    }

    pub(super) fn start_multiget(
        &mut self,
        now: Time,
        id: ClientId,
        verb: GetVerb,
        exptime: Option<&[u8]>,
        keys: Keys<'_>,
    ) {
        let text = keys.0;
        let mut rest = keys;
        if let (Some(key), None) = (rest.next(), rest.next()) {
            self.start_own_key(now, id, verb, exptime, (key, None), true, true);
            return;
        }
        if let Some(done) = self.start_keys(now, id, verb, exptime, text) {
            self.clients[id.index as usize].reading = Reading::Multiget(Box::new(Multiget {
                verb,
                exptime: exptime.map(<[u8]>::to_vec),
                keys: text[done..].to_vec(),
                done: 0,
            }));
        }
    }

    pub(super) fn continue_multiget(&mut self, now: Time, id: ClientId) {
        let client = &mut self.clients[id.index as usize];
        let Reading::Multiget(mut multiget) = std::mem::take(&mut client.reading) else {
            unreachable!("called while reading a multi-key request");
        };
        if self.may_start(id) {
            let (verb, exptime) = (multiget.verb, multiget.exptime.as_deref());
            let text = &multiget.keys[multiget.done..];
            match self.start_keys(now, id, verb, exptime, text) {
                Some(done) => multiget.done += done,
                None => return,
            }
        }
        self.clients[id.index as usize].reading = Reading::Multiget(multiget);
    }

    /// Several keys, or the rest of several. Yields the bytes of those that were started, if the others have to wait
    /// because too much is under way.
    fn start_keys(
        &mut self,
        now: Time,
        id: ClientId,
        verb: GetVerb,
        exptime: Option<&[u8]>,
        text: &[u8],
    ) -> Option<usize> {
        let prefixed = self.clients[id.index as usize].prefix_len() > 0;
        let mut keys = Keys(text);
        let mut next = keys.next();
        while next.is_some() {
            let mut group: [&[u8]; KEYS_AT_ONCE] = [&[]; KEYS_AT_ONCE];
            let mut ends = [0; KEYS_AT_ONCE];
            let mut count = 0;
            while count < KEYS_AT_ONCE
                && let Some(key) = next
            {
                group[count] = key;
                ends[count] = text.len() - keys.0.len();
                next = keys.next();
                count += 1;
            }
            // With a prefix they are other keys.
            let hashed = (!prefixed).then(|| self.placement.hash_each(&group[..count]));
            for at in 0..count {
                let last = at + 1 == count && next.is_none();
                let hash = hashed.map(|hashes| hashes[at]);
                self.start_own_key(now, id, verb, exptime, (group[at], hash), false, last);
                self.count_begun(id);
                if !last && !self.may_start(id) {
                    return Some(ends[at]);
                }
            }
        }
        None
    }

    /// One key of a classic get or gat, as the client wrote it.
    #[expect(clippy::too_many_arguments, reason = "the state of the loop over keys")]
    fn start_own_key(
        &mut self,
        now: Time,
        id: ClientId,
        verb: GetVerb,
        exptime: Option<&[u8]>,
        (key, hash): (&[u8], Option<KeyHash>),
        only: bool,
        last: bool,
    ) {
        let client = &self.clients[id.index as usize];
        if client.prefix_len() == 0 || self.is_discovery(key) {
            self.start_key(now, id, verb, exptime, (key, hash), only, last);
            return;
        }
        let rights = client.session.rights.as_ref();
        let prefix = rights.map_or(&b""[..], |rights| rights.prefix());
        let mut room = [0; KEY_LEN_MAX];
        let key = rights::joined(prefix, key, &mut room).expect("the line was checked as a whole");
        self.start_key(now, id, verb, exptime, (key, None), only, last);
    }

    /// One key of a classic get or gat, with its hash if that is known.
    #[expect(clippy::too_many_arguments, reason = "the state of the loop over keys")]
    pub(super) fn start_key(
        &mut self,
        now: Time,
        id: ClientId,
        verb: GetVerb,
        exptime: Option<&[u8]>,
        (key, hash): (&[u8], Option<KeyHash>),
        only: bool,
        last: bool,
    ) {
        self.count(Counter::Gets);
        let kind = if exptime.is_some() {
            Kind::Write
        } else {
            Kind::Fetch(verb)
        };
        let exchange = self.admit(id, kind);
        self.place_hashed(exchange, key, hash);
        let this = &mut self.exchanges[exchange];
        this.only = only;
        this.last = last;
        this.part = !last;
        let Some(exptime) = exptime else {
            this.wire.extend_from_slice(key);
            this.key = 0..key_len_u16(key.len());
            self.start_read(now, exchange, key);
            return;
        };
        let verb: &[u8] = match verb {
            GetVerb::Get => b"gat ",
            GetVerb::Gets => b"gats ",
        };
        for part in [verb, exptime, b" ", key, b"\r\n"] {
            this.wire.extend_from_slice(part);
        }
        let start = key_len_u16(verb.len() + exptime.len() + 1);
        this.key = start..start + key_len_u16(key.len());
        self.count(Counter::Touches);
        let class = Class::Conditional(Outcome::Touch);
        self.begin_write(now, exchange, class, Form::Values);
    }

    /// A read of one key is complete.
    pub(super) fn start_read(&mut self, now: Time, exchange: ExchangeId, key: &[u8]) {
        if self.is_discovery(key) {
            self.answer_discovery(exchange);
        } else {
            self.arm(now, exchange);
            self.dispatch_read(now, exchange);
        }
    }

    pub(super) fn start_store(&mut self, now: Time, id: ClientId, store: &Store<'_>) {
        self.count(Counter::Sets);
        let exchange = self.admit(id, Kind::Upload);
        let this = &mut self.exchanges[exchange];
        let verb = store.verb.wire();
        for part in [
            verb,
            b" ",
            store.key,
            b" ",
            store.client_flags,
            b" ",
            store.exptime,
            b" ",
        ] {
            this.wire.extend_from_slice(part);
        }
        encode_decimal(store.value_len.into(), &mut this.wire);
        if store.verb == StoreVerb::Cas {
            this.wire.push(b' ');
            this.wire.extend_from_slice(store.cas);
        }
        this.wire.extend_from_slice(b"\r\n");
        let start = key_len_u16(verb.len() + 1);
        this.key = start..start + key_len_u16(store.key.len());
        this.quiet = if store.noreply {
            Quiet::Noreply
        } else {
            Quiet::No
        };
        this.write.form = Form::Line;
        this.write.class = match store.verb {
            StoreVerb::Set => Class::Store,
            StoreVerb::Add | StoreVerb::Replace | StoreVerb::Cas => {
                Class::Conditional(Outcome::Set)
            }
            StoreVerb::Append | StoreVerb::Prepend => Class::Conditional(Outcome::Repeat),
        };
        self.expect_payload(now, id, exchange, store.value_len);
    }

    pub(super) fn start_meta(&mut self, now: Time, id: ClientId, meta: &Meta<'_>) {
        let has = |letter| meta.letters.has(letter);
        let (counter, kind, class) = kind_of_meta(meta);
        self.count(counter);
        let exchange = self.admit(id, kind);
        let this = &mut self.exchanges[exchange];
        if !write_meta(this, meta) {
            this.kind = Kind::Local;
            this.reply.extend_from_slice(b"EN\r\n");
            self.complete(exchange);
            return;
        }
        this.key = 3..3 + key_len_u16(meta.key.len());
        this.letters = meta.letters;
        if this.hides_value {
            this.letters = this.letters.with(b'v');
        }
        this.write.form = Form::Meta;
        this.write.class = class;
        this.quiet = if has(b'q') {
            quiet_of(meta.verb)
        } else {
            Quiet::No
        };
        if has(b'b') {
            let mut scratch = [0; KEY_LEN_MAX];
            self.place(exchange, meta.placement_key(&mut scratch));
        }
        match kind {
            Kind::Upload => self.expect_payload(now, id, exchange, meta.value_len),
            Kind::Read => {
                if !has(b'b') {
                    self.place(exchange, meta.key);
                }
                self.arm(now, exchange);
                self.dispatch_read(now, exchange);
            }
            Kind::Write | Kind::Local | Kind::Fetch(_) | Kind::Broadcast => {
                self.begin_write(now, exchange, class, Form::Meta);
            }
        }
    }
}

/// What a meta command counts as, and what is done with it.
pub(super) fn kind_of_meta(meta: &Meta<'_>) -> (Counter, Kind, Class) {
    const WINS: Letters = Letters::of(b"NRE");
    const CONDITIONS: Letters = Letters::of(b"CIx");
    let repeated = Class::Conditional(Outcome::Repeat);
    match meta.verb {
        MetaVerb::Get if meta.letters.has(b'T') => {
            let class = Class::Conditional(Outcome::Touch);
            (Counter::Gets, Kind::Write, class)
        }
        MetaVerb::Get if meta.letters.has_any(WINS) => {
            let class = Class::Conditional(Outcome::Nothing);
            (Counter::Gets, Kind::Write, class)
        }
        MetaVerb::Get => (Counter::Gets, Kind::Read, Class::Store),
        MetaVerb::Debug => (Counter::Others, Kind::Read, Class::Store),
        MetaVerb::Set => (Counter::Sets, Kind::Upload, class_of_set(meta)),
        MetaVerb::Delete if meta.letters.has_any(CONDITIONS) => {
            (Counter::Others, Kind::Write, repeated)
        }
        MetaVerb::Delete => (Counter::Others, Kind::Write, Class::Remove),
        MetaVerb::Arith => (Counter::Others, Kind::Write, repeated),
    }
}

/// Writes what backends get of a meta command. `false` if none may get it.
///
/// memcached 1.6.18 forgets that a key was base64 when it moves an item (append, a longer number) and echoes
/// it raw: with a line end inside, whatever follows would be taken for other clients' answers. Such a key is
/// echoed by the proxy.
fn write_meta(exchange: &mut Exchange, meta: &Meta<'_>) -> bool {
    let has = |letter| meta.letters.has(letter);
    let mut scratch = [0; KEY_LEN_MAX];
    let unsafe_echo =
        has(b'b') && memchr::memchr(b'\n', meta.placement_key(&mut scratch)).is_some();
    match meta.verb {
        MetaVerb::Debug if unsafe_echo => return false,
        MetaVerb::Get if unsafe_echo && has(b'k') => {
            meta::encode_forward_without_echo(meta, &mut exchange.wire);
            let before = meta.meta_flags().take_while(|flag| flag.0 != b'k');
            exchange.echo = Some(before.fold(Letters::default(), |set, flag| set.with(flag.0)));
        }
        MetaVerb::Arith if !has(b'v') => {
            // What the authority counted to says whether the copy agrees.
            meta::encode_forward(meta, &mut exchange.wire);
            meta::ask_for_value(&mut exchange.wire);
            exchange.hides_value = true;
        }
        MetaVerb::Get | MetaVerb::Set | MetaVerb::Delete | MetaVerb::Arith | MetaVerb::Debug => {
            meta::encode_forward(meta, &mut exchange.wire);
        }
    }
    true
}

fn class_of_set(meta: &Meta<'_>) -> Class {
    let mode = meta
        .token(b'M')
        .and_then(|token| token.first())
        .map(u8::to_ascii_uppercase);
    match mode {
        Some(b'A' | b'P') => Class::Conditional(Outcome::Repeat),
        _ if meta.letters.has(b'I') && meta.letters.has(b'C') => {
            Class::Conditional(Outcome::Delete)
        }
        Some(b'E' | b'R') => Class::Conditional(Outcome::Set),
        _ if meta.letters.has(b'C') => Class::Conditional(Outcome::Set),
        _ => Class::Store,
    }
}

const REPLY_HD: &[u8; 2] = b"HD";
const REPLY_EN: &[u8; 2] = b"EN";
const REPLY_VA: &[u8; 2] = b"VA";

const fn quiet_of(verb: MetaVerb) -> Quiet {
    match verb {
        MetaVerb::Get => Quiet::Hide(&[REPLY_EN]),
        MetaVerb::Set | MetaVerb::Delete => Quiet::Hide(&[REPLY_HD]),
        MetaVerb::Arith => Quiet::Hide(&[REPLY_HD, REPLY_VA]),
        MetaVerb::Debug => Quiet::No,
    }
}

fn key_len_u16(len: usize) -> u16 {
    u16::try_from(len).expect("lines that hold a key are short")
}
