//! Must crash within seconds, or the set-up finds nothing.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| magent_core::proto::fuzz_canary(bytes));
