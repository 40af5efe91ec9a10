//! Starting and stopping the whole node: data directory, KMS, threads, signals.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use keyway_core::Instant;
use keyway_protocol::Router;
use keyway_store::{DataDir, reshard};
use tokio::sync::mpsc;

use crate::clock;
use crate::config::Config;
use crate::control::at_start;
use crate::control::lanes::lanes;
use crate::control::link::FromShard;
use crate::control::{self, Driver, Means};
use crate::exit;
use crate::lifeline::LifecycleReporter;
use crate::logging;
use crate::machine::Machine;
use crate::metrics::page::ActiveViewers;
use crate::metrics::{exporter, http};
use crate::os_error::{Attempt, explain};
use crate::runtime::{executor, mesh};
use crate::shard::{Common, Start, serve, versions_of};
use crate::signals::Stop;
use crate::startup;
use crate::unix_path;
use keyway_node::catalogue;
use keyway_node::connection::accounts::DESCRIPTORS_RESERVED;
use keyway_node::control::hot_keys::{self, HotKeys};
use keyway_node::control::{Control, Settings};
use keyway_node::limits::{EMERGENCIES_MAX, TO_CONTROL_MAX, TO_SHARD_MAX};
use keyway_node::messages::HotKey;
use keyway_node::policy::Owner;

/// Where a running server writes its addresses.
const ENDPOINTS_FILE: &str = "endpoints.json";

/// How early a process may renew leases, at most. Enough that a fleet is spread after some leases,
/// and a tenth more calls of the KMS on the worst draw.
const RENEW_EARLY_PPM_DRAWN_MAX: u32 = 100_000;
const _: () = assert!(RENEW_EARLY_PPM_DRAWN_MAX <= keyway_core::RENEW_EARLY_PPM_MAX);

/// Runs the server in the foreground until SIGTERM or SIGINT.
///
/// Errors: why it did not start, with the remedy.
pub fn run(config: Config, machine: &Machine, signals: &Stop) -> Result<(), String> {
    startup::check(&config, machine)?;
    let cores = &machine.cores;
    at_start::refuse_half(&config.data)?;
    // Before the sockets: of a second server on the same directory the process that has it is named.
    let data = DataDir::open(&config.data, config.shards).map_err(|e| e.to_string())?;
    let mut data = data.with_versions_of(versions_of);
    unix_path::check(&config.listeners.unix, config.shards)?;
    move_keys(&mut data, config.shards)?;
    let data = Arc::new(data);
    let manifest = *data.manifest();
    let (catalogue_file, mut keyspaces) = at_start::read(&config, Arc::clone(&data) as _)?;
    let mut ports = startup::reserve_ports(&config)?;

    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| {
            format!(
                "the control thread's runtime did not start: {}",
                explain(&error, Attempt::Thread)
            )
        })?;
    let kms = runtime
        .block_on(control::opening::open(
            &config,
            manifest.cluster_id,
            &keyspaces,
        ))
        .map_err(|error| error.to_string())?;
    runtime.block_on(at_start::prepare(
        &config,
        &kms,
        &catalogue_file,
        &mut keyspaces,
    ))?;

    let router =
        Router::new(manifest.routing_seed, config.shards).map_err(|error| error.to_string())?;
    let hot_keys = hot_keys::route(read_hot_keys(&data), &router);

    let (to_exporter, exporter_inbox) = mpsc::channel(exporter::INBOX_MAX);
    let viewers = Arc::new(ActiveViewers::default());
    let metrics = exporter::start(
        config.exporter.address,
        config.shards,
        exporter_inbox,
        Arc::clone(&viewers),
        http::Limits {
            hosts: config.exporter.hosts.clone(),
            descriptors_max: config
                .limits
                .descriptors_max
                .saturating_sub(DESCRIPTORS_RESERVED),
        },
    )
    .map_err(|error| {
        let address = config.exporter.address;
        format!(
            "the metrics port cannot listen on {address}: {}",
            explain(
                &error,
                Attempt::Listen {
                    address,
                    flag: "--metrics"
                }
            )
        )
    })?;
    let (to_control, control_requests) = lanes::<FromShard>(EMERGENCIES_MAX, TO_CONTROL_MAX);
    let stop = signals.flag();
    let failed = Arc::new(AtomicBool::new(false));
    let (ready, started) = std::sync::mpsc::channel();
    let (stopped, shards_stopped) = mpsc::channel(usize::from(config.shards));
    let owner = Owner {
        dev: config.dev,
        uid: rustix::process::geteuid().as_raw(),
    };
    let mut control = Control::new(
        clock::moment(),
        Settings {
            shards: config.shards,
            owner,
            ticket_key: random_seed()?,
            page_key_ids: config.exporter.page_key_ids,
        },
        keyspaces,
        control::names_of(&kms, Some(&catalogue_file)),
        HotKeys::new(hot_keys.clone()),
    );
    let config = Arc::new(config);
    let renew_early_ppm = draw_renew_early_ppm()?;
    let common = Common {
        config: Arc::clone(&config),
        routing_seed: manifest.routing_seed,
        renew_early_ppm,
        shared: ports.shared,
        ports: ports.own.clone(),
        owner,
        keyspaces: control.keyspaces_at_start(),
        control: to_control.clone(),
        exporter: to_exporter.clone(),
        stop: Arc::clone(&stop),
        failed: Arc::clone(&failed),
    };
    let mut to_shards = Vec::new();
    for (index, endpoint) in (0..config.shards).zip(mesh::endpoints(config.shards)) {
        let (to_shard, events) = lanes(EMERGENCIES_MAX, TO_SHARD_MAX);
        to_shards.push(to_shard);
        let start = Start {
            index,
            common: common.clone(),
            core_seed: random_seed()?,
            log: data.log_options(index).map_err(|error| error.to_string())?,
            endpoint,
            hot_keys: hot_keys[usize::from(index)].clone(),
            events,
        };
        let lifeline = LifecycleReporter::new(index, ready.clone(), stopped.clone());
        let core = cores[usize::from(index) % cores.len()];
        executor::start(index, core, move || serve(start, lifeline)).map_err(|error| {
            format!(
                "shard {index} did not start: {}",
                explain(&error, Attempt::Thread)
            )
        })?;
    }
    // What only shards hold ends with the last of them.
    drop((ready, stopped, common));
    for _ in 0..config.shards {
        started
            .recv()
            .map_err(|_| "a shard ended before it was ready".to_owned())??;
    }
    ports.release();
    if let Err(error) = data.mark_logs() {
        tracing::error!(%error, "a log that is gone at the next start will not be missed");
    }
    // Before the node is reported as running.
    signals.begin_serving();
    announce(&config, &data, ports.shared, &ports.own, metrics);
    let saved_dir = data.path().to_owned();
    let control_file = Arc::clone(&catalogue_file);
    let hot_data = Arc::clone(&data);
    let save_hot = move |bytes: &[u8]| save(&hot_data, hot_keys::FILE, bytes);
    let save_keyspaces = control::saver::beside(move |keyspaces| control_file.write(keyspaces))
        .map_err(|error| {
            format!(
                "no thread to write {}: {}",
                catalogue::FILE,
                explain(&error, Attempt::Thread)
            )
        })?;
    let means = Means {
        kms: Rc::new(kms),
        file: Some(catalogue_file),
        save: save_keyspaces,
        save_hot_keys: Arc::new(save_hot),
        shards: to_shards,
        exporter: to_exporter,
        viewers,
        renew_early_ppm,
    };
    let driver = Driver::new(control, means);
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async move {
        let sleep = async |until: Instant| {
            let left_us = until.saturating_since(clock::now());
            tokio::time::sleep(Duration::from_micros(left_us)).await;
        };
        driver.run(control_requests, shards_stopped, sleep).await;
    });
    let _ = std::fs::remove_file(saved_dir.join(ENDPOINTS_FILE));
    tracing::info!("stopped");
    logging::flush();
    // Shard threads are parked with unfinished tasks, which must not be dropped.
    exit::now(u8::from(failed.load(Ordering::Relaxed)));
}

