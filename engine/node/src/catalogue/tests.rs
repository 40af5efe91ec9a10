use keyway_core::Instant;
use serde_json::json;

use super::*;

/// Returns the moment that many seconds after the first.
fn at(seconds: u64) -> Moment {
    Moment {
        unix_ms: 1_000_000_000_000 + seconds * 1_000,
        instant: Instant::from_micros((50 + seconds) * 1_000_000),
    }
}

fn by(seconds: u64) -> ChangeAuthor {
    ChangeAuthor::principal("uid:7".to_owned(), at(seconds))
}

fn lasts(seconds: u64) -> Option<OverrideDuration> {
    Some(OverrideDuration::parse(&(seconds * 1_000).to_string()).unwrap())
}

fn with_prod(lines: &str) -> Catalogue {
    let mut catalogue = Catalogue::default();
    catalogue
        .make("prod", lines, "local", b"wrapped", &by(0))
        .unwrap();
    catalogue
}

fn dek(generation: u32, record: &[u8]) -> WrappedDek {
    WrappedDek {
        generation,
        record: record.to_vec(),
    }
}

fn settings(catalogue: &Catalogue) -> Settings {
    catalogue.keyspace(1).unwrap().settings()
}

/// Returns the history as text, oldest first: author, setting, old value, new value.
fn history(catalogue: &Catalogue) -> Vec<String> {
    let history = &catalogue.keyspace(1).unwrap().history;
    let mut lines: Vec<String> = history
        .iter()
        .map(|change| {
            let document = serde_json::to_value(change).unwrap();
            let of = |name: &str| document[name].as_str().unwrap_or("-").to_owned();
            let [who, what, from, to] = ["who", "what", "from", "to"].map(of);
            format!("{who} {what} {from} {to}")
        })
        .collect();
    lines.reverse();
    lines
}

/// Stops the server, and starts it at `now`.
fn restart(catalogue: &Catalogue, now: Moment) -> Catalogue {
    let mut read = Catalogue::parse(&catalogue.text()).unwrap();
    read.resume(now);
    read
}

#[test]
fn older_formats_are_read_and_written_as_format_4() {
    let text = r#"{"format": 1, "next_id": 2, "keyspaces": {"1": {"name": "prod", "deks": {"1": "d3JhcHBlZA=="}}}}"#;
    let read = Catalogue::parse(text).unwrap();
    let prod = read.keyspace(1).unwrap();
    assert_eq!((prod.kms.as_str(), prod.generation()), ("local", 1));
    assert_eq!(prod.deks(), [dek(1, b"wrapped")]);
    assert!(read.text().contains("\"format\": 4"));
    let text = r#"{"format": 2, "next_id": 2, "keyspaces": {"1": {"name": "prod", "settings": {"max_in_flight": "7"},
        "policy": {"uid:7": "sign"}, "locked": true, "kms": "bao", "deks": {"1": "d3JhcHBlZA=="}}}}"#;
    let read = Catalogue::parse(text).unwrap();
    let prod = read.keyspace(1).unwrap();
    assert_eq!((prod.kms.as_str(), prod.locked), ("bao", true));
    assert_eq!(settings(&read).max_in_flight, 7);
    assert_eq!(prod.history.iter().count(), 0);
    let later = Catalogue::parse(&text.replace("\"format\": 2", "\"format\": 5"));
    assert!(later.unwrap_err().to_string().contains("format 5"));
}

#[test]
fn written_file_reads_back_unchanged() {
    let mut catalogue = with_prod("soft_ttl_ms=1000\nallow:uid:7=sign\n");
    catalogue.set_locked(1, true, &by(1)).unwrap();
    catalogue
        .set_lines(1, "max_in_flight=9\n", lasts(10), &by(2))
        .unwrap();
    let read = Catalogue::parse(&catalogue.text()).unwrap();
    let prod = read.keyspace(1).unwrap();
    assert_eq!(prod.settings().soft_ttl_ms, 1_000);
    assert_eq!(prod.settings().max_in_flight, 9);
    assert_eq!(json!(prod.policy), json!({ "uid:7": "sign" }));
    assert!(prod.locked);
    assert_eq!(prod.kms, "local");
    assert_eq!(prod.deks(), [dek(1, b"wrapped")]);
    assert_eq!(read.next_id(), 2);
    assert_eq!(prod.history, catalogue.keyspace(1).unwrap().history);
    assert_eq!(read.text(), catalogue.text());
}

