//! Logins: three clients, one backend, and the order of events.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| magent_core::engine::fuzz_auth(bytes));
