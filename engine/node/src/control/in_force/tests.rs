use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::json;

use super::*;
use crate::catalogue::testing::change;
use crate::catalogue::{ChangeAuthor, OverrideDuration};
use crate::limits::{WRITE_US_MIN, verdict_us, write_us};
use crate::policy::{Grantee, Principal};

const PROD: u32 = 1;

/// Returns the instant that many seconds after the first.
fn at(seconds: u64) -> Instant {
    Instant::from_micros((50 + seconds) * 1_000_000)
}

fn moment(seconds: u64) -> Moment {
    Moment {
        unix_ms: 1_000_000_000_000 + seconds * 1_000,
        instant: at(seconds),
    }
}

fn by() -> ChangeAuthor {
    ChangeAuthor::principal("uid:7".to_owned(), moment(0))
}

/// Creates keyspace 1 with a grant.
fn with_prod() -> InForce {
    let mut catalogue = Catalogue::default();
    let created = catalogue.make("prod", "allow:uid:1=sign,get", "local", b"wrapped", &by());
    assert_eq!(created, Ok(PROD));
    InForce::new(catalogue)
}

fn lock(locked: bool) -> Edit {
    Edit::Lock {
        ids: vec![PROD],
        locked,
        by: by(),
    }
}

fn set(lines: &str) -> Edit {
    Edit::Set {
        id: PROD,
        change: change(lines, None).unwrap(),
        by: by(),
    }
}

fn create(id: u32) -> Edit {
    Edit::Create {
        id,
        name: "other".to_owned(),
        change: change("", None).unwrap(),
        kms: "local".to_owned(),
        record: b"x".to_vec(),
        by: by(),
    }
}

fn new_work() -> WorkId {
    static LAST: AtomicU64 = AtomicU64::new(0);
    WorkId(LAST.fetch_add(1, Ordering::Relaxed))
}

/// Accepts a change. Returns the keyspaces it tightened, and the work that receives the outcome.
fn want(in_force: &mut InForce, seconds: u64, edit: Edit) -> (Vec<u32>, WorkId) {
    let work = new_work();
    let tightened = in_force
        .want(at(seconds), work, edit, Patience::both(WRITE_US_MIN))
        .unwrap();
    (tightened, work)
}

/// Returns the outcome of a change, if it has ended.
fn ended(in_force: &InForce, work: WorkId) -> Option<Settlement> {
    let mut settled = in_force.settled.iter();
    let (_, outcome) = settled.find(|(settled, _)| *settled == work)?;
    Some(outcome.clone())
}

/// Returns what a user may do, as text.
fn rights(in_force: &InForce, uid: u32) -> String {
    let guard = in_force.guard(PROD).unwrap();
    let rights = guard.policy.of(&Grantee::Known(Principal::Uid(uid)));
    rights.to_string()
}

fn full() -> Result<(), String> {
    Err("no space".to_owned())
}

fn unwritten() -> Option<Settlement> {
    Some(Ok(Settled::Unwritten("no space".to_owned())))
}

fn undone() -> Option<Settlement> {
    Some(Err(Undone::Unwritten("no space".to_owned())))
}

const WRITTEN: Option<Settlement> = Some(Ok(Settled::Written));

/// Returns what is on the disk after a restart.
fn restart(file: &Catalogue) -> InForce {
    InForce::new(Catalogue::parse(&file.text()).unwrap())
}

#[test]
fn tightening_is_in_force_before_the_write_and_loosening_after_it() {
    let mut keyspaces = with_prod();
    let (tightened, locked) = want(&mut keyspaces, 0, lock(true));
    assert_eq!((tightened, ended(&keyspaces, locked)), (vec![PROD], None));
    assert!(keyspaces.is_locked(PROD) && keyspaces.is_unwritten(PROD));
    let file = keyspaces.next_write(at(0)).unwrap();
    assert!(keyspaces.next_write(at(0)).is_none(), "one at a time");
    assert_eq!(keyspaces.handle_saved(at(1), Ok(())), [PROD]);
    assert_eq!(ended(&keyspaces, locked), WRITTEN);
    assert!(restart(&file).is_locked(PROD) && keyspaces.is_settled());

    let (tightened, unlocked) = want(&mut keyspaces, 2, lock(false));
    assert!(tightened.is_empty());
    let _ = keyspaces.next_write(at(2)).unwrap();
    assert!(keyspaces.is_locked(PROD), "not written yet");
    keyspaces.handle_saved(at(3), Ok(()));
    assert!(!keyspaces.is_locked(PROD));
    assert_eq!(ended(&keyspaces, unlocked), WRITTEN);
}