#[test]
fn unknown_setting_or_value_in_the_file_is_refused_and_an_unknown_grant_is_kept() {
    let mut catalogue = with_prod("max_in_flight=9\nallow:uid:7=sign");
    let lines = "low_water_pct=7\nallow:uid:8=mac";
    catalogue.set_lines(1, lines, lasts(900), &by(0)).unwrap();
    let text = catalogue.text();
    for (from, to, refused) in [
        (
            "max_in_flight",
            "max_flights",
            "setting=max_flights is refused: settings are",
        ),
        (
            "\"9\"",
            "\"nine\"",
            "max_in_flight=nine is refused: the value is a whole number",
        ),
        (
            "\"low_water_pct\": {",
            "\"low_water\": {",
            "`low_water` is not a setting",
        ),
    ] {
        let error = Catalogue::parse(&text.replace(from, to)).unwrap_err();
        assert!(error.to_string().starts_with(refused), "{error}");
    }
    // Of a newer server: a kind of principal and a right that this one does not know.
    let newer = text.replace("uid:8", "zid:8").replace("sign", "sign,fly");
    let mut read = Catalogue::parse(&newer).unwrap();
    assert_eq!(read.text(), newer);
    read.resume(at(900));
    assert_eq!(read.revert_expired(at(900)).len(), 2);
    let grants = json!({ "uid:7": "sign,fly" });
    assert_eq!(json!(read.keyspace(1).unwrap().policy), grants);
}

#[test]
fn invalid_change_leaves_the_keyspace_unchanged() {
    let mut catalogue = with_prod("");
    let before = catalogue.text();
    let lines = "max_in_flight=3\nsoft_ttl_ms=soon";
    let refused = catalogue.set_lines(1, lines, None, &by(1)).unwrap_err();
    assert!(refused.to_string().contains("soon"), "{refused}");
    assert_eq!(catalogue.text(), before);
}

#[test]
fn conflicting_settings_are_refused() {
    let mut catalogue = with_prod("");
    let lines = "soft_ttl_ms=5000\nhard_ttl_ms=1000";
    assert!(catalogue.set_lines(1, lines, None, &by(1)).is_err());
}

#[test]
fn runbook_aliases_name_the_same_setting() {
    let mut catalogue = with_prod("maxInFlight=5");
    catalogue
        .set_lines(1, "max_in_flight=6", None, &by(1))
        .unwrap();
    assert_eq!(settings(&catalogue).max_in_flight, 6);
}

#[test]
fn names_are_unique_and_well_formed() {
    let mut catalogue = with_prod("");
    assert_eq!(
        catalogue.make("prod", "", "local", b"x", &by(1)),
        Err(CatalogueError::Exists("prod".to_owned()))
    );
    assert!(matches!(
        catalogue.make("Pröd", "", "local", b"x", &by(1)),
        Err(CatalogueError::Bad(_))
    ));
}

#[test]
fn history_has_an_entry_for_each_effective_change() {
    let mut catalogue = with_prod("maxInFlight=5");
    let lines = "refreshWindow=40000\nallow:uid:007=sign,verify";
    catalogue.set_lines(1, lines, None, &by(1)).unwrap();
    let lines = "refresh_window_ms=auto\nmax_in_flight=0005\nallow:uid:7=none";
    catalogue.set_lines(1, lines, None, &by(2)).unwrap();
    for locked in [true, true, false] {
        catalogue.set_locked(1, locked, &by(3)).unwrap();
    }
    catalogue.add_dek(1, &dek(2, b"b"), &by(4)).unwrap();
    let moved = [dek(1, b"x"), dek(2, b"y")];
    catalogue.rewrap(1, "bao", &moved, &by(5)).unwrap();
    assert_eq!(
        history(&catalogue),
        [
            "uid:7 created - -",
            "uid:7 max_in_flight 64 5",
            "uid:7 refresh_window_ms auto 40000",
            "uid:7 allow:uid:7 none sign,verify",
            "uid:7 refresh_window_ms 40000 auto",
            "uid:7 allow:uid:7 sign,verify none",
            "uid:7 locked false true",
            "uid:7 locked true false",
            "uid:7 generation 1 2",
            "uid:7 kms local bao",
        ]
    );
}

#[test]
fn history_is_bounded_and_keeps_the_newest_entries() {
    let mut catalogue = with_prod("");
    for n in 1_000..1_000 + HISTORY_MAX {
        let line = format!("max_in_flight={n}");
        catalogue.set_lines(1, &line, None, &by(1)).unwrap();
    }
    let lines = history(&catalogue);
    assert_eq!(lines.len(), HISTORY_MAX);
    assert_eq!(lines[0], "uid:7 max_in_flight 64 1000");
    catalogue
        .set_lines(1, "max_in_flight=1", None, &by(1))
        .unwrap();
    let lines = history(&catalogue);
    assert_eq!(lines.len(), HISTORY_MAX);
    assert_eq!(lines[0], "uid:7 max_in_flight 1000 1001");
}

