//! Logging in: what a client may say before it is known who it is.
//!
//! ```text
//!            credentials               granted
//!  Wanted ───────────────> Checking ────────────> Done
//!    ^                       │  │                  │
//!    └─────── denied, busy ──┘  │ denied too often │ SASL again
//!    ^                          v                  │
//!    └──────────── closed <─────┘      <───────────┘
//! ```
//!
//! What is right and wrong, and in which words, is memcached's: of `-Y` in text, of `-S` in the binary protocol.
//! One difference: 1.6.18 drops the answers of requests that it refuses when another request is behind them in
//! the same packet; here each is answered.
//!
//! # Invariants
//!
//! - Before `Done` nothing reaches a backend, and nothing is answered but logins, and the version in the binary
//!   protocol, as memcached does.
//! - While a login is checked nothing more is read: what is pipelined behind it keeps its place.
//! - Without users ([`Engine::users`] is `None`) every client is `Done` from the start and SASL is unknown.
//! - What waits for a login to be complete is bounded by the line's limit and `credentials_len_max`.
//!
//! Not here: whether a password is right ([`Output::Check`]), what a user may do (`rights`).

use std::sync::Arc;

use super::exchange::{ExchangeId, Kind};
use super::{ClientId, Engine, Output};
use crate::auth::{Checked, Credentials, Rights, Users};
use crate::proto::binary::{self, Answer, Command, Packet, Status};
use crate::proto::{Bad, Keys, ProtoError, Told, parse_unsigned};
use crate::stats::Counter;

/// Who a client is.
#[derive(Debug, Default)]
pub(super) struct Session {
    pub(super) login: Login,
    /// `None` too where there are no users.
    pub(super) rights: Option<Arc<Rights>>,
    /// Logins that were denied.
    failures: u64,
    /// Whether SASL was begun without a message: a step brings it.
    begun: bool,
}

/// How far a client has come.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum Login {
    /// It may ask for what its rights allow.
    #[default]
    Done,
    /// It has not said who it is.
    Wanted,
    /// Its password is being checked; this exchange hears what comes of it.
    Checking(ExchangeId),
}

impl Session {
    /// Of a client that has just connected.
    pub(super) fn new(users: Option<&Arc<Users>>) -> Self {
        Self {
            login: if users.is_some() {
                Login::Wanted
            } else {
                Login::Done
            },
            ..Self::default()
        }
    }

    /// Forgets who it was.
    fn log_out(&mut self) {
        self.login = Login::Wanted;
        self.rights = None;
    }
}

/// The only way of SASL: memcached's own where it is told so. It hides nothing, so it belongs inside of TLS.
const MECHANISM: &[u8] = b"PLAIN";

/// Longest name of a mechanism. memcached: `MAX_SASL_MECH_LEN`.
const MECHANISM_LEN_MAX: usize = 32;

/// What a client is told if nobody could look at its password.
pub(super) const BUSY: &[u8] = b"SERVER_ERROR too many logins, try again later\r\n";

impl Engine {
    /// The users have changed. A client whose line is gone or another gets its answers and is closed.
    pub(super) fn on_users(&mut self, users: &Arc<Users>) {
        self.users = Some(Arc::clone(users));
        for index in 0..self.clients.len() {
            let client = &self.clients[index];
            let rights = client.session.rights.as_deref();
            if rights.is_some_and(|rights| !users.grant(rights))
                && let Some(id) = client.id_if_open(index)
            {
                self.stop_reading(id);
            }
        }
    }

    /// Reads what a client says in text that has not logged in; yields how many bytes it used, or `None` if it has
    /// to wait.
    pub(super) fn read_login(&mut self, id: ClientId, data: &[u8]) -> Option<usize> {
        let line_len_max = self.parse_limits.request_line_len_max;
        let in_line = &data[..data.len().min(line_len_max)];
        let Some(line_len) = memchr::memchr(b'\n', in_line) else {
            if data.len() < line_len_max {
                return None;
            }
            // memcached hangs up without a word too.
            self.count(Counter::ProtocolErrors);
            self.stop_reading(id);
            return Some(data.len());
        };
        let used = line_len + 1;
        let Some(value_len) = value_len_of_login(&data[..line_len]) else {
            self.refuse_login(id, ProtoError::Unauthenticated);
            return Some(used);
        };
        let len_max = self.limits.credentials_len_max;
        let Some(value_len) = usize::try_from(value_len)
            .ok()
            .filter(|_| value_len <= len_max)
        else {
            self.refuse_login(id, ProtoError::AuthFailure);
            self.stop_reading(id);
            return Some(used);
        };
        let value = data[used..].get(..value_len + b"\r\n".len())?;
        let used = used + value.len();
        match value.strip_suffix(b"\r\n").map(Credentials::from_text) {
            Some(Some(credentials)) => self.check(id, credentials),
            Some(None) => self.refuse_login(id, ProtoError::AuthFormat),
            None => self.refuse_login(id, ProtoError::AuthTermination),
        }
        Some(used)
    }

    fn refuse_login(&mut self, id: ClientId, error: ProtoError) {
        let bad = Bad {
            error,
            used: 0,
            swallow: 0,
            // memcached does not look for noreply before it knows who asks.
            told: Told::Yes,
        };
        self.refuse_request(id, bad);
    }