/// A lock that could not be written was undone: signing continued.
#[test]
fn failed_write_keeps_locks_and_withdrawals_and_is_retried() {
    let mut keyspaces = with_prod();
    let (_, locked) = want(&mut keyspaces, 0, lock(true));
    let (tightened, withdrawn) = want(&mut keyspaces, 0, set("allow:uid:1=sign"));
    assert_eq!(tightened, [PROD]);
    let _ = keyspaces.next_write(at(0)).unwrap();
    keyspaces.handle_saved(at(0), full());
    assert_eq!(ended(&keyspaces, locked), unwritten());
    assert_eq!(ended(&keyspaces, withdrawn), unwritten());
    assert!(keyspaces.is_locked(PROD));
    assert_eq!(rights(&keyspaces, 1), "sign");
    assert_eq!((keyspaces.unwritten(), keyspaces.failures_total()), (2, 1));
    assert!(keyspaces.next_write(at(0)).is_none(), "not immediately");
    let file = keyspaces.next_write(at(1)).unwrap();
    keyspaces.handle_saved(at(1), Ok(()));
    assert!(restart(&file).is_locked(PROD));
    assert_eq!((keyspaces.unwritten(), keyspaces.failing()), (0, None));
    assert!(keyspaces.next_write(at(99)).is_none());
}

#[test]
fn failed_write_undoes_changes_that_only_grant() {
    let mut keyspaces = with_prod();
    let (_, locked) = want(&mut keyspaces, 0, lock(true));
    let (_, granted) = want(&mut keyspaces, 0, set("allow:uid:2=all"));
    let _ = keyspaces.next_write(at(0)).unwrap();
    keyspaces.handle_saved(at(0), full());
    assert_eq!(
        (ended(&keyspaces, locked), ended(&keyspaces, granted)),
        (unwritten(), undone())
    );
    let (_, unlocked) = want(&mut keyspaces, 0, lock(false));
    let _ = keyspaces
        .next_write(at(0))
        .expect("a new change is written immediately");
    keyspaces.handle_saved(at(0), full());
    assert_eq!(ended(&keyspaces, unlocked), undone());
    assert!(keyspaces.is_locked(PROD));
    let file = keyspaces.next_write(at(60)).unwrap();
    keyspaces.handle_saved(at(60), Ok(()));
    let after = restart(&file);
    assert!(after.is_locked(PROD));
    assert_eq!(rights(&after, 2), "none");
}

/// A change that grants one thing and takes another away stays: the grant waits for the disk.
#[test]
fn mixed_change_only_tightens_until_it_is_written() {
    let mut keyspaces = with_prod();
    let lines = "allow:uid:1=get,mac\nallow:uid:2=all\nhard_ttl_ms=1800000\nmax_in_flight=9";
    let (tightened, mixed) = want(&mut keyspaces, 0, set(lines));
    assert_eq!(tightened, [PROD]);
    let _ = keyspaces.next_write(at(0)).unwrap();
    keyspaces.handle_saved(at(0), full());
    assert_eq!(ended(&keyspaces, mixed), unwritten());
    let guard = keyspaces.guard(PROD).unwrap();
    assert_eq!(json!(guard.policy), json!({ "uid:1": "get" }));
    assert_eq!(guard.settings.hard_ttl_ms, 1_800_000);
    assert_eq!(guard.settings.max_in_flight, 64);
    let _ = keyspaces.next_write(at(9)).unwrap();
    assert_eq!(keyspaces.handle_saved(at(9), Ok(())), [PROD]);
    let guard = keyspaces.guard(PROD).unwrap();
    let all = json!({ "uid:1": "mac,get", "uid:2": "all" });
    assert_eq!(json!(guard.policy), all);
    assert_eq!(guard.settings.max_in_flight, 9);
}

