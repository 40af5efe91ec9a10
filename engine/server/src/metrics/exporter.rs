//! The exporter's thread: /metrics, /healthz, /readyz and the live page over HTTP, and the answer to STATUS.
//!
//! Shards hand it a snapshot a second with `try_send` and never wait; when its inbox is full a
//! snapshot is lost and the next one carries the same counters.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use prometheus::{Encoder, TextEncoder};
use tokio::sync::{mpsc, oneshot};

use super::collector::LatestSnapshots;
use super::page::{self, ActiveViewers};
use super::snapshot::Snapshot;
use super::{http, live, status_page};

/// Messages that wait for the exporter before more are dropped.
pub const INBOX_MAX: usize = 1_024;

/// A shard that is silent for longer is reported by /healthz.
const SHARD_HEARTBEAT_MAX: Duration = Duration::from_secs(5);

/// The exporter thread's nice value.
const SCRAPE_NICE: i32 = 10;

/// The messages to the exporter.
#[derive(Debug)]
pub enum Message {
    /// Newer values.
    Snapshot(Snapshot),
    /// STATUS: the JSON document.
    Status {
        /// The row behind which the page begins, 0 for the first.
        after: u64,
        /// Told the page.
        answer: oneshot::Sender<String>,
    },
}

/// Hands the exporter a snapshot without waiting. A full inbox loses it; the next one carries the
/// same counters.
pub fn offer(exporter: &mpsc::Sender<Message>, snapshot: Snapshot) {
    let _ = exporter.try_send(Message::Snapshot(snapshot));
}

/// Asks for a page of STATUS. `None`: the exporter has stopped.
pub async fn status_page(exporter: &mpsc::Sender<Message>, after: u64) -> Option<String> {
    let (answer, answered) = oneshot::channel();
    let asked = exporter.send(Message::Status { after, answer }).await;
    asked.ok()?;
    answered.await.ok()
}

/// Runs the exporter on a thread of its own until the process ends. `viewers` records views of the live page.
///
/// Errors: the address cannot be bound.
pub fn start(
    address: SocketAddr,
    shard_count: u16,
    inbox: mpsc::Receiver<Message>,
    viewers: Arc<ActiveViewers>,
    limits: http::Limits,
) -> std::io::Result<SocketAddr> {
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    let bound = listener.local_addr()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    std::thread::Builder::new()
        .name("exporter".to_owned())
        .spawn(move || {
            lower_thread_priority();
            let local = tokio::task::LocalSet::new();
            local.block_on(
                &runtime,
                serve(listener, shard_count, inbox, viewers, limits),
            );
        })?;
    Ok(bound)
}

/// Lowers this thread's priority: a scrape takes milliseconds, and on a core that it shares with a
/// shard it would hold up requests for as long.
fn lower_thread_priority() {
    // On Linux the value is the thread's own. A refusal leaves it as it was.
    let _ = rustix::process::setpriority_process(None, SCRAPE_NICE);
}

/// What an HTTP handler asks the collecting task for.
#[derive(Debug)]
pub enum Page {
    /// `/metrics`
    Metrics,
    /// `/healthz`
    Health,
    /// `/readyz`
    Ready,
    /// `/live.json`
    Live,
}

/// A page that is asked for, and where its status, content type and body go.
pub type PageRequest = (Page, oneshot::Sender<(StatusCode, &'static str, String)>);

async fn serve(
    listener: std::net::TcpListener,
    shard_count: u16,
    inbox: mpsc::Receiver<Message>,
    viewers: Arc<ActiveViewers>,
    limits: http::Limits,
) {
    let (pages, asked) = mpsc::channel::<PageRequest>(64);
    tokio::task::spawn_local(collect(shard_count, inbox, asked));
    let app = axum::Router::new()
        .route("/metrics", get(|state| page(Page::Metrics, state)))
        .route("/healthz", get(|state| page(Page::Health, state)))
        .route("/readyz", get(|state| page(Page::Ready, state)))
        .route(
            "/live.json",
            get(move |state| {
                viewers.record_view();
                page(Page::Live, state)
            }),
        )
        .merge(page::files())
        .with_state(Arc::new(pages));
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "exporter cannot listen"),
    };
    http::serve(listener, app, limits).await;
}

async fn page(
    page: Page,
    State(pages): State<Arc<mpsc::Sender<PageRequest>>>,
) -> impl IntoResponse {
    let (answer, answered) = oneshot::channel();
    let asked = pages.send((page, answer)).await.is_ok();
    match answered.await {
        Ok((status, kind, body)) if asked => (status, [(CONTENT_TYPE, kind)], body),
        _ => (
            StatusCode::INTERNAL_SERVER_ERROR,
            [(CONTENT_TYPE, "text/plain")],
            "metrics collector stopped\n".to_owned(),
        ),
    }
}

