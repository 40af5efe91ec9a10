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

/// What becomes of a request. It meets the fault that is set when its head arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Passed on.
    Pass,
    /// Nobody is there: connections are closed at once, those that stand already as well.
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
    /// 403, in the words of Vault and OpenBao.
    Deny,
    /// 503.
    Error,
}

/// One call that reached the proxy.
#[derive(Clone, Debug)]
pub struct Call {
    /// When its head arrived; for a connection that was closed at once, when it was made.
    pub at: Instant,
    /// When it was answered, or given up by either side; `None` while it is under way.
    pub ended: Option<Instant>,
    /// The path and the query; empty for a connection that was closed at once.
    pub path: String,
    /// What it met.
    pub fault: Fault,
    /// The answer's status; `None` while it has none.
    pub status: Option<u16>,
}

/// A running proxy. Dropping it closes its connections and ends its thread.
#[derive(Debug)]
pub struct FaultProxy {
    address: SocketAddr,
    fault: Arc<watch::Sender<Fault>>,
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
        let ledger = Arc::new(Ledger::default());
        let (stop, stopped) = oneshot::channel();
        let proxy = Proxy {
            upstream,
            client: Client::builder(TokioExecutor::new()).build_http(),
            fault: Arc::clone(&fault),
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
            ledger,
            stop: Some(stop),
            thread: Some(thread.spawn(run).unwrap()),
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What later requests meet. Requests under way keep what they met, except that [`Fault::Down`] ends them.
    pub fn set(&self, fault: Fault) {
        self.fault.send_replace(fault);
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

/// The most of `calls` that were under way at once. One that still is counts to the end.
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

/// A call under way; it ends with this, answered or not.
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
    ledger: Arc<Ledger>,
}

impl Proxy {
    async fn accept(&self, listener: TcpListener) {
        listener.set_nonblocking(true).unwrap();
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        loop {
            // A caller that is gone before it is accepted concerns nobody.
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

    /// One connection, until the caller closes it or nobody is to be here any more.
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

    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
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
            Fault::Deny => refusal(StatusCode::FORBIDDEN, "permission denied"),
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

fn refusal(status: StatusCode, word: &str) -> Response<Full<Bytes>> {
    let body = serde_json::json!({ "errors": [word] }).to_string();
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    *answer.status_mut() = status;
    let json = "application/json".parse().unwrap();
    answer.headers_mut().insert(CONTENT_TYPE, json);
    answer
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, ErrorKind, Read, Write};

    use super::*;

    /// Long enough for any machine; no test waits for it unless it fails.
    const TIME_LIMIT: Duration = Duration::from_secs(300);
    /// Short enough to wait for; what must not come within it would come at once.
    const SHORT: Duration = Duration::from_millis(200);

    /// Answers every POST with its body twice, in chunks as a Go server would, and any number on one connection.
    fn upstream() -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                std::thread::spawn(move || {
                    let mut stream = BufReader::new(stream.unwrap());
                    while let Some((_, _, body)) = read_message(&mut stream) {
                        let len = body.len();
                        let answer = format!(
                            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{len:x}\r\n{body}\r\n\
                             {len:x}\r\n{body}\r\n0\r\n\r\n"
                        );
                        stream.get_mut().write_all(answer.as_bytes()).unwrap();
                    }
                });
            }
        });
        address
    }

    /// The first line, the headers and the body by its Content-Length; `None` at the end of the connection.
    fn read_message(
        stream: &mut BufReader<std::net::TcpStream>,
    ) -> Option<(String, String, String)> {
        let (mut first, mut headers, mut len) = (String::new(), String::new(), 0);
        if stream.read_line(&mut first).unwrap_or(0) == 0 {
            return None;
        }
        loop {
            let mut line = String::new();
            stream.read_line(&mut line).ok()?;
            if line.trim().is_empty() {
                break;
            }
            let line = line.to_ascii_lowercase();
            if let Some(value) = line.strip_prefix("content-length:") {
                len = value.trim().parse().unwrap();
            }
            headers.push_str(&line);
        }
        let mut body = vec![0; len];
        stream.read_exact(&mut body).ok()?;
        Some((
            first.trim().to_owned(),
            headers,
            String::from_utf8(body).unwrap(),
        ))
    }

