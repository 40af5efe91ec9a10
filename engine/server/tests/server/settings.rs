//! Settings at run time: the history of changes, temporary overrides, and the effect of a larger limit on a starved
//! prefetcher.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use keyway_client::blocking::Client;
use keyway_client::{Algorithm, Call, Input, KeyOptions, KeyPath, KeyspaceInfo, Scheme, Status};

use crate::common::{Ends, Server, Setup, WITHIN, prod, wait_until};

/// Long enough that it does not end during a test.
const LONG: Duration = Duration::from_secs(3_600);

/// The shortest possible.
const SHORT: Duration = Duration::from_secs(1);

/// Keys for which one refresh at a time is far too little.
const STARVED_KEYS: usize = 200;

fn info(client: &Client) -> KeyspaceInfo {
    let keyspaces = client.keyspace_list().unwrap();
    let mut of_name = keyspaces.into_iter().filter(|info| info.name == "prod");
    of_name.next().unwrap()
}

fn setting(client: &Client, name: &str) -> String {
    info(client).settings[name].clone()
}

/// Returns the history, oldest first: author, setting, old and new value, and whether it is temporary.
fn history(client: &Client) -> Vec<String> {
    let history = client.keyspace_history(&prod()).unwrap().value;
    let of = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".into());
    let mut lines: Vec<String> = history
        .changes
        .iter()
        .map(|change| {
            let lasts = match change.until_unix_ms {
                Some(until_unix_ms) => {
                    assert!(until_unix_ms > change.unix_ms);
                    " temporarily"
                }
                None => "",
            };
            let (from, to) = (of(&change.from), of(&change.to));
            format!("{} {} {from} {to}{lasts}", change.who, change.what)
        })
        .collect();
    lines.reverse();
    lines
}

fn me() -> String {
    format!("uid:{}", rustix::process::geteuid().as_raw())
}

#[test]
fn history_shows_author_and_change_and_survives_a_crash() {
    let dir = tempfile::tempdir().unwrap();
    let setup = Setup::new(&dir.path().join("data")).shards(2);
    let server = setup.start();
    let (tcp, unix) = (server.client(), server.unix_client());
    tcp.keyspace_set(&prod(), &[("maxInFlight", "7"), ("allow:uid:7", "sign")])
        .unwrap();
    unix.keyspace_set_for(&prod(), &[("refreshWindow", "40000")], LONG)
        .unwrap();
    unix.lock(&prod()).unwrap();
    tcp.unlock(&prod(), keyway_client::UnlockWith::Nothing)
        .unwrap();
    wait_until("the unlock", WITHIN, || info(&tcp).locked == Some(false));
    assert_eq!(unix.keyspace_rotate(&prod()).unwrap().value, 2);
    let refused = tcp.keyspace_set(&prod(), &[("max_in_flight", "8"), ("jitter_pct", "90")]);
    assert!(refused.is_err());
    let me = me();
    let expected = [
        "server created - -".to_owned(),
        "anonymous max_in_flight 64 7".to_owned(),
        "anonymous allow:uid:7 none sign".to_owned(),
        format!("{me} refresh_window_ms auto 40000 temporarily"),
        format!("{me} locked false true"),
        "anonymous locked true false".to_owned(),
        format!("{me} generation 1 2"),
    ];
    assert_eq!(history(&tcp), expected);
    let before = tcp.keyspace_history(&prod()).unwrap().value;
    let times: Vec<u64> = before.changes.iter().map(|it| it.unix_ms).collect();
    assert!(times.is_sorted_by(|later, earlier| later >= earlier));
    server.kill();
    let server = setup.start();
    let after = server.client().keyspace_history(&prod()).unwrap().value;
    assert_eq!(after, before);
}

