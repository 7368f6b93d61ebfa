//! The whole cluster in one process and one thread on virtual time: proxies, memcacheds, clients, faults.
//!
//! It stands on the core's public interface only and is driven by a seed: the seed draws the [`Options`],
//! and then everything that happens. What may be seen is checked while it happens; a [`Violation`] ends the
//! run, and the same seed on the same commit shows it again, byte for byte.
//!
//! ```text
//! options    what a seed draws              workload   requests, values that name their writer
//! world      time, events, phases           client     who asks
//! network    connections as TCP gives them  answers    the form of answers
//! proxy      workers and keeper             check      the histories of keys, what may be read
//! sockets    reads and writes of a worker   audit      the end of a run
//! memcached  the model backend              scenario   the same by hand
//! faults     what goes wrong with it        rng        the one source of chance
//! ```
#![forbid(unsafe_code)]

mod answers;
mod audit;
mod binary;
mod check;
mod client;
mod connections;
mod control;
mod faults;
mod memcached;
mod network;
mod options;
mod process;
mod proxy;
mod rng;
mod scenario;
mod shapes;
mod sockets;
mod split;
mod workload;
mod world;

pub use check::Violation;
pub use faults::Fault;
pub use options::{Chunks, Faults, Options};
pub use scenario::Hand;
pub use shapes::Shape;
pub use world::{Tally, World};