    /// Asks for a password to be checked. Nothing more is read until it is.
    fn check(&mut self, id: ClientId, credentials: Credentials) {
        self.count(Counter::AuthCmds);
        self.clients[id.index as usize].session.log_out();
        let exchange = self.admit(id, Kind::Local);
        let client = &mut self.clients[id.index as usize];
        client.session.login = Login::Checking(exchange);
        client.held_back = true;
        self.outputs.push_back(Output::Check(id, credentials));
    }

    /// A password was checked, or could not be.
    pub(super) fn on_checked(&mut self, id: ClientId, checked: &Checked) {
        let Some(client) = self.client_mut(id) else {
            return;
        };
        let Login::Checking(exchange) = client.session.login else {
            return;
        };
        client.session.login = Login::Wanted;
        let users = self.users.as_deref();
        match checked {
            Checked::Granted(rights) if users.is_some_and(|users| users.grant(rights)) => {
                let session = &mut self.clients[id.index as usize].session;
                session.login = Login::Done;
                session.rights = Some(Arc::clone(rights));
                session.failures = 0;
                self.answer_login(exchange, b"STORED\r\n", (Status::Ok, b"Authenticated"));
            }
            Checked::Denied => {
                let error = ProtoError::AuthFailure.wire();
                let status = (Status::AuthError, Status::AuthError.text());
                self.answer_login(exchange, error, status);
                self.count_failure(id);
            }
            // The users have changed while the password was looked at: by the next try all know them.
            Checked::Granted(_) | Checked::Busy => {
                self.answer_login(exchange, BUSY, (Status::Busy, Status::Busy.text()));
            }
        }
    }

    /// A login has failed. Whoever guesses has to connect again.
    fn count_failure(&mut self, id: ClientId) {
        self.count(Counter::AuthErrors);
        let failures_max = self.limits.login_failures_max;
        let Some(client) = self.client_mut(id) else {
            return;
        };
        client.session.failures += 1;
        if client.session.failures >= failures_max {
            self.stop_reading(id);
        }
    }

    fn answer_login(&mut self, exchange: ExchangeId, text: &[u8], packet: (Status, &[u8])) {
        let this = &mut self.exchanges[exchange];
        match this.asked {
            Some(asked) => Answer::bare(asked.opcode.code, asked.opaque, packet.0)
                .encode_text(packet.1, &mut this.reply),
            None => this.reply.extend_from_slice(text),
        }
        self.complete(exchange);
    }

    /// Whether the client has not logged in, where it has to.
    pub(super) fn is_stranger(&self, id: ClientId) -> bool {
        self.client(id)
            .is_some_and(|client| client.session.login != Login::Done)
    }

    /// Says how one may log in.
    pub(super) fn start_mechanisms(&mut self, id: ClientId, packet: &Packet<'_>) {
        if self.users.is_some() {
            self.answer_sasl(id, Status::Ok, MECHANISM);
        } else {
            self.refuse_read_packet(id, packet, Status::UnknownCommand);
        }
    }

    /// Does what a login asks for, its value at the start of `data`; yields how many bytes of that it used,
    /// or `None` if it has to wait.
    pub(super) fn start_sasl(
        &mut self,
        id: ClientId,
        packet: &Packet<'_>,
        data: &[u8],
    ) -> Option<usize> {
        if self.users.is_none() {
            self.refuse_read_packet(id, packet, Status::UnknownCommand);
            return Some(0);
        }
        if packet.key.len() > MECHANISM_LEN_MAX {
            self.refuse_read_packet(id, packet, Status::Invalid);
            return Some(0);
        }
        if u64::from(packet.value_len) > self.limits.credentials_len_max {
            self.clients[id.index as usize].session.log_out();
            self.refuse_read_packet(id, packet, Status::AuthError);
            return Some(0);
        }
        let value = data.get(..packet.value_len as usize)?;
        let session = &mut self.clients[id.index as usize].session;
        session.log_out();
        let begun = std::mem::take(&mut session.begun);
        let goes_on = packet.opcode.command == Command::SaslStep;
        let known = packet.key.eq_ignore_ascii_case(MECHANISM);
        if known && !goes_on && value.is_empty() {
            session.begun = true;
            self.answer_sasl(id, Status::AuthContinue, b"");
        } else if let Some(credentials) = Credentials::from_plain(value)
            && known
            && (begun || !goes_on)
        {
            self.check(id, credentials);
        } else {
            self.count(Counter::AuthCmds);
            self.answer_sasl(id, Status::AuthError, Status::AuthError.text());
            self.count_failure(id);
        }
        Some(value.len())
    }

    fn answer_sasl(&mut self, id: ClientId, status: Status, text: &[u8]) {
        let exchange = self.admit(id, Kind::Local);
        self.answer_login(exchange, b"", (status, text));
    }

    /// What a stranger's packet is told before it is looked at any further.
    pub(super) fn refuse_stranger(&mut self, id: ClientId, data: &[u8]) -> Option<usize> {
        let refused = binary::refuse_stranger(data)?;
        self.refuse_packet(id, &refused);
        Some(refused.used)
    }
}

/// Length of the value behind `set <anything> <anything> <anything> <length>`, if the line is one. memcached looks
/// at nothing else.
fn value_len_of_login(line: &[u8]) -> Option<u64> {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let mut words = Keys(line);
    if words.next()? != b"set" {
        return None;
    }
    parse_unsigned(words.nth(3)?)
}
