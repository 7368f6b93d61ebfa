//! Answers on their way to clients.
//!
//! # Invariants
//!
//! - Answers leave in the order of the requests: only the head of a client's queue is moved into what is sent
//!   ([`Engine::flush_answers`]).
//! - What `noreply` and `q` hide is dropped here, after the exchange has taken its place in the order.
//!
//! Not here: how answers are made (`reads`, `writes`, `answers`).

use super::exchange::{ExchangeId, Kind, Quiet};
use super::{ClientId, Engine};
use crate::stats::Counter;

/// Values of a multi-key get wait for each other up to this many bytes.
const TOGETHER_LEN_MAX: usize = 64 * 1024;

impl Engine {
    pub(super) fn answer_locally(&mut self, id: ClientId, reply: &[u8], noreply: bool) {
        self.count(Counter::Others);
        if noreply {
            return;
        }
        let exchange = self.admit(id, Kind::Local);
        self.exchanges[exchange].reply.extend_from_slice(reply);
        self.complete(exchange);
    }

    /// Counts what `reply` holds as memory.
    pub(super) fn count_reply(&mut self, exchange: ExchangeId) {
        let this = &mut self.exchanges[exchange];
        // It may have become shorter: a value that only the comparison of copies needed is taken out.
        self.memory_len -= this.reply_counted as u64;
        self.memory_len += this.reply.len() as u64;
        this.reply_counted = this.reply.len();
    }

    pub(super) fn drop_reply(&mut self, exchange: ExchangeId) {
        let this = &mut self.exchanges[exchange];
        self.memory_len -= std::mem::take(&mut this.reply_counted) as u64;
        this.reply.clear();
    }

    /// The exchange has its answer in `reply`.
    pub(super) fn complete(&mut self, exchange: ExchangeId) {
        self.exchanges.unlink(exchange);
        let this = &mut self.exchanges[exchange];
        if this.done {
            // Answered at its deadline, or its client is gone: what came of it is no longer asked for.
            assert!(this.client.is_none(), "an exchange is answered once");
            self.drop_reply(exchange);
            return;
        }
        this.done = true;
        this.hide_value();
        if !this.streamed {
            this.hide_prefix();
        }
        if let Some(instead) = this.instead {
            this.reply.clear();
            this.reply.extend_from_slice(instead);
        }
        if this.asked.is_some() {
            self.speak_binary(exchange);
        }
        let this = &mut self.exchanges[exchange];
        if this.last && this.asked.is_none() {
            this.reply.extend_from_slice(b"END\r\n");
        }
        match this.quiet {
            Quiet::No => {}
            Quiet::Noreply => {
                if is_error(&this.reply) {
                    self.count(Counter::NoreplyErrors);
                }
                self.drop_reply(exchange);
            }
            Quiet::Hide(codes) => {
                if codes.iter().any(|code| this.reply.starts_with(&code[..])) {
                    self.drop_reply(exchange);
                }
            }
        }
        let this = &mut self.exchanges[exchange];
        let Some(client) = this.client.take() else {
            self.drop_reply(exchange);
            return;
        };
        self.count_reply(exchange);
        self.flush_answers(client);
    }

    /// Moves the answers at the head of a client's queue into what is sent to it.
    pub(super) fn flush_answers(&mut self, id: ClientId) {
        let Self {
            clients,
            exchanges,
            pool,
            memory_len,
            clients_waiting,
            answer_len_average,
            ..
        } = self;
        let client = &mut clients[id.index as usize];
        assert!(
            client.generation == id.generation,
            "a closed client's exchanges know no client"
        );
        // The values of one multi-key get come from several backends. They leave together: a write costs
        // the client a wake-up too.
        let mut leaves = client.held_back;
        let waited = !client.queue.is_empty();
        while let Some(&head) = client.queue.front() {
            let exchange = &mut exchanges[head];
            if !exchange.done {
                break;
            }
            client.queue.pop_front();
            // An eighth of the way to the newest, without its remainder, so that it can fall to 0.
            let average = client.answer_len_average;
            client.answer_len_average = average - average.div_ceil(8) + exchange.reply.len() / 8;
            leaves |= !exchange.part;
            exchange.reply_counted = 0;
            client.unsent.take(&mut exchange.reply, pool);
            if exchange.refs == 1 {
                // A number that was compared is of no use any more.
                *memory_len -= std::mem::take(&mut exchange.hedge_counted) as u64;
            }
            exchanges.release(head);
        }
        if leaves {
            let (all, its) = (*answer_len_average, client.answer_len_average);
            *answer_len_average = all - all.div_ceil(16) + its / 16;
        }
        *clients_waiting -= u64::from(waited && client.queue.is_empty());
        // Quiet gets that nothing follows must not wait for what a client may never send.
        leaves |= client
            .queue
            .front()
            .is_none_or(|&head| exchanges[head].kind == Kind::Upload);
        if leaves || client.unsent.len() >= TOGETHER_LEN_MAX {
            self.touch_client(id);
        }
    }

    /// Forwards what is there of a large value, if its client waits for nothing else.
    pub(super) fn stream(&mut self, exchange: ExchangeId) {
        self.count_reply(exchange);
        let Some(id) = self.exchanges[exchange].client else {
            return;
        };
        let Self {
            clients,
            exchanges,
            pool,
            ..
        } = self;
        let client = &mut clients[id.index as usize];
        let this = &mut exchanges[exchange];
        if client.queue.front() != Some(&exchange) || this.quiet != Quiet::No {
            return;
        }
        if !this.streamed {
            this.hide_prefix();
        }
        this.streamed = true;
        this.reply_counted = 0;
        client.unsent.take(&mut this.reply, pool);
        self.touch_client(id);
    }

    /// A value of which a part has been forwarded cannot be completed: the client has to hear of it.
    pub(super) fn break_off(&mut self, exchange: ExchangeId) {
        if let Some(id) = self.exchanges[exchange].client {
            self.close_client(id);
        }
    }
}

/// Whether an answer is one of memcached's three errors.
pub(super) fn is_error(reply: &[u8]) -> bool {
    reply.starts_with(b"ERROR")
        || reply.starts_with(b"CLIENT_ERROR")
        || reply.starts_with(b"SERVER_ERROR")
}
