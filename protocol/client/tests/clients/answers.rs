//! Scenarios where everything goes well.

use std::sync::Mutex;
use std::time::Duration;

use keyway_client::{
    Algorithm, Call, Custody, HotBy, Input, KeyFormat, KeyOptions, KeyspaceName, KmsName, KmsState,
    Reseal, Scheme, SharesGiven, UnlockState, UnlockWith,
};
use keyway_protocol::{
    KeyListAnswer, KeyRow, KeyState, KmsShares, Octets, Opcode, Request, RequestFrame, Sealed,
};

use crate::face::Face;
use crate::server::{Reaction, Server, echo, ok, ok_bytes};
use crate::{key, mac};

/// Of two changes, the first is of a later server, which says more.
const HISTORY: &[u8] = br#"{"changes":[
    {"unix_ms":900,"who":"expired","what":"max_in_flight","from":"256","to":"64","why":"time"},
    {"unix_ms":1,"who":"uid:7","what":"max_in_flight","from":"64","to":"256","until_unix_ms":900}
]}"#;

pub fn answers_in_any_order_reach_their_calls<F: Face>() {
    const COUNT: usize = 100;
    let held = Mutex::new(Vec::new());
    let server = Server::start(1, move |incoming| {
        let mut held = held.lock().unwrap();
        held.push((incoming.request_id, incoming.payload.clone()));
        if held.len() < COUNT {
            return Reaction::Hold;
        }
        let last_first = held.drain(..).rev();
        Reaction::Send(
            last_first
                .flat_map(|(id, payload)| ok_bytes(id, &payload))
                .collect(),
        )
    });
    let client = F::open(&server.address);
    let calls = (0..COUNT).map(|index| mac("alice", &index.to_le_bytes()));
    let answers = client.call_all(calls.collect());
    for (index, answer) in answers.into_iter().enumerate() {
        let answer = answer.unwrap();
        assert_eq!(answer.value, index.to_le_bytes());
        assert_eq!((answer.key_version, answer.key_age_ms), (3, 1_500));
        assert!(answer.stale && !answer.forwarded);
    }
    assert_eq!(server.connection_count(), 1);
}