#[test]
fn override_takes_effect_immediately_is_listed_and_reverts() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::dev(&dir, 2);
    let client = server.client();
    let longer = [("max_in_flight", "256"), ("allow:uid:7", "sign")];
    client.keyspace_set_for(&prod(), &longer, LONG).unwrap();
    assert_eq!(setting(&client, "max_in_flight"), "256");
    let overrides = info(&client).overrides;
    assert_eq!(overrides["max_in_flight"].then, "64");
    assert_eq!(overrides["allow:uid:7"].then, "none");
    // A second one, on top: its own expiry, and back to the value before the first.
    let shorter = [("max_in_flight", "512")];
    client.keyspace_set_for(&prod(), &shorter, SHORT).unwrap();
    wait_until("its end", WITHIN, || {
        setting(&client, "max_in_flight") == "64"
    });
    let left: Vec<String> = info(&client).overrides.into_keys().collect();
    assert_eq!(left, ["allow:uid:7"]);
    // A permanent change cancels an override.
    let for_good = [("allow:uid:7", "sign,verify")];
    client.keyspace_set(&prod(), &for_good).unwrap();
    assert!(info(&client).overrides.is_empty());
    assert_eq!(
        history(&client)[1..],
        [
            "anonymous max_in_flight 64 256 temporarily",
            "anonymous allow:uid:7 none sign temporarily",
            "anonymous max_in_flight 256 512 temporarily",
            "expired max_in_flight 512 64",
            "anonymous allow:uid:7 sign sign,verify",
        ]
    );
    server.wait_for_log("temporary override expired");
}

/// Shards apply a reverted setting: a key that was too old under the override is served again.
#[test]
fn shards_apply_reverted_settings() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::dev(&dir, 2);
    let client = server.client();
    let keys = generate(&client, 8);
    let lives = [
        ("soft_ttl_ms", "20"),
        ("hard_ttl_ms", "30"),
        ("jitter_pct", "0"),
    ];
    client.keyspace_set_for(&prod(), &lives, SHORT).unwrap();
    wait_until("keys to grow old again", WITHIN, || {
        sign_all(&client, &keys).into_iter().max() > Some(200)
    });
    assert_eq!(setting(&client, "hard_ttl_ms"), "3600000");
}

fn restart_with(dir: &Path, crash: bool) {
    let setup = Setup::new(&dir.join("data")).shards(2);
    let server = setup.start();
    let client = server.client();
    client
        .keyspace_set_for(&prod(), &[("max_in_flight", "256")], LONG)
        .unwrap();
    client
        .keyspace_set_for(&prod(), &[("low_water_pct", "9")], SHORT)
        .unwrap();
    let until = info(&client).overrides;
    if crash {
        server.kill()
    } else {
        server.stop()
    }
    // Overrides that expire in the meantime are reverted before the first request; the other continues.
    std::thread::sleep(SHORT);
    let server = setup.start();
    let client = server.client();
    let info = info(&client);
    assert_eq!(info.settings["low_water_pct"], "5");
    assert_eq!(info.settings["max_in_flight"], "256");
    assert_eq!(info.overrides.len(), 1);
    assert_eq!(info.overrides["max_in_flight"], until["max_in_flight"]);
    let lines = history(&client);
    assert_eq!(lines[lines.len() - 1], "expired low_water_pct 9 5");

    // A restart during one that ends after it.
    client
        .keyspace_set_for(&prod(), &[("max_in_flight", "300")], SHORT * 3)
        .unwrap();
    if crash {
        server.kill()
    } else {
        server.stop()
    }
    let server = setup.start();
    let client = server.client();
    wait_until("its end", WITHIN, || {
        setting(&client, "max_in_flight") == "64"
    });
    let lines = history(&client);
    assert_eq!(lines[lines.len() - 1], "expired max_in_flight 300 64");
}

#[test]
fn override_expires_as_announced_across_a_stop() {
    restart_with(tempfile::tempdir().unwrap().path(), false);
}

#[test]
fn override_expires_as_announced_across_a_crash() {
    restart_with(tempfile::tempdir().unwrap().path(), true);
}

