//! TLS: certificates and keys from files, towards clients and towards backends.
//!
//! # Invariants
//!
//! - What is used was loaded as a whole and fits together. A reload that fails changes nothing and says why.
//! - Connections keep what they began with; new ones get what was loaded last.
//! - No key, and nothing that a peer sent without being asked, is in a message.
//!
//! Not here: bytes on sockets (`worker`, `dial`), when files are read again (`control`).

pub(crate) mod backends;
pub(crate) mod clients;
pub(crate) mod files;

use std::io;
use std::sync::Arc;

use anyhow::Result;
use magent_core::config::Config;
use rustls::crypto::CryptoProvider;

use self::backends::BackendTls;
use self::clients::ClientTls;
use crate::options::TlsOptions;

/// Everything about TLS that threads share.
pub(crate) struct Tls {
    /// Towards clients, if any listener speaks it.
    pub(crate) clients: Option<ClientTls>,
    /// Towards backends.
    pub(crate) backends: BackendTls,
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    ///
    /// If one cannot be used; the message names it and what to do.
    pub(crate) fn load(options: &TlsOptions, config: &Config) -> Result<Self> {
        let clients = options.clients.clone().map(ClientTls::load).transpose()?;
        let backends = BackendTls::load(options.backends.clone(), config)?;
        Ok(Self { clients, backends })
    }

    /// What the operator should hear about what is in use.
    pub(crate) fn notices(&self) -> Vec<String> {
        let clients = self.clients.iter().flat_map(ClientTls::notices);
        clients.chain(self.backends.notices()).collect()
    }

    /// Reads the files again. Says in the log what came of it.
    pub(crate) fn reload(&self) {
        let clients = self.clients.as_ref().map(ClientTls::reload);
        let backends = self.backends.reload();
        let both = [
            clients.map(|done| (done, "towards clients")),
            backends.map(|done| (done, "towards backends")),
        ];
        for (done, side) in both.into_iter().flatten() {
            match done {
                Ok(()) => tracing::info!("TLS {side}: certificates loaded again"),
                Err(err) => tracing::error!(
                    "TLS {side}: going on with the certificates from before, the new ones are of no use: {err:#}"
                ),
            }
        }
        for notice in self.notices() {
            tracing::warn!("{notice}");
        }
    }
}

/// The implementation of all ciphers.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// What TLS says is wrong, in an error of a stream.
pub(crate) fn tls_error(err: &io::Error) -> Option<&rustls::Error> {
    err.get_ref()?.downcast_ref()
}
