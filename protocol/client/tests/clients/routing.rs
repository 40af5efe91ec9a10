//! Scenarios about the shard map and the keyspaces that HELLO hands over.

use std::net::TcpListener;
use std::time::Instant;

use keyway_client::{Call, Status};
use keyway_protocol::{Opcode, ShardMap};

use crate::face::{AMPLE, Face};
use crate::mac;
use crate::server::{Incoming, SEED, Server, echo, key_of_shard, keyspace, refuse};

/// The listener that the last MAC came by.
fn last_listener(server: &Server) -> usize {
    let seen = server.seen();
    let macs = |it: &&Incoming| it.opcode == Opcode::Mac;
    seen.iter().rfind(macs).unwrap().listener
}

/// Calls until the call comes by `listener`: its connection may take a while to come up, and
/// meanwhile another serves. A hang is the failure; the bound only turns it into a message.
fn call_until<F: Face>(client: &F, server: &Server, key_id: &str, listener: usize) {
    let give_up = Instant::now() + AMPLE;
    while {
        assert_eq!(client.call(mac(key_id, b"m")).unwrap().value, b"m");
        last_listener(server) != listener
    } {
        assert!(
            Instant::now() < give_up,
            "never came by listener {listener}"
        );
    }
}

pub fn keys_go_to_the_port_of_their_owner<F: Face>() {
    let server = Server::start(4, echo);
    let client = F::open(&server.address);
    for shard in 1..4 {
        let key_id = key_of_shard(shard, 4);
        let own = 1 + usize::from(shard);
        call_until(&client, &server, &key_id, own);
        for _ in 0..10 {
            client.call(mac(&key_id, b"m")).unwrap();
            assert_eq!(last_listener(&server), own);
        }
    }
    // HELLO said that the first connection is shard 0's already, so it needs no other.
    client.call(mac(&key_of_shard(0, 4), b"m")).unwrap();
    assert_eq!(last_listener(&server), 0);
}

pub fn an_owner_that_cannot_be_reached_is_passed_by<F: Face>() {
    let server = Server::start(2, echo);
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = nobody.local_addr().unwrap().port();
    drop(nobody);
    server.change_hello(|hello| hello.map = ShardMap::new(SEED, vec![port, port]).unwrap());
    let client = F::open(&server.address);
    for _ in 0..20 {
        client.call(mac(&key_of_shard(1, 2), b"m")).unwrap();
        assert_eq!(last_listener(&server), 0);
    }
}

pub fn an_owner_that_breaks_is_passed_by_and_comes_back<F: Face>() {
    let server = Server::start(2, echo);
    let client = F::open(&server.address);
    let key_id = key_of_shard(1, 2);
    call_until(&client, &server, &key_id, 2);
    server.close_all();
    client.call(mac(&key_id, b"m")).unwrap();
    call_until(&client, &server, &key_id, 2);
}

pub fn unix_sockets_of_shards_are_found_beside_the_first<F: Face>() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start_unix(&folder.path().join("k.sock"), 2, echo);
    let client = F::open(&server.address);
    call_until(&client, &server, &key_of_shard(1, 2), 2);
}

pub fn a_keyspace_made_since_hello_is_learnt_once<F: Face>() {
    let server = Server::start(1, echo);
    let client = F::open(&server.address);
    let call = || Call::mac(&"test/alice".parse().unwrap(), b"m");
    let error = client.call(call()).unwrap_err();
    assert_eq!(error.status(), Some(Status::NoKeyspace));
    assert!(error.to_string().contains("\"test\""), "{error}");
    assert_eq!(
        (server.count(Opcode::Hello), server.count(Opcode::Mac)),
        (2, 0)
    );

    server.change_hello(|hello| hello.keyspaces.push(keyspace(7, "test")));
    client.call(call()).unwrap();
    client.call(call()).unwrap();
    assert_eq!(server.count(Opcode::Hello), 3);
    let seen = server.seen();
    assert_eq!(seen.last().unwrap().keyspace_id, 7);
}

pub fn a_keyspace_whose_id_is_gone_is_learnt_anew<F: Face>() {
    let server = Server::start(1, |incoming| match incoming.keyspace_id {
        1 => refuse(incoming, Status::NoKeyspace, "there is no keyspace 1"),
        _ => echo(incoming),
    });
    let client = F::open(&server.address);
    // While HELLO says the same, the answer is the server's.
    let error = client.call(mac("alice", b"m")).unwrap_err();
    assert_eq!(error.status(), Some(Status::NoKeyspace));
    assert_eq!(server.count(Opcode::Mac), 2);

    server.change_hello(|hello| hello.keyspaces = vec![keyspace(2, "prod")]);
    assert_eq!(client.call(mac("alice", b"m")).unwrap().value, b"m");
}
