//! Bytes of a client that speaks the binary protocol.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| magent_core::proto::fuzz_packet(bytes));