pub fn many_threads_share_a_connection<F: Face>() {
    let server = Server::start(1, echo);
    let client = F::open(&server.address);
    let threads: Vec<_> = (0..8_u64)
        .map(|thread| {
            let client = client.clone();
            std::thread::spawn(move || {
                for index in 0..200_u64 {
                    let message = (thread << 32 | index).to_le_bytes();
                    assert_eq!(client.call(Call::ping(&message)).unwrap().value, message);
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    assert_eq!(server.connection_count(), 1);
    assert_eq!(server.count(Opcode::Ping), 1_600);
}

pub fn long_payloads_come_through_in_both_directions<F: Face>() {
    let server = Server::start(1, echo);
    let client = F::open(&server.address);
    let messages: Vec<_> = (0..40_u8).map(|index| vec![index; 65_536]).collect();
    let answers = client.call_all(
        messages
            .iter()
            .map(|message| mac("alice", message))
            .collect(),
    );
    for (answer, message) in answers.into_iter().zip(messages) {
        assert!(answer.unwrap().value == message);
    }
}

const HOT: &str = r#"{
    "by": "waiters", "window_ms": 90000, "requests_counted_one_in": 1, "unlisted_max": 0,
    "totals": {"requests": 40, "waiters": 2, "rehydrate_us": 310},
    "keys": [{
        "key": "alice", "shard": 1, "requests": {"count": 31, "excess_max": 0},
        "waiters": {"count": 2, "excess_max": 0}, "rehydrate_us": {"count": 200, "excess_max": 0}
    }]
}"#;

pub fn every_call_reads_its_answer<F: Face>() {
    let server = Server::start(1, |incoming| {
        // What the client sends is sound, field by field.
        let frame = RequestFrame {
            code: incoming.opcode.code(),
            request_id: incoming.request_id,
            keyspace_id: incoming.keyspace_id,
            deadline_us: incoming.deadline_us,
            key_id: Octets(&incoming.key_id),
            payload: Octets(&incoming.payload),
        };
        Request::decode(&frame).unwrap();
        assert!(incoming.deadline_us > 0);
        match incoming.opcode {
            Opcode::Encrypt => ok(incoming, &sealed()),
            Opcode::KeyspaceCreate => ok(incoming, &9_u32.to_le_bytes()),
            Opcode::Unlock => ok(incoming, &77_u64.to_le_bytes()),
            Opcode::UnlockStatus => ok(incoming, br#"{"state":"done","keys_reloaded":12}"#),
            Opcode::Status => ok(incoming, b"{}"),
            Opcode::KeyspaceRotate => ok(incoming, &2_u32.to_le_bytes()),
            Opcode::KeyspaceDestroyDeks => ok(incoming, &3_u32.to_le_bytes()),
            Opcode::KeyspaceHistory => ok(incoming, HISTORY),
            Opcode::KmsInit => ok(incoming, &two_shares()),
            Opcode::KeyspaceHot => ok(incoming, HOT.as_bytes()),
            Opcode::KmsUnlock => ok(incoming, br#"{"kms":"local","state":"unlocked"}"#),
            opcode if opcode.is_write() => ok(incoming, b""),
            Opcode::Verify | Opcode::ForceRefresh => ok(incoming, b""),
            _ => ok(incoming, b"bytes"),
        }
    });
    let client = F::open(&server.address);
    let (key, prod) = (key("alice"), KeyspaceName::new("prod").unwrap());
    let (input, options) = (Input::Message(b"m"), KeyOptions::default());
    let digest = Input::Digest(&[7; 32]);

    let bytes = client.call_all(vec![
        Call::sign(&key, Scheme::Default, input),
        Call::sign(&key, Scheme::RsaPssSha256, digest),
        Call::mac(&key, b"m"),
        Call::public_key(&key, 0),
        Call::ping(b"bytes"),
    ]);
    assert!(bytes.into_iter().all(|it| it.unwrap().value == b"bytes"));
    let encrypted = client.call(Call::encrypt(&key, b"a", b"m")).unwrap().value;
    assert_eq!(encrypted, sealed());
    let secrets = client.call_all(vec![
        Call::decrypt(&key, b"a", &encrypted),
        Call::derive(&key, b"salt", b"info", 32),
        Call::get(&key, 2),
    ]);
    assert!(
        secrets
            .into_iter()
            .all(|it| *it.unwrap().value == *b"bytes")
    );
    let nothing = client.call_all(vec![
        Call::verify(&key, Scheme::Ed25519, input, b"sig", 1),
        Call::verify_mac(&key, b"m", b"tag"),
        Call::key_generate(&key, Algorithm::Ed25519, options),
        Call::key_import(&key, None, options, KeyFormat::Pem, b"pem"),
        Call::key_rotate(&key, None),
        Call::key_rotate(&key, Some((KeyFormat::Raw, b"raw"))),
        Call::key_revoke(&key),
        Call::key_revoke_version(&key, 3),
        Call::key_trim(&key, 3),
        Call::key_delete(&key),
        Call::force_refresh(&key),
        Call::keyspace_set(&prod, &[("soft_ttl_ms", "1000"), ("policy", "")]),
        Call::keyspace_set_for(&prod, &[("soft_ttl_ms", "1")], Duration::from_secs(900)),
        Call::lock(&prod),
    ]);
    assert!(nothing.into_iter().all(|it| it.unwrap().key_version == 3));
    let created = Call::keyspace_create(&prod, &[("soft_ttl_ms", "1000")]);
    assert_eq!(client.call(created).unwrap().value, 9);
    let tickets = client.call_all(vec![
        Call::unlock(&prod, UnlockWith::Nothing),
        Call::unlock(&prod, UnlockWith::Passphrase(b"open sesame")),
        Call::unlock_with_retry(&prod, UnlockWith::Pin(b"1234")),
    ]);
    assert!(tickets.into_iter().all(|it| it.unwrap().value == 77));
    let unlocked = client.call(Call::unlock_status(&prod, 77)).unwrap().value;
    assert_eq!(
        (unlocked.state, unlocked.keys_reloaded),
        (UnlockState::Done, 12)
    );
    let page = client.call(Call::status_page(0)).unwrap().value;
    assert_eq!((page.next(), page.into_text().as_str()), (None, "{}"));

    let history = client.call(Call::keyspace_history(&prod)).unwrap().value;
    let [first, second] = &history.changes[..] else {
        panic!("two changes")
    };
    assert_eq!(
        (first.who.as_str(), first.to.as_deref()),
        ("expired", Some("64"))
    );
    assert_eq!(
        (second.what.as_str(), second.until_unix_ms),
        ("max_in_flight", Some(900))
    );

    let local = KmsName::new("local").unwrap();
    let rotated = client.call(Call::keyspace_rotate(&prod)).unwrap();
    assert_eq!(rotated.value, 2);
    let rewrapped = Call::keyspace_rewrap(&prod, &local);
    assert!(client.call(rewrapped).is_ok());
    let destroyed = client.call(Call::keyspace_destroy_deks(&prod)).unwrap();
    assert_eq!(destroyed.value, 3);
    assert!(client.call(Call::kms_lock(&local)).is_ok());
    assert!(client.call(Call::lock_all()).is_ok());
    let hot = Call::keyspace_hot(&prod, HotBy::Waiters, 20);
    let hot = client.call(hot).unwrap().value;
    assert_eq!((hot.window_ms, hot.totals.waiters), (90_000, 2));
    assert_eq!((hot.keys[0].key.as_str(), hot.keys[0].shard), ("alice", 1));
    assert_eq!(hot.keys[0].requests.count, 31);

    let (count, threshold) = (2, 2);
    let init = Call::kms_init(&local, Custody::Shares { count, threshold });
    let shares = client.call(init).unwrap().value;
    assert!(
        shares
            .iter()
            .map(|it| &**it)
            .eq([&b"duck one"[..], b"duck two"])
    );
    assert!(!format!("{shares:?}").contains("duck"));
    let unlocked = client.call(Call::kms_unlock(&local, UnlockWith::Share(&shares[0])));
    let unlocked = unlocked.unwrap().value;
    assert_eq!(
        (unlocked.state, unlocked.shares),
        (KmsState::Unlocked, None)
    );
}

fn two_shares() -> Vec<u8> {
    let mut out = Vec::new();
    KmsShares::encode(["duck one", "duck two"].into_iter(), &mut out).unwrap();
    out
}

pub fn shares_that_are_awaited_are_told<F: Face>() {
    let server = Server::start(1, |incoming| match incoming.opcode {
        Opcode::KmsUnlock => ok(
            incoming,
            br#"{"kms":"local","state":"locked","given":2,"threshold":3}"#,
        ),
        _ => ok(
            incoming,
            br#"{"state":"pending","message":"","shares":{"given":2,"threshold":3},"attempts":4}"#,
        ),
    });
    let client = F::open(&server.address);
    let awaited = Some(SharesGiven {
        given: 2,
        threshold: 3,
    });
    let local = KmsName::new("local").unwrap();
    let opening = client.call(Call::kms_unlock(&local, UnlockWith::Share(b"duck")));
    let opening = opening.unwrap().value;
    assert_eq!((opening.state, opening.shares), (KmsState::Locked, awaited));
    let prod = KeyspaceName::new("prod").unwrap();
    let unlock = client.call(Call::unlock_status(&prod, 77)).unwrap().value;
    assert_eq!(
        (unlock.state, unlock.shares),
        (UnlockState::Pending, awaited)
    );
    assert_eq!(unlock.attempts, Some(4));
}

fn sealed() -> Vec<u8> {
    let mut out = Vec::new();
    let sealed = Sealed {
        key_version: 3,
        nonce: [1; 12],
        ciphertext: Octets(&[2; 17]),
    };
    sealed.encode(&mut out).unwrap();
    out
}

pub fn lists_are_gathered_from_all_shards_and_pages<F: Face>() {
    let server = Server::start(2, |incoming| {
        match incoming.opcode {
        Opcode::KeyList => {
            let (shard, cursor) = (incoming.payload[0], &incoming.payload[4..]);
            let page = u8::from(!cursor.is_empty());
            let key_id = format!("key-{page}-{shard}");
            let row = KeyRow {
                key_id: &key_id,
                key_version: 1,
                algorithm: Some(Algorithm::Ed25519),
                state: KeyState::Active,
                versions: None,
            };
            let next: &[u8] = if page == 0 { b"next" } else { b"" };
            let mut out = Vec::new();
            KeyListAnswer::encode(next, [row], &mut out).unwrap();
            ok(incoming, &out)
        }
        _ if incoming.payload.is_empty() => ok(
            incoming,
            br#"{"keyspaces":[{"id":1,"name":"prod","settings":{"low_water_pct":"5"}}],"more":true}"#,
        ),
        _ => ok(
            incoming,
            br#"{"keyspaces":[{"id":4,"name":"test","locked":true,"new":0,"kms":"local",
            "generation":2,"reseal":{"resealed":40,"left":2}}]}"#,
        ),
    }
    });
    let client = F::open(&server.address);
    assert_eq!(client.shard_count(), 2);
    let keys = client.key_list("prod").unwrap();
    let ids: Vec<_> = keys.iter().map(|key| key.key_id.as_str()).collect();
    assert_eq!(ids, ["key-0-0", "key-0-1", "key-1-0", "key-1-1"]);
    let keyspaces = client.keyspace_list().unwrap();
    let names: Vec<_> = keyspaces
        .iter()
        .map(|it| (it.name.as_str(), it.locked))
        .collect();
    assert_eq!(names, [("prod", None), ("test", Some(true))]);
    assert_eq!(keyspaces[0].settings["low_water_pct"], "5");
    assert_eq!((&keyspaces[0].kms, keyspaces[0].reseal), (&None, None));
    assert_eq!(keyspaces[1].kms.as_deref(), Some("local"));
    assert_eq!(keyspaces[1].generation, Some(2));
    let (resealed, left) = (40, 2);
    assert_eq!(keyspaces[1].reseal, Some(Reseal { resealed, left }));
}
