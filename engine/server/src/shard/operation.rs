//! Carrying out an operation with a granted key.

use keyway_core::Grant;
use keyway_keys::{Cost, Input, OpError, Operation, UnlockedKey};
use keyway_protocol::{InputKind, Request, RequestFrame, ResponseFlags, ResponseHead, Status};
use zeroize::Zeroize;

use super::Shard;
use super::request::Asked;
use super::turn::Turn;
use crate::clock;
use crate::plant;

impl Shard {
    /// Uses the key now, or queues the request when the operation is a slow one.
    ///
    /// The clock is read again after the operation: a result that was made when the key's time was over is wiped and does
    /// not leave.
    pub(super) fn carry_out(
        &self,
        turn: &Turn,
        asked: Asked<'_>,
        frame: &RequestFrame<'_>,
        request: &Request<'_>,
        grant: &Grant<'_, UnlockedKey>,
    ) {
        if cost(grant.value, request) == Cost::Slow && !self.is_slow_lane_open() {
            return self.queue_slow(asked, frame);
        }
        if matches!(request, Request::Encrypt(_)) && grant.value.needs_reservation() {
            return self.wait_for_uses(asked, frame, grant.value.metadata().version);
        }
        let granted_at = turn.now();
        self.answer_until(grant.expires_at, asked.responder, |payload| {
            let start = payload.len();
            plant::panic_if_planted("operation", &frame.key_id);
            let performed = perform(grant.value, request, frame, payload);
            let done_at = turn.read_clock();
            let key_version = performed
                .map_err(|error| (ResponseHead::status(status_of(&error)), error.to_string()))?;
            if done_at >= grant.expires_at {
                payload[start..].zeroize();
                return Err(expired_meanwhile());
            }
            let age_us = grant.age_us + done_at.saturating_since(granted_at);
            Ok(ResponseHead {
                flags: if grant.stale {
                    ResponseFlags::STALE
                } else {
                    ResponseFlags::NONE
                },
                key_version,
                key_age_ms: u32::try_from(age_us / 1_000).unwrap_or(u32::MAX),
                ..ResponseHead::OK
            })
        });
    }
}

/// The answer in place of a result that was made too late.
pub(super) fn expired_meanwhile() -> (ResponseHead, String) {
    (
        ResponseHead {
            after_us: 1_000,
            ..ResponseHead::status(Status::Retry)
        },
        "the key's time ended during the operation; try again".to_owned(),
    )
}

/// Appends the answer's payload to `out`; the version that was used.
fn perform(
    key: &UnlockedKey,
    request: &Request<'_>,
    frame: &RequestFrame<'_>,
    out: &mut Vec<u8>,
) -> Result<u32, OpError> {
    if key.metadata().not_before_unix_ms != 0 {
        key.check_time(clock::unix_ms())?;
    }
    match request {
        Request::Sign(sign) => key.sign(
            scheme(sign.scheme.code())?,
            input(sign.kind, &sign.input),
            out,
        ),
        Request::Verify(verify) => key.verify(
            verify.key_version,
            scheme(verify.scheme.code())?,
            input(verify.kind, &verify.input),
            &verify.signature,
        ),
        Request::Mac(message) => key.mac(message, out),
        Request::Encrypt(encrypt) => key.encrypt(&encrypt.aad, &encrypt.plaintext, out),
        // The key reads what ENCRYPT returned as it stands behind the associated data.
        Request::Decrypt(decrypt) => {
            key.decrypt(&decrypt.aad, &frame.payload[4 + decrypt.aad.len()..], out)
        }
        Request::Derive(derive) => {
            key.derive(usize::from(derive.out_len), &derive.salt, &derive.info, out)
        }
        Request::PublicKey { key_version } => key.public_key(*key_version, out),
        Request::Get { key_version } => key.export(*key_version, out),
        _ => Err(OpError::Unsupported("this operation does not use a key")),
    }
}

fn cost(key: &UnlockedKey, request: &Request<'_>) -> Cost {
    match request {
        Request::Sign(sign) => key.cost(Operation::Sign, sign.kind == InputKind::Digest),
        Request::Verify(verify) => {
            key.verify_cost(verify.key_version, verify.kind == InputKind::Digest)
        }
        _ => Cost::Fast,
    }
}

fn scheme(code: u8) -> Result<keyway_keys::Scheme, OpError> {
    keyway_keys::Scheme::from_id(code).ok_or(OpError::Unsupported("this signature scheme"))
}

fn input(kind: InputKind, bytes: &[u8]) -> Input<'_> {
    match kind {
        InputKind::Message => Input::Message(bytes),
        InputKind::Digest => Input::Digest(bytes),
    }
}

fn status_of(error: &OpError) -> Status {
    match error {
        OpError::WrongKeyType | OpError::Unsupported(_) => Status::Unsupported,
        OpError::UsageForbidden
        | OpError::NotExportable
        | OpError::NotYetValid(_)
        | OpError::Expired(_)
        | OpError::UseLimit => Status::Forbidden,
        OpError::Mismatch => Status::Mismatch,
        OpError::BadInput(_) | OpError::DigestLen { .. } => Status::BadRequest,
        OpError::NoSuchVersion => Status::NotFound,
        OpError::VersionRevoked => Status::Revoked,
        _ => Status::Internal,
    }
}