#[test]
fn unresponsive_disk_is_waited_for_four_seconds_once() {
    let mut keyspaces = with_prod();
    let (_, granted) = want(&mut keyspaces, 0, set("allow:uid:2=all"));
    let stuck = keyspaces.next_write(at(0)).unwrap();
    let (_, locked) = want(&mut keyspaces, 3, lock(true));
    keyspaces.handle_tick(at(3));
    assert_eq!(
        (ended(&keyspaces, granted), ended(&keyspaces, locked)),
        (None, None)
    );
    keyspaces.handle_tick(at(4));
    let why = "no answer for 4 s".to_owned();
    assert_eq!(
        ended(&keyspaces, granted),
        Some(Err(Undone::Unwritten(why)))
    );
    assert_eq!(ended(&keyspaces, locked), None, "it has waited for 1 s");
    keyspaces.handle_tick(at(8));
    let why = "no answer for 8 s".to_owned();
    assert_eq!(
        ended(&keyspaces, locked),
        Some(Ok(Settled::Unwritten(why.clone())))
    );
    let (_, again) = want(&mut keyspaces, 9, set("allow:uid:1=none"));
    let why = why.replace('8', "9");
    assert_eq!(
        ended(&keyspaces, again),
        Some(Ok(Settled::Unwritten(why))),
        "immediately"
    );
    assert!(keyspaces.is_locked(PROD));
    assert_eq!(rights(&keyspaces, 1), "none");

    // The write completes after all. Its contents were undone in the meantime: the file is written again.
    assert_eq!(rights(&restart(&stuck), 2), "all");
    keyspaces.handle_saved(at(60), Ok(()));
    assert_eq!(rights(&keyspaces, 2), "none");
    let file = keyspaces.next_write(at(60)).unwrap();
    keyspaces.handle_saved(at(60), Ok(()));
    let after = restart(&file);
    assert!(after.is_locked(PROD));
    assert_eq!(after.guard(PROD).unwrap().policy.iter().count(), 0);
    assert!(keyspaces.is_settled());
}

/// Found by the simulator: the write of another change opened the keyspace, since the lock and the unlock that both
/// waited for the disk cancelled each other out. When the unlock could not be written, the lock was still answered as in
/// force.
#[test]
fn lock_stays_in_force_until_the_following_unlock_is_written() {
    let mut keyspaces = with_prod();
    let (_, granted) = want(&mut keyspaces, 0, set("allow:uid:2=all"));
    assert!(keyspaces.next_write(at(0)).is_some());
    let (_, locked) = want(&mut keyspaces, 1, lock(true));
    let (_, unlocked) = want(&mut keyspaces, 1, lock(false));
    keyspaces.handle_saved(at(2), Ok(()));
    assert_eq!(ended(&keyspaces, granted), Some(Ok(Settled::Written)));
    assert!(keyspaces.is_locked(PROD), "the unlock is not written yet");
    assert!(keyspaces.next_write(at(2)).is_some());
    keyspaces.handle_saved(at(2), full());
    assert_eq!(ended(&keyspaces, locked), unwritten());
    assert!(matches!(
        ended(&keyspaces, unlocked),
        Some(Err(Undone::Unwritten(_)))
    ));
    assert!(keyspaces.is_locked(PROD));
}

