//! Certificates and keys in files.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail, ensure};
use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// A certificate with its chain, and its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pair {
    /// The option that names the first file.
    pub(crate) flag: &'static str,
    /// The certificate, then those that lead to an authority's.
    pub(crate) cert: PathBuf,
    /// Its key; may be the same file.
    pub(crate) key: PathBuf,
}

/// A certificate is warned about so long before it expires.
const EXPIRY_NOTICE: Duration = Duration::from_secs(14 * DAY_S);
const DAY_S: u64 = 24 * 60 * 60;

/// A pair that was read.
pub(super) struct Identity {
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) key: PrivateKeyDer<'static>,
    pub(super) notices: Vec<Notice>,
}

/// Something about a pair that its owner should know.
#[derive(Clone, Debug)]
pub(super) enum Notice {
    /// The certificate expires then.
    Expires(PathBuf, SystemTime),
    /// Others may read the key.
    Exposed(PathBuf),
}

impl Notice {
    /// If it is worth a word at this time.
    pub(super) fn at(&self, now: SystemTime) -> Option<String> {
        match self {
            Self::Exposed(path) => Some(format!(
                "everybody on this machine may read the key in {}: chmod o= it",
                path.display()
            )),
            Self::Expires(path, at) => {
                let path = path.display();
                let when = humantime::format_rfc3339_seconds(*at);
                match at.duration_since(now) {
                    Err(_) => Some(format!(
                        "the certificate in {path} has expired, on {when}: nobody who verifies it connects; put a \
                         new one there and send SIGHUP"
                    )),
                    Ok(left) if left < EXPIRY_NOTICE => Some(format!(
                        "the certificate in {path} expires in {} days, on {when}: put a new one there and send SIGHUP",
                        left.as_secs() / DAY_S
                    )),
                    Ok(_) => None,
                }
            }
        }
    }
}

impl Pair {
    /// Reads both, and checks that they belong together.
    pub(super) fn read(&self, provider: &Arc<CryptoProvider>) -> Result<Identity> {
        let chain = certificates(&self.cert)
            .with_context(|| format!("{} {}", self.flag, self.cert.display()))?;
        let key = PrivateKeyDer::from_pem_file(&self.key).map_err(|err| {
            anyhow::anyhow!(
                "key of {} in {}: {}",
                self.flag,
                self.key.display(),
                describe(&err, "private key", "KEY")
            )
        })?;
        if let Err(err) = CertifiedKey::from_der(chain.clone(), key.clone_key(), provider) {
            let (cert, key) = (self.cert.display(), self.key.display());
            if let rustls::Error::InconsistentKeys(_) = err {
                bail!("the key in {key} is not the key of the first certificate in {cert}");
            }
            bail!("{} {cert} with the key in {key}: {err}", self.flag);
        }
        let mut notices = Vec::new();
        let leaf = chain.first().context("read above")?;
        if let Some(at) = not_after(leaf) {
            notices.push(Notice::Expires(self.cert.clone(), at));
        }
        let mode = fs::metadata(&self.key).map_or(0, |data| data.permissions().mode());
        if mode & 0o004 != 0 {
            notices.push(Notice::Exposed(self.key.clone()));
        }
        Ok(Identity {
            chain,
            key,
            notices,
        })
    }
}

/// All certificates in a file of PEM, at least one.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let read = || CertificateDer::pem_file_iter(path)?.collect::<Result<Vec<_>, _>>();
    let found = match read() {
        Ok(found) => found,
        Err(err) => bail!(describe(&err, "certificate", "CERTIFICATE")),
    };
    ensure!(
        !found.is_empty(),
        "{}",
        describe(&pem::Error::NoItemsFound, "certificate", "CERTIFICATE")
    );
    Ok(found)
}

fn describe(err: &pem::Error, what: &str, label: &str) -> String {
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "the crate may add kinds of errors at any time"
    )]
    match err {
        pem::Error::Io(err) => err.to_string(),
        pem::Error::NoItemsFound => {
            format!("no {what} in it; expected PEM, with a line such as -----BEGIN {label}-----")
        }
        other => format!("this is no PEM: {other}"),
    }
}

/// The authorities in a file.
pub(super) fn authorities(flag: &str, path: &Path) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for cert in certificates(path).with_context(|| format!("{flag} {}", path.display()))? {
        roots
            .add(cert)
            .with_context(|| format!("{flag} {}", path.display()))?;
    }
    Ok(roots)
}

fn not_after(cert: &CertificateDer<'_>) -> Option<SystemTime> {
    let (_, cert) = X509Certificate::from_der(cert).ok()?;
    let unix_s = u64::try_from(cert.validity().not_after.timestamp()).ok()?;
    UNIX_EPOCH.checked_add(Duration::from_secs(unix_s))
}
