//! Tests what the table does not show: events between two steps of a command, deadlines, and commands that time out.

use keyway_node::catalogue::{Catalogue, SettingsChange};
use keyway_node::control::{Report, UNLOCKS_MAX, UNLOCKS_RESERVED};
use keyway_node::messages::{Command, Request, ResealError, ResealPage, Secret, ToControl};
use keyway_node::policy::Principal;
use keyway_protocol::{Grants, HotBy, Status, UnlockKind};

use crate::rig::{OWNER, PROD, Rig, SIGNER};

fn page(floor: u32) -> ResealPage {
    ResealPage {
        floor,
        ..ResealPage::default()
    }
}

fn state(rig: &Rig) -> [&'static str; 4] {
    rig.control.state_of(PROD).expect("one exists")
}

fn lock(rig: &mut Rig) -> u64 {
    rig.command(OWNER, Command::Lock { keyspace: PROD })
}

/// Returns the status of the ticket that this command was answered with.
fn unlock_status(rig: &mut Rig, unlock: u64) -> String {
    let (_, ticket) = rig.answers[&unlock][0].clone();
    let ticket = u64::from_le_bytes(ticket.try_into().expect("a ticket"));
    let keyspace = PROD;
    let asked = rig.command(OWNER, Command::UnlockStatus { keyspace, ticket });
    rig.tell();
    String::from_utf8(rig.answers[&asked][0].1.clone()).expect("JSON")
}

fn create() -> Command {
    Command::Create {
        name: "other".to_owned(),
        kms: None,
        change: Default::default(),
    }
}

/// Completes everything in progress at the shards and the disk.
fn settle(rig: &mut Rig) {
    while rig.end_write(true) | rig.act() | rig.wipe() | rig.confirm() {}
}

/// An unlock was executed however long it had taken, even if a lock had arrived and been acknowledged in the meantime.
#[test]
fn lock_discards_an_unlock_in_each_of_its_stages() {
    type Reach = fn(&mut Rig);
    let stages: [(&str, Reach); 4] = [
        ("proving", |_| {}),
        ("watching", |rig| {
            rig.answer_kms(false);
        }),
        ("writing", |rig| {
            rig.answer_kms(true);
        }),
        ("opening", |rig| {
            rig.answer_kms(true);
            rig.end_write(true);
        }),
    ];
    for (stage, reach) in stages {
        let mut rig = Rig::new();
        lock(&mut rig);
        settle(&mut rig);
        let unlock = rig.unlock(UnlockKind::Passphrase, true);
        rig.answer_kms(true);
        reach(&mut rig);
        lock(&mut rig);
        for _ in 0..10 {
            settle(&mut rig);
            rig.answer_kms(true);
            rig.pass(20_000_000);
        }
        assert_eq!(
            state(&rig),
            ["locked", "steady", "steady", "idle"],
            "{stage}"
        );
        assert!(rig.shards.iter().all(|shard| shard.is_locked), "{stage}");
        let status = unlock_status(&mut rig, unlock);
        assert!(status.contains("failed"), "{stage}: {status}");
    }
}

/// DEKs requested from a KMS before a lock were distributed if an unlock arrived before the answer.
#[test]
fn deks_requested_before_a_lock_are_dropped_after_the_unlock() {
    let mut rig = Rig::new();
    rig.from(0, ToControl::Unwrap { keyspace: PROD });
    lock(&mut rig);
    settle(&mut rig);
    rig.unlock(UnlockKind::Passphrase, false);
    for _ in 0..2 {
        rig.calls.rotate_left(1);
        rig.answer_kms(true);
        settle(&mut rig);
    }
    assert_eq!(state(&rig)[0], "open");
    rig.out.clear();
    assert!(rig.answer_kms(true), "the first call");
    assert!(rig.out.is_empty(), "{:?}", rig.out);
}