/// Found by the simulator: the file of an unlock that was reported as failed was on the disk, the next LOCK was answered
/// OK since the keyspace was locked in memory, and a restart found it open.
#[test]
fn lock_is_written_again_if_the_file_may_hold_an_unlock() {
    let mut keyspaces = with_prod();
    want(&mut keyspaces, 0, lock(true));
    assert!(keyspaces.next_write(at(0)).is_some());
    keyspaces.handle_saved(at(0), Ok(()));
    want(&mut keyspaces, 1, lock(false));
    let on_disk = keyspaces.next_write(at(1)).unwrap();
    assert!(!restart(&on_disk).is_locked(PROD));
    keyspaces.handle_saved(at(1), full());
    let (_, locked) = want(&mut keyspaces, 2, lock(true));
    assert_eq!(ended(&keyspaces, locked), None, "it has to be written");
    let on_disk = keyspaces.next_write(at(2)).unwrap();
    assert!(restart(&on_disk).is_locked(PROD));
    keyspaces.handle_saved(at(2), Ok(()));
    assert_eq!(ended(&keyspaces, locked), WRITTEN);
    assert!(keyspaces.is_settled());
}

/// Found by the simulator: a repeated command was answered OK because of another command's write, after its own change
/// had been undone.
#[test]
fn repeated_command_is_not_answered_by_another_change() {
    let mut keyspaces = with_prod();
    let (_, first) = want(&mut keyspaces, 0, set("soft_ttl_ms=700000"));
    assert!(keyspaces.next_write(at(0)).is_some());
    want(&mut keyspaces, 0, set("sign_wait_budget_us=7"));
    let (_, again) = want(&mut keyspaces, 0, set("soft_ttl_ms=700000"));
    keyspaces.handle_saved(at(1), full());
    assert_eq!(ended(&keyspaces, first), undone());
    let file = keyspaces.next_write(at(1)).unwrap();
    keyspaces.handle_saved(at(1), Ok(()));
    assert_eq!(ended(&keyspaces, again), WRITTEN);
    let settings = restart(&file).guard(PROD).unwrap().settings;
    assert_eq!(settings.soft_ttl_ms, 700_000);
}

#[test]
fn repeated_command_shares_the_outcome_of_the_first() {
    let mut keyspaces = with_prod();
    let (_, first) = want(&mut keyspaces, 0, lock(true));
    let (tightened, second) = want(&mut keyspaces, 0, lock(true));
    assert!(tightened.is_empty());
    let _ = keyspaces.next_write(at(0)).unwrap();
    keyspaces.handle_saved(at(0), full());
    assert_eq!(
        (ended(&keyspaces, first), ended(&keyspaces, second)),
        (unwritten(), unwritten())
    );
    // The command is a reason to retry immediately, and waits for that write.
    let (_, third) = want(&mut keyspaces, 0, lock(true));
    let _ = keyspaces.next_write(at(0)).expect("retried immediately");
    assert_eq!(ended(&keyspaces, third), None);
    keyspaces.handle_saved(at(0), Ok(()));
    assert_eq!(ended(&keyspaces, third), WRITTEN);
    let (_, fourth) = want(&mut keyspaces, 0, lock(true));
    assert_eq!(
        ended(&keyspaces, fourth),
        WRITTEN,
        "there is nothing to write"
    );
    assert!(keyspaces.next_write(at(0)).is_none());
}

#[test]
fn nothing_loosens_after_a_failed_write_until_one_succeeds() {
    let mut keyspaces = with_prod();
    let (_, _locked) = want(&mut keyspaces, 0, lock(true));
    let _ = keyspaces.next_write(at(0)).unwrap();
    // Reported as failed, although the file was replaced.
    keyspaces.handle_saved(at(0), full());
    let (_, unlocked) = want(&mut keyspaces, 1, lock(false));
    assert!(keyspaces.is_locked(PROD));
    let _ = keyspaces.next_write(at(1)).unwrap();
    assert!(keyspaces.is_locked(PROD));
    keyspaces.handle_saved(at(1), Ok(()));
    assert!(!keyspaces.is_locked(PROD));
    assert_eq!(ended(&keyspaces, unlocked), WRITTEN);
}

