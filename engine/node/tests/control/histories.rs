//! Random histories: commands, and answers of the KMS, the disk and the shards, successful or not, in any order.
//!
//! Properties of all of them: a command is answered exactly once; revisions, epochs and floors at a shard never decrease,
//! and no DEK is sent for a locked keyspace (the rig asserts this at each step); the state in force at shards is never
//! looser than what is written; when everything has completed, all shards apply what was written last; and the same
//! history gives the same outputs.

use keyway_node::catalogue::SettingsChange;
use keyway_node::messages::{Command, ResealError, ResealPage, ToControl};
use keyway_protocol::{Status, UnlockKind};

use crate::random::Random;
use crate::rig::{OTHER_KMS, OWNER, PROD, Rig, SIGNER};

const HISTORIES: u64 = 400;
const STEPS: u64 = 120;

fn command(random: &mut Random) -> Command {
    let keyspace = PROD;
    match random.below(10) {
        0 | 1 => Command::Lock { keyspace },
        2 | 3 => Command::Rotate { keyspace },
        4 => Command::DestroyDeks { keyspace },
        5 => Command::Rewrap {
            keyspace,
            kms: [crate::rig::KMS, OTHER_KMS][random.below(2) as usize].to_owned(),
        },
        6 => Command::LockAll,
        7 => Command::History { keyspace },
        _ => {
            let rights = ["none", "sign", "sign,mac"][random.below(3) as usize];
            let grant = [("allow:uid:7", rights)];
            let change = SettingsChange::parse(grant).expect("it is valid");
            Command::Set { keyspace, change }
        }
    }
}

fn step(rig: &mut Rig, random: &mut Random) {
    let is_well = random.below(4) > 0;
    let found = random.below(3) / 2;
    let page = |floor| match is_well {
        true => Ok(ResealPage {
            floor,
            found,
            resealed: found,
            ..ResealPage::default()
        }),
        false => Err(ResealError::DekMissing),
    };
    match random.below(13) {
        0 | 1 => {
            let command = command(random);
            rig.command(OWNER, command);
        }
        2 => {
            let secret = [UnlockKind::Passphrase, UnlockKind::Nothing];
            rig.unlock(secret[random.below(2) as usize], !is_well);
        }
        3 => rig.from(random.below(2) as u16, ToControl::Unwrap { keyspace: PROD }),
        4 => {
            let generation = 1 + random.below(3) as u32;
            let keyspace = PROD;
            let revive = ToControl::Revive {
                keyspace,
                generation,
            };
            rig.from(0, revive);
        }
        5 | 6 => {
            rig.answer_kms(is_well);
        }
        7 | 8 => {
            rig.end_write(is_well);
        }
        9 => {
            rig.act();
        }
        10 => {
            rig.wipe();
            rig.confirm();
        }
        11 => {
            rig.pages(page);
            rig.tell();
        }
        _ => rig.pass(random.below(3_000_000)),
    }
}

/// Runs without faults until nothing is left to do.
fn calm(rig: &mut Rig) {
    let page = |floor| {
        Ok(ResealPage {
            floor,
            ..ResealPage::default()
        })
    };
    for _ in 0..200 {
        let mut is_any = rig.answer_kms(true);
        is_any |= rig.end_write(true);
        is_any |= rig.act();
        is_any |= rig.wipe();
        is_any |= rig.confirm();
        is_any |= rig.pages(page);
        is_any |= rig.tell();
        if !is_any {
            rig.pass(1_000_000);
        }
    }
}

fn run(seed: u64) -> (String, Rig) {
    let mut random = Random(seed);
    let mut rig = match seed % 2 {
        0 => Rig::new(),
        _ => Rig::with_retired(),
    };
    let mut trace = String::new();
    for _ in 0..STEPS {
        step(&mut rig, &mut random);
        trace += &rig.out.join(";");
        trace.push('\n');
        rig.out.clear();
        check_tightness(&rig);
        for (token, answers) in &rig.answers {
            assert_eq!(answers.len(), 1, "seed {seed}: {token} was answered twice");
        }
    }
    calm(&mut rig);
    (trace, rig)
}

/// Asserts that a keyspace which is locked as written is locked at the shards.
fn check_tightness(rig: &Rig) {
    let written = rig.disk.keyspace(PROD).expect("one exists");
    let is_told = rig.shards.iter().all(|shard| shard.acts.is_empty());
    if written.locked && is_told {
        for shard in &rig.shards {
            assert!(shard.is_locked, "looser than what is written");
        }
    }
}

#[test]
fn commands_are_answered_once_and_shards_converge_to_what_is_written() {
    for seed in 0..HISTORIES {
        let (_, mut rig) = run(seed);
        let asked = rig.command(OWNER, Command::History { keyspace: PROD });
        for token in 1..=asked {
            let answers = rig.answers.get(&token).map_or(0, Vec::len);
            assert_eq!(answers, 1, "seed {seed}: answers to {token}");
        }
        assert_eq!(rig.control.under_way(), (0, 0), "seed {seed}");
        let written = rig.control.written().keyspace(PROD).expect("one exists");
        let on_disk = rig.disk.keyspace(PROD).expect("one exists");
        assert_eq!(written, on_disk, "seed {seed}");
        for shard in &rig.shards {
            assert_eq!(shard.is_locked, written.locked, "seed {seed}");
            assert_eq!(shard.floor, written.generation(), "seed {seed}");
        }
        assert!(!written.has_older_deks(), "seed {seed}: not retired");
        let state = rig.control.state_of(PROD).expect("one exists");
        let expected = match written.locked {
            true => "locked",
            false => "open",
        };
        assert_eq!(state, [expected, "steady", "steady", "idle"], "seed {seed}");
    }
}

#[test]
fn same_history_gives_the_same_outputs() {
    for seed in 0..20 {
        assert_eq!(run(seed).0, run(seed).0);
    }
}

#[test]
fn withdrawn_right_prevents_the_change_however_late_it_is_withdrawn() {
    let mut rig = Rig::new();
    let refused = rig.command(SIGNER, Command::Lock { keyspace: PROD });
    assert_eq!(rig.answers[&refused][0].0, Status::Forbidden);
    let grant = |rights| Command::Set {
        keyspace: PROD,
        change: SettingsChange::parse([("allow:uid:7", rights)]).expect("it is valid"),
    };
    rig.command(OWNER, grant("manage"));
    calm(&mut rig);
    let rotation = rig.command(SIGNER, Command::Rotate { keyspace: PROD });
    rig.command(OWNER, grant("none"));
    // The KMS has generated the DEK, but it is no longer written.
    calm(&mut rig);
    assert_eq!(rig.answers[&rotation][0].0, Status::Forbidden);
    assert_eq!(rig.disk.keyspace(PROD).map(|it| it.generation()), Ok(1));
}
