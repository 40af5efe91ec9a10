//! A KMS that fails on demand: an HTTP/1.1 proxy in front of a real one, which passes requests on, is slow, throttles,
//! denies or is not there, and keeps a record of every call.
//!
//! ```text
//!  Keyway ──HTTP──▶ FaultProxy ──HTTP──▶ the real KMS
//!                       │  ▲
//!                    calls  set(Fault)
//!                       ▼  │
//!                       test
//! ```

use std::convert::Infallible;
use std::future::pending;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderMap, RETRY_AFTER, TRANSFER_ENCODING};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::sync::{oneshot, watch};

/// What happens to a request. It meets the fault that is set when its head arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Passed on.
    Pass,
    /// Unreachable: connections are closed immediately, including existing ones.
    Down,
    /// Taken and never answered; it ends when the caller gives up.
    Hang,
    /// Passed on after this time.
    Delay(Duration),
    /// 429 with `Retry-After`, in seconds.
    Throttle {
        /// The header's value.
        retry_after_s: u32,
    },
    /// 403, in the words that Vault and OpenBao have for a policy that does not allow a call.
    Deny,
    /// 403, in the words that Vault and OpenBao have for a token that they do not know.
    UnknownToken,
    /// This status and a page in HTML, as of a gateway or a firewall.
    Page(u16),
    /// 503.
    Error,
}

/// One call that reached the proxy.
#[derive(Clone, Debug)]
pub struct Call {
    /// When its head arrived; for a connection that was closed at once, when it was made.
    pub at: Instant,
    /// When it was answered, or abandoned by either side; `None` while it is in flight.
    pub ended: Option<Instant>,
    /// The path and the query; empty for a connection that was closed at once.
    pub path: String,
    /// What it met.
    pub fault: Fault,
    /// The answer's status; `None` while it has none.
    pub status: Option<u16>,
}

/// A fault that begins after some more requests.
#[derive(Clone, Copy, Debug)]
struct Later {
    requests_left: usize,
    fault: Fault,
}

/// A running proxy. Dropping it closes its connections and ends its thread.
#[derive(Debug)]
pub struct FaultProxy {
    address: SocketAddr,
    fault: Arc<watch::Sender<Fault>>,
    later: Arc<Mutex<Option<Later>>>,
    ledger: Arc<Ledger>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl FaultProxy {
    /// Starts one on a free loopback port in front of `upstream`, in a thread of its own. It passes everything on.
    ///
    /// # Panics
    /// If there is no port or no thread.
    pub fn start(upstream: SocketAddr) -> FaultProxy {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let fault = Arc::new(watch::Sender::new(Fault::Pass));
        let later = Arc::new(Mutex::new(None));
        let ledger = Arc::new(Ledger::default());
        let (stop, stopped) = oneshot::channel();
        let proxy = Proxy {
            upstream,
            client: Client::builder(TokioExecutor::new()).build_http(),
            fault: Arc::clone(&fault),
            later: Arc::clone(&later),
            ledger: Arc::clone(&ledger),
        };
        let run = move || {
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = runtime.enable_all().build().unwrap();
            runtime.block_on(async {
                tokio::select! {
                    () = proxy.accept(listener) => {}
                    _ = stopped => {}
                }
            });
        };
        let thread = std::thread::Builder::new().name("fault-proxy".into());
        FaultProxy {
            address,
            fault,
            later,
            ledger,
            stop: Some(stop),
            thread: Some(thread.spawn(run).unwrap()),
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sets what later requests meet. Requests in flight keep what they met, except that [`Fault::Down`] ends them.
    pub fn set(&self, fault: Fault) {
        *self.later.lock().unwrap() = None;
        self.fault.send_replace(fault);
    }

    /// What later requests meet after `requests` more: in the midst of an operation that makes several. Until then they
    /// meet what is set now; [`FaultProxy::set`] takes this back.
    pub fn set_after(&self, requests: usize, fault: Fault) {
        let requests_left = requests;
        *self.later.lock().unwrap() = Some(Later {
            requests_left,
            fault,
        });
    }

    /// All calls so far, by their time.
    pub fn calls(&self) -> Vec<Call> {
        self.ledger.lock().clone()
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        // An error means that the thread has ended already; its panic is the test's.
        let _ended = self.stop.take().map(|stop| stop.send(()));
        let thread = self.thread.take().map(JoinHandle::join);
        if let Some(Err(panic)) = thread
            && !std::thread::panicking()
        {
            std::panic::resume_unwind(panic);
        }
    }
}

/// Returns the most of `calls` that were in flight at the same time. One that still is counts to the end.
pub fn concurrency_max(calls: &[Call]) -> usize {
    let mut changes: Vec<(Instant, isize)> = Vec::with_capacity(2 * calls.len());
    for call in calls {
        changes.push((call.at, 1));
        changes.extend(call.ended.map(|ended| (ended, -1)));
    }
    // An end comes before a beginning of the same moment.
    changes.sort();
    let (mut now, mut max) = (0_isize, 0_isize);
    for (_, change) in changes {
        now += change;
        max = max.max(now);
    }
    max.unsigned_abs()
}

/// Calls as they come; an index stays good, since none is ever removed.
#[derive(Debug, Default)]
struct Ledger(Mutex<Vec<Call>>);

impl Ledger {
    fn lock(&self) -> MutexGuard<'_, Vec<Call>> {
        self.0.lock().unwrap()
    }

    fn begin(self: &Arc<Self>, path: String, fault: Fault) -> Open {
        let mut calls = self.lock();
        calls.push(Call {
            at: Instant::now(),
            ended: None,
            path,
            fault,
            status: None,
        });
        Open {
            ledger: Arc::clone(self),
            index: calls.len() - 1,
        }
    }
}

/// A call in flight; it ends with this, answered or not.
struct Open {
    ledger: Arc<Ledger>,
    index: usize,
}

impl Open {
    fn answered(&self, status: StatusCode) {
        self.ledger.lock()[self.index].status = Some(status.as_u16());
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.ledger.lock()[self.index].ended = Some(Instant::now());
    }
}

#[derive(Clone)]
struct Proxy {
    upstream: SocketAddr,
    client: Client<HttpConnector, Full<Bytes>>,
    fault: Arc<watch::Sender<Fault>>,
    later: Arc<Mutex<Option<Later>>>,
    ledger: Arc<Ledger>,
}

impl Proxy {
    async fn accept(&self, listener: TcpListener) {
        listener.set_nonblocking(true).unwrap();
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        loop {
            // A caller that is gone before it is accepted does not matter.
            let Ok((stream, _)) = listener.accept().await else {
                continue;
            };
            let fault = *self.fault.borrow();
            if fault == Fault::Down {
                drop(self.ledger.begin(String::new(), fault));
                continue;
            }
            tokio::spawn(self.clone().serve(stream));
        }
    }

    /// Serves one connection, until the caller closes it or the fault is `Down`.
    async fn serve(self, stream: TcpStream) {
        let mut fault = self.fault.subscribe();
        let answer =
            service_fn(|request| async { Ok::<_, Infallible>(self.answer(request).await) });
        let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), answer);
        tokio::select! {
            biased;
            _ = fault.wait_for(|fault| *fault == Fault::Down) => {}
            // An error is a caller that broke off.
            _ = connection => {}
        }
    }