/// A change was made on a copy from before a KMS call, and undid a lock made in the meantime.
#[test]
fn changes_are_applied_to_the_current_state() {
    let mut keyspaces = with_prod();
    let id = keyspaces.reserve_id().unwrap();
    let (_, locked) = want(&mut keyspaces, 0, lock(true));
    let _ = keyspaces.next_write(at(0)).unwrap();
    let (_, other) = want(&mut keyspaces, 0, create(id));
    assert!(keyspaces.guard(id).is_err(), "not written");
    keyspaces.handle_saved(at(0), Ok(()));
    let file = keyspaces.next_write(at(0)).unwrap();
    keyspaces.handle_saved(at(0), Ok(()));
    assert_eq!(ended(&keyspaces, locked), WRITTEN);
    assert_eq!(ended(&keyspaces, other), WRITTEN);
    assert!(restart(&file).is_locked(PROD) && keyspaces.guard(id).is_ok());
    assert_eq!(restart(&file).reserve_id(), Some(id + 1));
}

#[test]
fn id_is_never_reused_even_if_its_keyspace_was_not_written() {
    let mut keyspaces = with_prod();
    let id = keyspaces.reserve_id().unwrap();
    let (_, other) = want(&mut keyspaces, 0, create(id));
    let _ = keyspaces.next_write(at(0)).unwrap();
    keyspaces.handle_saved(at(0), full());
    assert_eq!(ended(&keyspaces, other), undone());
    assert!(keyspaces.reserve_id().unwrap() > id);
}

#[test]
fn expiry_of_an_override_counts_as_written() {
    let mut keyspaces = with_prod();
    let lasts = Some(OverrideDuration::parse("10000").unwrap());
    let grant = Edit::Set {
        id: PROD,
        change: change("allow:uid:2=all", lasts).unwrap(),
        by: by(),
    };
    let _ = want(&mut keyspaces, 0, grant);
    let _ = keyspaces.next_write(at(0)).unwrap();
    keyspaces.handle_saved(at(0), Ok(()));
    assert!(keyspaces.revert_expired(moment(9)).1.is_empty());
    let (ended, touched) = keyspaces.revert_expired(moment(10));
    assert_eq!(
        (ended.len(), touched.into_iter().collect::<Vec<_>>()),
        (1, vec![PROD])
    );
    assert_eq!(rights(&keyspaces, 2), "none");
    let _ = keyspaces.next_write(at(10)).unwrap();
    keyspaces.handle_saved(at(10), full());
    assert_eq!(rights(&keyspaces, 2), "none");
    assert_eq!(keyspaces.unwritten(), 0, "a restart does the same");
}

#[test]
fn pending_changes_are_bounded_and_a_lock_always_fits() {
    let mut keyspaces = with_prod();
    let _ = keyspaces.next_write(at(0));
    for n in 0..PENDING_MAX {
        let grant = set(&format!("max_in_flight={n}"));
        let fits = keyspaces.want(at(0), new_work(), grant, Patience::both(WRITE_US_MIN));
        assert!(fits.is_ok());
    }
    let refused = keyspaces.want(
        at(0),
        new_work(),
        set("max_in_flight=60000"),
        Patience::both(WRITE_US_MIN),
    );
    assert!(matches!(refused, Err(CatalogueError::Busy(_))));
    let (tightened, _) = want(&mut keyspaces, 0, lock(true));
    assert_eq!(tightened, [PROD]);
}

/// A lock received while a write hung was answered after 4 s of the next write: 8 s in all.
/// A disk that was busy for five seconds had every change refused, however long its client would have waited.
#[test]
fn change_waits_for_the_disk_as_long_as_its_client_does() {
    let mut keyspaces = with_prod();
    let _ = want(&mut keyspaces, 0, set("allow:uid:2=all"));
    let _ = keyspaces.next_write(at(0)).unwrap();
    let patient = [set("allow:uid:3=all"), lock(true)].map(|edit| {
        let (work, patience) = (new_work(), Patience::until(at(5), Some(at(30))));
        let wanted = keyspaces.want(at(5), work, edit, patience);
        assert!(wanted.is_ok());
        work
    });
    keyspaces.handle_tick(at(24));
    assert_eq!(patient.map(|work| ended(&keyspaces, work)), [None, None]);
    keyspaces.handle_tick(at(25));
    let why = "no answer for 25 s".to_owned();
    let undone = Err(Undone::Unwritten(why.clone()));
    assert_eq!(
        patient.map(|work| ended(&keyspaces, work)),
        [Some(undone), Some(Ok(Settled::Unwritten(why)))]
    );
    assert!(keyspaces.is_locked(PROD));
}

