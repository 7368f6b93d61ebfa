//! Certificates of a test's own, and a client that speaks TLS.

use std::fs::{self, Permissions};
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use tempfile::TempDir;

use super::endpoint::connect_tcp;

/// A connection with TLS.
pub(crate) type TlsStream = StreamOwned<ClientConnection, TcpStream>;

/// Signs certificates; dropped with all that it signed.
#[derive(Debug)]
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    dir: TempDir,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // Two of one name would be taken for one.
        let name = format!("authority {}", dir.path().display());
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let cert = params.self_signed(&key).unwrap();
        fs::write(dir.path().join("ca.pem"), cert.pem()).unwrap();
        Self {
            issuer: Issuer::new(params, key),
            dir,
        }
    }

    /// Its own certificate.
    pub(crate) fn path(&self) -> String {
        path_str(&self.dir.path().join("ca.pem"))
    }

    /// A file with a certificate for these names and addresses, and its key.
    pub(crate) fn issue(&self, file: &str, names: &[&str]) -> String {
        self.issue_until(file, names, 2100)
    }

    /// The same, of one that ends with a year that is over.
    pub(crate) fn issue_expired(&self, file: &str, names: &[&str]) -> String {
        self.issue_until(file, names, 2020)
    }

    fn issue_until(&self, file: &str, names: &[&str], year: i32) -> String {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.not_before = date_time_ymd(2019, 1, 1);
        params.not_after = date_time_ymd(year, 1, 1);
        let key = KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        let path = self.dir.path().join(file);
        // Whole at once: it may be read again at any moment.
        let new = path.with_extension("new");
        fs::write(&new, cert.pem() + &key.serialize_pem()).unwrap();
        fs::set_permissions(&new, Permissions::from_mode(0o600)).unwrap();
        fs::rename(&new, &path).unwrap();
        path_str(&path)
    }

    /// A client that trusts this authority.
    pub(crate) fn client(&self) -> TlsClient {
        self.client_with(None, rustls::ALL_VERSIONS)
    }

    /// The same, with a certificate.
    pub(crate) fn client_as(&self, pair: &str) -> TlsClient {
        self.client_with(Some(pair), rustls::ALL_VERSIONS)
    }

    /// The same, with or without, and these versions of TLS.
    pub(crate) fn client_with(
        &self,
        pair: Option<&str>,
        versions: &[&'static rustls::SupportedProtocolVersion],
    ) -> TlsClient {
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_file(self.path()).unwrap())
            .unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots);
        let config = match pair {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let certs = CertificateDer::pem_file_iter(path).unwrap();
                let key = PrivateKeyDer::from_pem_file(path).unwrap();
                builder
                    .with_client_auth_cert(certs.map(Result::unwrap).collect(), key)
                    .unwrap()
            }
        };
        TlsClient(Arc::new(config))
    }
}

/// How to connect with TLS. Sessions are taken up again.
#[derive(Clone, Debug)]
pub(crate) struct TlsClient(Arc<ClientConfig>);

impl PartialEq for TlsClient {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for TlsClient {}

impl TlsClient {
    /// A handshake that has begun, without a socket.
    pub(crate) fn begin(&self) -> ClientConnection {
        let name = ServerName::try_from("nobody").unwrap();
        ClientConnection::new(Arc::clone(&self.0), name).unwrap()
    }

    /// Connects, and ends the handshake.
    pub(crate) fn connect(&self, address: SocketAddr) -> io::Result<TlsStream> {
        let name = ServerName::from(address.ip());
        let connection =
            ClientConnection::new(Arc::clone(&self.0), name).map_err(io::Error::other)?;
        let mut stream = StreamOwned::new(connection, connect_tcp(address)?);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        Ok(stream)
    }
}

fn path_str(path: &Path) -> String {
    PathBuf::from(path).into_os_string().into_string().unwrap()
}
