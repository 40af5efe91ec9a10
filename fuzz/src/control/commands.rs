//! Commands of a script's choosing.

use keyway_node::catalogue::SettingsChange;
use keyway_node::messages::{Command, Secret};
use keyway_protocol::{HotBy, UnlockKind};

use super::desk::KMSES;
use crate::script::Script;

/// Lines of a change; some contradict the others, or each other.
const LINES: [(&str, &str); 16] = [
    ("allow:uid:7", "sign"),
    ("allow:uid:7", "none"),
    ("allow:uid:7", "manage,unlock"),
    ("allow:anonymous", "all"),
    ("soft_ttl_ms", "1000"),
    ("soft_ttl_ms", "60000"),
    ("hard_ttl_ms", "2000"),
    ("hard_ttl_ms", "600000"),
    ("dek_lease_ms", "5000"),
    ("sign_wait_budget_us", "1"),
    ("on_soft_expiry", "serve_stale"),
    ("max_in_flight", "0"),
    ("for_ms", "1000"),
    ("for_ms", "90000"),
    ("delete_wait_ms", "0"),
    ("allow:uid:8", "sign"),
];

/// A command, and whether it may wait for more than the KMS, the disk and the shards.
pub(super) fn command(script: &mut Script<'_>) -> Command {
    let what = script.u8();
    let choice = script.u8();
    let keyspace = u32::from(choice & 3) + 1;
    let kms = KMSES[usize::from(choice >> 2 & 1)].to_owned();
    match what % 20 {
        0 => Command::Create {
            // Some names are taken.
            name: format!("made-{}", choice >> 3),
            kms: (choice & 1 == 0).then_some(kms),
            change: change(script),
        },
        1..4 => Command::Set {
            keyspace,
            change: change(script),
        },
        4 => Command::History { keyspace },
        5 => Command::List {
            after: u32::from(choice >> 4),
            visible: (1..u32::from(choice & 15)).collect(),
        },
        6 | 7 => Command::Lock { keyspace },
        8 | 9 => Command::Unlock {
            keyspace,
            secret: secret(choice >> 3),
            watch: choice & 0x80 != 0,
        },
        10 => Command::UnlockStatus {
            keyspace,
            ticket: u64::from(keyspace) << 32 | u64::from(script.u32()),
        },
        11 | 12 => Command::Rotate { keyspace },
        13 => Command::DestroyDeks { keyspace },
        14 => Command::Rewrap { keyspace, kms },
        15 => Command::Hot {
            keyspace,
            by: HotBy::ALL[usize::from(choice >> 2) % HotBy::ALL.len()],
            keys_max: usize::from(choice >> 4),
        },
        16 => Command::Initialise {
            kms,
            shares: choice >> 4,
            threshold: choice & 7,
            passphrase: vec![1; usize::from(choice & 8)].into(),
        },
        17 => match choice >> 6 {
            0 => Command::LockAll,
            1 => Command::LockKms { kms },
            _ => Command::UnlockKms {
                kms,
                secret: secret(choice >> 3),
            },
        },
        18 => Command::LockKms {
            kms: "nobody's".to_owned(),
        },
        _ => Command::Status {
            after: u64::from(choice),
        },
    }
}

fn secret(choice: u8) -> Secret {
    let kind = UnlockKind::ALL[usize::from(choice) % UnlockKind::ALL.len()];
    Secret {
        kind,
        bytes: match kind {
            UnlockKind::Nothing => Vec::new().into(),
            _ => vec![choice; 8].into(),
        },
        force: choice & 0x10 != 0,
    }
}

/// One to three lines; a change that does not parse is no change at all, as the shard would refuse it.
fn change(script: &mut Script<'_>) -> SettingsChange {
    let lines = script.u16();
    let line = |at: u16| LINES[usize::from(lines >> (4 * at) & 15)];
    let count = 1 + lines / 0x5556;
    let parsed = SettingsChange::parse((0..count).map(line));
    parsed.unwrap_or_default()
}