fn move_keys(data: &mut DataDir, shards: u16) -> Result<(), String> {
    let before = data.manifest().shard_count;
    if before == shards {
        return Ok(());
    }
    let router = Router::new(data.manifest().routing_seed, shards).map_err(|e| e.to_string())?;
    tracing::info!(
        before,
        now = shards,
        "the shard count changed: moving every key to its owner"
    );
    let mut said_at = quanta::Instant::now();
    let report = reshard(
        data,
        shards,
        |keyspace, key_id: &[u8]| usize::from(router.shard_of(keyspace, key_id)),
        |progress| {
            if said_at.elapsed().as_secs() >= 1 {
                said_at = quanta::Instant::now();
                tracing::info!(records = progress.records_done, "moving keys");
            }
        },
    )
    .map_err(|error| error.to_string())?;
    for damage in &report.damage {
        tracing::error!(?damage, "a damaged record was met on the way");
    }
    if let Some(kept) = &report.kept {
        tracing::error!(
            kept = %kept.display(),
            "the old generation is kept, since records in it are damaged: see damaged.txt there"
        );
    }
    Ok(())
}

/// The keys that were hot in the last run. A file that cannot be read makes the start a colder one, no more.
fn read_hot_keys(data: &DataDir) -> Vec<HotKey> {
    let text = match std::fs::read_to_string(data.path().join(hot_keys::FILE)) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => {
            tracing::warn!(%error, "{} cannot be read: starting with a cold cache", hot_keys::FILE);
            return Vec::new();
        }
    };
    hot_keys::parse(&text).unwrap_or_else(|error| {
        tracing::warn!(%error, "starting with a cold cache");
        Vec::new()
    })
}

fn save(data: &DataDir, file: &str, bytes: &[u8]) -> std::io::Result<()> {
    data.write_file(file, bytes).map_err(std::io::Error::other)
}

fn random_seed() -> Result<u64, String> {
    getrandom::u64().map_err(|error| format!("no randomness from the system: {error}"))
}

/// The figure of this process, as in `keyway_core::Limits`, for all its shards.
fn draw_renew_early_ppm() -> Result<u32, String> {
    Ok((random_seed()? % (u64::from(RENEW_EARLY_PPM_DRAWN_MAX) + 1)) as u32)
}

/// Says where it listens: in the log for people, in a file for scripts.
fn announce(
    config: &Config,
    data: &DataDir,
    shared: std::net::SocketAddr,
    own: &[u16],
    metrics: std::net::SocketAddr,
) {
    let document = serde_json::json!({
        "pid": std::process::id(),
        "tcp": shared.to_string(),
        "shard_ports": own,
        "unix": config.listeners.unix,
        "metrics": metrics.to_string(),
    });
    // Only scripts want it: a full disk does not keep the server from serving.
    if let Err(error) = data.write_file(ENDPOINTS_FILE, format!("{document:#}\n").as_bytes()) {
        tracing::warn!(%error, "{ENDPOINTS_FILE} cannot be written: scripts do not find the addresses");
    }
    if config.dev {
        tracing::warn!("--dev: access control is off, any client may do anything");
    }
    tracing::info!(
        tcp = %shared,
        shard_ports = ?own,
        unix = %config.listeners.unix.display(),
        metrics = %format!("http://{metrics}/metrics"),
        shards = config.shards,
        data = %config.data.display(),
        "keywayd is listening"
    );
}
