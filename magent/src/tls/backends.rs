//! TLS towards backends: which of them speak it, how they are verified, and what the log says if that fails.
//!
//! # Invariants
//!
//! - A backend is verified unless `--backend-tls-verify off` says otherwise.
//! - Of one failure that goes on and on there is one line.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::SystemTime;

use anyhow::{Context as _, Result, bail, ensure};
use magent_core::BackendId;
use magent_core::config::Config;
use magent_core::keeper::Failure;
use magent_core::server::{Address, ServerSpec};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore,
    SignatureScheme,
};

use super::files::{Notice, Pair, authorities};
use super::provider;

/// How backends are met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BackendTlsOptions {
    /// `--backend-tls`: not only those that say so.
    pub(crate) all: bool,
    /// `--backend-tls-ca`; the machine's own authorities without it.
    pub(crate) ca: Option<PathBuf>,
    /// `--backend-tls-cert`, `--backend-tls-key`.
    pub(crate) pair: Option<Pair>,
    /// `--backend-tls-name`.
    pub(crate) name: Option<ServerName<'static>>,
    /// `--backend-tls-verify`.
    pub(crate) verify: Verify,
}

/// Is a backend's certificate verified?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verify {
    /// Yes.
    On,
    /// Anybody may be the backend.
    Off,
}

/// How to begin TLS with one backend.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) config: Arc<ClientConfig>,
    /// What its certificate must be for.
    pub(crate) name: ServerName<'static>,
}

/// TLS with all backends.
pub(crate) struct BackendTls {
    options: Option<BackendTlsOptions>,
    /// By backend: what its certificate must be for, or `None` if it is plain.
    names: Vec<Option<ServerName<'static>>>,
    /// As configured, for messages.
    addresses: Vec<String>,
    loaded: RwLock<Option<Loaded>>,
    /// By backend: what the log says of it.
    told: Mutex<Vec<Option<Failure>>>,
}

#[derive(Clone)]
struct Loaded {
    config: Arc<ClientConfig>,
    notices: Arc<[Notice]>,
}

impl BackendTls {
    pub(super) fn load(options: Option<BackendTlsOptions>, config: &Config) -> Result<Self> {
        let names = match &options {
            Some(options) => names(options, config)?,
            None => config.backends.iter().map(|_| None).collect(),
        };
        let loaded = options.as_ref().map(read).transpose()?;
        Ok(Self {
            options,
            told: Mutex::new(vec![None; names.len()]),
            names,
            addresses: config.backends.iter().map(ToString::to_string).collect(),
            loaded: RwLock::new(loaded),
        })
    }

    /// `None` if there is nothing to load.
    pub(super) fn reload(&self) -> Option<Result<()>> {
        let loaded = read(self.options.as_ref()?);
        Some(loaded.map(|loaded| {
            *self.loaded.write().unwrap_or_else(PoisonError::into_inner) = Some(loaded);
        }))
    }

    pub(super) fn notices(&self) -> Vec<String> {
        let now = SystemTime::now();
        let loaded = self.loaded.read().unwrap_or_else(PoisonError::into_inner);
        let notices = loaded.as_ref().map(|loaded| Arc::clone(&loaded.notices));
        let notices = notices.iter().flat_map(|list| list.iter());
        let mut all: Vec<String> = notices.filter_map(|it| it.at(now)).collect();
        let unverified = |options: &BackendTlsOptions| options.verify == Verify::Off;
        if self.options.as_ref().is_some_and(unverified) {
            all.push(
                "--backend-tls-verify off: whoever is in between can pretend to be a backend, read and change everything"
                    .to_owned(),
            );
        }
        all
    }

    /// How to begin TLS with this backend; `None` if it is plain.
    pub(crate) fn target(&self, backend: BackendId) -> Option<Target> {
        let name = self.names.get(backend.index())?.clone()?;
        let loaded = self.loaded.read().unwrap_or_else(PoisonError::into_inner);
        let config = Arc::clone(&loaded.as_ref()?.config);
        Some(Target { config, name })
    }

    /// A backend's TLS is in order.
    pub(crate) fn on_good(&self, backend: BackendId) {
        if self.names[backend.index()].is_some() {
            self.told.lock().unwrap_or_else(PoisonError::into_inner)[backend.index()] = None;
        }
    }

    /// A backend's TLS has failed like this; `detail` is what TLS says itself. Logs it unless the log says so already.
    pub(crate) fn on_failed(
        &self,
        backend: BackendId,
        failure: Failure,
        detail: Option<&rustls::Error>,
    ) {
        let Some(remedy) = self.remedy(failure, detail) else {
            return;
        };
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told[backend.index()].replace(failure) != Some(failure) {
            let address = &self.addresses[backend.index()];
            tracing::error!("backend {address}: {}: {remedy}", failure.name());
        }
    }