#[test]
fn unlock_waits_until_every_shard_has_wiped_and_a_second_lock_discards_it() {
    for lock_again in [false, true] {
        let mut rig = Rig::new();
        lock(&mut rig);
        rig.end_write(true);
        rig.unlock(UnlockKind::Passphrase, false);
        rig.answer_kms(true);
        rig.answer_kms(true);
        assert_eq!(state(&rig)[3], "wiping");
        assert!(rig.write.is_none());
        if lock_again {
            lock(&mut rig);
        }
        settle(&mut rig);
        let expected = if lock_again { "locked" } else { "open" };
        assert_eq!(state(&rig)[0], expected);
    }
}

/// Blobs were counted, and a DEK that had been revived in the meantime was retired, although the count had not covered
/// it.
#[test]
fn count_during_which_a_dek_is_revived_retires_nothing() {
    let mut rig = Rig::with_retired();
    rig.command(OWNER, Command::Rotate { keyspace: PROD });
    rig.answer_kms(true);
    settle(&mut rig);
    assert_eq!(state(&rig)[2], "counting");
    rig.pages(|floor| Ok(page(floor)));
    let revive = ToControl::Revive {
        keyspace: PROD,
        generation: 1,
    };
    rig.from(0, revive);
    settle(&mut rig);
    rig.answer_kms(true);
    rig.out.clear();
    rig.pages(|floor| Ok(page(floor)));
    assert_eq!(rig.out, ["Count on 0"], "the count starts again");
    rig.pages(|floor| Ok(page(floor)));
    rig.pages(|floor| Ok(page(floor)));
    settle(&mut rig);
    let written = rig.control.written().keyspace(PROD).expect("one exists");
    assert!(!written.has_older_deks());
}

#[test]
fn timed_out_command_is_answered_once() {
    let mut rig = Rig::new();
    let rotation = rig.command(OWNER, Command::Rotate { keyspace: PROD });
    rig.pass(599_000_000);
    assert!(!rig.answers.contains_key(&rotation));
    rig.pass(1_000_000);
    assert_eq!(rig.answers[&rotation][0].0, Status::Internal);
    rig.answer_kms(true);
    settle(&mut rig);
    assert_eq!(rig.answers[&rotation].len(), 1);
}

#[test]
fn no_write_begins_after_the_deadline() {
    let mut rig = Rig::new();
    let request = |rig: &Rig, token| {
        ToControl::Request(Request {
            token,
            who: OWNER,
            deadline: Some(rig.now.instant.plus_us(1_000_000)),
            command: Command::Rotate { keyspace: PROD },
        })
    };
    let first = request(&rig, 1_001);
    rig.from(0, first);
    rig.pass(1_000_000);
    rig.answer_kms(true);
    assert_eq!(rig.answers[&1_001][0].0, Status::DeadlineExceeded);
    assert!(rig.write.is_none());
    // A command whose deadline has passed when it is dispatched does not begin; its shard has answered it.
    let second = request(&rig, 1_002);
    rig.pass(2_000_000);
    rig.from(0, second);
    assert!(!rig.answers.contains_key(&1_002) && rig.calls.is_empty());
}

#[test]
fn stopped_shard_delays_no_command() {
    let mut rig = Rig::new();
    let locked = lock(&mut rig);
    rig.stop(1);
    settle(&mut rig);
    assert_eq!(rig.answers[&locked][0].0, Status::Ok);
    let rotation = rig.command(OWNER, Command::DestroyDeks { keyspace: PROD });
    assert_eq!(rig.answers[&rotation][0].0, Status::Ok);
}

