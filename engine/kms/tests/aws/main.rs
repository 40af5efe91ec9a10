//! Tests of the `aws` provider with moto, an AWS KMS on loopback, and microburst in between for AWS's errors.
//!
//! Which component causes what: moto refuses wrong keys, signatures, policies, contexts and ciphertexts, and hangs when
//! it is stopped. It continues to decrypt under a disabled key, never throttles and never fails, so microburst returns
//! those answers. Cases that no component here can produce (a wrong clock against a correct one, credentials from a role)
//! are in the unit tests of the classification.

#![cfg(feature = "aws")]
#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

mod configuration;
mod keys;
mod logs;
mod outages;
mod site;
mod trust;
