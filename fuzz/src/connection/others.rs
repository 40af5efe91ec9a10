//! What control and the other shard send.

use keyway_core::LeaseEvent;
use keyway_node::ids::{Epoch, QuestionId, Revision};
use keyway_node::keyspace_change::KeyspaceChange;
use keyway_node::messages::{DekBytes, Lane, ResealWork, ToPeer, ToShard};
use keyway_node::policy::Policy;
use keyway_protocol::{HotBy, Request, RequestFrame, ResponseHead, ResponseWriter, Status};

use super::frames;
use super::port::{KEYSPACES, World};
use super::site::{PRINCIPALS, Site, router};
use crate::script::Script;

impl Site {
    pub(super) fn control(&mut self, script: &mut Script<'_>, how: u8) {
        let what = script.u8();
        let which = usize::from(what >> 6) % KEYSPACES;
        match how {
            0..3 => self.change(which, |change| {
                if change.guard.locked {
                    change.opening.count_up();
                } else {
                    change.epoch.count_up();
                }
                change.guard.locked = !change.guard.locked;
            }),
            3 => self.change(which, |change| {
                let mut policy = Policy::default();
                let rights = ["none", "sign", "all"][usize::from(what) % 3];
                policy.grant("uid:1000", rights).expect("it is valid");
                change.guard.policy = policy;
            }),
            4 => self.change(which, |change| {
                change.seal_floor += u32::from(what & 1);
                change.oldest = change
                    .oldest
                    .max(change.seal_floor - u32::from(what >> 1 & 1));
            }),
            5 => self.change(which, |change| {
                let settings = &mut change.guard.settings;
                settings.dek_lease_ms = [1_000, 60_000][usize::from(what & 1)];
                settings.sign_wait_budget_us = [1, 50_000][usize::from(what >> 1 & 1)];
            }),
            6 => {
                // An older change, as a lane that was overtaken brings it.
                let mut change = self.changes[which].clone();
                change.revision =
                    Revision(change.revision.0.saturating_sub(1 + u64::from(what & 1)));
                change.guard.locked = false;
                self.tell(Lane::Ordinary, ToShard::Keyspace(Box::new(change)));
            }
            7..10 => {
                let event = match what % 8 {
                    0..3 => granted(&self.world),
                    3 => LeaseEvent::Denied,
                    4 => LeaseEvent::Disabled,
                    5 => LeaseEvent::Locked,
                    6 => LeaseEvent::Failed,
                    _ => LeaseEvent::Unavailable {
                        retry_after_us: 1_000,
                    },
                };
                let keyspace = u32::from(what >> 6);
                self.unwraps.retain(|unwrap| *unwrap != keyspace);
                self.lease(keyspace, event);
            }
            10..12 => {
                if let Some((lane, token)) = self.commands.pop_front() {
                    self.answer_command(lane, token);
                    if what == 7 {
                        self.answer_command(lane, token);
                    }
                }
            }
            12 => self.answer_command(Lane::Ordinary, u64::from(what)),
            _ => {
                self.last_question += 1;
                let question = QuestionId(self.last_question);
                let keyspace = u32::from(what >> 6);
                let message = match what % 4 {
                    0 => ToShard::Progress { question, keyspace },
                    1 => ToShard::Hot {
                        question,
                        keyspace,
                        by: HotBy::ALL[usize::from(what >> 2) % HotBy::ALL.len()],
                        keys_max: usize::from(what),
                    },
                    _ => ToShard::Reseal {
                        question,
                        keyspace,
                        generation: 1 + u32::from(what >> 2 & 1),
                        work: [ResealWork::Count, ResealWork::Reseal][usize::from(what >> 3 & 1)],
                        cursor: script.bytes(usize::from(what >> 4 & 1)).to_vec(),
                    },
                };
                self.tell(Lane::Ordinary, message);
            }
        }
    }