#[test]
fn three_share_holders_open_a_keyspace_and_each_ticket_shows_it() {
    let mut rig = Rig::new();
    lock(&mut rig);
    settle(&mut rig);
    rig.set_kms(false, true);
    let tickets: Vec<u64> = (1..=3)
        .map(|given| {
            let ticket = rig.unlock(UnlockKind::Share, false);
            rig.take_share(given);
            ticket
        })
        .collect();
    for ticket in &tickets[..2] {
        let status = unlock_status(&mut rig, *ticket);
        assert!(status.contains("2 of 3 shares given"), "{status}");
    }
    rig.answer_kms(true);
    for _ in 0..3 {
        settle(&mut rig);
        rig.answer_kms(true);
    }
    assert_eq!(state(&rig), ["open", "steady", "steady", "idle"]);
    for ticket in tickets {
        let status = unlock_status(&mut rig, ticket);
        assert!(status.contains("done"), "{status}");
    }
}

/// A disk that was busy for four seconds failed every command, however long its client would have waited.
#[test]
fn command_waits_for_the_disk_as_long_as_its_client_does() {
    for (deadline_us, before_us) in [(None, 3_000_000), (Some(30_000_000), 23_000_000)] {
        let mut rig = Rig::new();
        let deadline = deadline_us.map(|us| rig.now.instant.plus_us(us));
        let command = Command::Lock { keyspace: PROD };
        let locked = rig.command_until(deadline, OWNER, command);
        while rig.act() | rig.wipe() {}
        rig.pass(before_us);
        assert_eq!(rig.answers.get(&locked), None, "{deadline_us:?}");
        rig.pass(1_000_000);
        assert_eq!(rig.answers[&locked][0].0, Status::NotPersisted);
    }
}

/// What was in force was answered DEADLINE_EXCEEDED if its client waited for less than 4 s.
#[test]
fn what_takes_something_away_is_answered_before_its_deadline_however_short() {
    let mut rig = Rig::new();
    let withdrawn = SettingsChange::parse([("allow:uid:7", "none")]).unwrap();
    let commands = [
        Command::Lock { keyspace: PROD },
        Command::LockAll,
        Command::Set {
            keyspace: PROD,
            change: withdrawn,
        },
    ];
    let deadline = Some(rig.now.instant.plus_us(2_000_000));
    let asked = commands.map(|command| rig.command_until(deadline, OWNER, command));
    while rig.act() | rig.wipe() {}
    rig.pass(1_500_000);
    assert_eq!(asked.map(|id| rig.answers.contains_key(&id)), [false; 3]);
    rig.pass(100_000);
    while rig.act() {}
    for id in asked {
        let (status, text) = &rig.answers[&id][0];
        assert_eq!(*status, Status::NotPersisted);
        let text = String::from_utf8_lossy(text);
        assert!(text.contains("in force on every shard"), "{text}");
    }
    // One that comes too late changes nothing, and control has to answer that: its shard cannot.
    let late = rig.command_until(deadline, OWNER, Command::Lock { keyspace: PROD });
    assert!(!rig.answers.contains_key(&late));
    rig.pass(1_000_000);
    let late = rig.command_until(deadline, OWNER, Command::LockAll);
    assert_eq!(rig.answers[&late][0].0, Status::DeadlineExceeded);
}

/// A lease that ended before the keys were looked at left the ticket pending until the next lock.
#[test]
fn unlock_ends_even_if_the_lease_ends_before_its_keys_are_loaded() {
    let mut rig = Rig::new();
    lock(&mut rig);
    settle(&mut rig);
    let unlock = rig.unlock(UnlockKind::Passphrase, true);
    rig.answer_kms(true);
    for _ in 0..3 {
        settle(&mut rig);
        rig.answer_kms(true);
    }
    rig.is_lease_over = true;
    let status = unlock_status(&mut rig, unlock);
    assert!(status.contains("done"), "{status}");
}

