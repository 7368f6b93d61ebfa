//! What a connection begins with where a PROXY header is expected.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| magent_core::proto::fuzz_proxy_header(bytes));
