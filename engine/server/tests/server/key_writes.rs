//! Writes of keys on a failing disk: a refused write has changed nothing, also after a restart; a revocation is in force
//! anyway, and reports that it is not written yet.
//!
//! REVOKEs that were answered OVERLOADED took effect until the next restart, and then the keys worked again; after one
//! failed write a shard accepted none until a restart, including revocations.
//!
//! The disk fails here because of a limit on the size of files, which is lowered and raised from outside. A server under
//! such a limit (`ulimit -f`) used to be killed by SIGXFSZ at the first write beyond it.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

use std::fmt::Debug;
use std::time::Duration;

use keyway_client::blocking::Client;
use keyway_client::{
    Algorithm, CallEffect, Error, Input, KeyOptions, KeyPath, Options, Scheme, Status,
};
use rustix::process::{Pid, Resource, Rlimit, prlimit};

use crate::common::{Server, Setup, past_the_start, wait_until};

const WITHIN: Duration = Duration::from_secs(60);
const MESSAGE: Input<'_> = Input::Message(b"pay 5 to bob");

fn path(text: &str) -> KeyPath {
    text.parse().unwrap()
}

fn status<T: Debug>(result: Result<T, Error>) -> Status {
    result.unwrap_err().status().unwrap()
}

fn sign(client: &Client, key: &KeyPath) -> Result<u32, Error> {
    let signed = past_the_start(|| client.sign(key, Scheme::Default, MESSAGE));
    signed.map(|answer| answer.key_version)
}

fn generate(client: &Client, key: &KeyPath) -> Result<u32, Error> {
    let options = KeyOptions::default();
    let made = client.key_generate(key, Algorithm::Ed25519, options);
    made.map(|answer| answer.key_version)
}

/// Returns a client that returns a refusal with its hint, instead of retrying until the disk works.
pub fn impatient(server: &Server) -> Client {
    let options =
        Options::new(server.address().parse().unwrap()).deadline(Duration::from_millis(900));
    Client::connect_with(options).unwrap()
}

fn refused_unchanged(write: impl FnMut() -> Result<(), Error>) {
    refused("nothing was changed", write);
}

/// Repeats a call until the answer is that the disk refuses it, with this explanation.
pub fn refused(explanation: &str, mut write: impl FnMut() -> Result<(), Error>) {
    loop {
        match write().unwrap_err() {
            error if error.status().is_none() => {
                assert!(matches!(error, Error::Deadline { .. }), "{error}");
            }
            error => {
                assert_eq!(error.status(), Some(Status::Unavailable), "{error}");
                assert_eq!(error.outcome(), CallEffect::NotDone);
                assert!(error.to_string().contains(explanation), "{error}");
                return;
            }
        }
    }
}

pub fn limit(server: &Server, what: Resource, to: Option<u64>) {
    let pid = Pid::from_raw(i32::try_from(server.pid()).unwrap());
    let limit = Rlimit {
        current: to,
        maximum: rustix::process::getrlimit(what).maximum,
    };
    prlimit(pid, what, limit).unwrap();
}

#[test]
fn a_disk_that_takes_nothing_refuses_writes_unchanged_and_revocations_hold() {
    let dir = tempfile::tempdir().unwrap();
    let setup = Setup::new(&dir.path().join("data")).shards(2);
    for persists in [true, false] {
        let server = setup.start();
        let client = server.client();
        let of_run = |name: &str| path(&format!("prod/{name}-{persists}"));
        let (kept, gone, new) = (of_run("kept"), of_run("gone"), of_run("new"));
        for key in [&kept, &gone] {
            generate(&client, key).unwrap();
            sign(&client, key).unwrap();
        }
        limit(&server, Resource::Fsize, Some(0));
        let impatient = impatient(&server);
        refused_unchanged(|| impatient.key_rotate(&kept, None).map(|_| ()));
        refused_unchanged(|| generate(&impatient, &new).map(|_| ()));
        assert_eq!(status(client.key_revoke(&gone)), Status::NotPersisted);
        assert_eq!(status(client.key_revoke(&gone)), Status::NotPersisted);
        assert_eq!(sign(&client, &kept).unwrap(), 1);
        assert_eq!(status(sign(&client, &gone)), Status::Revoked);
        assert_eq!(status(sign(&client, &new)), Status::NotFound);
        refused("", || impatient.key_delete(&gone).map(|_| ()));
        if persists {
            limit(&server, Resource::Fsize, None);
            wait_until("writing the revocation", WITHIN, || {
                client.key_revoke(&gone).is_ok()
            });
            client.key_rotate(&kept, None).unwrap();
        }
        server.kill();
        let server = setup.start();
        let client = server.client();
        assert_eq!(sign(&client, &kept).unwrap(), if persists { 2 } else { 1 });
        match persists {
            true => assert_eq!(status(sign(&client, &gone)), Status::Revoked),
            // As the answer had announced.
            false => assert_eq!(sign(&client, &gone).unwrap(), 1),
        }
        assert_eq!(status(sign(&client, &new)), Status::NotFound);
        server.stop();
    }
}

