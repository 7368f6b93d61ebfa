//! TLS towards clients.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::SystemTime;

use anyhow::{Context as _, Result};
use rustls::crypto::ring::Ticketer;
use rustls::server::WebPkiClientVerifier;
use rustls::{AlertDescription, CertificateError, ServerConfig, ServerConnection};

use super::files::{Notice, Pair, authorities};
use super::provider;

/// How clients are met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClientTlsOptions {
    /// `--tls-cert`, `--tls-key`.
    pub(crate) pair: Pair,
    /// `--tls-client-ca`, `--tls-client-auth`.
    pub(crate) auth: ClientAuth,
    /// `--tls-min`.
    pub(crate) min: VersionMin,
}

/// Do clients need a certificate? With the authorities that sign those.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ClientAuth {
    /// They are not asked for one.
    None,
    /// One that is given must be good.
    Optional(PathBuf),
    /// Without one they are refused.
    Required(PathBuf),
}

/// The oldest version that is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum VersionMin {
    /// 1.2.
    Tls12,
    /// 1.3.
    Tls13,
}

/// What is loaded, and where from.
pub(crate) struct ClientTls {
    options: ClientTlsOptions,
    loaded: RwLock<Loaded>,
}

#[derive(Clone)]
struct Loaded {
    config: Arc<ServerConfig>,
    notices: Arc<[Notice]>,
}

impl ClientTls {
    pub(super) fn load(options: ClientTlsOptions) -> Result<Self> {
        let loaded = RwLock::new(read(&options)?);
        Ok(Self { options, loaded })
    }

    /// Sessions from before are not resumed: what they were let in by may be gone.
    pub(super) fn reload(&self) -> Result<()> {
        let loaded = read(&self.options)?;
        *self.loaded.write().unwrap_or_else(PoisonError::into_inner) = loaded;
        Ok(())
    }

    pub(super) fn notices(&self) -> Vec<String> {
        let now = SystemTime::now();
        let loaded = self.now();
        loaded.notices.iter().filter_map(|it| it.at(now)).collect()
    }

    fn now(&self) -> Loaded {
        let loaded = self.loaded.read();
        loaded.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// For a new connection.
    ///
    /// # Errors
    ///
    /// If there is no randomness.
    pub(crate) fn accept(&self) -> Result<ServerConnection, rustls::Error> {
        ServerConnection::new(self.now().config)
    }
}

fn read(options: &ClientTlsOptions) -> Result<Loaded> {
    let provider = provider();
    let identity = options.pair.read(&provider)?;
    let versions: &[_] = match options.min {
        VersionMin::Tls12 => &[&rustls::version::TLS13, &rustls::version::TLS12],
        VersionMin::Tls13 => &[&rustls::version::TLS13],
    };
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions)
        .context("TLS")?;
    let verifier = |path: &PathBuf| {
        let roots = authorities("--tls-client-ca", path)?;
        anyhow::Ok(WebPkiClientVerifier::builder_with_provider(
            Arc::new(roots),
            Arc::clone(&provider),
        ))
    };
    let builder = match &options.auth {
        ClientAuth::None => builder.with_no_client_auth(),
        ClientAuth::Optional(path) => {
            let verifier = verifier(path)?.allow_unauthenticated().build();
            builder.with_client_cert_verifier(verifier.context("--tls-client-ca")?)
        }
        ClientAuth::Required(path) => {
            let verifier = verifier(path)?.build();
            builder.with_client_cert_verifier(verifier.context("--tls-client-ca")?)
        }
    };
    let mut config = builder
        .with_single_cert(identity.chain, identity.key)
        .context("--tls-cert")?;
    // PHP connects anew for each page: a session that is taken up costs a fraction of a handshake.
    config.ticketer = Ticketer::new().context("cannot make keys for session tickets")?;
    Ok(Loaded {
        config: Arc::new(config),
        notices: identity.notices.into(),
    })
}

/// Why a client's handshake failed, for the log: whose fault, and what to do.
pub(crate) fn explain(err: &rustls::Error) -> String {
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "these are those with something to say"
    )]
    match err {
        rustls::Error::NoCertificatesPresented => {
            "it has no certificate, and --tls-client-auth requires one".to_owned()
        }
        rustls::Error::InvalidCertificate(
            CertificateError::Expired | CertificateError::ExpiredContext { .. },
        ) => "its certificate has expired".to_owned(),
        rustls::Error::InvalidCertificate(
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. },
        ) => "its certificate is not valid yet".to_owned(),
        rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
            "its certificate is of no authority in --tls-client-ca".to_owned()
        }
        rustls::Error::InvalidCertificate(err) => format!("its certificate: {err}"),
        rustls::Error::AlertReceived(alert) => match alert {
            AlertDescription::UnknownCA => {
                "it does not trust the authority of the certificate in --tls-cert".to_owned()
            }
            AlertDescription::CertificateExpired => {
                "it says that the certificate in --tls-cert has expired".to_owned()
            }
            AlertDescription::BadCertificate | AlertDescription::CertificateUnknown => {
                "it does not accept the certificate in --tls-cert, perhaps for its name".to_owned()
            }
            other => format!("it sent the alert {other:?}"),
        },
        rustls::Error::PeerIncompatible(why) => {
            format!("nothing in common: {why:?}; see --tls-min")
        }
        rustls::Error::InvalidMessage(_) => "it does not speak TLS properly".to_owned(),
        // Our own words.
        rustls::Error::General(why) => why.clone(),
        other => other.to_string(),
    }
}
