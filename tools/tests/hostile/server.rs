//! A server that speaks the protocol, and lies in it.

use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::thread;

use keyway_protocol::limits::HEADER_LEN;
use keyway_protocol::{Opcode, RequestFrame, ResponseFlags, ResponseHead, ResponseWriter, Status};

use super::answers::{self, Dice, EVIL};
use super::wire;

/// How the server answers everything but HELLO.
#[derive(Clone, Copy, Debug)]
pub enum Way {
    /// With OK, and hostile text wherever there is text.
    Full,
    /// With this status and hostile text. How an unlock stands is answered in full, since clients ask for its remedy.
    Refused(Status),
    /// With OK and payloads made wrong.
    Damaged(u64),
    /// With a frame made wrong.
    Frame(Lie),
    /// HELLO as well is answered with a payload made wrong.
    Hello(u64),
    /// HELLO is refused.
    Unwelcome(Status),
    /// Not in the protocol at all, HELLO included.
    Bytes(&'static [u8]),
}

/// What is wrong with a frame.
#[derive(Clone, Copy, Debug)]
pub enum Lie {
    /// It answers another request.
    OtherRequest,
    /// It answers none, as of a connection that is given up.
    NoRequest,
    /// Its status is none.
    Status,
    /// Its flags are none.
    Flags,
    /// Its version is another.
    Version,
    /// It is longer than any.
    Longest,
    /// The connection ends within it.
    Half,
    /// Its payload's length is another than the frame's.
    Payload,
    /// It comes twice.
    Twice,
}

pub const LIES: [Lie; 9] = [
    Lie::OtherRequest,
    Lie::NoRequest,
    Lie::Status,
    Lie::Flags,
    Lie::Version,
    Lie::Longest,
    Lie::Half,
    Lie::Payload,
    Lie::Twice,
];

/// The server. It ends with the test's process.
pub struct Server {
    pub addr: String,
    way: Arc<Mutex<Way>>,
}

impl Server {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let way = Arc::new(Mutex::new(Way::Full));
        let shared = Arc::clone(&way);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let way = *shared.lock().unwrap();
                let mut count = 0;
                thread::spawn(move || {
                    wire::serve(stream.unwrap(), |frame, out| {
                        count += 1;
                        answer(frame, way, count, out)
                    });
                });
            }
        });
        Self { addr, way }
    }

    /// Connections that come from now on are served this way.
    pub fn behave(&self, way: Way) {
        *self.way.lock().unwrap() = way;
    }
}

/// Appends the answer. Returns `false` if the connection ends behind it.
fn answer(frame: &RequestFrame<'_>, way: Way, count: u64, out: &mut Vec<u8>) -> bool {
    let opcode = frame.opcode().unwrap();
    let mut writer = ResponseWriter::begin(out, frame.request_id);
    match (way, opcode) {
        (Way::Bytes(bytes), _) => {
            drop(writer);
            out.extend_from_slice(bytes);
            return false;
        }
        (Way::Unwelcome(status), Opcode::Hello) => refuse(writer, status),
        (Way::Hello(seed), Opcode::Hello) => {
            let mut payload = Vec::new();
            wire::hello(&mut payload);
            answers::damage(&mut payload, &mut Dice::new(seed));
            writer.payload().extend(payload);
            writer.finish(ResponseHead::OK);
        }
        (Way::Refused(status), opcode)
            if !matches!(opcode, Opcode::Hello | Opcode::UnlockStatus) =>
        {
            refuse(writer, status);
        }
        (way, opcode) => {
            let mut payload = Vec::new();
            answers::payload(opcode, &mut payload);
            if let (Way::Damaged(seed), false) = (way, opcode == Opcode::Hello) {
                answers::damage(&mut payload, &mut Dice::new(seed + count));
            }
            writer.payload().extend(payload);
            writer.finish(ResponseHead {
                flags: ResponseFlags::STALE,
                key_version: u32::MAX,
                key_age_ms: u32::MAX,
                ..ResponseHead::OK
            });
            if let (Way::Frame(lie), false) = (way, opcode == Opcode::Hello) {
                return tell(lie, out);
            }
        }
    }
    true
}

fn refuse(mut writer: ResponseWriter<'_>, status: Status) {
    // Not all of it is UTF-8.
    let words = [EVIL.as_bytes(), b"\x9b2J\xff\xfe\xc3", EVIL.as_bytes()].concat();
    let head = ResponseHead {
        after_us: u32::MAX,
        ..ResponseHead::status(status)
    };
    writer.payload().extend(words);
    writer.finish(head);
}

fn tell(lie: Lie, out: &mut Vec<u8>) -> bool {
    match lie {
        Lie::OtherRequest => out[8..16].copy_from_slice(&u64::MAX.to_le_bytes()),
        Lie::NoRequest => {
            out.clear();
            refuse(ResponseWriter::begin(out, 0), Status::BadRequest);
        }
        Lie::Status => out[5] = 0xee,
        Lie::Flags => out[6..8].fill(0xff),
        Lie::Version => out[4] = 0x1b,
        Lie::Longest => out[0..4].fill(0xff),
        Lie::Half => {
            out.truncate(HEADER_LEN + (out.len() - HEADER_LEN) / 2);
            return false;
        }
        Lie::Payload => out[28..32].fill(0xff),
        Lie::Twice => out.extend(out.clone()),
    }
    true
}
