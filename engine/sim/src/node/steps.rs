//! The planned steps.

use super::World;
use super::books::Listing;
use super::plan::{Asks, Key, Step};
use super::port::PlantedPanic;
use crate::oracle::Checked;

impl World<'_> {
    pub(super) fn carry_out(&mut self, number: u64, step: Step) -> Checked {
        self.trace
            .note(self.now, || format!("step {number}: {step:?}"));
        match step {
            Step::Ask {
                client,
                asks,
                deadline_us,
                count,
            } => {
                for _ in 0..count {
                    self.ask_or_list(client, asks, deadline_us);
                }
            }
            Step::AskTicket {
                client,
                keyspace,
                which,
            } => {
                let tickets = &self.books.tickets;
                let all = tickets.given.iter().chain(&tickets.of_unlocks);
                let all = all.filter(|(of, _)| *of == keyspace);
                let mut newest_first: Vec<u64> = all.map(|(_, ticket)| *ticket).collect();
                newest_first.reverse();
                let ticket = newest_first.get(which % newest_first.len().max(1)).copied();
                let ticket = ticket.unwrap_or(1);
                self.ask(client, Asks::UnlockStatus { keyspace, ticket }, 0);
            }
            Step::Panic {
                client,
                asks,
                place,
            } => {
                let request = self.ask(client, asks, 0);
                self.books.plant_panic();
                let planted = asks.key().map(|key| PlantedPanic {
                    request,
                    key,
                    place,
                });
                self.shared.panic.set(planted);
            }
            Step::Strangers {
                shard,
                count,
                descriptors,
            } => self.strangers_come(shard, count, descriptors),
            Step::Crowd { way, us, places } => self.pressure.begin(way, self.now + us, places),
            Step::Reset { client } => self.reset(client),
            Step::Unread { client, us } => self.sockets[client].unread_until = self.now + us,
            Step::Kms {
                kms,
                mood,
                takes_us,
            } => (self.kms[kms].mood, self.kms[kms].takes_us) = (mood, takes_us),
            Step::Disk { mood, takes_us } => {
                (self.disk.mood, self.disk.takes_us) = (mood, takes_us);
            }
            Step::Log { mood, takes_us } => self.set_log_mood(mood, takes_us),
            Step::Busy { shard, us } => self.hold_up(Some(shard), us),
            Step::Sleep { us } => self.hold_up(None, us),
            Step::Crash { shards } => return self.crash(number, shards),
        }
        Ok(())
    }

    /// A client asks; a listing is gone through to its end.
    pub(super) fn ask_or_list(&mut self, client: usize, asks: Asks, deadline_us: u32) {
        if let Asks::Page { .. } = asks {
            return self.begin_walk(client);
        }
        let Asks::List {
            keyspace, shard, ..
        } = asks
        else {
            self.ask(client, asks, deadline_us);
            return;
        };
        if usize::from(shard) >= self.logs.len() {
            return;
        }
        let number = self.books.next_listing();
        let expected = self.books.keys.iter().filter(|(key, book)| {
            key.keyspace == keyspace && self.owner_of(**key) == shard && book.least(self.now) > 0
        });
        let listing = Listing {
            client,
            keyspace,
            shard,
            began_at: self.now,
            expected: expected.map(|(key, _)| *key).collect(),
            ..Listing::default()
        };
        self.books.listings.insert(number, listing);
        let listing = number;
        let asks = Asks::List {
            keyspace,
            shard,
            listing,
        };
        self.ask(client, asks, deadline_us);
    }

    pub(super) fn owner_of(&self, key: Key) -> u16 {
        super::process::router(self.logs.len() as u16).shard_of(key.keyspace, &key.id())
    }

    /// One thread does not run, or none while the machine sleeps.
    fn hold_up(&mut self, shard: Option<u16>, us: u64) {
        let until = self.now + us;
        for (number, site) in self.sites.iter_mut().enumerate() {
            if shard.is_none_or(|shard| usize::from(shard) == number) {
                site.busy_until = site.busy_until.max(until);
            }
        }
        self.books.trouble_at = self.books.trouble_at.max(until);
    }
}