    /// Control changes a keyspace. What tightens overtakes, and is in force at once.
    pub(super) fn change(&mut self, which: usize, change: impl FnOnce(&mut KeyspaceChange)) {
        let of = &mut self.changes[which];
        change(of);
        of.revision.count_up();
        let is_locked = of.guard.locked;
        let message = ToShard::Keyspace(Box::new(of.clone()));
        self.world.is_locked[which].set(is_locked);
        self.tell(Lane::Emergency, message);
    }

    fn tell(&mut self, lane: Lane, message: ToShard) {
        self.shard.handle_control(lane, message);
        self.has_input = true;
    }

    pub(super) fn lease(&mut self, keyspace: u32, event: LeaseEvent) {
        let of = self.changes.iter().find(|change| change.id == keyspace);
        let (epoch, newest) = of.map_or((Epoch::default(), 1), |of| (of.epoch, of.seal_floor));
        let is_granted = matches!(event, LeaseEvent::Granted { .. });
        let event = match event {
            LeaseEvent::Granted { sent_at, .. } => LeaseEvent::Granted {
                sent_at,
                generation: newest,
            },
            event => event,
        };
        let generations = 1..=newest * u32::from(is_granted);
        let deks = generations.map(|generation| {
            Box::new(DekBytes {
                generation,
                bytes: [7; 32].into(),
            })
        });
        let lease = ToShard::Lease {
            keyspace,
            epoch,
            event,
            deks: deks.collect(),
            ticket: if is_granted { 100 } else { 0 },
        };
        self.tell(Lane::Ordinary, lease);
    }

    pub(super) fn answer_command(&mut self, lane: Lane, token: u64) {
        let answer = ToShard::Answer {
            token,
            status: Status::Ok,
            payload: b"done".to_vec().into(),
        };
        self.tell(lane, answer);
    }

    pub(super) fn peer(&mut self, script: &mut Script<'_>) {
        let what = script.u8();
        match what % 4 {
            0 => {
                if let Some(forward) = self.forwards.pop_front() {
                    self.reply(forward);
                }
            }
            // An answer to a request that is none, or has one.
            1 => self.reply((u64::from(what), 1)),
            _ => {
                self.last_token += 1;
                let mut frame = Vec::new();
                frames::append(script, self.last_token, &mut frame);
                if !is_owned(&frame) {
                    return;
                }
                self.asked.push(self.last_token);
                let forward = ToPeer::Forward {
                    token: self.last_token,
                    who: PRINCIPALS[usize::from(what >> 2) % PRINCIPALS.len()],
                    deadline: (what & 0x40 != 0).then(|| self.world.now().plus_us(30_000)),
                    lane: match what & 0x20 {
                        0 => Lane::Ordinary,
                        _ => Lane::Emergency,
                    },
                    frame,
                };
                self.shard.handle_peer(1, vec![forward]);
            }
        }
        self.has_input = true;
    }

    pub(super) fn reply(&mut self, (token, request_id): (u64, u64)) {
        let mut frame = Vec::new();
        ResponseWriter::begin(&mut frame, request_id).finish(ResponseHead::OK);
        let reply = ToPeer::Reply {
            token,
            good_until: self.world.now().plus_us(1_000_000),
            frame,
        };
        self.shard.handle_peer(1, vec![reply]);
        self.has_input = true;
    }
}

/// Whether another shard would send this frame here: it has the same router.
fn is_owned(frame: &[u8]) -> bool {
    let Ok(Some((frame, _))) = RequestFrame::decode(frame) else {
        return false;
    };
    match Request::decode(&frame) {
        Ok(Request::KeyList(list)) => list.shard == 0,
        _ => router().shard_of(frame.keyspace_id, &frame.key_id) == 0,
    }
}

pub(super) fn granted(world: &World) -> LeaseEvent {
    LeaseEvent::Granted {
        sent_at: world.now(),
        generation: 1,
    }
}
