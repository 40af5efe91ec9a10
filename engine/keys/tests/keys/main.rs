//! The crate as its users see it: sealing, opening, using, and refusing.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

mod common;
mod envelope;
mod forgery;
mod import;
mod key_files;
mod openssl;
mod operations;
mod providers;
mod vectors;
mod versions;
