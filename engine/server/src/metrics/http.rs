//! The exporter's HTTP server. It is bounded in connections, descriptors, time and size, and accepts its own host names
//! alone.
//!
//! The port has no authentication, so any user of the machine can connect to it and take one of its few places. The
//! next visitor gets the place of one that has sent no request.

use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{Request, State};
use axum::http::header::{CONTENT_LENGTH, HOST, HeaderMap, TRANSFER_ENCODING};
use axum::http::{StatusCode, Uri, Version};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

use super::page;

/// Connections that the port has at once, whose they may be.
pub const CONNECTIONS_MAX: usize = 32;

/// Time for the head of a request, and between two requests of a connection.
const HEAD_TIME_MAX: Duration = Duration::from_secs(5);

/// Time for all requests of a connection, after which a client connects again.
const CONNECTION_TIME_MAX: Duration = Duration::from_secs(300);

/// Time for a last answer to be taken.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(10);

/// Bytes of a request's head.
const HEAD_BYTES_MAX: usize = 16 << 10;

/// Headers of a request.
const HEADERS_MAX: usize = 64;

/// Characters of a host name that an answer repeats.
const HOST_SHOWN_MAX: usize = 100;

/// Pause after an accept that failed.
const ACCEPT_BACK_OFF: Duration = Duration::from_millis(100);

const TURNED_AWAY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain\r\n\
    Content-Length: 51\r\nConnection: close\r\n\r\nthe metrics port has no connection left; try later\n";

/// What the port allows.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Host names that it answers to, beside `localhost` and IP addresses.
    pub hosts: Vec<String>,
    /// Descriptors that visitors may use up: those of the process without the ones that are reserved for the operator.
    pub descriptors_max: u64,
}

/// One connection.
struct Visitor {
    has_asked: Cell<bool>,
    active_at: Cell<Instant>,
    leave: Notify,
}

impl Visitor {
    /// Whether another one may have its place.
    fn is_useless(&self) -> bool {
        !self.has_asked.get() || self.active_at.get().elapsed() > HEAD_TIME_MAX
    }
}

type Visitors = Rc<RefCell<Vec<Rc<Visitor>>>>;

/// Serves `app` until the listener's runtime ends.
pub async fn serve(listener: TcpListener, app: axum::Router, limits: Limits) {
    let hosts: Arc<[String]> = limits.hosts.into();
    let app = app
        .fallback(async |uri: Uri| not_found(&uri))
        .method_not_allowed_fallback(async || {
            let text = "this server is only read: use GET\n";
            (StatusCode::METHOD_NOT_ALLOWED, text)
        })
        .layer(axum::middleware::from_fn_with_state(hosts, check))
        .layer(axum::middleware::map_response(page::guard));
    let visitors = Visitors::default();
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "the metrics port cannot accept a connection");
                tokio::time::sleep(ACCEPT_BACK_OFF).await;
                continue;
            }
        };
        let number = u64::try_from(stream.as_raw_fd()).unwrap_or(0);
        let is_short = number >= limits.descriptors_max;
        if is_short || !has_place(&visitors) {
            // As much as the kernel takes immediately: no task waits for a visitor.
            let _ = stream.try_write(TURNED_AWAY);
            continue;
        }
        let visitor = Rc::new(Visitor {
            has_asked: Cell::new(false),
            active_at: Cell::new(Instant::now()),
            leave: Notify::new(),
        });
        visitors.borrow_mut().push(Rc::clone(&visitor));
        let (app, visitors) = (app.clone(), Rc::clone(&visitors));
        tokio::task::spawn_local(async move {
            attend(stream, app, &visitor).await;
            visitors
                .borrow_mut()
                .retain(|other| !Rc::ptr_eq(other, &visitor));
        });
    }
}

/// Makes room if it has to: those that have asked for nothing go first, the oldest of them before others.
fn has_place(visitors: &Visitors) -> bool {
    let mut visitors = visitors.borrow_mut();
    if visitors.len() < CONNECTIONS_MAX {
        return true;
    }
    let order = |at: &usize| (visitors[*at].has_asked.get(), visitors[*at].active_at.get());
    let useless = (0..visitors.len()).filter(|at| visitors[*at].is_useless());
    let Some(at) = useless.min_by_key(order) else {
        return false;
    };
    visitors.remove(at).leave.notify_one();
    true
}

