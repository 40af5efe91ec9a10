//! What must hold for any bytes whatever: the properties that are fuzzed.
//!
//! ```text
//!              ┌── fuzz/tests/corpus.rs   cargo test: the corpus and mutations of it, no fuzzer
//!  check(data) ┤
//!              └── fuzz/libfuzzer         make fuzz: libFuzzer, guided by coverage, under ASan
//! ```
//!
//! Each module is one target: a function `check(data)` that returns if its property holds for
//! these bytes and panics if it does not. The bytes are the input as it would come from outside
//! (a frame, a blob), or a script that says how to build and spoil one; each module says which.
//! The same bytes give the same run, so a finding is one file.
//!
//! - [`header`]: what the frame decoders accept encodes to the same bytes.
//! - [`stream`]: any split of a stream gives the same frames, within the frame limit.
//! - [`hello`], [`payload`]: what a payload's decoder accepts encodes to the same bytes.
//! - [`client`]: a client reads whatever a server sends without a panic, within its limit.
//! - [`envelope`]: nothing but a blob that was sealed opens.
//! - [`recovery`]: a damaged blob log keeps every whole record before the damage, and makes none
//!   up.
//! - [`connection`]: a whole shard of the node answers every request once, whatever bytes, errands, control and peers do.
//! - [`control`]: the control state machine answers every command once, whatever comes in whatever order.
//!
//! This crate brings its own global allocator ([`memory`]), with which the properties bound what
//! a decoder allocates.

pub mod client;
pub mod connection;
pub mod control;
pub mod envelope;
pub mod header;
pub mod hello;
pub mod memory;
pub mod payload;
pub mod recovery;
mod script;
pub mod stream;

/// A property: returns if it holds for these bytes, panics if it does not.
pub type Check = fn(&[u8]);

/// Every target: its name, which is its folder's in `fuzz/corpus` too, and its property.
pub const TARGETS: [(&str, Check); 9] = [
    ("header", header::check),
    ("stream", stream::check),
    ("hello", hello::check),
    ("payload", payload::check),
    ("client", client::check),
    ("envelope", envelope::check),
    ("recovery", recovery::check),
    ("connection", connection::check),
    ("control", control::check),
];
