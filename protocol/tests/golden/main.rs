//! The golden vectors: the Rust codec against the bytes in `protocol/vectors`, both ways.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod answer;
mod fields;
mod file;
mod request;

use std::path::{Path, PathBuf};
use std::process::Command;

use fields::Fields;
use file::{Kind, Vector};
use keyway_protocol::{
    Opcode, ProtocolError, Request, RequestFrame, ResponseFrame, Router, Status,
};

fn vectors_path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors")
}

fn vectors(kind: Kind) -> Vec<Vector> {
    let mut all = file::read_all(&vectors_path());
    all.retain(|vector| vector.kind == kind);
    assert!(!all.is_empty(), "no vectors of {kind:?}");
    all
}

/// What a vector's bytes say, or which field is wrong with them.
fn decode(vector: &Vector) -> Result<Fields, ProtocolError> {
    let whole = "a vector holds a whole frame";
    match vector.kind {
        Kind::Request => {
            let (frame, len) = RequestFrame::decode(&vector.bytes)?.expect(whole);
            assert_eq!(len, vector.bytes.len(), "{}", vector.name);
            Ok(request::fields(&frame, &Request::decode(&frame)?))
        }
        Kind::Response => {
            let (frame, len) = ResponseFrame::decode(&vector.bytes)?.expect(whole);
            assert_eq!(len, vector.bytes.len(), "{}", vector.name);
            answer::fields(vector.opcode(), &frame)
        }
        Kind::Routing | Kind::Siphash => panic!("{} has no bytes", vector.name),
    }
}

#[test]
fn every_vector_decodes_to_its_fields() {
    for kind in [Kind::Request, Kind::Response] {
        for vector in vectors(kind).iter().filter(|it| it.refused.is_none()) {
            let fields = decode(vector).unwrap_or_else(|error| panic!("{}: {error}", vector.name));
            assert_eq!(fields, vector.fields, "{}", vector.name);
        }
    }
}

#[test]
fn every_vector_encodes_to_its_bytes() {
    for vector in vectors(Kind::Request) {
        if vector.refused.is_none() {
            let bytes = request::encode(&vector.fields);
            assert_eq!(bytes, vector.bytes, "{}", vector.name);
        }
    }
    for vector in vectors(Kind::Response) {
        if vector.refused.is_none() {
            let bytes = answer::encode(&vector.fields);
            assert_eq!(bytes, vector.bytes, "{}", vector.name);
        }
    }
}

#[test]
fn every_refused_vector_is_refused_for_its_field() {
    for kind in [Kind::Request, Kind::Response] {
        for vector in vectors(kind) {
            let Some(field) = &vector.refused else {
                continue;
            };
            let error = match decode(&vector) {
                Ok(fields) => panic!("{} is accepted: {fields:?}", vector.name),
                Err(error) => error,
            };
            assert_eq!(&error.field().replace(' ', "_"), field, "{}", vector.name);
        }
    }
}

#[test]
fn every_operation_and_every_status_has_vectors() {
    let (requests, answers) = (vectors(Kind::Request), vectors(Kind::Response));
    let accepted = |it: &&Vector| it.refused.is_none();
    for &opcode in Opcode::ALL {
        let of_opcode = |it: &Vector| it.opcode() == opcode;
        assert!(requests.iter().filter(accepted).any(of_opcode), "{opcode}");
        assert!(answers.iter().filter(accepted).any(of_opcode), "{opcode}");
    }
    for &status in Status::ALL {
        let of_status = |it: &Vector| it.bytes[5] == status.code();
        assert!(answers.iter().filter(accepted).any(of_status), "{status}");
    }
}

#[test]
fn keys_are_routed_as_published() {
    for vector in vectors(Kind::Routing) {
        let mut fields = vector.fields.clone().take();
        let seed = fields.array("seed");
        let keyspace_id = fields.int("keyspace_id") as u32;
        let key_id = fields.bytes("key_id");
        let router = Router::new(seed, fields.int("shard_count") as u16).unwrap();
        let (hash, shard) = (fields.int("hash"), fields.int("shard"));
        assert_eq!(router.hash(keyspace_id, &key_id), hash, "{}", vector.name);
        let routed = router.shard_of(keyspace_id, &key_id);
        assert_eq!(u64::from(routed), shard, "{}", vector.name);
    }
}

