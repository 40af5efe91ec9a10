//! See `keyway_fuzz::client`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| keyway_fuzz::client::check(data));