/// An unwritten revocation must not be lost because memory is full.
#[test]
fn revocations_that_are_not_written_hold_however_many_there_are() {
    const KEYS: usize = 300;
    let dir = tempfile::tempdir().unwrap();
    // Space for 275 revocations.
    let setup = Setup::new(&dir.path().join("data"))
        .shards(1)
        .flag("--keys-max")
        .flag("1100");
    let server = setup.start();
    let client = server.client();
    let keys: Vec<_> = (0..KEYS).map(|key| path(&format!("prod/{key}"))).collect();
    for key in &keys {
        generate(&client, key).unwrap();
    }
    limit(&server, Resource::Fsize, Some(0));
    for key in &keys {
        assert_eq!(status(client.key_revoke(key)), Status::NotPersisted);
    }
    for key in &keys {
        assert_eq!(status(sign(&client, key)), Status::Revoked, "{key}");
    }
    limit(&server, Resource::Fsize, None);
    wait_until("writing the revocations", WITHIN, || {
        client.key_revoke(&keys[KEYS - 1]).is_ok()
    });
    server.kill();
    let server = setup.start();
    let client = server.client();
    for key in &keys {
        assert_eq!(status(sign(&client, key)), Status::Revoked, "{key}");
    }
}

/// Revoking one version needed the data key, a read and a write of the blob before it took effect.
#[test]
fn a_revoked_version_is_in_force_before_it_is_written_and_is_written_once_the_disk_works() {
    let dir = tempfile::tempdir().unwrap();
    let setup = Setup::new(&dir.path().join("data")).shards(2);
    for persists in [true, false] {
        let server = setup.start();
        let client = server.client();
        let (key, signer) = (
            path(&format!("prod/cipher-{persists}")),
            path(&format!("prod/signer-{persists}")),
        );
        let options = KeyOptions::default();
        client
            .key_generate(&key, Algorithm::Aes256Gcm, options)
            .unwrap();
        generate(&client, &signer).unwrap();
        let encrypt = || client.encrypt(&key, b"", b"text").unwrap().value;
        let sign_with = || {
            let signed = client.sign(&signer, Scheme::Default, MESSAGE);
            signed.unwrap().value
        };
        let (sealed, signed) = (encrypt(), sign_with());
        client.key_rotate(&key, None).unwrap();
        client.key_rotate(&signer, None).unwrap();
        let (sealed_2, signed_2) = (encrypt(), sign_with());
        let decrypt = |client: &Client, sealed: &[u8]| {
            past_the_start(|| client.decrypt(&key, b"", sealed)).map(|answer| answer.key_version)
        };
        let verify = |client: &Client, signed: &[u8], version| {
            let verified = past_the_start(|| {
                client.verify(&signer, Scheme::Default, MESSAGE, signed, version)
            });
            verified.map(|answer| answer.key_version)
        };
        limit(&server, Resource::Fsize, Some(0));
        for key in [&key, &signer] {
            for _ in 0..2 {
                let revoked = client.key_revoke_version(key, 1);
                assert_eq!(status(revoked), Status::NotPersisted);
            }
        }
        // Through each shard, so also forwarded.
        for client in [&client, &server.unix_client()] {
            assert_eq!(status(decrypt(client, &sealed)), Status::Revoked);
            assert_eq!(status(verify(client, &signed, 1)), Status::Revoked);
            assert_eq!(status(verify(client, &signed, 0)), Status::Mismatch);
            assert_eq!(decrypt(client, &sealed_2).unwrap(), 2);
            assert_eq!(verify(client, &signed_2, 0).unwrap(), 2);
        }
        // The newest version: nothing new is made with it, until the key is rotated.
        let revoked = client.key_revoke_version(&signer, 2);
        assert_eq!(status(revoked), Status::NotPersisted);
        assert_eq!(status(sign(&client, &signer)), Status::Revoked);
        let listed = client.key_list(&"prod".parse().unwrap()).unwrap();
        let row = listed
            .iter()
            .find(|row| row.key_id.as_str() == format!("signer-{persists}"));
        let row = row.unwrap();
        let versions = row.versions.unwrap().revoked_of(row.key_version);
        assert_eq!(versions.collect::<Vec<_>>(), [1, 2]);
        if persists {
            limit(&server, Resource::Fsize, None);
            for (key, version) in [(&key, 1), (&signer, 1), (&signer, 2)] {
                wait_until("writing the revocation", WITHIN, || {
                    client.key_revoke_version(key, version).is_ok()
                });
            }
        }
        server.kill();
        let server = setup.start();
        let client = server.client();
        match persists {
            true => {
                assert_eq!(status(decrypt(&client, &sealed)), Status::Revoked);
                assert_eq!(status(verify(&client, &signed, 1)), Status::Revoked);
                assert_eq!(status(sign(&client, &signer)), Status::Revoked);
                assert_eq!(client.key_rotate(&signer, None).unwrap().key_version, 3);
                assert_eq!(sign(&client, &signer).unwrap(), 3);
                assert_eq!(status(verify(&client, &signed_2, 2)), Status::Revoked);
            }
            // As the answer had announced.
            false => {
                assert_eq!(decrypt(&client, &sealed).unwrap(), 1);
                assert_eq!(verify(&client, &signed, 1).unwrap(), 1);
                assert_eq!(sign(&client, &signer).unwrap(), 2);
            }
        }
        server.stop();
    }
}

#[test]
fn a_revocation_needs_no_descriptor() {
    let dir = tempfile::tempdir().unwrap();
    let setup = Setup::new(&dir.path().join("data")).shards(1);
    let server = setup.start();
    let client = server.client();
    let key = path("prod/k");
    generate(&client, &key).unwrap();
    sign(&client, &key).unwrap();
    limit(&server, Resource::Nofile, Some(1));
    client.key_revoke(&key).unwrap();
    assert_eq!(status(sign(&client, &key)), Status::Revoked);
    limit(&server, Resource::Nofile, Some(1_024));
    server.kill();
    let server = setup.start();
    assert_eq!(status(sign(&server.client(), &key)), Status::Revoked);
}
