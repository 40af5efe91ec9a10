//! See `keyway_fuzz::stream`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| keyway_fuzz::stream::check(data));
