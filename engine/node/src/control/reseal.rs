//! Resealing after a rotation: seals blobs under older DEKs under the current one, in the background, until a full pass
//! over every log finds none. Then the older DEKs are retired.

use keyway_core::Instant;
use serde_json::{Value, json};

use super::Control;
use super::event::{Event, ShardAnswer};
use super::in_force::Settled;
use super::report::Report;
use super::saver::settled;
use crate::catalogue::{ChangeAuthor, Edit};
use crate::ids::WorkId;
use crate::messages::{Lane, ResealError, ResealPage, ResealWork, ToShard};

/// Shortest and longest pause after a page that could not be resealed, in µs.
const RETRY_US_MIN: u64 = 100_000;
const RETRY_US_MAX: u64 = 10_000_000;

/// Pause after a pass that left blobs which cannot be opened, in µs.
const UNREADABLE_REST_US: u64 = 60_000_000;

/// Period of progress lines in the log, in µs.
const PROGRESS_PERIOD_US: u64 = 2_000_000;

/// Progress of resealing a keyspace.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ResealProgress {
    pub resealed: u64,
    pub left: u64,
}

impl ResealProgress {
    pub(super) fn json(self) -> Value {
        json!({ "resealed": self.resealed, "left": self.left })
    }
}

/// The work that reseals a keyspace's blobs.
pub(super) struct Reseal {
    id: u32,
    progress: ResealProgress,
    /// When progress was last logged.
    said_at: Instant,
    /// Older DEKs were put into use again after the count began, so it does not cover them.
    recount: bool,
    stage: Stage,
}

enum Stage {
    Counting(Pass),
    Resealing(Pass),
    Resting,
    /// The catalogue without the older DEKs is being written.
    Retiring(u32),
}

impl Reseal {
    pub(super) fn name(&self) -> &'static str {
        match self.stage {
            Stage::Counting(_) => "counting",
            Stage::Resealing(_) => "resealing",
            Stage::Resting => "resting",
            Stage::Retiring(_) => "retiring",
        }
    }
}

/// One pass over every shard's blobs, one shard at a time, since this work is not urgent.
pub(super) struct Pass {
    keyspace: u32,
    generation: u32,
    work: ResealWork,
    shard: u16,
    cursor: Vec<u8>,
    wait_us: u64,
    found: u64,
    unreadable: u64,
    missing_dek: MissingDek,
}

/// What a pass does about a DEK that a shard did not have. A lease can be over before the pass has rested, so it goes on as
/// soon as the DEK is handed out, once in each rest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum MissingDek {
    #[default]
    Rests,
    Awaited,
    HandedOut,
}

/// The result of a step of a pass.
pub(super) enum Passed {
    /// It continues: this many blobs were resealed.
    On(Pass, u64),
    /// It is complete: blobs under older DEKs, those of them that cannot be opened, and those that the last page
    /// resealed.
    Over {
        found: u64,
        unreadable: u64,
        resealed: u64,
    },
    /// The server is stopping.
    Stopped,
}

impl Control {
    /// Starts to reseal blobs that are not under the current DEK, unless that is in progress. Called when every shard has
    /// confirmed that it seals under it; at a start, shards begin with it.
    pub(super) fn start_resealing(&mut self, id: u32) {
        let resealing = self.keyspaces.get(&id).and_then(|it| it.resealing);
        if let Some(work) = resealing {
            // DEKs were put into use again in the meantime.
            if let Some(reseal) = self.works.reseal_mut(work) {
                reseal.recount = true;
            }
            return;
        }
        let work = self.works.begin();
        let reseal = Reseal {
            id,
            progress: ResealProgress::default(),
            said_at: self.now.instant,
            recount: false,
            stage: Stage::Resting,
        };
        self.count(work, reseal);
    }

    pub(super) fn reseal_progress(&self, id: u32) -> Option<ResealProgress> {
        let work = self.keyspaces.get(&id)?.resealing?;
        self.works.reseal(work).map(|reseal| reseal.progress)
    }

    fn count(&mut self, work: WorkId, mut reseal: Reseal) {
        let Ok(keyspace) = self.in_force.written().keyspace(reseal.id) else {
            return;
        };
        let generation = keyspace.generation();
        reseal.recount = false;
        let pass = self.begin_pass(work, (reseal.id, generation), ResealWork::Count);
        reseal.stage = Stage::Counting(pass);
        self.wait_resealing(work, reseal);
    }

    fn wait_resealing(&mut self, work: WorkId, reseal: Reseal) {
        if let Some(governed) = self.keyspaces.get_mut(&reseal.id) {
            governed.resealing = Some(work);
        }
        self.works.wait(work, reseal);
    }

