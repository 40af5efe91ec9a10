//! HMAC-SHA-256 over many connections: a cheap operation, so that what the server adds to it shows.
//!
//! Over deep connections many requests share a read, a turn and a write. Over connections with one
//! request each, each request pays for its own.

use std::time::Duration;

use keyway_protocol::Algorithm;
use serde::Serialize;

use super::{Closed, closed};
use crate::control::Control;
use crate::error::Result;
use crate::server::Server;
use crate::traffic::Keys;

const KEYSPACE: &str = "s1-hmac";
const KEYS: usize = 4;
const MESSAGE: [u8; 64] = [0x5a; 64];
const CONNECTIONS: usize = 64;
/// Requests in flight on each connection.
const DEEP: usize = 16;

/// The two shapes of the load.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct HmacCosts {
    /// 64 connections with 16 requests in flight each.
    pub connections_64_in_flight_16: Closed,
    /// 64 connections with one request in flight each.
    pub connections_64_in_flight_1: Closed,
}

impl HmacCosts {
    /// Requests of both that were not answered OK.
    pub fn not_ok(&self) -> u64 {
        self.connections_64_in_flight_16.not_ok + self.connections_64_in_flight_1.not_ok
    }
}

/// Makes the keys and loads them.
pub fn prepare(server: &Server) -> Result<Keys> {
    let address = server.address();
    let keyspace_id = Control::connect(address)?.create_keyspace(KEYSPACE, "")?;
    let keys = Keys::name(keyspace_id, KEYS, &[Algorithm::HmacSha256])?.with_macs_of(&MESSAGE)?;
    keys.generate(address)?;
    keys.touch(address)?;
    Ok(keys)
}

/// Measures both shapes, each for `duration`.
pub fn measure(server: &Server, keys: &Keys, duration: Duration) -> Result<HmacCosts> {
    Ok(HmacCosts {
        connections_64_in_flight_16: closed(server, &keys.frames, CONNECTIONS, DEEP, duration)?,
        connections_64_in_flight_1: closed(server, &keys.frames, CONNECTIONS, 1, duration)?,
    })
}
