//! A shard's life on its executor: recovery, listeners, the ticker, and a quiet end.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use keyway_keys::{Arena, ArenaError, ArenaOptions, ProviderChoice, UseLedger, Vault};
use keyway_node::keyspace_change::KeyspaceChange;
use keyway_node::messages::{HotKey, ToPeer, ToShard};
use keyway_node::shard::{self, Shard, Site};
use keyway_protocol::Router;
use keyway_store::{BlobLog, LogOptions, PutError};
use tokio::sync::mpsc;

use super::port::Keys;
use super::rest::Rest;
use super::snapshot::Measured;
use super::{Driver, Sockets, Stopping};
use crate::config::{Config, CryptoProvider};
use crate::control::lanes::{LaneEnds, Lanes};
use crate::control::link::{ControlLink, FromShard};
use crate::lifeline::{LifecycleReporter, until_stopped};
use crate::metrics::exporter;
use crate::metrics::snapshot::{ShardSnapshot, Snapshot};
use crate::os_error::{Attempt, explain};
use crate::runtime::files::RingFiles;
use crate::runtime::listener;
use crate::runtime::mesh::MeshEndpoint;
use crate::runtime::tasks;
use crate::unix_path;
use keyway_node::policy::Owner;

/// The ticker's period: it drives the core's wheel.
const TICK: Duration = Duration::from_millis(1);

/// Ticks between two snapshots.
const TICKS_PER_SECOND: u64 = 1_000;

/// Pause between two steps of compaction.
const COMPACTION_PERIOD: Duration = Duration::from_millis(100);

/// Bytes that one step of compaction reads.
const COMPACTION_STEP_BYTES: usize = 256 << 10;

/// Pause between two tries to write revocations that hold and are not durable yet, and to find out
/// whether a log that could not be written can be again.
const REVOCATIONS_RETRY: Duration = Duration::from_millis(500);

/// Pause between two looks at a log that cannot be compacted.
const COMPACTION_RETRY: Duration = Duration::from_secs(60);

/// What a shard needs to start; moves to its thread.
pub struct Start {
    /// Shard index.
    pub index: u16,
    /// What is the same for all shards.
    pub common: Common,
    /// Seed of the core's randomness.
    pub core_seed: u64,
    /// Where the blob log is.
    pub log: LogOptions,
    /// Its place in the mesh.
    pub endpoint: MeshEndpoint<ToPeer>,
    /// The keys of this shard that were hot in the last run, hottest first.
    pub hot_keys: Vec<HotKey>,
    /// From the control thread.
    pub events: LaneEnds<ToShard>,
}

/// What is the same for all shards of a node.
#[derive(Clone)]
pub struct Common {
    /// The server's settings.
    pub config: Arc<Config>,
    /// Routing seed.
    pub routing_seed: [u8; 16],
    /// How early leases are renewed: [`keyway_core::Limits`].
    pub renew_early_ppm: u32,
    /// Address for anyone.
    pub shared: SocketAddr,
    /// Each shard's own port.
    pub ports: Vec<u16>,
    /// The rights that hold everywhere.
    pub owner: Owner,
    /// Keyspaces at start.
    pub keyspaces: Vec<KeyspaceChange>,
    /// To the control thread.
    pub control: Lanes<FromShard>,
    /// To the exporter.
    pub exporter: mpsc::Sender<exporter::Message>,
    /// Set once, to stop.
    pub stop: Arc<AtomicBool>,
    /// Set once, when a shard has failed while it served: the process ends with an error.
    pub failed: Arc<AtomicBool>,
}

/// Runs a shard until `stop` is set. `lifeline` reports when it listens, or why not, and when its log is closed.
pub async fn serve(start: Start, mut lifeline: LifecycleReporter) {
    let failure = Failure {
        stop: Arc::clone(&start.common.stop),
        failed: Arc::clone(&start.common.failed),
    };
    match run(start, &mut lifeline).await {
        Ok(()) => failure.did_not_happen(),
        Err(error) => {
            drop(failure);
            lifeline.failed(error);
        }
    }
    drop(lifeline);
    // Other tasks of this executor are unfinished, and an unfinished task is never dropped: the
    // process ends with the thread parked here.
    std::future::pending::<()>().await;
}

