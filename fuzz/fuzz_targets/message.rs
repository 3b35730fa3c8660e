//! Any bytes into [`kv_sim::decoders::message`].

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| kv_sim::decoders::message(bytes));
