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
fn read_message(stream: &mut BufReader<std::net::TcpStream>) -> Option<(String, String, String)> {
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
        let request = format!("POST {path} HTTP/1.1\r\nHost: kms\r\nContent-Length: 2\r\n\r\nab");
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
fn a_fault_can_begin_after_some_more_requests() {
    let proxy = FaultProxy::start(upstream());
    proxy.set_after(2, Fault::Deny);
    let mut caller = Caller::connect(&proxy);
    for refused in [false, false, true, true] {
        let (first, ..) = caller.post("/").unwrap();
        assert_eq!(first.contains("403"), refused, "{first}");
    }
    // What is set now comes before what was to be.
    proxy.set_after(0, Fault::Error);
    proxy.set(Fault::Pass);
    assert!(caller.post("/").unwrap().0.contains("200"));
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
    assert_eq!(
        body,
        r#"{"errors":["1 error occurred:\n\t* permission denied\n\n"]}"#
    );
    proxy.set(Fault::UnknownToken);
    let (_, _, body) = caller.post("/").unwrap();
    assert_eq!(body, r#"{"errors":["permission denied"]}"#);
    proxy.set(Fault::Page(403));
    let (first, headers, body) = caller.post("/").unwrap();
    assert_eq!(first, "HTTP/1.1 403 Forbidden");
    assert!(headers.contains("text/html") && body.starts_with("<html>"));
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
    assert_eq!(statuses, [403, 403, 403, 429, 503, 200]);
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
