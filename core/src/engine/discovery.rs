//! What clients with auto discovery ask for: the list of proxies, in the format of Amazon ElastiCache.
//!
//! ```text
//!  client: config get cluster                     (since 1.4.14; in binary, opcode 0x60 with the key "cluster")
//!  answer: CONFIG cluster 0 <length>
//!          <version>
//!          <host>|<ip>|<port> <host>|<ip>|<port>
//!
//!          END
//!  client: get AmazonElastiCache:cluster          (before)
//!  answer: VALUE AmazonElastiCache:cluster 0 <length>, and the same
//! ```
//!
//! The two lines end with a bare LF, and the length counts them; CR LF and `END` follow.
//!
//! # Invariants
//!
//! - No backend hears of it.
//! - Without a list both are what they are to a memcached: an unknown command, and any key.
//!
//! Not here: where the list comes from ([`crate::config::Advertised`]).

use super::exchange::{ExchangeId, Kind};
use super::{ClientId, Engine};
use crate::config::Config;
use crate::proto::GetVerb;
use crate::proto::binary::{Answer, Packet, Status};
use crate::stats::Counter;

/// The key that is asked for before `config` was a command.
const CLUSTER_KEY: &[u8] = b"AmazonElastiCache:cluster";

/// What is asked for with `config get`.
const CLUSTER: &[u8] = b"cluster";

/// The list on the wire, if there is one.
pub(super) fn list(config: &Config) -> Option<Vec<u8>> {
    let advertised = config.advertised.as_ref();
    advertised.map(|advertised| advertised.wire(config.process))
}

impl Engine {
    /// `config get`.
    pub(super) fn start_config(&mut self, id: ClientId, key: &[u8]) {
        let mut reply = Vec::new();
        match &self.cluster {
            None => reply.extend_from_slice(b"ERROR\r\n"),
            Some(cluster) => {
                if key == CLUSTER {
                    push_line(&mut reply, "CONFIG cluster 0", cluster.len());
                    reply.extend_from_slice(cluster);
                    reply.extend_from_slice(b"\r\n");
                }
                reply.extend_from_slice(b"END\r\n");
            }
        }
        self.answer_locally(id, &reply, false);
    }

    /// The same in binary.
    pub(super) fn start_config_packet(&mut self, id: ClientId, packet: &Packet<'_>) {
        let bare = |status| Answer::bare(packet.opcode.code, packet.opaque, status);
        let mut reply = Vec::new();
        match &self.cluster {
            Some(cluster) if packet.key == CLUSTER => {
                let extras = &[0; 4];
                let answer = bare(Status::Ok);
                Answer { extras, ..answer }.encode_text(cluster, &mut reply);
            }
            Some(_) => bare(Status::NotFound).encode_text(Status::NotFound.text(), &mut reply),
            None => {
                let status = Status::UnknownCommand;
                bare(status).encode_text(status.text(), &mut reply);
            }
        }
        self.answer_locally(id, &reply, false);
    }

    /// Whether a get of `key` is answered here.
    pub(super) fn is_discovery(&self, key: &[u8]) -> bool {
        self.cluster.is_some() && key == CLUSTER_KEY
    }

    /// Answers a get of the list's key.
    pub(super) fn answer_discovery(&mut self, exchange: ExchangeId) {
        let Self {
            cluster, exchanges, ..
        } = self;
        let cluster = cluster.as_deref().unwrap_or_default();
        let this = &mut exchanges[exchange];
        // It is nobody's own key.
        this.prefix_len = 0;
        let mut line = Vec::new();
        line.extend_from_slice(b"VALUE ");
        line.extend_from_slice(CLUSTER_KEY);
        let with_cas = this.kind == Kind::Fetch(GetVerb::Gets);
        push_line(&mut line, " 0", cluster.len());
        if with_cas {
            // Nobody changes it, so one unique does.
            line.truncate(line.len() - 2);
            line.extend_from_slice(b" 1\r\n");
        }
        let mut reply = std::mem::take(&mut this.reply);
        if super::binary::encode_hit(this, &line, 0, &mut reply) {
            reply.extend_from_slice(cluster);
        } else {
            reply.extend_from_slice(&line);
            reply.extend_from_slice(cluster);
            reply.extend_from_slice(b"\r\n");
        }
        this.reply = reply;
        self.count(Counter::GetHits);
        self.complete(exchange);
    }
}

fn push_line(out: &mut Vec<u8>, start: &str, len: usize) {
    out.extend_from_slice(format!("{start} {len}\r\n").as_bytes());
}
