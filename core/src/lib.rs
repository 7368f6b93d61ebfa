//! The sans-IO core of magent: bytes, time and configuration in; bytes, deadlines and actions out.
#![forbid(unsafe_code)]

pub mod proto;
pub mod scheme;
pub mod server;