#[test]
fn last_share_opens_other_waiting_keyspaces_of_its_kms() {
    let mut rig = Rig::new();
    rig.command(OWNER, create());
    rig.answer_kms(true);
    settle(&mut rig);
    rig.command(OWNER, Command::LockAll);
    settle(&mut rig);
    rig.set_kms(false, true);
    let secret = Secret {
        kind: UnlockKind::Share,
        bytes: b"share".to_vec().into(),
        force: false,
    };
    let (keyspace, watch) = (2, false);
    let unlock = Command::Unlock {
        keyspace,
        secret,
        watch,
    };
    rig.command(OWNER, unlock);
    rig.take_share(1);
    rig.unlock(UnlockKind::Share, false);
    rig.take_share(3);
    for _ in 0..4 {
        rig.answer_kms(true);
        settle(&mut rig);
    }
    for id in [PROD, 2] {
        let state = rig.control.state_of(id).map(|state| state[0]);
        assert_eq!(state, Some("open"), "{id}");
    }
}

/// No shard has a keyspace that is being created, so LOCK_ALL need not wait for it there; the shards receive it locked.
#[test]
fn keyspace_locked_during_creation_reaches_the_shards_locked() {
    let mut rig = Rig::new();
    let created = rig.command(OWNER, create());
    rig.answer_kms(true);
    assert_eq!(
        rig.control.state_of(2).map(|state| state[0]),
        Some("making")
    );
    let all = rig.command(OWNER, Command::LockAll);
    rig.out.clear();
    settle(&mut rig);
    assert_eq!(rig.answers[&all][0].0, Status::Ok);
    assert_eq!(rig.answers[&created][0].0, Status::Ok);
    assert_eq!(
        rig.control.state_of(2).map(|state| state[0]),
        Some("locked")
    );
    let leases = rig.out.iter().filter(|out| out.contains("lease"));
    assert!(leases.eq(["lease locked"]), "{:?}", rig.out);
}

/// A keyspace whose creation was undone used to undo LOCK_ALL with it.
#[test]
fn failed_creation_does_not_undo_the_locks_of_others() {
    let mut rig = Rig::new();
    let created = rig.command(OWNER, create());
    rig.answer_kms(true);
    let all = rig.command(OWNER, Command::LockAll);
    rig.end_write(false);
    settle(&mut rig);
    assert_eq!(rig.answers[&created][0].0, Status::Internal);
    rig.pass(2_000_000);
    settle(&mut rig);
    assert!(matches!(
        rig.answers[&all][0].0,
        Status::Ok | Status::NotPersisted
    ));
    assert!(rig.control.state_of(2).is_none());
    assert!(rig.disk.keyspace(PROD).expect("one exists").locked);
}

#[test]
fn unlocks_and_requests_to_an_unresponsive_shard_are_bounded() {
    let mut rig = Rig::new();
    for _ in 0..2 * UNLOCKS_MAX {
        rig.unlock(UnlockKind::Nothing, true);
    }
    // The owner asks, for whom some more are kept.
    let bound = UNLOCKS_MAX + UNLOCKS_RESERVED;
    assert_eq!(rig.calls.len(), bound);
    let overloaded = |(status, _): &(Status, Vec<u8>)| *status == Status::Overloaded;
    let refused = rig.answers.values().flatten().filter(|it| overloaded(it));
    assert_eq!(refused.count(), 2 * UNLOCKS_MAX - bound);
    while rig.answer_kms(true) {
        settle(&mut rig);
    }
    assert_eq!(rig.control.under_way(), (0, 0));
    for _ in 0..100 {
        rig.pass(1_000_000);
    }
    let (_, works) = rig.control.under_way();
    assert!(works <= 16, "{works}");
    rig.unlock(UnlockKind::Nothing, false);
    assert_eq!(rig.calls.len(), 1, "a place is free again");
}

/// A temporary grant that the disk was slow to take used to come into force after it had expired, for up to a second.
#[test]
fn an_override_that_expires_before_it_is_written_never_comes_into_force() {
    let mut rig = Rig::new();
    let lines = [("allow:uid:8", "sign"), ("for_ms", "1000")];
    let change = SettingsChange::parse(lines).expect("it is valid");
    let keyspace = PROD;
    rig.command(OWNER, Command::Set { keyspace, change });
    rig.pass(2_500_000);
    rig.end_write(true);
    let rights = || {
        let written = rig.control.written().keyspace(PROD);
        written.map(|keyspace| keyspace.policy.rights(Principal::Uid(8)))
    };
    assert_eq!(rights(), Ok(Grants::NONE));
}