/// Stops the whole node when it is dropped: a shard has failed, or its main task has panicked. The other shards close in
/// good order, and the process's exit status is an error. A node that lacks a shard would refuse a part of its keys.
struct Failure {
    stop: Arc<AtomicBool>,
    failed: Arc<AtomicBool>,
}

impl Failure {
    fn did_not_happen(self) {
        std::mem::forget(self);
    }
}

impl Drop for Failure {
    fn drop(&mut self) {
        self.failed.store(true, Ordering::Relaxed);
        self.stop.store(true, Ordering::Relaxed);
    }
}

async fn run(start: Start, lifeline: &mut LifecycleReporter) -> Result<(), String> {
    let Start { index, common, .. } = start;
    let config = common.config;
    tasks::spawn_backstop_timers();
    let arena = Arena::new(ArenaOptions {
        capacity_bytes: config.limits.arena_bytes,
        lock: !config.allow_unlocked_memory,
    })
    .map_err(|error| match error {
        ArenaError::Lock { .. } => format!("{error}; or pass --allow-unlocked-memory"),
        ArenaError::Os { .. } => {
            format!("{error}; give a smaller --arena-mib, or more address space: ulimit -v")
        }
        error => error.to_string(),
    })?;
    let provider = match config.crypto_provider {
        CryptoProvider::Default => ProviderChoice::Default,
        CryptoProvider::Ring => ProviderChoice::RingOnly,
    };
    let log = recover(index, start.log, &common.exporter).await?;
    let (mesh, inboxes) = start.endpoint.connect().await;
    let count = config.shards;
    let early = common.renew_early_ppm;
    let router = Router::new(common.routing_seed, count).map_err(|error| error.to_string())?;
    let log = Rc::new(log);
    let uses = UseLedger::new();
    let keys = Keys {
        vault: Vault::new(arena, provider),
        uses: uses.clone(),
        log: Rc::clone(&log),
    };
    let (keys_max, arena_bytes) = (config.limits.keys_max, config.limits.arena_bytes);
    let decides = shard::Start {
        site: Site {
            index,
            router,
            ports: common.ports.clone(),
        },
        limits: shard::limits((index, count), early, keys_max, arena_bytes),
        seed: start.core_seed,
        owner: common.owner,
        connections_max: config.limits.connections_max,
        hot_keys: start.hot_keys,
    };
    let mut shard = Shard::new(decides, keys).map_err(|error| error.to_string())?;
    shard.boot(&common.keyspaces);
    let driver = Rc::new(Driver {
        index,
        shard: RefCell::new(shard),
        log,
        uses,
        mesh,
        link: ControlLink::new(index, common.control, start.events),
        sockets: Sockets::default(),
        measured: RefCell::new(Measured::default()),
        rest: Rest::new(quanta::Instant::now()),
        exporter: common.exporter,
        descriptors_max: config.limits.descriptors_max,
        stop: Stopping {
            flag: common.stop,
            is_stopping: Cell::new(false),
        },
    });
    for (from, inbox) in inboxes {
        tasks::spawn(Rc::clone(&driver).receive(from, inbox));
    }
    tasks::spawn(Rc::clone(&driver).run_on());
    tasks::spawn(Rc::clone(&driver).compact());
    tasks::spawn(Rc::clone(&driver).retry_revocations());
    driver.listen(common.shared, &common.ports, &config)?;
    lifeline.ready();
    let stop = Arc::clone(&driver.stop.flag);
    until_stopped(&*stop, |ticks| driver.tick(ticks), || tasks::sleep(TICK)).await;
    driver.close().await;
    if driver.is_broken() {
        return Err("the core panicked, so the shard has stopped; this is a bug".to_owned());
    }
    Ok(())
}

