//! Real components for tests and benches, on loopback ports of their own, stopped by process id.
//!
//! A component that is not installed is an error in CI (`CI` is set) and a loud skip elsewhere: see [`tools::path_or_skip`].
//! `make deps` installs them all.

#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    reason = "a helper that fails is a test that fails"
)]

pub mod child;
pub mod fault_proxy;
pub mod http;
pub mod microburst;
pub mod moto;
pub mod openbao;
pub mod process;
pub mod softhsm;
pub mod tools;