/// The expiry was saved with the change. A restart would have the same result.
#[test]
fn an_end_needs_no_disk() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::dev(&dir, 1);
    let client = server.client();
    let file = server.data.join("keyspaces.json");
    loop {
        let change = [("max_in_flight", "256")];
        client.keyspace_set_for(&prod(), &change, SHORT).unwrap();
        let text = std::fs::read(&file).unwrap();
        // A folder of that name, which no file can replace.
        std::fs::remove_file(&file).unwrap();
        if std::fs::create_dir(&file).is_err() {
            continue;
        }
        let in_time = !info(&client).overrides.is_empty();
        if in_time {
            break;
        }
        std::fs::remove_dir(&file).unwrap();
        std::fs::write(&file, text).unwrap();
    }
    let refused = client.keyspace_set(&prod(), &[("low_water_pct", "6")]);
    assert_eq!(refused.unwrap_err().status(), Some(Status::Internal));
    wait_until("its end", WITHIN, || {
        setting(&client, "max_in_flight") == "64"
    });
    server.wait_for_log("keyspaces.json could not be written");
    std::fs::remove_dir(&file).unwrap();
    client
        .keyspace_set(&prod(), &[("low_water_pct", "6")])
        .unwrap();
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(
        text.contains("expired") && !text.contains("limited"),
        "{text}"
    );
}

#[test]
fn change_that_conflicts_with_a_value_to_be_restored_is_refused_with_both_named() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::dev(&dir, 1);
    let client = server.client();
    client
        .keyspace_set_for(&prod(), &[("soft_ttl_ms", "30000")], LONG)
        .unwrap();
    let before = client.keyspace_list().unwrap();
    let too_short = [("hard_ttl_ms", "100000")];
    let error = client.keyspace_set(&prod(), &too_short).unwrap_err();
    assert_eq!(error.status(), Some(Status::BadRequest));
    for part in [
        "hard_ttl_ms=100000",
        "soft_ttl_ms <= hard_ttl_ms",
        "when soft_ttl_ms reverts",
    ] {
        assert!(error.to_string().contains(part), "{error}");
    }
    for bad in [Duration::from_millis(999), Duration::from_secs(31 * 86_400)] {
        let error = client.keyspace_set_for(&prod(), &too_short, bad);
        let error = error.unwrap_err().to_string();
        assert!(error.contains("1 s to 30 days"), "{error}");
    }
    assert_eq!(client.keyspace_list().unwrap(), before);
    let both = [("soft_ttl_ms", "30000"), ("hard_ttl_ms", "100000")];
    client.keyspace_set(&prod(), &both).unwrap();
    assert!(info(&client).overrides.is_empty());
}

#[test]
fn only_those_who_manage_a_keyspace_may_change_it_and_see_its_history() {
    let dir = tempfile::tempdir().unwrap();
    let passphrase = dir.path().join("passphrase");
    write_secret(&passphrase);
    let setup = Setup::new(&dir.path().join("data"))
        .shards(2)
        .production()
        .flag("--passphrase-file")
        .flag(passphrase.to_str().unwrap());
    let server = setup.start();
    let owner = server.unix_client();
    let grant = [("allow:anonymous", "sign")];
    owner.keyspace_create(&prod(), &grant).unwrap();
    let anonymous = server.client();
    let more = [("max_in_flight", "65")];
    let forbidden = |result: Result<(), keyway_client::Error>| {
        result.is_err_and(|error| error.status() == Some(Status::Forbidden))
    };
    let set = |client: &Client| client.keyspace_set_for(&prod(), &more, LONG).map(drop);
    let look = |client: &Client| client.keyspace_history(&prod()).map(drop);
    assert!(forbidden(set(&anonymous)) && forbidden(look(&anonymous)));
    // The right itself can be granted temporarily.
    let manages = [("allow:anonymous", "sign,manage")];
    owner.keyspace_set_for(&prod(), &manages, LONG).unwrap();
    set(&anonymous).unwrap();
    owner.keyspace_set_for(&prod(), &manages, SHORT).unwrap();
    wait_until("the end of the right", WITHIN, || {
        forbidden(look(&anonymous))
    });
    assert!(forbidden(set(&anonymous)));
    let me = me();
    assert_eq!(
        history(&owner),
        [
            format!("{me} created - -"),
            format!("{me} allow:anonymous none sign"),
            format!("{me} allow:anonymous sign sign,manage temporarily"),
            "anonymous max_in_flight 64 65 temporarily".to_owned(),
            format!("{me} allow:anonymous sign,manage sign,manage temporarily"),
            "expired allow:anonymous sign,manage sign".to_owned(),
        ]
    );
}

