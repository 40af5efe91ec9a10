//! Every state of a keyspace × every event, against a readable table: `life_cycle.txt`.
//!
//! Each section of the table is a state; each line has an event, its effects, and the state after it. For messages to
//! every shard only the first is shown; `!` denotes the emergency lane. When the table and control differ, the test
//! prints the actual table; change the file only after having read the line.

use std::fmt::Write as _;

use keyway_node::catalogue::SettingsChange;
use keyway_node::messages::{Command, ResealError, ResealPage, ToControl};
use keyway_protocol::UnlockKind;

use crate::rig::{OTHER_KMS, OWNER, PROD, Rig};

const TABLE: &str = include_str!("life_cycle.txt");

/// Builds a rig in a state.
type Build = fn() -> Rig;

/// The states. Commands in progress belong to the server's user.
const STATES: [(&str, Build); 28] = [
    ("open", Rig::new),
    ("open, a lease requested", || {
        let mut rig = Rig::new();
        rig.from(1, ToControl::Unwrap { keyspace: PROD });
        rig
    }),
    ("open, settings being checked", || {
        let mut rig = Rig::new();
        rig.set_kms(true, false);
        rig.command(OWNER, set("max_in_flight", "8"));
        rig
    }),
    ("open, settings being checked, tighter in part", || {
        let mut rig = Rig::new();
        rig.set_kms(true, false);
        rig.command(OWNER, set("soft_ttl_ms", "9000"));
        rig
    }),
    ("open, settings being written", || {
        let mut rig = Rig::new();
        rig.command(OWNER, set("soft_ttl_ms", "9000"));
        rig
    }),
    ("rotation: checking", || {
        let mut rig = Rig::new();
        rig.set_kms(true, false);
        rig.command(OWNER, Command::Rotate { keyspace: PROD });
        rig
    }),
    ("rotation: minting", minting),
    ("rotation: writing", rotation_writing),
    ("rotation: flooring", flooring),
    ("rotation: counting", counting),
    ("rotation: resealing", resealing),
    ("rotation: resting", || {
        let mut rig = resealing();
        // What cannot be opened is retried only after a pause.
        rig.pages(|floor| Ok(page(floor, 1, 1)));
        rig.pages(|floor| Ok(page(floor, 1, 1)));
        rig
    }),
    ("rotation: retiring", retiring),
    ("move: moving", moving),
    ("move: writing", || {
        let mut rig = moving();
        rig.answer_kms(true);
        rig
    }),
    ("a retired DEK being revived", || {
        let mut rig = Rig::with_retired();
        revive(&mut rig);
        rig
    }),
    ("destruction: counting", || {
        let mut rig = Rig::with_retired();
        rig.command(OWNER, Command::DestroyDeks { keyspace: PROD });
        rig
    }),
    ("destruction: writing", || {
        let mut rig = Rig::with_retired();
        rig.command(OWNER, Command::DestroyDeks { keyspace: PROD });
        rig.pages(|floor| Ok(page(floor, 0, 0)));
        rig.pages(|floor| Ok(page(floor, 0, 0)));
        rig
    }),
    ("destruction: reviving", || {
        let mut rig = Rig::with_retired();
        rig.command(OWNER, Command::DestroyDeks { keyspace: PROD });
        rig.pages(|floor| Ok(page(floor, 1, 0)));
        rig.pages(|floor| Ok(page(floor, 1, 0)));
        rig
    }),
    ("locking", locking),
    ("locking, an unlock verified", || {
        let mut rig = locking();
        rig.end_write(true);
        rig.unlock(UnlockKind::Passphrase, false);
        rig.answer_kms(true);
        rig.answer_kms(true);
        rig
    }),
    ("locked", locked),
    ("locked, not written", || {
        let mut rig = Rig::new();
        rig.command(OWNER, Command::Lock { keyspace: PROD });
        rig.act();
        rig.wipe();
        rig.end_write(false);
        rig
    }),
    ("locked, the KMS being opened", || {
        let mut rig = locked();
        rig.unlock(UnlockKind::Passphrase, false);
        rig
    }),
    ("locked, DEKs being verified", || {
        let mut rig = locked();
        rig.unlock(UnlockKind::Passphrase, false);
        rig.answer_kms(true);
        rig
    }),
    ("locked, an unlock retrying", || {
        let mut rig = locked();
        rig.unlock(UnlockKind::Passphrase, true);
        rig.answer_kms(true);
        rig.answer_kms(false);
        rig
    }),
    ("locked, an unlock being written", unlock_writing),
    ("opening", || {
        let mut rig = unlock_writing();
        rig.end_write(true);
        rig
    }),
];

/// Applies an event of the table. Returns `false` if it cannot occur in this state.
type Apply = fn(&mut Rig) -> bool;