    /// One keep-alive connection to the proxy.
    struct Caller(BufReader<std::net::TcpStream>);

    impl Caller {
        fn connect(proxy: &FaultProxy) -> Caller {
            let stream = std::net::TcpStream::connect(proxy.address()).unwrap();
            stream.set_read_timeout(Some(TIME_LIMIT)).unwrap();
            Caller(BufReader::new(stream))
        }

        fn send(&mut self, path: &str) {
            let request =
                format!("POST {path} HTTP/1.1\r\nHost: kms\r\nContent-Length: 2\r\n\r\nab");
            // The far end may have closed already; then the answer says so.
            let _closed = self.0.get_mut().write_all(request.as_bytes());
        }

        fn post(&mut self, path: &str) -> Option<(String, String, String)> {
            self.send(path);
            read_message(&mut self.0)
        }
    }

    /// Waits until the record of calls is as wanted.
    fn wait_for(proxy: &FaultProxy, is_there: impl Fn(&[Call]) -> bool) {
        let began = Instant::now();
        while !is_there(&proxy.calls()) {
            assert!(began.elapsed() < TIME_LIMIT, "{:?}", proxy.calls());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn requests_pass_over_one_connection_and_are_recorded() {
        let proxy = FaultProxy::start(upstream());
        let mut caller = Caller::connect(&proxy);
        for path in ["/v1/transit/encrypt/k", "/v1/transit/decrypt/k?x=1"] {
            let (first, _, body) = caller.post(path).unwrap();
            assert_eq!((&*first, &*body), ("HTTP/1.1 200 OK", "abab"));
        }
        wait_for(&proxy, |calls| {
            calls.iter().all(|call| call.ended.is_some())
        });
        let calls = proxy.calls();
        let seen: Vec<_> = calls
            .iter()
            .map(|call| (&*call.path, call.status))
            .collect();
        let expected = [
            ("/v1/transit/encrypt/k", Some(200)),
            ("/v1/transit/decrypt/k?x=1", Some(200)),
        ];
        assert_eq!(seen, expected);
        assert!(calls[0].ended <= Some(calls[1].at));
        assert_eq!(concurrency_max(&calls), 1);
    }

    #[test]
    fn refusals_have_their_status_and_leave_the_connection_good() {
        let proxy = FaultProxy::start(upstream());
        let mut caller = Caller::connect(&proxy);
        proxy.set(Fault::Deny);
        let (first, _, body) = caller.post("/").unwrap();
        assert_eq!(first, "HTTP/1.1 403 Forbidden");
        assert_eq!(body, r#"{"errors":["permission denied"]}"#);
        proxy.set(Fault::Throttle { retry_after_s: 7 });
        let (first, headers, _) = caller.post("/").unwrap();
        assert_eq!(first, "HTTP/1.1 429 Too Many Requests");
        assert!(headers.contains("retry-after: 7\r\n"), "{headers}");
        proxy.set(Fault::Error);
        let (first, ..) = caller.post("/").unwrap();
        assert_eq!(first, "HTTP/1.1 503 Service Unavailable");
        proxy.set(Fault::Pass);
        assert_eq!(caller.post("/").unwrap().2, "abab");
        let statuses: Vec<_> = proxy
            .calls()
            .iter()
            .filter_map(|call| call.status)
            .collect();
        assert_eq!(statuses, [403, 429, 503, 200]);
    }

    #[test]
    fn down_closes_what_stands_and_what_comes() {
        let proxy = FaultProxy::start(upstream());
        let mut standing = Caller::connect(&proxy);
        assert!(standing.post("/").is_some());
        proxy.set(Fault::Hang);
        standing.send("/hung");
        wait_for(&proxy, |calls| calls.len() == 2);
        proxy.set(Fault::Down);
        assert!(read_message(&mut standing.0).is_none());
        assert!(Caller::connect(&proxy).post("/").is_none());
        wait_for(&proxy, |calls| calls.len() == 3 && calls[1].ended.is_some());
        let calls = proxy.calls();
        assert_eq!((calls[1].status, calls[2].status), (None, None));
        assert_eq!((&*calls[2].path, calls[2].fault), ("", Fault::Down));
        proxy.set(Fault::Pass);
        assert!(Caller::connect(&proxy).post("/").is_some());
    }

    #[test]
    fn a_hung_request_is_never_answered_and_ends_with_its_caller() {
        let proxy = FaultProxy::start(upstream());
        proxy.set(Fault::Hang);
        let mut caller = Caller::connect(&proxy);
        caller.send("/");
        wait_for(&proxy, |calls| calls.len() == 1);
        proxy.set(Fault::Pass);
        caller.0.get_ref().set_read_timeout(Some(SHORT)).unwrap();
        let error = caller.0.read_line(&mut String::new()).unwrap_err();
        assert!(matches!(
            error.kind(),
            ErrorKind::WouldBlock | ErrorKind::TimedOut
        ));
        assert_eq!(proxy.calls()[0].ended, None);
        drop(caller);
        wait_for(&proxy, |calls| calls[0].ended.is_some());
        assert_eq!(proxy.calls()[0].status, None);
    }

    #[test]
    fn a_slow_request_is_passed_on_in_the_end() {
        let proxy = FaultProxy::start(upstream());
        proxy.set(Fault::Delay(SHORT));
        let began = Instant::now();
        assert_eq!(Caller::connect(&proxy).post("/").unwrap().2, "abab");
        assert!(began.elapsed() >= SHORT);
    }

    #[test]
    fn requests_of_several_connections_are_under_way_together() {
        let proxy = FaultProxy::start(upstream());
        proxy.set(Fault::Hang);
        let mut callers: Vec<_> = (0..3).map(|_| Caller::connect(&proxy)).collect();
        for caller in &mut callers {
            caller.send("/");
        }
        wait_for(&proxy, |calls| concurrency_max(calls) == 3);
    }

    #[test]
    fn concurrency_is_what_overlaps() {
        let zero = Instant::now();
        let call = |at_ms: u64, ended_ms: Option<u64>| Call {
            at: zero + Duration::from_millis(at_ms),
            ended: ended_ms.map(|ms| zero + Duration::from_millis(ms)),
            path: String::new(),
            fault: Fault::Pass,
            status: None,
        };
        assert_eq!(concurrency_max(&[]), 0);
        assert_eq!(concurrency_max(&[call(0, Some(10)), call(10, Some(20))]), 1);
        assert_eq!(
            concurrency_max(&[call(0, Some(10)), call(5, Some(20)), call(9, None)]),
            3
        );
        assert_eq!(
            concurrency_max(&[call(0, None), call(5, Some(6)), call(9, None)]),
            2
        );
    }

    #[test]
    fn a_kms_that_is_gone_is_a_bad_gateway() {
        let proxy = FaultProxy::start((Ipv4Addr::LOCALHOST, crate::process::free_port()).into());
        let (first, ..) = Caller::connect(&proxy).post("/").unwrap();
        assert_eq!(first, "HTTP/1.1 502 Bad Gateway");
    }

    #[test]
    fn a_proxy_that_is_dropped_is_gone() {
        let proxy = FaultProxy::start(upstream());
        let address = proxy.address();
        let mut caller = Caller::connect(&proxy);
        assert!(caller.post("/").is_some());
        drop(proxy);
        assert!(read_message(&mut caller.0).is_none());
        assert!(std::net::TcpStream::connect(address).is_err());
    }
}
