//! What the server does about KMSes and DEKs. The KMS `local` opens with three shares, each of which
//! begins with `right`; `made` has a key already; there is no other but `vault-eu`.

use keyway_protocol::{Custody, KmsInit, KmsShares, KmsUnlock, ResponseHead, Status, UnlockKind};

use super::State;

/// The ticket of an unlock with a right share.
pub const SHARE_TICKET: u64 = 43;

/// The ticket of an unlock that fails.
const FAILED_TICKET: u64 = 44;

const THRESHOLD: u8 = 3;

pub const STATUS: &str = r#"{"version":"0.1.0","pid":7,"shard_count":2,"kms":[
{"name":"local","provider":"local","state":"unlocked","calls_in_flight":0,"rate_tokens":10,
"retry_tokens":5,"breaker":"closed","calls_per_hour_forecast":12.25,
"calls":[{"keyspace":"prod","operation":"unwrap","outcome":"ok","count":1}]}]}"#;

pub fn list(state: &mut State) -> String {
    let reseal = match state.reseal_left {
        0 => "null".into(),
        left => format!(r#"{{"resealed":{},"left":{left}}}"#, 42 - left),
    };
    state.reseal_left = state.reseal_left.saturating_sub(20);
    let overrides = state.overrides;
    format!(
        r#"{{"keyspaces":[{{"id":1,"name":"prod","locked":false,"kms":"local","generation":2,
        "reseal":{reseal},"settings":{{"soft_ttl_ms":"600000","hard_ttl_ms":"3600000",
        "dek_lease_ms":"3600000","max_in_flight":"64"}},"allow":{{"uid:1000":"sign,verify"}},
        "overrides":{{{overrides}}}}}],
        "more":true}}"#
    )
}

pub fn rewrap(kms: &str) -> ResponseHead {
    match kms {
        "local" | "vault-eu" => ResponseHead::OK,
        _ => ResponseHead::status(Status::BadRequest),
    }
}

/// The ticket.
pub fn give_share(state: &mut State, share: &[u8]) -> u64 {
    match share.starts_with(b"right") {
        true => {
            state.shares_given += 1;
            SHARE_TICKET
        }
        false => FAILED_TICKET,
    }
}

/// How the unlock of a right share stands once it has been looked at.
pub fn shares_status(state: &State) -> String {
    match state.shares_given {
        THRESHOLD.. => r#"{"state":"done","message":"","keys_reloaded":3}"#.into(),
        given => format!(
            r#"{{"state":"pending","message":"","shares":{{"given":{given},"threshold":3}}}}"#
        ),
    }
}

pub fn pending(state: &State) -> String {
    match state.watched {
        0 => r#"{"state":"pending","message":"calling the KMS","keys_reloaded":0}"#.into(),
        _ => r#"{"state":"pending","message":"calling the KMS","attempts":4}"#.into(),
    }
}

pub fn init(state: &mut State, init: &KmsInit<'_>, out: &mut Vec<u8>) -> ResponseHead {
    if init.kms == "made" {
        return ResponseHead::status(Status::Conflict);
    }
    let shares: Vec<String> = match init.custody {
        Custody::Passphrase(passphrase) => {
            let secret = (UnlockKind::Passphrase, passphrase.to_vec());
            state.secrets.push(secret);
            Vec::new()
        }
        Custody::Shares { count, .. } => (1..=count).map(|n| format!("right words {n}")).collect(),
    };
    KmsShares::encode(shares.iter().map(String::as_str), out).unwrap();
    ResponseHead::OK
}

pub fn unlock(state: &mut State, unlock: &KmsUnlock<'_>, out: &mut Vec<u8>) -> ResponseHead {
    state.forced += u32::from(unlock.force);
    state.secrets.push((unlock.kind, unlock.secret.to_vec()));
    if !unlock.secret.starts_with(b"right") {
        return ResponseHead::status(Status::Forbidden);
    }
    let kms = unlock.kms;
    if unlock.kind == UnlockKind::Share {
        state.shares_given += 1;
    }
    let json = match (unlock.kind, state.shares_given) {
        (UnlockKind::Share, given @ 0..THRESHOLD) => {
            format!(r#"{{"kms":"{kms}","state":"locked","given":{given},"threshold":3}}"#)
        }
        _ => format!(r#"{{"kms":"{kms}","state":"unlocked"}}"#),
    };
    out.extend_from_slice(json.as_bytes());
    ResponseHead::OK
}
