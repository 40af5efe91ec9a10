//! Paging through the keyspaces: what HELLO and KEYSPACE_LIST show is whole, or they say that there is more.

use super::World;
use super::plan::Asks;
use super::sockets::ReceivedAnswer;
use crate::oracle::{Checked, ensure};
use keyway_node::ids::Revision;
use keyway_protocol::{ServerHello, Status};
use std::collections::BTreeSet;

impl World<'_> {
    /// Keyspaces that were there when the process started.
    fn first_keyspaces(&self) -> impl Iterator<Item = u32> + '_ {
        let told = self.books.of_control.told.keys();
        let first = told.filter(|(_, revision)| *revision == Revision::default());
        first.map(|(id, _)| *id)
    }

    /// HELLO names all keyspaces to the operator, or says that there are more.
    pub(super) fn check_hello(&self, answer: &ReceivedAnswer, client: usize) -> Checked {
        let hello = ServerHello::decode(&answer.payload);
        let Ok(hello) = hello else {
            ensure!(33, false, "HELLO cannot be read: {hello:?}");
            return Ok(());
        };
        let count = self.first_keyspaces().count();
        let is_operator = self.plan.clients[client].user.is_none();
        ensure!(
            33,
            !is_operator || hello.more || hello.keyspaces.len() >= count,
            "HELLO names {} of {count} keyspaces, and says that there are no more",
            hello.keyspaces.len()
        );
        Ok(())
    }

    /// A client begins to page through the keyspaces.
    pub(super) fn begin_walk(&mut self, client: usize) {
        let walk = self.books.begin_walk(client);
        self.ask(client, Asks::Page { walk, after: 0 }, 0);
    }

    /// The next page is there.
    pub(super) fn walk_on(&mut self, number: u64, answer: &ReceivedAnswer) -> Checked {
        let Some(mut walk) = self.books.walks.remove(&number) else {
            return Ok(());
        };
        if answer.status != Status::Ok {
            return Ok(());
        }
        let document: serde_json::Value =
            serde_json::from_slice(&answer.payload).unwrap_or_default();
        let rows = document["keyspaces"].as_array();
        let ids = rows
            .into_iter()
            .flatten()
            .filter_map(|row| row["id"].as_u64());
        let ids: Vec<u32> = ids.filter_map(|id| u32::try_from(id).ok()).collect();
        let (Some(more), Some(after)) = (document["more"].as_bool(), ids.last().copied()) else {
            ensure!(
                33,
                false,
                "a page of keyspaces has no row, or cannot be read"
            );
            return Ok(());
        };
        walk.seen.extend(ids);
        if more {
            let client = walk.client;
            self.books.walks.insert(number, walk);
            if self.sockets[client].is_open {
                self.ask(
                    client,
                    Asks::Page {
                        walk: number,
                        after,
                    },
                    0,
                );
            }
            return Ok(());
        }
        let once: BTreeSet<u32> = walk.seen.iter().copied().collect();
        ensure!(
            33,
            once.len() == walk.seen.len(),
            "a list of keyspaces shows one twice: {:?}",
            walk.seen
        );
        let missing: Vec<u32> = self
            .first_keyspaces()
            .filter(|id| !once.contains(id))
            .collect();
        ensure!(
            33,
            missing.is_empty(),
            "a list of keyspaces leaves out {missing:?}"
        );
        Ok(())
    }
}
