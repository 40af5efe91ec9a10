//! The vectors of project Wycheproof, through the calls that requests take and under both choices of
//! providers. Every set of our families is run or left out for a reason, and every case of a set that
//! is run is counted: `tally.rs` says how.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

mod aead;
mod ecdsa;
mod ed25519;
mod fixture;
mod hkdf;
mod hmac;
mod rsa;
mod tally;