    /// Counts one request for [`FaultProxy::set_after`].
    fn count_request(&self) {
        let mut later = self.later.lock().unwrap();
        match &mut *later {
            None => {}
            Some(Later {
                requests_left: 0,
                fault,
            }) => {
                self.fault.send_replace(*fault);
                *later = None;
            }
            Some(later) => later.requests_left -= 1,
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        self.count_request();
        let fault = *self.fault.borrow();
        let path = request.uri().path_and_query();
        let path = path.map_or_else(|| "/".to_owned(), ToString::to_string);
        let call = self.ledger.begin(path.clone(), fault);
        let answer = match fault {
            Fault::Pass => self.forward(request, &path).await,
            Fault::Delay(time) => {
                tokio::time::sleep(time).await;
                self.forward(request, &path).await
            }
            // Down can be set between the connection's last look and this one.
            Fault::Hang | Fault::Down => pending().await,
            Fault::Throttle { retry_after_s } => {
                let mut answer = refusal(StatusCode::TOO_MANY_REQUESTS, "rate limit exceeded");
                answer
                    .headers_mut()
                    .insert(RETRY_AFTER, retry_after_s.into());
                answer
            }
            Fault::Deny => refusal(
                StatusCode::FORBIDDEN,
                "1 error occurred:\n\t* permission denied\n\n",
            ),
            Fault::UnknownToken => refusal(StatusCode::FORBIDDEN, "permission denied"),
            Fault::Page(status) => page(status),
            Fault::Error => refusal(StatusCode::SERVICE_UNAVAILABLE, "service unavailable"),
        };
        call.answered(answer.status());
        answer
    }

    /// The real KMS's answer, or 502 if it gives none.
    async fn forward(&self, request: Request<Incoming>, path: &str) -> Response<Full<Bytes>> {
        self.exchange(request, path).await.unwrap_or_else(|error| {
            eprintln!("fault proxy: {path}: {error}");
            refusal(StatusCode::BAD_GATEWAY, "bad gateway")
        })
    }

    async fn exchange(
        &self,
        request: Request<Incoming>,
        path: &str,
    ) -> Result<Response<Full<Bytes>>, Box<dyn std::error::Error + Send + Sync>> {
        let (mut head, body) = request.into_parts();
        let body = body.collect().await?.to_bytes();
        head.uri = format!("http://{}{path}", self.upstream).parse()?;
        drop_hop_headers(&mut head.headers);
        let answer = self
            .client
            .request(Request::from_parts(head, Full::new(body)))
            .await?;
        let (mut head, body) = answer.into_parts();
        let body = body.collect().await?.to_bytes();
        drop_hop_headers(&mut head.headers);
        Ok(Response::from_parts(head, Full::new(body)))
    }
}

/// These speak of one connection, not of the request.
fn drop_hop_headers(headers: &mut HeaderMap) {
    headers.remove(CONNECTION);
    headers.remove(TRANSFER_ENCODING);
}

fn page(status: u16) -> Response<Full<Bytes>> {
    let body = format!("<html><body>{status} by the gateway</body></html>");
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    *answer.status_mut() = StatusCode::from_u16(status).unwrap();
    let html = "text/html".parse().unwrap();
    answer.headers_mut().insert(CONTENT_TYPE, html);
    answer
}

fn refusal(status: StatusCode, word: &str) -> Response<Full<Bytes>> {
    let body = serde_json::json!({ "errors": [word] }).to_string();
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    *answer.status_mut() = status;
    let json = "application/json".parse().unwrap();
    answer.headers_mut().insert(CONTENT_TYPE, json);
    answer
}

#[cfg(test)]
mod tests;