async fn attend(stream: TcpStream, app: axum::Router, visitor: &Rc<Visitor>) {
    let app = TowerToHyperService::new(app);
    let service = service_fn(|request| {
        visitor.has_asked.set(true);
        visitor.active_at.set(Instant::now());
        app.call(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME_MAX)
        .max_headers(HEADERS_MAX)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        // A broken connection is the visitor's affair.
        _ = connection.as_mut() => return,
        () = visitor.leave.notified() => return,
        () = tokio::time::sleep(CONNECTION_TIME_MAX) => connection.as_mut().graceful_shutdown(),
    }
    let _ = tokio::time::timeout(DRAIN_TIME_MAX, connection).await;
}

/// Refuses what the port never serves: a body, and a host name that is not its own. Otherwise a web page whose name
/// resolves to this machine's address (DNS rebinding) could read the metrics.
async fn check(State(hosts): State<Arc<[String]>>, request: Request, next: Next) -> Response {
    let headers = request.headers();
    if headers.contains_key(TRANSFER_ENCODING)
        || headers.get(CONTENT_LENGTH).is_some_and(|len| len != "0")
    {
        let text = "a request to this port has no body\n";
        return (StatusCode::PAYLOAD_TOO_LARGE, text).into_response();
    }
    match host_of(request.uri(), headers) {
        Ok(None) if request.version() < Version::HTTP_11 => next.run(request).await,
        Ok(None) => {
            let text = "the request names no host\n";
            (StatusCode::BAD_REQUEST, text).into_response()
        }
        Ok(Some(host)) if is_own(&host, &hosts) => next.run(request).await,
        Ok(Some(host)) => {
            let host: String = host.chars().take(HOST_SHOWN_MAX).collect();
            let text = format!(
                "this server does not answer to the name `{host}`: use its IP address or \
                 localhost, or start it with --metrics-host {host}\n"
            );
            (StatusCode::MISDIRECTED_REQUEST, text).into_response()
        }
        Err(()) => {
            let text = "the request's host is not readable\n";
            (StatusCode::BAD_REQUEST, text).into_response()
        }
    }
}

/// The one host that a request names, without its port.
fn host_of(uri: &Uri, headers: &HeaderMap) -> Result<Option<String>, ()> {
    let mut named = headers.get_all(HOST).iter();
    let header = named.next();
    if named.next().is_some() {
        return Err(());
    }
    let authority = match (uri.authority(), header) {
        (Some(authority), _) => authority.as_str(),
        (None, Some(header)) => header.to_str().map_err(|_| ())?,
        (None, None) => return Ok(None),
    };
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => host,
        _ => authority,
    };
    Ok(Some(host.trim_end_matches('.').to_ascii_lowercase()))
}

fn is_own(host: &str, hosts: &[String]) -> bool {
    let bare = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host);
    // An address cannot be bound to another one.
    host == "localhost"
        || bare.parse::<IpAddr>().is_ok()
        || hosts.iter().any(|own| own.eq_ignore_ascii_case(host))
}

fn not_found(uri: &Uri) -> (StatusCode, String) {
    let path: String = uri.path().chars().take(HOST_SHOWN_MAX).collect();
    let text = format!(
        "there is no {path} here; there are /, /metrics, /healthz, /readyz and /live.json\n"
    );
    (StatusCode::NOT_FOUND, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_to_one_too_many_has_the_length_that_it_says() {
        let text = std::str::from_utf8(TURNED_AWAY).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(
            head.contains(&format!("Content-Length: {}\r\n", body.len())),
            "{}",
            body.len()
        );
    }

    /// Returns what the port answers under this limit of descriptors.
    async fn answer_under(descriptors_max: u64) -> String {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};

        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let app = axum::Router::new().route("/metrics", axum::routing::get(async || "metrics"));
        let limits = Limits {
            hosts: Vec::new(),
            descriptors_max,
        };
        let serving = tokio::task::spawn_local(serve(listener, app, limits));
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        // It may be closed already.
        let _ = stream.write_all(request).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        serving.abort();
        String::from_utf8(answer).unwrap()
    }

    /// The descriptors above the port's own budget are the operator's: with them gone, LOCK failed.
    #[tokio::test(flavor = "current_thread")]
    async fn a_visitor_gets_no_descriptor_of_those_that_are_reserved() {
        let local = tokio::task::LocalSet::new();
        local
            .run_until(async {
                let answer = answer_under(u64::MAX).await;
                assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
                // Every descriptor of this process has a number that is at least that high.
                let answer = answer_under(3).await;
                assert!(
                    answer.is_empty() || answer.starts_with("HTTP/1.1 503"),
                    "{answer}"
                );
            })
            .await;
    }

    #[test]
    fn names_and_addresses_are_told_apart() {
        let hosts = ["metrics.example".to_owned()];
        let of = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(HOST, text.parse().unwrap());
            host_of(&Uri::from_static("/metrics"), &headers)
        };
        let own = [
            "localhost",
            "LOCALHOST:9420",
            "127.0.0.1:9420",
            "[::1]:9420",
            "10.1.2.3",
            "metrics.example:9420",
            "Metrics.Example.",
            "[::1]",
        ];
        for text in own {
            assert!(is_own(&of(text).unwrap().unwrap(), &hosts), "{text}");
        }
        let foreign = [
            "attacker.example:9420",
            "127.0.0.1.attacker.example",
            "localhost.attacker.example",
            "metrics.example.attacker",
            "",
            ":9420",
        ];
        for text in foreign {
            assert!(!is_own(&of(text).unwrap().unwrap(), &hosts), "{text}");
        }
    }
}
