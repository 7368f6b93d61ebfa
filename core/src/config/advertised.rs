//! The list of proxies that clients with auto discovery are told.
//!
//! Clients ask every minute or so, each time another proxy, and take a list over only if its version is higher
//! than that of the list they have (Amazon's clients for Java and libmemcached). So a list that has changed must
//! come with a higher version, and two proxies with the same list should give the same one: the operator can
//! number the lists. Else it is the time at which the process started, so that the list of the proxy that was
//! started last counts, as it should while one after the other is started with a new list.
//!
//! Not here: the commands (`engine`'s discovery).

use super::ProcessInfo;

/// What `--advertise` and `--advertise-version` say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advertised {
    /// At least one.
    pub proxies: Vec<AdvertisedProxy>,
    /// Of the list; `None`: the start time of the process.
    pub version: Option<u64>,
}

/// One proxy of the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdvertisedProxy {
    /// Name or address, as the operator wrote it.
    pub host: String,
    /// Its address, if it is known. Some clients connect to it, others to `host`; an empty one makes Amazon's
    /// clients look up `host`.
    pub ip: String,
    /// Where it listens.
    pub port: u16,
}

impl Advertised {
    /// The list on the wire, its last LF included.
    #[must_use]
    pub fn wire(&self, process: ProcessInfo) -> Vec<u8> {
        let version = self.version.unwrap_or(process.unix_start_s);
        let proxy = |proxy: &AdvertisedProxy| format!("{}|{}|{}", proxy.host, proxy.ip, proxy.port);
        let proxies: Vec<String> = self.proxies.iter().map(proxy).collect();
        format!("{version}\n{}\n", proxies.join(" ")).into_bytes()
    }
}
