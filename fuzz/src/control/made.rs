//! What the surroundings of control are made of: a catalogue, answers, failures.

use keyway_core::Instant;
use keyway_node::catalogue::{Catalogue, ChangeAuthor, NewKeyspace, SettingsChange, WrappedDek};
use keyway_node::control::hot_keys::HotKeys;
use keyway_node::control::{Control, FailureClass, KmsFailure, KmsSet, KmsStatus, Need, Settings};
use keyway_node::messages::{DekBytes, ResealError, ResealPage, UnlockProgress};
use keyway_node::policy::Owner;
use keyway_node::time::Moment;

use super::desk::{KMSES, SHARDS};

pub(super) fn at(us: u64) -> Moment {
    Moment {
        unix_ms: 1_900_000_000_000 + us / 1_000,
        instant: Instant::from_micros(us),
    }
}

pub(super) fn copy(generation: u32) -> Box<DekBytes> {
    Box::new(DekBytes {
        generation,
        bytes: [generation as u8; 32].into(),
    })
}

pub(super) fn failure(how: u8) -> KmsFailure {
    let retry_after_us = (how & 0x80 != 0).then_some(1_000_000);
    KmsFailure {
        class: match how >> 4 & 7 {
            0 => FailureClass::Denied,
            1 => FailureClass::Disabled,
            2 => FailureClass::Credential,
            3 => FailureClass::Locked,
            4 => FailureClass::Throttled { retry_after_us },
            5 => FailureClass::Unavailable { retry_after_us },
            6 => FailureClass::Corrupt,
            _ => FailureClass::Misconfigured,
        },
        cause: "unknown",
        what: "the KMS says so".to_owned(),
        remedy: "wait".to_owned(),
    }
}

pub(super) fn page(how: u8, floor: u32) -> Result<ResealPage, ResealError> {
    match how % 8 {
        5 => Err(ResealError::DekMissing),
        6 => Err(ResealError::Overloaded),
        7 => Err(ResealError::Other("the disk has failed".to_owned())),
        kind => Ok(ResealPage {
            cursor: vec![1; usize::from(kind & 1)],
            floor,
            found: u64::from(how >> 3 & 3),
            resealed: u64::from(how >> 3 & 1),
            unreadable: u64::from(how >> 5 & 1),
        }),
    }
}

pub(super) fn progress(how: u8) -> UnlockProgress {
    UnlockProgress {
        ticket: match how & 1 {
            0 => u64::MAX,
            _ => 1,
        },
        is_open: how & 2 == 0,
        is_reloaded: how & 4 == 0,
        keys_reloaded: u64::from(how >> 3),
    }
}

/// Two keyspaces at the first KMS; by the kind, one of them with DEKs of more generations, or locked.
pub(super) fn catalogue(kind: u8) -> Catalogue {
    let by = ChangeAuthor::server(at(0));
    let mut catalogue = Catalogue::default();
    for name in ["made-0", "prod"] {
        let change = SettingsChange::parse([("allow:uid:7", "manage")]).expect("it is valid");
        let new = NewKeyspace {
            name,
            change: &change,
            kms: KMSES[0],
            record: b"dek 1",
        };
        catalogue.create(new, &by).expect("the keyspace is new");
    }
    if kind & 1 != 0 {
        let dek = WrappedDek {
            generation: 2,
            record: b"dek 2".to_vec(),
        };
        catalogue.add_dek(1, &dek, &by).expect("there is room");
    }
    if kind & 3 == 3 {
        catalogue.retire_deks(1, &by).expect("there is one");
    }
    catalogue
}

pub(super) fn control(now: Moment, catalogue: Catalogue) -> Control {
    let settings = Settings {
        shards: SHARDS,
        owner: Owner {
            dev: false,
            uid: 500,
        },
        ticket_key: 42,
        page_key_ids: true,
    };
    let status = KmsStatus {
        is_open: true,
        need: Need::Passphrase,
        is_checked: true,
    };
    let kms = KmsSet {
        status: KMSES.map(|kms| (kms.to_owned(), status)).into(),
        default: KMSES[0].to_owned(),
        without_secret: Default::default(),
    };
    let hot_keys = HotKeys::new(vec![Vec::new(); usize::from(SHARDS)]);
    Control::new(now, settings, catalogue, kms, hot_keys)
}
