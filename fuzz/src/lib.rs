//! What must hold for any bytes whatever, one property a module.
//!
//! The properties are an ordinary library, and `tests/corpus.rs` runs them over the committed corpus
//! and mutations of it in every test run, with the stable compiler and nothing installed. The
//! libFuzzer binaries in `libfuzzer/` are thin wrappers in a workspace of their own, since they take
//! a C++ compiler and unstable flags: `make fuzz`.

#![forbid(unsafe_code)]

pub mod client;
mod disk;
pub mod envelope;
pub mod header;
pub mod hello;
pub mod recovery;
pub mod stream;

/// A property: panics if the bytes break it.
pub type Check = fn(&[u8]);

/// Every target by its name, which is that of its corpus and its binary.
pub const TARGETS: [(&str, Check); 6] = [
    ("client", client::check),
    ("envelope", envelope::check),
    ("header", header::check),
    ("hello", hello::check),
    ("recovery", recovery::check),
    ("stream", stream::check),
];