async fn recover(
    index: u16,
    options: LogOptions,
    exporter: &mpsc::Sender<exporter::Message>,
) -> Result<BlobLog<RingFiles>, String> {
    let mut said_at = quanta::Instant::now();
    let (log, recovery) = BlobLog::open(RingFiles, options, |progress| {
        if said_at.elapsed() < Duration::from_secs(1) {
            return;
        }
        said_at = quanta::Instant::now();
        tracing::info!(
            shard = index,
            read_bytes = progress.bytes_done,
            total_bytes = progress.bytes_total,
            records = progress.records,
            "reading the blob log"
        );
        let snapshot = ShardSnapshot {
            shard: index,
            recovered_bytes: progress.bytes_done,
            recovery_total_bytes: progress.bytes_total,
            ..ShardSnapshot::default()
        };
        exporter::offer(exporter, Snapshot::Shard(Box::new(snapshot)));
    })
    .await
    .map_err(|error| format!("shard {index}: {error}"))?;
    tracing::info!(
        shard = index,
        keys = recovery.live_records,
        segments = recovery.segments,
        cut_bytes = recovery.cut_bytes,
        damaged = recovery.damage_count,
        "blob log read"
    );
    for damage in &recovery.damage {
        let (keyspace, key) = match &damage.key {
            Some((keyspace, key_id, _)) => (*keyspace, String::from_utf8_lossy(key_id)),
            None => (0, "not known".into()),
        };
        tracing::error!(
            shard = index,
            keyspace,
            %key,
            segment = damage.segment,
            offset = damage.offset,
            "the blob log is damaged"
        );
    }
    Ok(log)
}

impl Driver {
    fn listen(
        self: &Rc<Self>,
        shared: SocketAddr,
        ports: &[u16],
        config: &Config,
    ) -> Result<(), String> {
        let own = SocketAddr::new(shared.ip(), ports[usize::from(self.index)]);
        for address in [shared, own] {
            let flag = "--listen";
            listener::tcp(address, self).map_err(|error| {
                let why = explain(&error, Attempt::Listen { address, flag });
                format!("cannot listen on {address}: {why}")
            })?;
        }
        let mut paths = vec![unix_path::of_shard(&config.listeners.unix, self.index)];
        if self.index == 0 {
            paths.push(config.listeners.unix.clone());
        }
        for path in paths {
            unix_path::make_free(&path)?;
            listener::unix(&path, self).map_err(|error| {
                let why = explain(&error, Attempt::Socket);
                format!("cannot listen on {}: {why}", path.display())
            })?;
        }
        Ok(())
    }

    fn is_broken(&self) -> bool {
        self.shard.borrow().is_broken()
    }

    fn tick(self: &Rc<Self>, ticks: u64) {
        self.turn_after_poll();
        if self.is_broken() {
            return self.stop.flag.store(true, Ordering::Relaxed);
        }
        if ticks.is_multiple_of(TICKS_PER_SECOND) {
            // Some hundred microseconds at most.
            let most = self.uses.most_encryptions();
            self.measured.borrow_mut().most_encryptions = most;
            self.publish();
        }
    }

    async fn compact(self: Rc<Self>) {
        while !self.stop.is_stopping.get() {
            tasks::sleep(COMPACTION_PERIOD).await;
            let step = self.log.compact_step(COMPACTION_STEP_BYTES).await;
            match step {
                Err(error) if !self.stop.is_stopping.get() => {
                    tracing::error!(shard = self.index, %error, "compaction failed");
                    tasks::sleep(COMPACTION_RETRY).await;
                }
                _ => {}
            }
        }
    }

    async fn retry_revocations(self: Rc<Self>) {
        let mut failing = false;
        loop {
            tasks::sleep(REVOCATIONS_RETRY).await;
            let retried = self.log.retry_revocations().await;
            match &retried {
                Err(PutError::Closed) => return,
                Err(error) if !failing => {
                    tracing::error!(shard = self.index, %error, "the blob log cannot be written");
                }
                Ok(()) if failing => {
                    tracing::info!(shard = self.index, "the blob log can be written again");
                }
                _ => {}
            }
            failing = retried.is_err();
            self.forget_idle_uses().await;
        }
    }

    async fn close(self: &Rc<Self>) {
        self.stop.is_stopping.set(true);
        self.shard.borrow_mut().report_hot_keys();
        self.carry_out();
        self.sockets
            .open
            .borrow()
            .values()
            .for_each(|open| open.socket.borrow().shut_down());
        if let Err(error) = self.give_back_uses().await {
            tracing::warn!(shard = self.index, %error, "reserved encryptions of AEAD keys stay counted as used");
        }
        if let Err(error) = self.log.close().await {
            tracing::error!(shard = self.index, %error, "the blob log was not closed cleanly");
        }
    }
}