/// In an idle keyspace whose lease was shorter than the pause between attempts, a rotation never ended: at each attempt the
/// DEK that the previous one had brought was gone again.
#[test]
fn resealing_that_lacks_a_dek_resumes_when_the_dek_is_handed_out() {
    let mut rig = Rig::new();
    rig.command(OWNER, Command::Rotate { keyspace: PROD });
    rig.answer_kms(true);
    settle(&mut rig);
    let found = |floor| ResealPage {
        found: 1,
        ..page(floor)
    };
    // The count, one shard after the other.
    while state(&rig)[2] == "counting" {
        assert!(rig.pages(|floor| Ok(found(floor))));
    }
    let fails = |rig: &mut Rig| rig.pages(|_| Err(ResealError::DekMissing));
    assert!(fails(&mut rig) && !fails(&mut rig));
    assert!(rig.answer_kms(true), "the DEK is unwrapped");
    rig.pass(0);
    assert!(fails(&mut rig), "the page is requested after the lease");
    // Once in each pause: a shard that can never take the DEK does not call the KMS without end.
    assert!(rig.answer_kms(true));
    rig.pass(0);
    assert!(!fails(&mut rig));
}

fn set(lines: &[(&str, &str)]) -> Command {
    let change = SettingsChange::parse(lines.iter().copied()).expect("it is valid");
    Command::Set {
        keyspace: PROD,
        change,
    }
}

/// Returns the only answer to a command: its status and its text.
fn answer(rig: &Rig, token: u64) -> (Status, String) {
    let answers = &rig.answers[&token];
    assert_eq!(answers.len(), 1);
    let text = String::from_utf8(answers[0].1.clone());
    (answers[0].0, text.expect("text"))
}

/// The right was checked when the command arrived, and the answer was sent whatever had become of it.
#[test]
fn what_shards_report_is_not_sent_after_the_right_was_withdrawn() {
    let mut rig = Rig::new();
    rig.command(OWNER, set(&[("allow:uid:7", "manage,unlock")]));
    settle(&mut rig);
    let hot = || Command::Hot {
        keyspace: PROD,
        by: HotBy::Requests,
        keys_max: 10,
    };
    let shown = rig.command(SIGNER, hot());
    rig.tell();
    let (status, text) = answer(&rig, shown);
    assert_eq!(status, Status::Ok);
    assert!(text.contains("alice"), "{text}");

    let unlock = rig.unlock(UnlockKind::Nothing, false);
    let ticket = u64::from_le_bytes(rig.answers[&unlock][0].1.clone().try_into().expect("8"));
    let keyspace = PROD;
    for _ in 0..3 {
        rig.answer_kms(true);
        settle(&mut rig);
    }
    let asked = [
        rig.command(SIGNER, hot()),
        rig.command(SIGNER, Command::UnlockStatus { keyspace, ticket }),
    ];
    rig.command(OWNER, set(&[("allow:uid:7", "none")]));
    rig.tell();
    for token in asked {
        assert_eq!(answer(&rig, token).0, Status::Forbidden);
    }
}