#[test]
fn longest_history_fits_into_one_response() {
    let mut catalogue = with_prod("");
    let all = keyway_protocol::Grants::ALL.to_string();
    for n in 0..HISTORY_MAX {
        let rights = if n % 2 == 0 { &all } else { "none" };
        let line = format!("allow:uid:{}={rights}", u32::MAX);
        catalogue
            .set_lines(1, &line, lasts(86_400), &by(n as u64))
            .unwrap();
    }
    let changes: Vec<_> = catalogue.keyspace(1).unwrap().history.iter().collect();
    assert_eq!(changes.len(), HISTORY_MAX);
    let answer = serde_json::json!({ "changes": changes }).to_string();
    let room = keyway_protocol::limits::PAYLOAD_LEN_MAX;
    assert!(answer.len() < room / 2, "{} bytes", answer.len());
}

#[test]
fn override_reverts_when_it_expires() {
    let mut catalogue = with_prod("max_in_flight=5");
    let lines = "max_in_flight=256\nLowWater=7\nallow:uid:9=sign";
    catalogue.set_lines(1, lines, lasts(900), &by(10)).unwrap();
    assert_eq!(settings(&catalogue).max_in_flight, 256);
    let prod = catalogue.keyspace(1).unwrap();
    let temporary: Vec<_> = prod
        .overrides()
        .map(|(subject, temporary, then)| (subject.to_string(), temporary.until_unix_ms, then))
        .collect();
    let until = at(910).unix_ms;
    assert_eq!(
        temporary,
        [
            ("allow:uid:9".to_owned(), until, "none".to_owned()),
            ("low_water_pct".to_owned(), until, "5".to_owned()),
            ("max_in_flight".to_owned(), until, "5".to_owned()),
        ]
    );
    assert!(!catalogue.is_due(at(909)));
    assert!(catalogue.revert_expired(at(909)).is_empty());
    assert!(catalogue.is_due(at(910)));
    assert_eq!(catalogue.revert_expired(at(910)).len(), 3);
    let prod = catalogue.keyspace(1).unwrap();
    let back = prod.settings();
    assert_eq!((back.max_in_flight, back.low_water_pct), (5, 5));
    assert_eq!(
        (prod.policy.iter().count(), prod.overrides().count()),
        (0, 0)
    );
    let lines = history(&catalogue);
    assert_eq!(lines[lines.len() - 1], "expired max_in_flight 256 5");
    assert!(catalogue.revert_expired(at(9_999)).is_empty());
}

#[test]
fn permanent_change_cancels_an_override_even_with_the_same_value() {
    let mut catalogue = with_prod("");
    catalogue
        .set_lines(1, "max_in_flight=256", lasts(10), &by(0))
        .unwrap();
    catalogue
        .set_lines(1, "max_in_flight=256", None, &by(1))
        .unwrap();
    assert!(!catalogue.is_due(at(9_999)));
    assert_eq!(settings(&catalogue).max_in_flight, 256);
    let lines = history(&catalogue);
    assert_eq!(lines[lines.len() - 1], "uid:7 max_in_flight 256 256");
}

#[test]
fn second_override_has_its_own_expiry_and_reverts_to_the_original_value() {
    let mut catalogue = with_prod("max_in_flight=5");
    for (value, seconds, now) in [(256, 10, 0), (512, 100, 5)] {
        let line = format!("max_in_flight={value}");
        catalogue
            .set_lines(1, &line, lasts(seconds), &by(now))
            .unwrap();
    }
    assert!(catalogue.revert_expired(at(104)).is_empty());
    assert_eq!(catalogue.revert_expired(at(105)).len(), 1);
    assert_eq!(settings(&catalogue).max_in_flight, 5);
}

#[test]
fn change_that_conflicts_with_a_value_to_be_restored_is_refused() {
    let mut catalogue = with_prod("");
    let short = "soft_ttl_ms=30000";
    catalogue.set_lines(1, short, lasts(900), &by(0)).unwrap();
    // Valid now, but not with the soft TTL of ten minutes that is restored later.
    let refused = catalogue.set_lines(1, "hard_ttl_ms=100000", None, &by(60));
    let refused = refused.unwrap_err().to_string();
    for part in [
        "hard_ttl_ms=100000 is refused",
        "soft_ttl_ms <= hard_ttl_ms",
        "in 840 s, when soft_ttl_ms reverts to 600000; set soft_ttl_ms permanently first",
    ] {
        assert!(refused.contains(part), "{refused}");
    }
    // An override that expires before that does not conflict.
    let shorter = catalogue.set_lines(1, "hard_ttl_ms=100000", lasts(839), &by(60));
    shorter.unwrap();
    let longer = catalogue.set_lines(1, "hard_ttl_ms=100000", lasts(841), &by(60));
    assert!(longer.is_err());
    // With a permanent soft TTL, it may stay.
    let lines = "soft_ttl_ms=30000\nhard_ttl_ms=100000";
    catalogue.set_lines(1, lines, None, &by(61)).unwrap();
    assert!(!catalogue.is_due(at(9_999)));
}