const EVENTS: [(&str, Apply); 23] = [
    ("LOCK", |rig| command(rig, Command::Lock { keyspace: PROD })),
    ("UNLOCK", |rig| {
        rig.unlock(UnlockKind::Passphrase, false);
        true
    }),
    ("UNLOCK, no secret", |rig| {
        rig.unlock(UnlockKind::Nothing, false);
        true
    }),
    ("ROTATE", |rig| {
        command(rig, Command::Rotate { keyspace: PROD })
    }),
    ("REWRAP", |rig| {
        let kms = OTHER_KMS.to_owned();
        command(
            rig,
            Command::Rewrap {
                keyspace: PROD,
                kms,
            },
        )
    }),
    ("DESTROY_DEKS", |rig| {
        command(rig, Command::DestroyDeks { keyspace: PROD })
    }),
    ("SET", |rig| command(rig, set("max_in_flight", "9"))),
    ("SET, withdraws", |rig| {
        command(rig, set("allow:uid:7", "none"))
    }),
    ("KMS_LOCK", |rig| {
        let kms = crate::rig::KMS.to_owned();
        command(rig, Command::LockKms { kms })
    }),
    ("a shard needs the DEK", |rig| {
        rig.from(0, ToControl::Unwrap { keyspace: PROD });
        true
    }),
    ("a shard needs DEK 1", |rig| {
        revive(rig);
        true
    }),
    ("the KMS answers", |rig| rig.answer_kms(true)),
    ("the KMS fails", |rig| rig.answer_kms(false)),
    ("written", |rig| rig.end_write(true)),
    ("not written", |rig| rig.end_write(false)),
    ("shards act", Rig::act),
    ("shards have wiped", Rig::wipe),
    ("shards confirm", Rig::confirm),
    ("page: nothing found", |rig| {
        rig.pages(|floor| Ok(page(floor, 0, 0)))
    }),
    ("page fails", |rig| {
        rig.pages(|_| Err(ResealError::DekMissing))
    }),
    ("5 s pass", |rig| {
        rig.pass(5_000_000);
        true
    }),
    ("60 s pass", |rig| {
        rig.pass(60_000_000);
        true
    }),
    ("a shard stops", |rig| {
        rig.stop(1);
        true
    }),
];

fn command(rig: &mut Rig, command: Command) -> bool {
    rig.command(OWNER, command);
    true
}

fn set(name: &str, value: &str) -> Command {
    Command::Set {
        keyspace: PROD,
        change: SettingsChange::parse([(name, value)]).expect("it is valid"),
    }
}

fn page(floor: u32, found: u64, unreadable: u64) -> ResealPage {
    ResealPage {
        cursor: Vec::new(),
        floor,
        found,
        resealed: found - unreadable,
        unreadable,
    }
}

fn revive(rig: &mut Rig) {
    let message = ToControl::Revive {
        keyspace: PROD,
        generation: 1,
    };
    rig.from(0, message);
}

fn minting() -> Rig {
    let mut rig = Rig::new();
    rig.command(OWNER, Command::Rotate { keyspace: PROD });
    rig
}

fn rotation_writing() -> Rig {
    let mut rig = minting();
    rig.answer_kms(true);
    rig
}

fn flooring() -> Rig {
    let mut rig = rotation_writing();
    rig.end_write(true);
    rig
}

fn counting() -> Rig {
    let mut rig = flooring();
    rig.act();
    rig.confirm();
    rig
}

fn resealing() -> Rig {
    let mut rig = counting();
    rig.pages(|floor| Ok(page(floor, 1, 0)));
    rig.pages(|floor| Ok(page(floor, 0, 0)));
    rig
}

fn retiring() -> Rig {
    let mut rig = counting();
    rig.pages(|floor| Ok(page(floor, 0, 0)));
    rig.pages(|floor| Ok(page(floor, 0, 0)));
    rig
}

fn moving() -> Rig {
    let mut rig = Rig::new();
    let kms = OTHER_KMS.to_owned();
    let keyspace = PROD;
    rig.command(OWNER, Command::Rewrap { keyspace, kms });
    rig
}

fn locking() -> Rig {
    let mut rig = Rig::new();
    rig.command(OWNER, Command::Lock { keyspace: PROD });
    rig
}

fn locked() -> Rig {
    let mut rig = locking();
    rig.act();
    rig.wipe();
    rig.end_write(true);
    rig.act();
    rig.wipe();
    rig
}

fn unlock_writing() -> Rig {
    let mut rig = locked();
    rig.unlock(UnlockKind::Passphrase, false);
    rig.answer_kms(true);
    rig.answer_kms(true);
    rig
}

fn state(rig: &Rig) -> String {
    rig.control.state_of(PROD).expect("one exists").join("/")
}

#[test]
fn every_event_in_every_state_matches_the_table() {
    let comments = TABLE.lines().filter(|line| line.starts_with('#'));
    let mut table: String = comments.map(|line| format!("{line}\n")).collect();
    for (name, build) in STATES {
        writeln!(table, "{name}: {}", state(&build())).expect("writing to a string succeeds");
        for (event, apply) in EVENTS {
            let mut rig = build();
            rig.out.clear();
            if !apply(&mut rig) {
                continue;
            }
            let out = match rig.out.is_empty() {
                true => "-".to_owned(),
                false => rig.out.join("; "),
            };
            writeln!(table, "  {event:<22} {out} -> {}", state(&rig))
                .expect("writing to a string succeeds");
        }
    }
    if table != TABLE {
        for (at, (is, should)) in table.lines().zip(TABLE.lines()).enumerate() {
            if is != should {
                eprintln!("line {}:\n  is      {is}\n  should  {should}", at + 1);
            }
        }
        panic!("life_cycle.txt differs; the actual table:\n{table}");
    }
}
