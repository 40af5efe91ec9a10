use keyway_core::Instant;

use super::*;
use crate::time::Moment;

const DAY_MS: u64 = 24 * 3_600 * 1_000;

fn by(day: u64) -> ChangeAuthor {
    let at = Moment {
        unix_ms: 1_000_000_000_000 + day * DAY_MS,
        instant: Instant::from_micros(50_000_000 + day * DAY_MS * 1_000),
    };
    ChangeAuthor::principal("uid:7".to_owned(), at)
}

fn dek(generation: u32, record: &[u8]) -> WrappedDek {
    WrappedDek {
        generation,
        record: record.to_vec(),
    }
}

fn with_prod() -> Catalogue {
    let mut catalogue = Catalogue::default();
    let made = catalogue.make("prod", "", "local", b"a", &by(0));
    assert_eq!(made, Ok(1));
    catalogue
}

/// Returns a catalogue whose DEK 1 was retired on that day; DEK 2 is in use.
fn rotated(day: u64) -> Catalogue {
    let mut catalogue = with_prod();
    catalogue.add_dek(1, &dek(2, b"b"), &by(day)).unwrap();
    catalogue.retire_deks(1, &by(day)).unwrap();
    catalogue
}

fn generations(catalogue: &Catalogue) -> (Vec<u32>, Vec<u32>) {
    let prod = catalogue.keyspace(1).unwrap();
    let in_use = prod.deks();
    let retired = prod.retired_deks();
    let of = |deks: Vec<WrappedDek>| deks.iter().map(|dek| dek.generation).collect();
    (of(in_use), of(retired))
}

#[test]
fn concurrent_second_rotation_conflicts() {
    let mut catalogue = with_prod();
    catalogue.add_dek(1, &dek(2, b"b"), &by(0)).unwrap();
    let error = catalogue.add_dek(1, &dek(2, b"c"), &by(0)).unwrap_err();
    assert!(matches!(error, CatalogueError::Conflict(_)), "{error}");
    assert_eq!(generations(&catalogue), (vec![1, 2], vec![]));
}

#[test]
fn retired_dek_is_kept_for_thirty_days_across_restarts() {
    let mut catalogue = Catalogue::parse(&rotated(3).text()).unwrap();
    assert_eq!(generations(&catalogue), (vec![2], vec![1]));
    let retired = catalogue.keyspace(1).unwrap().retired_deks();
    assert_eq!(retired, [dek(1, b"a")]);
    assert_eq!(catalogue.due_deks(by(32).at.unix_ms), []);
    catalogue.destroy_due(&by(32));
    assert_eq!(generations(&catalogue), (vec![2], vec![1]));
    assert_eq!(catalogue.due_deks(by(33).at.unix_ms), [(1, 1)]);
    catalogue.destroy_due(&by(33));
    assert_eq!(generations(&catalogue), (vec![2], vec![]));
    // A wall clock that is set back destroys no DEK.
    assert_eq!(rotated(3).due_deks(by(0).at.unix_ms), []);
}

#[test]
fn reviving_or_destroying_a_retired_dek_is_recorded_in_the_history() {
    let mut catalogue = rotated(0);
    assert_eq!(catalogue.revive_dek(1, 7, &by(1)), Ok(false));
    assert_eq!(catalogue.revive_dek(1, 1, &by(1)), Ok(true));
    assert_eq!(generations(&catalogue), (vec![1, 2], vec![]));
    assert_eq!(catalogue.keyspace(1).unwrap().generation(), 2);
    catalogue.retire_deks(1, &by(2)).unwrap();
    assert_eq!(catalogue.destroy_retired(1, &by(3)), Ok(vec![1]));
    assert_eq!(catalogue.destroy_retired(1, &by(3)), Ok(vec![]));
    assert_eq!(generations(&catalogue), (vec![2], vec![]));
    let text = catalogue.text();
    assert!(
        text.contains("\"destroyed\"") && text.contains("\"in use\""),
        "{text}"
    );
}

#[test]
fn rotation_is_refused_when_it_would_exceed_the_limit_of_retired_deks() {
    let mut catalogue = with_prod();
    for generation in 2..2 + RETIRED_DEKS_MAX as u32 {
        catalogue.check_rotation(1).unwrap();
        catalogue
            .add_dek(1, &dek(generation, b"b"), &by(0))
            .unwrap();
        catalogue.retire_deks(1, &by(0)).unwrap();
    }
    let refused = catalogue.check_rotation(1).unwrap_err().to_string();
    assert!(
        refused.contains("keyway keyspace destroy-deks prod"),
        "{refused}"
    );
    catalogue.destroy_retired(1, &by(0)).unwrap();
    catalogue.check_rotation(1).unwrap();
}

#[test]
fn rewrap_replaces_all_deks_or_none() {
    let mut catalogue = rotated(0);
    catalogue.add_dek(1, &dek(3, b"c"), &by(0)).unwrap();
    let without_retired = [dek(2, b"y"), dek(3, b"z")];
    let refused = catalogue.rewrap(1, "bao", &without_retired, &by(0));
    assert!(matches!(refused, Err(CatalogueError::Conflict(_))));
    let moved = [dek(1, b"x"), dek(2, b"y"), dek(3, b"z")];
    catalogue.rewrap(1, "bao", &moved, &by(0)).unwrap();
    let prod = catalogue.keyspace(1).unwrap();
    assert_eq!(prod.kms, "bao");
    assert_eq!(prod.deks(), moved[1..]);
    assert_eq!(prod.retired_deks(), moved[..1]);
}