/// It waited for the KMS with the rest of its change, and signing continued for as long.
#[test]
fn a_withdrawal_does_not_wait_for_the_kms_with_the_rest_of_its_change() {
    let lines = [
        ("allow:uid:7", "none"),
        ("soft_ttl_ms", "1000"),
        ("hard_ttl_ms", "3700000"),
    ];
    for is_well in [true, false] {
        let mut rig = Rig::new();
        rig.set_kms(true, false);
        rig.out.clear();
        let token = rig.command(OWNER, set(&lines));
        assert_eq!(rig.rights_at_shards(7), Grants::NONE);
        assert!(
            rig.out
                .contains(&"!change: open, floor 1, oldest 1".to_owned())
        );
        settle(&mut rig);
        let written = |rig: &Rig| rig.disk.keyspace(PROD).expect("one").clone();
        assert_eq!(written(&rig).policy.rights(SIGNER), Grants::NONE);
        assert_eq!(rig.settings_at_shards().soft_ttl_ms, 1_000);
        assert_eq!(rig.settings_at_shards().hard_ttl_ms, 3_600_000, "it waits");
        assert_eq!(rig.answers.get(&token), None);
        assert!(rig.answer_kms(is_well));
        settle(&mut rig);
        let (status, text) = answer(&rig, token);
        if is_well {
            assert_eq!((status, text), (Status::Ok, String::new()));
            assert_eq!(written(&rig).settings().soft_ttl_ms, 1_000);
            assert_eq!(rig.settings_at_shards().hard_ttl_ms, 3_700_000);
            continue;
        }
        assert_eq!(status, Status::NotPersisted);
        for part in [
            "in force on every shard: allow:uid:7=none, soft_ttl_ms=1000;",
            "not in force: hard_ttl_ms=3700000 (in force: 3600000);",
            "it is not complete: unavailable: away",
            "a restart undoes shorter time limits",
        ] {
            assert!(text.contains(part), "{text}");
        }
        assert!(!text.contains("keyspaces.json"), "it is written: {text}");
    }
}

/// The withdrawal may be unwritten as well, and end after the KMS has answered.
#[test]
fn a_withdrawal_ahead_of_its_change_is_answered_as_it_was_written() {
    let lines = [("allow:uid:7", "none"), ("hard_ttl_ms", "3700000")];
    for (kms, disk) in [(true, false), (false, false), (false, true)] {
        let mut rig = Rig::new();
        rig.set_kms(true, false);
        let token = rig.command(OWNER, set(&lines));
        rig.answer_kms(kms);
        assert_eq!(rig.answers.get(&token), None, "the disk works on it");
        rig.end_write(disk);
        while rig.act() | rig.end_write(disk) {}
        let (status, text) = answer(&rig, token);
        assert_eq!(status, Status::NotPersisted);
        assert_eq!(
            text.contains("keyspaces.json could not be written"),
            !disk,
            "{text}"
        );
        assert!(text.contains("not in force: hard_ttl_ms=3700000"), "{text}");
        assert_eq!(rig.rights_at_shards(7), Grants::NONE);
    }
}

/// The end of the 30 days was only tested in the catalogue, not that control acts by it.
#[test]
fn retired_deks_are_destroyed_after_30_days_and_a_failed_write_keeps_them() {
    const DAY_US: u64 = 86_400_000_000;
    let mut rig = Rig::with_retired();
    let retired = |catalogue: &Catalogue| catalogue.keyspace(PROD).expect("one").retired().count();
    rig.pass(29 * DAY_US);
    assert!(rig.write.is_none());
    assert_eq!(retired(rig.control.written()), 1);
    rig.reports.clear();
    rig.pass(2 * DAY_US);
    assert_eq!(rig.write.as_ref().map(|(_, file)| retired(file)), Some(0));
    assert!(rig.end_write(false));
    assert_eq!(retired(rig.control.written()), 1, "a restart may need it");
    let kept = |report: &Report| matches!(report, Report::DueKept { .. });
    let destroyed = |report: &Report| {
        *report
            == Report::DueDestroyed {
                due: vec![(PROD, 1)],
            }
    };
    assert!(rig.reports.iter().any(kept) && !rig.reports.iter().any(destroyed));
    // The file is written without the change that failed, and the change is tried again later.
    rig.pass(600_000_000);
    settle(&mut rig);
    assert_eq!(retired(&rig.disk), 0);
    assert_eq!(retired(rig.control.written()), 0);
    assert!(rig.reports.iter().any(destroyed));
}
