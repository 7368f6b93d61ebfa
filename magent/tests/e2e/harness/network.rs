//! A network of its own for a memcached, with a cable to cut.
//!
//! ```text
//! magent ── veth ═ cable ═ veth (namespace) ── memcached
//! ```
//!
//! Unlike behind a relay, a cut here is one of packets: what was on its way is sent again by the kernels, and
//! neither side hears of connections that the other has given up.
//!
//! # Invariants
//!
//! - Everything goes with the processes in the namespace: they are killed when their owners are dropped, and
//!   the kernel removes namespace and cable after them.

use std::net::Ipv4Addr;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::Path as FilePath;
use std::process::{Command, Stdio};

use super::process::{Process, find_program};
use super::{Endpoint, Memcached, Path, wait_until};

/// The namespace and its cable.
#[derive(Debug)]
pub(crate) struct Network {
    // Keeps the namespace while no memcached is in it.
    holder: Process,
    subnet: Subnet,
}

/// Two addresses that nobody else on this machine uses.
#[derive(Debug)]
struct Subnet {
    near: Ipv4Addr,
    far: Ipv4Addr,
    /// Of the interface with the near address.
    near_end: String,
    // Held as long as the addresses are used. Such names are of one network, as interfaces are.
    _claim: UnixListener,
}

impl Subnet {
    /// The first that is free.
    fn claim() -> Self {
        (0..SUBNET_COUNT)
            .find_map(Self::claim_one)
            .expect("other tests do not use them all")
    }

    fn claim_one(index: u16) -> Option<Self> {
        let name = format!("magent-e2e-subnet-{index}");
        let address = SocketAddr::from_abstract_name(name).ok()?;
        let claim = UnixListener::bind_addr(&address).ok()?;
        let near_end = format!("mg{index}");
        // A namespace takes a moment to go, and its cable with it.
        if FilePath::new("/sys/class/net").join(&near_end).exists() {
            return None;
        }
        let [high, low] = (index * 4).to_be_bytes();
        let [near, far] = [1, 2].map(|host| Ipv4Addr::new(198, 18, high, low | host));
        Some(Self {
            near,
            far,
            near_end,
            _claim: claim,
        })
    }
}

/// 198.18.0.0/15 is for tests of networks, and used by nobody else. Of its first half, four addresses each.
const SUBNET_COUNT: u16 = 1 << 14;

const FAR_END: &str = "far";

impl Network {
    /// `None` where that is not allowed, or the commands for it are missing.
    pub(crate) fn start() -> Option<Self> {
        let unshare = find_program("unshare")?;
        let sleep = find_program("sleep")?;
        for name in ["ip", "nsenter"] {
            find_program(name)?;
        }
        if !nix::unistd::geteuid().is_root() || !succeeds("unshare", &["--net", "true"]) {
            return None;
        }
        let holder = Process::start(&unshare, |command| {
            command.arg("--net").arg(&sleep).arg("infinity");
        });
        let ours = network_of(std::process::id());
        wait_until("the namespace is there", || {
            network_of(holder.pid()) != ours
        });
        let this = Self {
            holder,
            subnet: Subnet::claim(),
        };
        let Subnet {
            near,
            far,
            near_end,
            ..
        } = &this.subnet;
        let pid = this.holder.pid().to_string();
        let made = succeeds(
            "ip",
            &[
                "link", "add", near_end, "type", "veth", "peer", "name", FAR_END, "netns", &pid,
            ],
        ) && succeeds(
            "ip",
            &["address", "add", &format!("{near}/30"), "dev", near_end],
        ) && succeeds("ip", &["link", "set", near_end, "up"])
            && this.run_inside(&["ip", "address", "add", &format!("{far}/30"), "dev", FAR_END])
            && this.run_inside(&["ip", "link", "set", "lo", "up"]);
        if !made {
            return None;
        }
        this.set_path(Path::Whole);
        Some(this)
    }

    /// A memcached inside. Start one only.
    pub(crate) fn start_memcached(&self) -> Memcached {
        const PORT: u16 = 11_211;
        let endpoint = Endpoint::Tcp((self.subnet.far, PORT).into());
        Memcached::start_through(
            &[
                "nsenter",
                "--net",
                "--target",
                &self.holder.pid().to_string(),
            ],
            endpoint,
        )
    }

    /// Plugs the cable in or out, at the far end: the near one goes on sending.
    pub(crate) fn set_path(&self, path: Path) {
        let state = match path {
            Path::Whole => "up",
            Path::Cut => "down",
        };
        assert!(self.run_inside(&["ip", "link", "set", FAR_END, state]));
    }

    fn run_inside(&self, command: &[&str]) -> bool {
        let pid = self.holder.pid().to_string();
        succeeds("nsenter", &[&["--net", "--target", &pid], command].concat())
    }
}

/// Which network a process is in.
fn network_of(pid: u32) -> Option<std::path::PathBuf> {
    std::fs::read_link(FilePath::new("/proc").join(pid.to_string()).join("ns/net")).ok()
}

fn succeeds(program: &str, args: &[&str]) -> bool {
    let output = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .output();
    let succeeded = output.as_ref().is_ok_and(|output| output.status.success());
    if !succeeded {
        println!("{program} {}: {output:?}", args.join(" "));
    }
    succeeded
}
