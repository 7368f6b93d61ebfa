//! Bytes of a backend.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| magent_core::proto::fuzz_response(bytes));