#[test]
fn answers_wait_for_the_disk_for_four_seconds_or_most_of_the_deadline() {
    let waits = |deadline: Option<u64>| write_us(at(0), deadline.map(at));
    assert_eq!(waits(None), 4_000_000);
    assert_eq!(waits(Some(1)), 4_000_000, "giving up would undo it");
    assert_eq!(waits(Some(5)), 4_000_000);
    assert_eq!(waits(Some(300)), 240_000_000);
    let waits = |deadline: Option<u64>| verdict_us(at(0), deadline.map(at));
    assert_eq!(waits(None), 4_000_000);
    assert_eq!(
        waits(Some(1)),
        800_000,
        "its client must receive the answer"
    );
    assert_eq!(waits(Some(5)), 4_000_000);
    assert_eq!(waits(Some(300)), 240_000_000);
}

/// A lock whose client waited for less than 4 s was answered DEADLINE_EXCEEDED, and was in force.
#[test]
fn a_short_deadline_shortens_the_wait_of_what_is_in_force_alone() {
    let mut keyspaces = with_prod();
    let short = Patience::until(at(0), Some(at(2)));
    let works = [lock(true), set("allow:uid:1=none"), set("allow:uid:3=all")].map(|edit| {
        let work = new_work();
        keyspaces.want(at(0), work, edit, short).unwrap();
        work
    });
    let _ = keyspaces.next_write(at(0)).unwrap();
    let after = |us: u64| Instant::from_micros(at(0).as_micros() + us);
    assert_eq!(keyspaces.next_check(), Some(after(1_600_000)));
    keyspaces.handle_tick(after(1_599_999));
    assert_eq!(
        works.map(|work| ended(&keyspaces, work)),
        [None, None, None]
    );
    keyspaces.handle_tick(after(1_600_000));
    let why = "no answer for 1 s".to_owned();
    let unwritten = Some(Ok(Settled::Unwritten(why)));
    let [locked, withdrawn, granted] = works.map(|work| ended(&keyspaces, work));
    assert_eq!(
        (locked, withdrawn, granted),
        (unwritten.clone(), unwritten, None)
    );
    assert_eq!(keyspaces.next_check(), Some(at(4)));
    keyspaces.handle_tick(at(4));
    assert!(matches!(
        ended(&keyspaces, works[2]),
        Some(Err(Undone::Unwritten(_)))
    ));
    assert_eq!(keyspaces.next_check(), None);
}

#[test]
fn lock_is_answered_after_four_seconds_whichever_write_it_waits_for() {
    let mut keyspaces = with_prod();
    let (_, slow) = want(&mut keyspaces, 0, set("allow:uid:2=all"));
    let _ = keyspaces.next_write(at(0)).unwrap();
    let (_, locked) = want(&mut keyspaces, 1, lock(true));
    let (_, granted) = want(&mut keyspaces, 1, set("allow:uid:3=all"));
    keyspaces.handle_saved(at(3), Ok(()));
    assert_eq!(ended(&keyspaces, slow), WRITTEN);
    let _ = keyspaces.next_write(at(3)).unwrap();
    keyspaces.handle_tick(at(4));
    assert_eq!(ended(&keyspaces, locked), None);
    keyspaces.handle_tick(at(5));
    let why = "no answer for 4 s".to_owned();
    assert_eq!(ended(&keyspaces, locked), Some(Ok(Settled::Unwritten(why))));
    // A change that only grants something would be undone; the disk may still accept it.
    assert_eq!(ended(&keyspaces, granted), None);
    keyspaces.handle_saved(at(6), Ok(()));
    assert_eq!(ended(&keyspaces, granted), WRITTEN);
}