#[test]
fn the_hash_is_siphash_as_published() {
    for vector in vectors(Kind::Siphash) {
        let mut fields = vector.fields.clone().take();
        let router = Router::new(fields.array("key"), 1).unwrap();
        let message = fields.bytes("message");
        // A router hashes a keyspace id of four bytes first, so shorter messages are not for it.
        if let Some((keyspace_id, key_id)) = message.split_first_chunk::<4>() {
            let hash = router.hash(u32::from_le_bytes(*keyspace_id), key_id);
            assert_eq!(hash, fields.int("hash"), "{}", vector.name);
        }
    }
}

/// Splits a stream of all vectors at every place, and feeds it byte by byte: the frames are alike.
#[test]
fn any_split_of_the_stream_decodes_alike() {
    let mut stream = Vec::new();
    let mut expected = Vec::new();
    for vector in vectors(Kind::Request) {
        if vector.refused.is_none() {
            stream.extend_from_slice(&vector.bytes);
            expected.push(vector.bytes);
        }
    }
    for split in 0..=stream.len() {
        let (head, tail) = stream.split_at(split);
        assert_eq!(request_frames([head, tail]), expected, "split at {split}");
    }
    assert_eq!(request_frames(stream.chunks(1)), expected);

    let (mut stream, mut expected) = (Vec::new(), Vec::new());
    for vector in vectors(Kind::Response) {
        if vector.refused.is_none() {
            stream.extend_from_slice(&vector.bytes);
            expected.push(vector.bytes);
        }
    }
    for split in 0..=stream.len() {
        let (head, tail) = stream.split_at(split);
        assert_eq!(response_frames([head, tail]), expected, "split at {split}");
    }
    assert_eq!(response_frames(stream.chunks(1)), expected);
}

/// The frames in a stream that comes in pieces, each encoded again.
fn request_frames<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<Vec<u8>> {
    let (mut buffer, mut frames) = (Vec::new(), Vec::new());
    for piece in pieces {
        buffer.extend_from_slice(piece);
        while let Some((frame, len)) = RequestFrame::decode(&buffer).unwrap() {
            let mut out = Vec::new();
            frame.encode(&mut out).unwrap();
            frames.push(out);
            buffer.drain(..len);
        }
    }
    assert!(buffer.is_empty(), "{} bytes left over", buffer.len());
    frames
}

fn response_frames<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<Vec<u8>> {
    let (mut buffer, mut frames) = (Vec::new(), Vec::new());
    for piece in pieces {
        buffer.extend_from_slice(piece);
        while let Some((frame, len)) = ResponseFrame::decode(&buffer).unwrap() {
            let mut out = Vec::new();
            frame.encode(&mut out).unwrap();
            frames.push(out);
            buffer.drain(..len);
        }
    }
    assert!(buffer.is_empty(), "{} bytes left over", buffer.len());
    frames
}

/// A header that will be refused is refused as soon as the bytes that say so are there.
#[test]
fn a_frame_that_is_too_long_is_refused_before_it_has_come() {
    let mut bytes = u32::MAX.to_le_bytes().to_vec();
    assert!(RequestFrame::decode(&bytes[..3]).unwrap().is_none());
    assert!(RequestFrame::decode(&bytes).is_err());
    assert!(ResponseFrame::decode(&bytes).is_err());
    bytes[..4].copy_from_slice(&28_u32.to_le_bytes());
    assert!(RequestFrame::decode(&bytes).unwrap().is_none());
}

/// A codec written from the documentation alone, in another language, agrees with the vectors.
#[test]
fn a_foreign_codec_agrees_with_the_vectors() {
    let script = vectors_path().join("check.py");
    match Command::new("python3").arg("-B").arg(&script).output() {
        Ok(output) => assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        ),
        Err(error) if std::env::var("CI").as_deref() != Ok("true") => {
            eprintln!("SKIPPED: the foreign codec was not run, python3 cannot be started: {error}");
        }
        Err(error) => panic!("CI needs python3 for the foreign codec: {error}"),
    }
}
