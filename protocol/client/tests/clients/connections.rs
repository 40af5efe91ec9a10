//! Scenarios about connections that come and go.

use std::net::TcpListener;
use std::thread;
use std::time::{Duration, Instant};

use keyway_client::{Blame, Call, CallEffect, Error, Options};
use keyway_protocol::Opcode;

use crate::face::{AMPLE, Face};
use crate::server::{Reaction, Server, echo};
use crate::{key, mac};

pub fn nobody_listening_is_told_at_once_with_the_address<F: Face>() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let error = F::connect(Options::new(address.parse().unwrap()))
        .err()
        .unwrap();
    assert!(matches!(error, Error::Disconnected { .. }), "{error:?}");
    assert_eq!(
        (error.blame(), error.outcome()),
        (Blame::Network, CallEffect::NotDone)
    );
    assert!(error.to_string().contains(&address), "{error}");
}

pub fn hello_that_is_refused_is_told_in_the_servers_words<F: Face>() {
    let server = Server::start(1, echo);
    server.refuse_hello("this server speaks version 9");
    let options = Options::new(server.address.parse().unwrap());
    let error = F::connect(options).err().unwrap();
    assert!(
        error.to_string().contains("this server speaks version 9"),
        "{error}"
    );
}

pub fn a_client_reconnects_when_the_server_is_back<F: Face>() {
    let server = Server::start(1, echo);
    let client = F::open(&server.address);
    for round in 0..5_u8 {
        assert_eq!(client.call(Call::ping(&[round])).unwrap().value, [round]);
        server.close_all();
    }
    assert!(server.connection_count() >= 5);
    assert!(server.count(Opcode::Hello) >= 5);
}

pub fn bytes_that_make_no_sense_end_the_connection_and_not_the_client<F: Face>() {
    let server = Server::start(1, |incoming| match incoming.opcode {
        Opcode::Mac => Reaction::Send(vec![0xff; 64]),
        Opcode::KeyRotate => Reaction::Send(vec![0; 64]),
        _ => echo(incoming),
    });
    let client = F::open(&server.address);
    let error = client.call(mac("alice", b"m")).unwrap_err();
    assert!(matches!(error, Error::Answer { .. }), "{error:?}");
    assert_eq!(
        (error.blame(), error.outcome()),
        (Blame::Server, CallEffect::NotDone)
    );
    assert!(error.to_string().contains("frame_len"), "{error}");
    let error = client
        .call(Call::key_rotate(&key("alice"), None))
        .unwrap_err();
    assert_eq!(error.outcome(), CallEffect::Unknown);
    assert_eq!(client.call(Call::ping(b"alive")).unwrap().value, b"alive");
}

pub fn a_dropped_client_closes_its_connections<F: Face>() {
    let server = Server::start(2, echo);
    let client = F::open(&server.address);
    client
        .call(mac(&crate::server::key_of_shard(1, 2), b"m"))
        .unwrap();
    drop(client);
    // A hang is the failure here; the bound only turns it into a message.
    let give_up = Instant::now() + AMPLE;
    while server.closed_count() < server.connection_count() {
        assert!(Instant::now() < give_up, "a connection is still open");
        thread::sleep(Duration::from_millis(1));
    }
    assert!(server.closed_count() > 0);
}
