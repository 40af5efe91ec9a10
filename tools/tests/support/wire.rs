//! What every server of these tests does: it says who it is, and reads requests and writes answers until the connection ends.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};

use keyway_protocol::limits::PAYLOAD_LEN_MAX;
use keyway_protocol::{KeyspaceEntry, RequestFrame, ServerHello, ShardMap, VERSION};

/// Appends the answer to HELLO.
pub fn hello(out: &mut Vec<u8>) {
    let entry = |(id, name): (u32, &str)| KeyspaceEntry {
        id,
        name: name.parse().unwrap(),
    };
    let hello = ServerHello {
        version: VERSION,
        dev: true,
        more: false,
        this_shard: 0,
        payload_len_max: PAYLOAD_LEN_MAX as u32,
        map: ShardMap::new([1; 16], vec![0, 0]).unwrap(),
        keyspaces: [(1, "prod"), (7, "staging")].map(entry).to_vec(),
    };
    hello.encode(out).unwrap();
}

/// Serves a connection. `answer` appends an answer, and returns `false` if the connection ends behind it.
pub fn serve(
    mut stream: TcpStream,
    mut answer: impl FnMut(&RequestFrame<'_>, &mut Vec<u8>) -> bool,
) {
    let mut buffer = Vec::new();
    let mut chunk = [0; 4_096];
    loop {
        while let Some((frame, len)) = RequestFrame::decode(&buffer).unwrap() {
            let mut out = Vec::new();
            let goes_on = answer(&frame, &mut out);
            if stream.write_all(&out).is_err() || !goes_on {
                let _ = stream.shutdown(Shutdown::Both);
                return;
            }
            buffer.drain(..len);
        }
        match stream.read(&mut chunk) {
            Ok(len) if len > 0 => buffer.extend_from_slice(&chunk[..len]),
            _ => return,
        }
    }
}
