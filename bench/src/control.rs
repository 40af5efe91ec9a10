//! A blocking connection for setup and STATUS, beside the load.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use keyway_protocol::{
    Hello, KeyspaceCreate, Octets, Request, RequestFrame, ResponseFrame, ServerHello, Settings,
    Status, VERSION, decode_keyspace_id,
};
use serde_json::Value;

use crate::error::{Context, Result};

const TIME_LIMIT: Duration = Duration::from_secs(20);
const READ_LEN: usize = 16 * 1024;

/// One connection, one request at a time.
pub struct Control {
    stream: TcpStream,
    received: Vec<u8>,
    request_id: u64,
}

impl Control {
    /// Connects and sends HELLO.
    pub fn connect(address: SocketAddr) -> Result<Self> {
        let what = || format!("connect to {address}");
        let stream = TcpStream::connect_timeout(&address, TIME_LIMIT).context(what)?;
        stream.set_nodelay(true).context(what)?;
        stream.set_read_timeout(Some(TIME_LIMIT)).context(what)?;
        stream.set_write_timeout(Some(TIME_LIMIT)).context(what)?;
        let mut control = Self {
            stream,
            received: Vec::new(),
            request_id: 0,
        };
        let answer = control.call(0, "", &hello())?;
        ServerHello::decode(&answer).context(|| "answer to HELLO".into())?;
        Ok(control)
    }

    /// The connection once HELLO is done, for a caller that does its own reading and writing.
    pub fn into_stream(self) -> TcpStream {
        self.stream
    }

    /// Makes a keyspace; `settings` are lines `name=value`. Gives its id.
    pub fn create_keyspace(&mut self, name: &str, settings: &str) -> Result<u32> {
        let settings = Settings::new(settings).context(|| format!("settings of {name}"))?;
        let answer = self.call(
            0,
            "",
            &Request::KeyspaceCreate(KeyspaceCreate { name, settings }),
        )?;
        decode_keyspace_id(&answer).context(|| format!("answer to the creation of {name}"))
    }

    /// Returns the server's metrics of one keyspace.
    pub fn status(&mut self, keyspace: &str) -> Result<KeyspaceStatus> {
        let answer = self.call(0, "", &Request::Status { after: 0 })?;
        let all: Value = serde_json::from_slice(&answer).context(|| "STATUS".into())?;
        let rows = all["keyspaces"]
            .as_array()
            .ok_or("STATUS lacks keyspaces[]")?;
        let row = rows.iter().find(|row| row["name"] == keyspace);
        let row = row.ok_or_else(|| format!("STATUS does not list keyspace {keyspace}"))?;
        Ok(KeyspaceStatus {
            name: keyspace.to_owned(),
            row: row.clone(),
        })
    }

    /// The payload of an OK answer; any other status is an error.
    pub fn call(&mut self, keyspace_id: u32, key_id: &str, request: &Request) -> Result<Vec<u8>> {
        let name = request.opcode().name();
        self.request_id += 1;
        let mut frame = encode(keyspace_id, key_id, request)?;
        set_request_id(&mut frame, self.request_id);
        self.stream.write_all(&frame).context(|| name.into())?;
        loop {
            if let Some((answer, len)) =
                ResponseFrame::decode(&self.received).context(|| name.into())?
            {
                let payload = answer.payload.to_vec();
                let (status, request_id) = (answer.status, answer.request_id);
                self.received.drain(..len);
                if request_id != self.request_id {
                    return Err(format!("{name}: answer to request {request_id}").into());
                }
                return match status {
                    Status::Ok => Ok(payload),
                    other => {
                        let text = String::from_utf8_lossy(&payload).into_owned();
                        Err(format!("{name} was answered {other}: {text}").into())
                    }
                };
            }
            let mut chunk = [0; READ_LEN];
            let len = self.stream.read(&mut chunk).context(|| name.into())?;
            if len == 0 {
                return Err(format!("{name}: the server closed the connection").into());
            }
            self.received.extend_from_slice(&chunk[..len]);
        }
    }
}

/// One keyspace's part of STATUS.
#[derive(Clone, Debug)]
pub struct KeyspaceStatus {
    name: String,
    row: Value,
}

impl KeyspaceStatus {
    /// A whole figure by its name.
    pub fn count(&self, field: &str) -> Result<u64> {
        self.row[field].as_u64().ok_or_else(|| self.lacks(field))
    }

    /// A figure of `rehydrate_latency_ms`: `p50`, `p95`, `p99`, `p999`, `max` or `count`.
    pub fn rehydrate_latency_ms(&self, figure: &str) -> Result<f64> {
        let value = &self.row["rehydrate_latency_ms"][figure];
        value
            .as_f64()
            .ok_or_else(|| self.lacks(&format!("rehydrate_latency_ms.{figure}")))
    }

    fn lacks(&self, field: &str) -> crate::error::Error {
        format!("STATUS of keyspace {} lacks {field}", self.name).into()
    }
}

/// A request's frame, its request id still 0: see [`set_request_id`].
pub fn encode(keyspace_id: u32, key_id: &str, request: &Request) -> Result<Vec<u8>> {
    let name = request.opcode().name();
    let mut payload = Vec::new();
    request
        .encode_payload(&mut payload)
        .context(|| name.into())?;
    let frame = RequestFrame {
        code: request.opcode().code(),
        request_id: 0,
        keyspace_id,
        deadline_us: 0,
        key_id: Octets(key_id.as_bytes()),
        payload: Octets(&payload),
    };
    let mut bytes = Vec::new();
    frame.encode(&mut bytes).context(|| name.into())?;
    Ok(bytes)
}

/// Writes the request id into an encoded frame.
pub fn set_request_id(frame: &mut [u8], request_id: u64) {
    frame[8..16].copy_from_slice(&request_id.to_le_bytes());
}

fn hello() -> Request<'static> {
    Request::Hello(Hello {
        version_min: VERSION,
        version_max: VERSION,
        client_name: "keyway-bench",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_request_id_lands_in_its_field() {
        let mut frame = encode(3, "alice", &Request::Mac(Octets(b"m"))).unwrap();
        set_request_id(&mut frame, 0x0102_0304_0506_0708);
        let (decoded, len) = RequestFrame::decode(&frame).unwrap().unwrap();
        assert_eq!(len, frame.len());
        assert_eq!(decoded.request_id, 0x0102_0304_0506_0708);
        assert_eq!((decoded.keyspace_id, &*decoded.key_id), (3, &b"alice"[..]));
    }

    #[test]
    fn a_missing_figure_is_named() {
        let status = KeyspaceStatus {
            name: "s4".into(),
            row: serde_json::json!({"hits": 3, "rehydrate_latency_ms": {"p50": 0.1}}),
        };
        assert_eq!(status.count("hits").unwrap(), 3);
        assert_eq!(status.rehydrate_latency_ms("p50").unwrap(), 0.1);
        let error = status.count("misses").unwrap_err().to_string();
        assert_eq!(error, "STATUS of keyspace s4 lacks misses");
    }
}
