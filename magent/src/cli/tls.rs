//! The flags of TLS.
//!
//! Not here: what they become (`options::tls`).

use clap::{Arg, ArgAction, ValueHint};

use super::values::one_of;
use super::{path, text};
use crate::tls::backends::Verify;
use crate::tls::clients::VersionMin;

const TLS: &str = "TLS";

/// As in the help: towards clients, then towards backends.
pub(super) fn args() -> impl Iterator<Item = Arg> {
    let both = clients().into_iter().chain(backends());
    both.map(|arg| arg.help_heading(TLS))
}

fn file(id: &'static str) -> Arg {
    path(id).value_name("FILE")
}

fn clients() -> [Arg; 5] {
    [
        file("tls-cert")
            .help("Certificate of this proxy, and its chain, for listeners with tls:")
            .long_help(
                "Certificate of this proxy in PEM, followed by those that lead to its authority's, \
                 for listeners with tls:. Read again on SIGHUP, as all files of TLS are; one that \
                 is broken then is reported and the old one stays in use",
            ),
        file("tls-key").help("Its private key, if that is not in the same file"),
        file("tls-client-ca").help("Authorities whose certificates clients must have"),
        text("tls-client-auth", "WHAT")
            .value_parser(["none", "optional", "required"])
            .help("Whether clients need a certificate; required with --tls-client-ca")
            .long_help(
                "Whether clients need a certificate of --tls-client-ca. none: they are not asked. \
                 optional: one that is given must be good. required, the default with \
                 --tls-client-ca: without one they are refused",
            ),
        text("tls-min", "VERSION")
            .value_parser(one_of([
                ("1.2", VersionMin::Tls12),
                ("1.3", VersionMin::Tls13),
            ]))
            .default_value("1.2")
            .help("Oldest version of TLS that clients may speak"),
    ]
}

fn backends() -> [Arg; 6] {
    [
        Arg::new("backend-tls")
            .long("backend-tls")
            .action(ArgAction::SetTrue)
            .help("Speak TLS to all servers, except over unix sockets")
            .long_help(
                "Speak TLS to all servers, except over unix sockets. To some of them: write these \
                 as tls:ADDRESS. Where keys go does not depend on it",
            ),
        file("backend-tls-ca")
            .help("Authorities that servers' certificates must be of; else those of this machine"),
        file("backend-tls-cert").help("Certificate for servers that want one from their clients"),
        file("backend-tls-key").help("Its private key, if that is not in the same file"),
        text("backend-tls-name", "NAME")
            .value_hint(ValueHint::Hostname)
            .help("Name that servers' certificates must be for, if not that of -s and -b"),
        text("backend-tls-verify", "WHAT")
            .value_parser(one_of([("on", Verify::On), ("off", Verify::Off)]))
            .default_value("on")
            .help("Whether servers' certificates are verified")
            .long_help(
                "Whether servers' certificates are verified. off: whoever is between this machine \
                 and a server can pretend to be it",
            ),
    ]
}