    /// What to do about a failure of TLS; `None` if it is another failure.
    fn remedy(&self, failure: Failure, detail: Option<&rustls::Error>) -> Option<String> {
        let detail = detail.map(ToString::to_string);
        let detail = detail.unwrap_or_else(|| "it closed the connection".to_owned());
        #[expect(
            clippy::wildcard_enum_match_arm,
            reason = "the failures that TLS knows, of many"
        )]
        Some(match failure {
            Failure::TlsExpired => format!("renew it, and compare both clocks ({detail})"),
            Failure::TlsUntrusted => {
                let ca = self.options.as_ref().and_then(|options| options.ca.clone());
                let known = match ca {
                    Some(path) => format!("--backend-tls-ca {} has no", path.display()),
                    None => "this machine trusts no".to_owned(),
                };
                format!(
                    "{known} authority that signed it; name that with --backend-tls-ca ({detail})"
                )
            }
            Failure::TlsWrongName => {
                format!("give the one it has with --backend-tls-name ({detail})")
            }
            Failure::TlsRefusedUs => {
                format!(
                    "give one that it takes with --backend-tls-cert and --backend-tls-key ({detail})"
                )
            }
            Failure::TlsPlain => {
                "start it with TLS (memcached -Z), or connect to it without".to_owned()
            }
            Failure::TlsSilent => {
                "it accepts connections; does it speak TLS (memcached -Z)? Or it hangs".to_owned()
            }
            Failure::TlsFailed => detail,
            _ => return None,
        })
    }
}

/// What kind of failure this is, of a backend.
pub(crate) fn failure_of(err: &rustls::Error) -> Failure {
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "both enums grow; what has no name of its own is the general failure"
    )]
    match err {
        rustls::Error::InvalidCertificate(err) => match err {
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. } => Failure::TlsExpired,
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                Failure::TlsWrongName
            }
            _ => Failure::TlsUntrusted,
        },
        rustls::Error::InvalidMessage(_) => Failure::TlsPlain,
        rustls::Error::AlertReceived(
            AlertDescription::CertificateRequired
            | AlertDescription::BadCertificate
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateExpired
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied
            | AlertDescription::HandshakeFailure,
        ) => Failure::TlsRefusedUs,
        _ => Failure::TlsFailed,
    }
}

/// What the certificate of each backend must be for.
fn names(options: &BackendTlsOptions, config: &Config) -> Result<Vec<Option<ServerName<'static>>>> {
    let mut names = Vec::new();
    for address in &config.backends {
        let specs = config.primaries.iter().chain(&config.backups);
        let specs: Vec<&ServerSpec> = specs.filter(|spec| spec.address() == address).collect();
        let marked = specs.iter().filter(|spec| spec.is_tls()).count();
        ensure!(
            options.all || marked == 0 || marked == specs.len(),
            "server {address} is given with tls: and without: it is one server, so say the same in -s and -b"
        );
        names.push(match (address, options.all || marked > 0) {
            (Address::Tcp { host, .. }, true) => Some(match &options.name {
                Some(name) => name.clone(),
                None => match ServerName::try_from(host.to_string()) {
                    Ok(name) => name,
                    Err(_) => bail!(
                        "server {address}: no certificate can be for \"{host}\"; say what to expect with \
                         --backend-tls-name"
                    ),
                },
            }),
            // Who can reach the socket is on this machine.
            (Address::Unix { .. }, _) | (Address::Tcp { .. }, false) => None,
        });
    }
    Ok(names)
}

fn read(options: &BackendTlsOptions) -> Result<Loaded> {
    let provider = provider();
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .context("TLS")?;
    let verifier: Arc<dyn ServerCertVerifier> = match options.verify {
        Verify::Off => Arc::new(Anybody(Arc::clone(&provider))),
        Verify::On => {
            let roots = match &options.ca {
                Some(path) => authorities("--backend-tls-ca", path)?,
                None => system_authorities()?,
            };
            let builder =
                WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
            builder.build().context("--backend-tls-ca")?
        }
    };
    // Not dangerous: either the usual verifier, or what was asked for.
    let builder = builder
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let (mut config, notices) = match &options.pair {
        None => (builder.with_no_client_auth(), Vec::new()),
        Some(pair) => {
            let identity = pair.read(&provider)?;
            let config = builder.with_client_auth_cert(identity.chain, identity.key);
            (config.context(pair.flag)?, identity.notices)
        }
    };
    // Connections last, so little would be saved. And a memcached (1.6.18) that verifies its clients answers the
    // attempt to take up a session with the alert internal_error, every time.
    config.resumption = Resumption::disabled();
    Ok(Loaded {
        config: Arc::new(config),
        notices: notices.into(),
    })
}

fn system_authorities() -> Result<RootCertStore> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(found.certs);
    ensure!(
        added > 0,
        "this machine has no certificates of authorities to verify backends by: name a file with --backend-tls-ca"
    );
    Ok(roots)
}

/// Takes any certificate. Signatures still have to be right: who shows a certificate must have its key.
struct Anybody(Arc<CryptoProvider>);

impl fmt::Debug for Anybody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Anybody")
    }
}

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let algorithms = &self.0.signature_verification_algorithms;
        algorithms.supported_schemes()
    }
}
