//! A real memcached.

use std::path::PathBuf;

use super::endpoint::free_endpoint;
use super::process::{Process, program};
use super::{Client, Endpoint, wait_until};

/// A memcached of its own for one test.
#[derive(Debug)]
pub(crate) struct Memcached {
    /// Where it listens; kept over restarts.
    pub(crate) endpoint: Endpoint,
    options: Vec<String>,
    process: Process,
}

impl Memcached {
    /// On a free port of this process's loopback address.
    pub(crate) fn start() -> Self {
        Self::start_at(free_endpoint(), &[])
    }

    /// At `endpoint`, with more `options` than the usual.
    pub(crate) fn start_at(endpoint: Endpoint, options: &[&str]) -> Self {
        let options: Vec<String> = options.iter().map(ToString::to_string).collect();
        let process = spawn(&endpoint, &options);
        let mut memcached = Self {
            endpoint,
            options,
            process,
        };
        memcached.wait_until_ready();
        memcached
    }

    /// On a unix socket.
    pub(crate) fn start_unix(path: PathBuf) -> Self {
        Self::start_at(Endpoint::Unix(path), &[])
    }

    /// A client that talks to it without the proxy.
    pub(crate) fn client(&self) -> Client {
        Client::connect(&self.endpoint)
    }

    /// `kill -9`.
    pub(crate) fn kill9(&mut self) {
        self.process.kill9();
    }

    /// Starts it again, empty, where it was. It must have been killed.
    pub(crate) fn restart(&mut self) {
        assert!(self.process.exited().is_some(), "restarted while it runs");
        self.process = spawn(&self.endpoint, &self.options);
        self.wait_until_ready();
    }

    /// SIGSTOP: its port goes on accepting, nothing is answered.
    pub(crate) fn stop(&self) {
        self.process.stop();
    }

    /// SIGCONT.
    pub(crate) fn cont(&self) {
        self.process.cont();
    }

    /// What it holds under `key`, the proxy not asked.
    pub(crate) fn value(&self, key: &str) -> Option<Vec<u8>> {
        self.client().get(key)
    }

    /// One number of its `stats`.
    pub(crate) fn stat(&self, name: &str) -> u64 {
        let stats = self.client().stats("");
        stats
            .get(name)
            .unwrap_or_else(|| panic!("no {name} in {stats:?}"))
            .parse()
            .unwrap()
    }

    /// Until it answers. Once in a few thousand starts the first connection was reset; one that has ended
    /// is started again.
    fn wait_until_ready(&mut self) {
        wait_until("memcached answers", || {
            if self.process.exited().is_some() {
                self.process = spawn(&self.endpoint, &self.options);
            }
            Client::try_connect(&self.endpoint).is_ok_and(|mut client| {
                client.try_send(b"mn\r\n").is_ok()
                    && client
                        .until_meta_noop()
                        .is_ok_and(|before| before.is_empty())
            })
        });
    }
}

fn spawn(endpoint: &Endpoint, options: &[String]) -> Process {
    Process::start(&program("memcached"), |command| {
        command.args(["-t", "1", "-U", "0"]);
        if nix::unistd::geteuid().is_root() {
            // It refuses to run as root unless told so.
            command.args(["-u", "root"]);
        }
        match endpoint {
            Endpoint::Tcp(address) => {
                command.args([
                    "-l",
                    &address.ip().to_string(),
                    "-p",
                    &address.port().to_string(),
                ]);
            }
            Endpoint::Unix(path) => {
                command.arg("-s").arg(path);
            }
        }
        command.args(options);
    })
}
