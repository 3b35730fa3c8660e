//! Any bytes into [`kv_sim::decoders::snapshot_stream`].

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| kv_sim::decoders::snapshot_stream(bytes));