#[test]
fn restart_neither_ends_nor_prolongs_an_override() {
    let mut catalogue = with_prod("");
    catalogue
        .set_lines(1, "max_in_flight=256", lasts(900), &by(0))
        .unwrap();
    let mut during = restart(&catalogue, at(600));
    assert!(during.revert_expired(at(899)).is_empty());
    assert_eq!(during.revert_expired(at(900)).len(), 1);
    let mut after = restart(&catalogue, at(5_000));
    assert_eq!(after.revert_expired(at(5_000)).len(), 1);
    assert_eq!(settings(&after).max_in_flight, 64);
}

#[test]
fn wall_clock_has_no_effect_at_run_time_and_cannot_prolong_an_override() {
    let mut catalogue = with_prod("");
    catalogue
        .set_lines(1, "max_in_flight=256", lasts(900), &by(0))
        .unwrap();
    let jumped = |seconds, unix_ms| Moment {
        unix_ms,
        ..at(seconds)
    };
    assert!(!catalogue.is_due(jumped(10, u64::MAX)));
    assert!(catalogue.is_due(jumped(900, 0)));
    // The clock was years ahead when the override was set.
    let mut again = restart(&catalogue, jumped(10, 5_000));
    assert!(!again.is_due(jumped(909, 5_000)));
    assert_eq!(again.revert_expired(jumped(910, 5_000)).len(), 1);
}

#[test]
fn reversed_expiries_never_leave_a_conflict() {
    let mut catalogue = with_prod("");
    let early = |unix_ms| {
        let at = Moment { unix_ms, ..at(0) };
        ChangeAuthor::principal("uid:7".to_owned(), at)
    };
    // By the clock of expiry hard_ttl_ms reverts first, as it must; by the wall clock soft_ttl_ms does.
    let soft = catalogue.set_lines(1, "soft_ttl_ms=30000", lasts(900), &early(0));
    soft.unwrap();
    let hard = catalogue.set_lines(1, "hard_ttl_ms=100000", lasts(800), &early(500_000));
    hard.unwrap();
    let now = Moment {
        unix_ms: 950_000,
        ..at(10_000)
    };
    let mut again = restart(&catalogue, now);
    assert_eq!(again.revert_expired(now).len(), 2);
    assert_eq!(settings(&again), Settings::default());
}

#[test]
fn file_whose_settings_would_conflict_later_is_refused() {
    let mut catalogue = with_prod("hard_ttl_ms=700000");
    catalogue
        .set_lines(1, "soft_ttl_ms=30000", lasts(900), &by(0))
        .unwrap();
    let text = catalogue.text();
    assert!(Catalogue::parse(&text).is_ok());
    let edited = text.replace("\"700000\"", "\"100000\"");
    let refused = Catalogue::parse(&edited).unwrap_err().to_string();
    assert!(refused.contains("soft_ttl_ms <= hard_ttl_ms"), "{refused}");
}

#[test]
fn override_duration_is_bounded() {
    for bad in [
        "",
        "0",
        "999",
        "2592000001",
        "-1",
        "+5000",
        "15m",
        "99999999999999999999",
    ] {
        let refused = OverrideDuration::parse(bad).unwrap_err().to_string();
        assert!(refused.contains("1 s to 30 days"), "{bad}: {refused}");
    }
    assert_eq!(
        OverrideDuration::parse("2592000000").unwrap().ms(),
        2_592_000_000
    );
}

#[test]
fn number_of_keyspaces_is_bounded_and_the_refusal_names_the_maximum() {
    let mut catalogue = with_prod("");
    let one = catalogue.keyspace(1).unwrap().clone();
    for id in 2..KEYSPACES_MAX as u32 {
        let name = format!("keyspace-{id}");
        catalogue.keyspaces.insert(
            id,
            Keyspace {
                name,
                ..one.clone()
            },
        );
    }
    catalogue.skip_ids_below(KEYSPACES_MAX as u32);
    assert_eq!(catalogue.check_new("last"), Ok(()));
    let last = catalogue.make("last", "", "local", b"x", &by(0));
    assert_eq!(last, Ok(KEYSPACES_MAX as u32));
    let refused = catalogue.check_new("one-more").unwrap_err();
    assert!(
        matches!(&refused, CatalogueError::Bad(why) if why.contains("16384")),
        "{refused}"
    );
    let made = catalogue.make("one-more", "", "local", b"x", &by(0));
    assert_eq!(made, Err(refused));
    assert_eq!(catalogue.iter().count(), KEYSPACES_MAX);
    // One that exists is reported as such.
    let exists = catalogue.check_new("last");
    assert!(matches!(exists, Err(CatalogueError::Exists(_))));
}
