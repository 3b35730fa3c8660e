//! Any bytes into [`kv_sim::decoders::peer`].

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| kv_sim::decoders::peer(bytes));