fn write_secret(path: &Path) {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = std::fs::OpenOptions::new();
    let file = options.write(true).create_new(true).mode(0o600).open(path);
    file.unwrap().write_all(b"correct horse battery").unwrap();
}

fn generate(client: &Client, count: usize) -> Vec<KeyPath> {
    let keys: Vec<KeyPath> = (0..count)
        .map(|n| format!("prod/key-{n}").parse().unwrap())
        .collect();
    for key in &keys {
        client
            .key_generate(key, Algorithm::Ed25519, KeyOptions::default())
            .unwrap();
    }
    keys
}

/// Signs once with every key concurrently. Returns the ages of the keys in ms.
fn sign_all(client: &Client, keys: &[KeyPath]) -> Vec<u32> {
    let message = Input::Message(b"the message");
    let sign = |key| client.submit(Call::sign(key, Scheme::Default, message));
    let pending: Vec<_> = keys.iter().map(sign).collect();
    let answers = pending.into_iter().map(|pending| pending.wait().unwrap());
    answers.map(|answer| answer.key_age_ms).collect()
}

/// The prefetcher's counters in one snapshot of the shards.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Prefetcher {
    scans: f64,
    triggered: f64,
    skipped: f64,
}

fn prefetcher(server: &Server) -> Prefetcher {
    let (_, text) = server.http("/metrics");
    let figure = |name: &str| {
        let series = format!("{name}{{keyspace=\"prod\"}} ");
        let line = text.lines().find_map(|line| line.strip_prefix(&series));
        line.map_or(0.0, |value| value.parse().expect("a number"))
    };
    Prefetcher {
        scans: figure("prefetch_scan_total"),
        triggered: figure("prefetch_trigger_total"),
        skipped: figure("prefetch_skipped_total"),
    }
}

/// Returns the snapshot after this one. There is one shard, so one push is complete.
fn after(server: &Server, earlier: Prefetcher) -> Prefetcher {
    let mut now = earlier;
    wait_until("the next snapshot", WITHIN, || {
        now = prefetcher(server);
        now.scans > earlier.scans
    });
    now
}

/// The runbook: under a burst `maxInFlight` is raised temporarily, and `prefetch_skipped_total` stops rising.
#[test]
fn more_room_feeds_a_starved_prefetcher_and_none_is_left_out_from_the_next_scan_on() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::dev(&dir, 1);
    let client = server.client();
    let keys = generate(&client, STARVED_KEYS);
    let starved = [
        ("soft_ttl_ms", "100"),
        ("hard_ttl_ms", "60000"),
        ("jitter_pct", "0"),
        ("maxInFlight", "1"),
    ];
    client.keyspace_set(&prod(), &starved).unwrap();
    let ends = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let load = scope.spawn(|| {
            while !ends.load(Ordering::Relaxed) {
                sign_all(&client, &keys);
            }
        });
        let ended = Ends(&ends);
        let mut figures = prefetcher(&server);
        wait_until(
            "two snapshots in a row with keys passed over",
            WITHIN,
            || {
                let next = after(&server, figures);
                let last = after(&server, next);
                let rises = next.skipped > figures.skipped && last.skipped > next.skipped;
                figures = last;
                rises
            },
        );

        let room = [("maxInFlight", "1024")];
        let operator = server.client();
        operator.keyspace_set_for(&prod(), &room, LONG).unwrap();
        // It was acknowledged once the shard applied it; the first snapshot since may have been in flight.
        let mut last = after(&server, prefetcher(&server));
        last = after(&server, last);
        let at_rest = last.skipped;
        for _ in 0..3 {
            let next = after(&server, last);
            assert_eq!(next.skipped, at_rest, "{next:?} after {last:?}");
            assert!(next.triggered > last.triggered, "it goes on: {next:?}");
            last = next;
        }
        drop(ended);
        load.join().unwrap();
    });
}
