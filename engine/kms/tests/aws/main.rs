//! The `aws` provider at moto, an AWS KMS on loopback, with microburst in between where AWS's errors are wanted.
//!
//! Who provokes what: moto refuses wrong keys, signatures, policies, contexts and ciphertexts, and hangs when it is
//! stopped. It goes on decrypting under a disabled key, never throttles and never fails, so those answers are
//! microburst's. What no component here can show (a wrong clock against a right one, credentials from a role) is in the
//! unit tests of the classification.

#![cfg(feature = "aws")]
#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

mod configuration;
mod keys;
mod logs;
mod outages;
mod site;
