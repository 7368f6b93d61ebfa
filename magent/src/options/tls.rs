//! What the flags of TLS ask for, checked against what else is asked for.
//!
//! Not here: how they are spelled (`cli::tls`), what is in the files (`tls`).

use anyhow::{Context as _, Result, bail, ensure};
use clap::ArgMatches;
use clap::parser::ValueSource;
use magent_core::config::Config;
use magent_core::server::ServerSpec;
use rustls::pki_types::ServerName;

use super::absolute;
use crate::listen::ListenOptions;
use crate::tls::backends::BackendTlsOptions;
use crate::tls::clients::{ClientAuth, ClientTlsOptions};
use crate::tls::files::Pair;

/// Both sides.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TlsOptions {
    /// If any listener speaks TLS.
    pub(crate) clients: Option<ClientTlsOptions>,
    /// If any backend is spoken to with TLS.
    pub(crate) backends: Option<BackendTlsOptions>,
}

impl TlsOptions {
    pub(super) fn new(
        matches: &ArgMatches,
        listen: &ListenOptions,
        config: &Config,
    ) -> Result<Self> {
        Ok(Self {
            clients: clients(matches, listen)?,
            backends: backends(matches, config)?,
        })
    }
}

/// The first of these flags that was given.
fn given(matches: &ArgMatches, flags: &[&'static str]) -> Option<&'static str> {
    let is_given = |flag: &&&str| matches.value_source(flag) == Some(ValueSource::CommandLine);
    flags.iter().find(is_given).copied()
}

fn pair(
    matches: &ArgMatches,
    flags: [&'static str; 2],
    shown: &'static str,
) -> Result<Option<Pair>> {
    let [cert, key] = flags;
    match (absolute(matches, cert)?, absolute(matches, key)?) {
        (Some(cert), key) => Ok(Some(Pair {
            flag: shown,
            key: key.unwrap_or_else(|| cert.clone()),
            cert,
        })),
        (None, None) => Ok(None),
        (None, Some(_)) => {
            bail!("--{key}: which certificate is it the key of? Give that with {shown}")
        }
    }
}

fn clients(matches: &ArgMatches, listen: &ListenOptions) -> Result<Option<ClientTlsOptions>> {
    const FLAGS: [&str; 5] = [
        "tls-cert",
        "tls-key",
        "tls-client-ca",
        "tls-client-auth",
        "tls-min",
    ];
    if !listen.has_tls() {
        if let Some(flag) = given(matches, &FLAGS) {
            bail!("--{flag}: no listener speaks TLS; add one, such as --listen tls:0.0.0.0:11212");
        }
        return Ok(None);
    }
    let pair = pair(matches, ["tls-cert", "tls-key"], "--tls-cert")?;
    let pair = pair.context(
        "a listener with tls: needs a certificate: --tls-cert FILE, and --tls-key FILE if the key is not in the same file",
    )?;
    let ca = absolute(matches, "tls-client-ca")?;
    let what = matches.get_one::<String>("tls-client-auth");
    let auth = match (what.map(String::as_str), ca) {
        (None, None) | (Some("none"), None) => ClientAuth::None,
        (Some("none"), Some(_)) => {
            bail!(
                "--tls-client-ca: --tls-client-auth none asks no client for a certificate; leave one of them away"
            )
        }
        (Some("optional"), Some(path)) => ClientAuth::Optional(path),
        (_, Some(path)) => ClientAuth::Required(path),
        (Some(what), None) => bail!(
            "--tls-client-auth {what}: whose certificates are good? Name their authorities with --tls-client-ca FILE"
        ),
    };
    Ok(Some(ClientTlsOptions {
        pair,
        auth,
        min: *matches.get_one("tls-min").expect("has a default"),
    }))
}

fn backends(matches: &ArgMatches, config: &Config) -> Result<Option<BackendTlsOptions>> {
    const FLAGS: [&str; 5] = [
        "backend-tls-ca",
        "backend-tls-cert",
        "backend-tls-key",
        "backend-tls-name",
        "backend-tls-verify",
    ];
    let all = matches.get_flag("backend-tls");
    let mut specs = config.primaries.iter().chain(&config.backups);
    if !all && !specs.any(ServerSpec::is_tls) {
        if let Some(flag) = given(matches, &FLAGS) {
            bail!(
                "--{flag}: no server is spoken to with TLS; add --backend-tls, or write -s tls:ADDRESS"
            );
        }
        return Ok(None);
    }
    let verify = *matches
        .get_one("backend-tls-verify")
        .expect("has a default");
    let name = match matches.get_one::<String>("backend-tls-name") {
        Some(text) => Some(ServerName::try_from(text.clone()).map_err(|_| {
            anyhow::anyhow!("--backend-tls-name {text}: expected a host's name or an address")
        })?),
        None => None,
    };
    let ca = absolute(matches, "backend-tls-ca")?;
    ensure!(
        ca.is_none() || verify == crate::tls::backends::Verify::On,
        "--backend-tls-ca: --backend-tls-verify off looks at no certificate; leave one of them away"
    );
    let pair = pair(
        matches,
        ["backend-tls-cert", "backend-tls-key"],
        "--backend-tls-cert",
    )?;
    Ok(Some(BackendTlsOptions {
        all,
        ca,
        pair,
        name,
        verify,
    }))
}
