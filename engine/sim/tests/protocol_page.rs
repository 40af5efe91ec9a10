//! The simulator's table of statuses is that of docs/PROTOCOL.md.

use keyway_protocol::{Opcode, Scope, Status};
use keyway_sim::node::{all_permitted, is_permitted};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

const EVERY: [Status; 6] = [
    Status::Ok,
    Status::BadRequest,
    Status::Unsupported,
    Status::Overloaded,
    Status::DeadlineExceeded,
    Status::Internal,
];

/// The rows of the page's table: statuses by operation.
fn table() -> BTreeMap<String, BTreeSet<String>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/PROTOCOL.md");
    let page = std::fs::read_to_string(path).expect("the page is there");
    let (_, rest) = page
        .split_once("| operation | statuses |\n|---|---|\n")
        .expect("the table is there");
    let list = |cell: &str| -> Vec<String> {
        let words = cell.split(',').map(|word| word.trim().to_owned());
        words.filter(|word| !word.is_empty()).collect()
    };
    let rows = rest.lines().take_while(|line| line.starts_with('|'));
    rows.flat_map(|row| {
        let cells: Vec<&str> = row.trim_matches('|').split('|').collect();
        let statuses: BTreeSet<String> = list(cells[1]).into_iter().collect();
        let operations = list(cells[0]).into_iter();
        operations.map(move |operation| (operation, statuses.clone()))
    })
    .collect()
}

#[test]
fn the_statuses_that_an_answer_can_have_are_those_of_the_page() {
    let table = table();
    assert_eq!(table.len(), Opcode::ALL.len());
    for opcode in Opcode::ALL {
        let name = opcode.name().to_ascii_uppercase();
        let row = &table[&name];
        for status in Status::ALL {
            let of_keyspace = matches!(status, Status::Forbidden | Status::NoKeyspace)
                && opcode.scope() != Scope::Server;
            let written = EVERY.contains(status)
                || of_keyspace
                || row.contains(&status.name().to_ascii_uppercase());
            assert_eq!(is_permitted(*opcode, *status), written, "{name} {status:?}");
        }
    }
    assert_eq!(all_permitted().count(), 362);
}