    pub(super) fn step_reseal(&mut self, work: WorkId, mut reseal: Reseal, event: Event) {
        match reseal.stage {
            Stage::Counting(pass) => match self.step_pass(work, pass, event) {
                Passed::On(pass, _) => {
                    reseal.stage = Stage::Counting(pass);
                    self.wait_resealing(work, reseal);
                }
                Passed::Over { found: 0, .. } if reseal.recount => {
                    reseal.stage = Stage::Resting;
                    self.count(work, reseal);
                }
                Passed::Over { found: 0, .. } => {
                    reseal.stage = Stage::Resting;
                    self.retire(work, reseal);
                }
                Passed::Over { found, .. } => {
                    reseal.progress.left = found;
                    let written = self.in_force.written().keyspace(reseal.id);
                    let generation = written.map_or(0, |keyspace| keyspace.generation());
                    let pass = self.begin_pass(work, (reseal.id, generation), ResealWork::Reseal);
                    reseal.stage = Stage::Resealing(pass);
                    self.wait_resealing(work, reseal);
                }
                Passed::Stopped => self.end_resealing(reseal.id),
            },
            Stage::Resealing(pass) => match self.step_pass(work, pass, event) {
                Passed::On(pass, resealed) => {
                    reseal.stage = Stage::Resealing(pass);
                    self.note_resealed(&mut reseal, resealed);
                    self.wait_resealing(work, reseal);
                }
                Passed::Over {
                    unreadable: 0,
                    resealed,
                    ..
                } => {
                    reseal.stage = Stage::Resting;
                    self.note_resealed(&mut reseal, resealed);
                    self.count(work, reseal);
                }
                Passed::Over {
                    unreadable,
                    resealed,
                    ..
                } => {
                    reseal.stage = Stage::Resting;
                    self.note_resealed(&mut reseal, resealed);
                    self.report(Report::Unreadable {
                        keyspace: reseal.id,
                        count: unreadable,
                    });
                    self.rest(work, reseal, UNREADABLE_REST_US);
                }
                Passed::Stopped => self.end_resealing(reseal.id),
            },
            Stage::Resting => match event {
                Event::Rested => {
                    reseal.stage = Stage::Resting;
                    self.count(work, reseal);
                }
                _ => self.wait_resealing(work, reseal),
            },
            Stage::Retiring(generation) => match event {
                Event::Settled(outcome) => match settled(outcome) {
                    Ok(Settled::Written) => self.retired(&reseal, generation),
                    Ok(Settled::Unwritten(why)) | Err((_, why)) => {
                        self.retire_failed(work, reseal, why);
                    }
                },
                _ => self.wait_resealing(work, reseal),
            },
        }
    }

    fn retire(&mut self, work: WorkId, mut reseal: Reseal) {
        let written = self.in_force.written().keyspace(reseal.id);
        let generation = written.map_or(0, |keyspace| keyspace.generation());
        let edit = Edit::Retire {
            id: reseal.id,
            by: ChangeAuthor::server(self.now),
        };
        match self.want(work, edit) {
            Ok(()) => {
                reseal.stage = Stage::Retiring(generation);
                self.wait_resealing(work, reseal);
            }
            Err((_, why)) => self.retire_failed(work, reseal, why),
        }
    }

    fn retire_failed(&mut self, work: WorkId, reseal: Reseal, why: String) {
        let keyspace = reseal.id;
        self.report(Report::RetireFailed { keyspace, why });
        self.rest(work, reseal, RETRY_US_MAX);
    }

    /// Completes retirement: the catalogue without the older DEKs is written, so shards may wipe them.
    fn retired(&mut self, reseal: &Reseal, generation: u32) {
        self.publish(reseal.id, Lane::Ordinary);
        self.end_resealing(reseal.id);
        self.report(Report::Retired {
            keyspace: reseal.id,
            generation,
            resealed: reseal.progress.resealed,
        });
    }

    fn end_resealing(&mut self, id: u32) {
        if let Some(governed) = self.keyspaces.get_mut(&id) {
            governed.resealing = None;
        }
    }

    fn rest(&mut self, work: WorkId, mut reseal: Reseal, rest_us: u64) {
        reseal.stage = Stage::Resting;
        self.works.rest(work, self.now.instant.plus_us(rest_us));
        self.wait_resealing(work, reseal);
    }

    fn note_resealed(&mut self, reseal: &mut Reseal, resealed: u64) {
        let progress = &mut reseal.progress;
        progress.resealed += resealed;
        progress.left = progress.left.saturating_sub(resealed);
        let now = self.now.instant;
        if now.saturating_since(reseal.said_at) >= PROGRESS_PERIOD_US {
            reseal.said_at = now;
            let ResealProgress { resealed, left } = *progress;
            self.report(Report::Resealing {
                keyspace: reseal.id,
                resealed,
                left,
            });
        }
    }

