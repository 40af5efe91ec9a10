//! Both clients against a server that does what each scenario tells it.
//!
//! One suite, written against [`face::Face`], runs with the blocking client and with tokio's.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod answers;
mod connections;
mod face;
mod outcomes;
mod routing;
mod server;

use keyway_client::{Call, KeyPath};

/// Makes two tests of each scenario, one for each flavour.
macro_rules! scenarios {
    ($($module:ident :: $scenario:ident;)+) => {
        mod blocking {
            $( #[test] fn $scenario() { crate::$module::$scenario::<crate::face::Blocking>() } )+
        }

        mod tokio {
            $( #[test] fn $scenario() { crate::$module::$scenario::<crate::face::Tokio>() } )+
        }
    };
}

scenarios! {
    answers::answers_in_any_order_reach_their_calls;
    answers::every_call_reads_its_answer;
    answers::lists_are_gathered_from_all_shards_and_pages;
    answers::many_threads_share_a_connection;
    answers::shares_that_are_awaited_are_told;
    answers::long_payloads_come_through_in_both_directions;
    connections::a_client_reconnects_when_the_server_is_back;
    connections::a_dropped_client_closes_its_connections;
    connections::bytes_that_make_no_sense_end_the_connection_and_not_the_client;
    connections::hello_that_is_refused_is_told_in_the_servers_words;
    connections::nobody_listening_is_told_at_once_with_the_address;
    outcomes::a_deadline_travels_and_is_kept_and_the_late_answer_dropped;
    outcomes::a_hint_beyond_the_deadline_is_not_waited_for;
    outcomes::a_call_that_cannot_be_encoded_is_not_sent;
    outcomes::a_read_is_sent_again_when_its_connection_breaks;
    outcomes::a_write_is_not_sent_again_when_its_connection_breaks;
    outcomes::a_write_without_an_answer_has_an_unknown_outcome;
    outcomes::needs_unlock_carries_its_ticket;
    outcomes::retries_within_the_deadline_lead_to_the_answer;
    routing::a_keyspace_made_since_hello_is_learnt_once;
    routing::a_keyspace_whose_id_is_gone_is_learnt_anew;
    routing::an_owner_that_cannot_be_reached_is_passed_by;
    routing::an_owner_that_breaks_is_passed_by_and_comes_back;
    routing::keys_go_to_the_port_of_their_owner;
    routing::unix_sockets_of_shards_are_found_beside_the_first;
}

fn key(id: &str) -> KeyPath {
    format!("prod/{id}").parse().unwrap()
}

fn mac(id: &str, message: &[u8]) -> Call<Vec<u8>> {
    Call::mac(&key(id), message)
}