struct Collected {
    latest: LatestSnapshots,
    shard_count: u16,
    last_snapshot_at: Vec<Option<Instant>>,
}

/// Receives snapshots and answers from the latest ones, until all senders are gone.
pub async fn collect(
    shard_count: u16,
    mut inbox: mpsc::Receiver<Message>,
    mut asked: mpsc::Receiver<PageRequest>,
) {
    let collected = RefCell::new(Collected {
        latest: LatestSnapshots::default(),
        shard_count,
        last_snapshot_at: vec![None; usize::from(shard_count)],
    });
    loop {
        // Snapshots first: an answer is then never older than what came before the question.
        tokio::select! {
            biased;
            message = inbox.recv() => match message {
                Some(Message::Snapshot(snapshot)) => collected.borrow_mut().take(snapshot),
                Some(Message::Status { after, answer }) => {
                    let page = status_page::page(&collected.borrow().latest, shard_count, after);
                    // The requester may be gone.
                    let _ = answer.send(page);
                }
                None => return,
            },
            Some((page, answer)) = asked.recv() => {
                let _ = answer.send(collected.borrow().render(page));
            }
        }
    }
}

impl Collected {
    fn take(&mut self, snapshot: Snapshot) {
        if let Snapshot::Shard(shard) = &snapshot
            && let Some(last_snapshot_at) = self.last_snapshot_at.get_mut(usize::from(shard.shard))
        {
            *last_snapshot_at = Some(Instant::now());
        }
        self.latest.take(snapshot);
    }

    fn render(&self, page: Page) -> (StatusCode, &'static str, String) {
        match page {
            Page::Metrics => self.metrics(),
            Page::Health => self.health(),
            Page::Ready => self.ready(),
            Page::Live => self.live(),
        }
    }

    fn metrics(&self) -> (StatusCode, &'static str, String) {
        let mut out = Vec::with_capacity(64 << 10);
        match TextEncoder::new().encode(&self.latest.families(), &mut out) {
            Ok(()) => {
                let text = String::from_utf8_lossy(&out).into_owned();
                (StatusCode::OK, prometheus::TEXT_FORMAT, text)
            }
            Err(error) => (
                StatusCode::INTERNAL_SERVER_ERROR,
                "text/plain",
                format!("{error}\n"),
            ),
        }
    }

    fn live(&self) -> (StatusCode, &'static str, String) {
        let silent_for = |shard: u16| {
            let last_snapshot_at = self.last_snapshot_at.get(usize::from(shard))?;
            last_snapshot_at.map(|at| at.elapsed())
        };
        let document = live::document(&self.latest, self.shard_count, silent_for);
        (StatusCode::OK, "application/json", document.to_string())
    }

    fn health(&self) -> (StatusCode, &'static str, String) {
        let silent: Vec<usize> = self
            .last_snapshot_at
            .iter()
            .enumerate()
            .filter(|(_, at)| at.is_some_and(|at| at.elapsed() > SHARD_HEARTBEAT_MAX))
            .map(|(shard, _)| shard)
            .collect();
        if silent.is_empty() {
            return (StatusCode::OK, "text/plain", "ok\n".to_owned());
        }
        let text = format!(
            "shards silent for more than {} s: {silent:?}\n",
            SHARD_HEARTBEAT_MAX.as_secs()
        );
        (StatusCode::SERVICE_UNAVAILABLE, "text/plain", text)
    }

    fn ready(&self) -> (StatusCode, &'static str, String) {
        let serving = self.latest.shards().filter(|shard| shard.serving).count();
        let warming = || self.latest.shards().map(|shard| shard.warm_start);
        let warm = warming().all(|warm_start| warm_start.settled);
        let ready = serving == usize::from(self.shard_count) && warm;
        let locked: Vec<_> = self
            .latest
            .keyspaces()
            .into_iter()
            .filter(|keyspace| keyspace.locked)
            .map(|keyspace| keyspace.name)
            .collect();
        let document = serde_json::json!({
            "ready": ready,
            "shards_serving": serving,
            "shard_count": self.shard_count,
            "recovered_bytes": self.latest.shards().map(|s| s.recovered_bytes).sum::<u64>(),
            "recovery_total_bytes":
                self.latest.shards().map(|s| s.recovery_total_bytes).sum::<u64>(),
            "warm_start_done": warm,
            "warm_start_keys": warming().map(|warm| warm.keys_total).sum::<u64>(),
            "warm_start_keys_left": warming().map(|warm| warm.keys_left).sum::<u64>(),
            "locked_keyspaces": locked,
        });
        let status = if ready {
            StatusCode::OK
        } else {
            StatusCode::SERVICE_UNAVAILABLE
        };
        (status, "application/json", format!("{document}\n"))
    }
}