    /// Resumes a pass that waits for the keyspace's DEKs. They were sent to every shard before this, and arrive first.
    pub(super) fn resume_resealing(&mut self, id: u32) {
        let resealing = self.keyspaces.get(&id).and_then(|it| it.resealing);
        let Some((work, reseal)) =
            resealing.and_then(|work| Some((work, self.works.reseal_mut(work)?)))
        else {
            return;
        };
        if let Stage::Counting(pass) | Stage::Resealing(pass) = &mut reseal.stage
            && pass.missing_dek == MissingDek::Awaited
        {
            pass.missing_dek = MissingDek::HandedOut;
            self.works.hurry(work);
        }
    }

    /// Begins a pass over every shard's blobs that are not under this DEK.
    pub(super) fn begin_pass(
        &mut self,
        work: WorkId,
        (keyspace, generation): (u32, u32),
        what: ResealWork,
    ) -> Pass {
        let pass = Pass {
            keyspace,
            generation,
            work: what,
            shard: 0,
            cursor: Vec::new(),
            wait_us: RETRY_US_MIN,
            found: 0,
            unreadable: 0,
            missing_dek: MissingDek::default(),
        };
        self.request_page(work, &pass);
        pass
    }

    fn request_page(&mut self, work: WorkId, pass: &Pass) {
        if !self.published.is_running(pass.shard) {
            // It is resumed immediately, and the pass ends.
            return self.works.rest(work, Instant::ZERO);
        }
        let question = self.works.question(work, pass.shard);
        let reseal = ToShard::Reseal {
            question,
            keyspace: pass.keyspace,
            generation: pass.generation,
            work: pass.work,
            cursor: pass.cursor.clone(),
        };
        self.send_to(pass.shard, Lane::Ordinary, reseal);
    }

    /// Continues a pass with the next page, or with the same page until it is complete.
    pub(super) fn step_pass(&mut self, work: WorkId, mut pass: Pass, event: Event) -> Passed {
        match event {
            Event::Shard(ShardAnswer::Resealed(Ok(page))) if page.floor >= pass.generation => {
                self.take_page(work, pass, page)
            }
            Event::Shard(ShardAnswer::Resealed(page)) => {
                let error = page.err().unwrap_or_else(|| {
                    // Its count would be meaningless.
                    let text = "the shard does not seal under the current DEK yet; this is a bug";
                    ResealError::Other(text.to_owned())
                });
                pass.missing_dek = match pass.missing_dek {
                    MissingDek::HandedOut => MissingDek::Rests,
                    _ if error == ResealError::DekMissing => MissingDek::Awaited,
                    _ => MissingDek::Rests,
                };
                self.page_failed(&pass, error);
                let until = self.now.instant.plus_us(pass.wait_us);
                pass.wait_us = (pass.wait_us * 2).min(RETRY_US_MAX);
                self.works.rest(work, until);
                Passed::On(pass, 0)
            }
            Event::Shard(ShardAnswer::Stopped) => Passed::Stopped,
            Event::Rested if !self.published.is_running(pass.shard) => Passed::Stopped,
            Event::Rested => {
                self.request_page(work, &pass);
                Passed::On(pass, 0)
            }
            _ => Passed::On(pass, 0),
        }
    }

    fn take_page(&mut self, work: WorkId, mut pass: Pass, page: ResealPage) -> Passed {
        pass.found += page.found;
        pass.unreadable += page.unreadable;
        pass.wait_us = RETRY_US_MIN;
        pass.missing_dek = MissingDek::default();
        if page.cursor.is_empty() {
            pass.shard += 1;
        }
        pass.cursor = page.cursor;
        if pass.shard >= self.published.shards() {
            return Passed::Over {
                found: pass.found,
                unreadable: pass.unreadable,
                resealed: page.resealed,
            };
        }
        self.request_page(work, &pass);
        Passed::On(pass, page.resealed)
    }

    fn page_failed(&mut self, pass: &Pass, error: ResealError) {
        match error {
            // A locked keyspace waits for its unlock, which distributes the DEKs.
            ResealError::DekMissing if self.is_locked(pass.keyspace) => {}
            ResealError::DekMissing => self.hand_out(pass.keyspace),
            ResealError::Overloaded => {}
            error @ ResealError::Other(_) => self.report(Report::ResealWaits {
                keyspace: pass.keyspace,
                shard: pass.shard,
                error,
            }),
        }
    }
}
