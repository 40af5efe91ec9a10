//! The loop that sends what is due and records the answers.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use keyway_protocol::{ResponseFlags, Status};
use rustix::buffer::spare_capacity;
use rustix::event::epoll;
use rustix::fd::OwnedFd;
use rustix::time::Timespec;

use super::arrivals::{Arrivals, Pace};
use super::connection::Connection;
use super::pending::{Asked, Pending};
use super::recorder::{Recorder, Recording, Seconds};
use crate::error::{Context, Result};

/// How long after the last due time answers are waited for, where nothing else is wanted.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// How long a pace without an end may go without any answer.
const STALL_MAX: Duration = Duration::from_secs(30);
const EVENTS_MAX: usize = 64;

/// One run of the generator.
pub struct Load<'a> {
    /// The server.
    pub address: SocketAddr,
    /// Connections, over which requests go in turn.
    pub connections: usize,
    /// When requests are due.
    pub pace: Pace,
    /// Encoded requests to choose from.
    pub frames: &'a [Vec<u8>],
    /// The index into `frames` of the next request.
    pub choose: &'a mut dyn FnMut() -> usize,
    /// For the arrival times.
    pub seed: u64,
    /// How long after the last due time answers are waited for.
    pub patience: Duration,
    /// Called for each answer as it arrives, on the generator's thread: it must be quick.
    pub observe: Option<&'a mut dyn FnMut(Answered)>,
}

/// An answer, for a scenario that sorts them its own way.
#[derive(Clone, Copy, Debug)]
pub struct Answered {
    /// Which of the encoded requests it answers.
    pub frame: usize,
    /// When the request was due.
    pub due: Instant,
    /// When the answer came.
    pub at: Instant,
    pub status: Status,
    pub is_stale: bool,
}

/// Runs the load on the calling thread, which spins: give it a core of its own.
pub fn run(load: Load, each_second: Seconds) -> Result<Recording> {
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).context(|| "epoll_create".into())?;
    let in_flight_max = load.pace.in_flight_max(load.connections);
    let mut connections = Vec::new();
    for index in 0..load.connections {
        let connection = Connection::open(load.address, in_flight_max)?;
        let data = epoll::EventData::new_u64(index as u64);
        epoll::add(&epoll, connection.stream(), data, epoll::EventFlags::IN)
            .context(|| "epoll_ctl".into())?;
        connections.push(connection);
    }
    let run = Run {
        patience: load.patience,
        start: Instant::now(),
        arrivals: Arrivals::new(load.pace, load.seed),
        epoll,
        connections,
        turn: 0,
        pending: Pending::default(),
        recorder: Recorder::new(),
        observe: load.observe,
    };
    run.complete(load.frames, load.choose, each_second)
}

struct Run<'a> {
    patience: Duration,
    start: Instant,
    arrivals: Arrivals,
    epoll: OwnedFd,
    connections: Vec<Connection>,
    turn: usize,
    pending: Pending,
    recorder: Recorder,
    observe: Option<&'a mut dyn FnMut(Answered)>,
}

impl Run<'_> {
    fn complete(
        mut self,
        frames: &[Vec<u8>],
        choose: &mut dyn FnMut() -> usize,
        each_second: Seconds,
    ) -> Result<Recording> {
        let mut events = Vec::with_capacity(EVENTS_MAX);
        let mut last_answer_ns = 0;
        loop {
            let now_ns = self.now_ns();
            self.send_due(now_ns, frames, choose);
            for connection in &mut self.connections {
                connection.flush()?;
            }
            self.recorder.tick(now_ns, each_second);
            if self.arrivals.is_over(now_ns) && self.pending.len() == 0 {
                break;
            }
            let give_up_ns = match self.arrivals.end_ns() {
                Some(end_ns) => end_ns + self.patience.as_nanos() as u64,
                None => last_answer_ns + STALL_MAX.as_nanos() as u64,
            };
            if now_ns > give_up_ns {
                break;
            }
            // Never sleeps: a sleep would end late, and the lateness would be charged to the server.
            epoll::wait(
                &self.epoll,
                spare_capacity(&mut events),
                Some(&Timespec::default()),
            )
            .or_else(|error| {
                if error == rustix::io::Errno::INTR {
                    Ok(0)
                } else {
                    Err(error)
                }
            })
            .context(|| "epoll_wait".into())?;
            for event in events.drain(..) {
                last_answer_ns = self.now_ns();
                self.receive(event.data.u64() as usize, last_answer_ns)?;
            }
        }
        let end_ns = self.now_ns();
        for asked in self.pending.iter() {
            self.recorder.unanswered(asked.due_ns, end_ns);
        }
        let recorder = &mut self.recorder;
        self.arrivals
            .count_rest(|due_ns| recorder.unanswered(due_ns, end_ns));
        Ok(self.recorder.finish(end_ns))
    }

    fn send_due(&mut self, now_ns: u64, frames: &[Vec<u8>], choose: &mut dyn FnMut() -> usize) {
        while let Some(due_ns) = self.arrivals.due(now_ns, self.pending.len()) {
            let count = self.connections.len();
            let in_turn = (0..count).map(|offset| (self.turn + offset) % count);
            let room = in_turn
                .into_iter()
                .find(|&index| self.connections[index].has_room());
            // All full: it stays due, and its latency grows.
            let Some(connection) = room else { return };
            self.turn = connection + 1;
            self.arrivals.take();
            let frame = choose();
            let request_id = self.pending.insert(Asked {
                due_ns,
                frame,
                connection,
            });
            self.connections[connection].push(&frames[frame], request_id);
        }
    }

    fn receive(&mut self, index: usize, now_ns: u64) -> Result<()> {
        let Self {
            connections,
            pending,
            recorder,
            observe,
            start,
            ..
        } = self;
        connections[index].receive(|frame| {
            let asked = pending.remove(frame.request_id);
            let asked = asked.filter(|asked| asked.connection == index);
            let asked = asked.ok_or_else(|| {
                format!(
                    "answer to request {}, which was not sent here",
                    frame.request_id
                )
            })?;
            recorder.answer(asked.due_ns, now_ns, frame);
            if let Some(observe) = observe {
                observe(Answered {
                    frame: asked.frame,
                    due: *start + Duration::from_nanos(asked.due_ns),
                    at: *start + Duration::from_nanos(now_ns),
                    status: frame.status,
                    is_stale: frame.flags.contains(ResponseFlags::STALE),
                });
            }
            Ok(())
        })
    }

    fn now_ns(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use keyway_protocol::{
        Octets, Opcode, Request, RequestFrame, ResponseFrame, ServerHello, ShardMap, VERSION,
    };

    use super::*;
    use crate::load::encode;

    const STALL: Duration = Duration::from_millis(300);
    const SHORT: Duration = Duration::from_millis(200);

    /// What the fake server does with requests besides HELLO.
    #[derive(Clone, Copy)]
    enum Manner {
        Echo,
        /// Sleeps once, before it answers this request.
        StallAt(u64),
        RetryAndStale,
        AnswerTwice,
        Silent,
        /// Echoes on every connection but the first.
        FirstIsSilent,
    }

    /// Serves any number of connections until they close.
    fn fake_server(manner: Manner) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for (index, stream) in listener.incoming().enumerate() {
                let manner = match manner {
                    Manner::FirstIsSilent if index == 0 => Manner::Silent,
                    Manner::FirstIsSilent => Manner::Echo,
                    other => other,
                };
                std::thread::spawn(move || serve(stream.unwrap(), manner));
            }
        });
        address
    }

    fn serve(mut stream: TcpStream, manner: Manner) {
        let (mut received, mut answered) = (Vec::new(), 0);
        let mut chunk = [0; 65536];
        while let Ok(len @ 1..) = stream.read(&mut chunk) {
            received.extend_from_slice(&chunk[..len]);
            let (mut at, mut out) = (0, Vec::new());
            while let Some((frame, len)) = RequestFrame::decode(&received[at..]).unwrap() {
                at += len;
                if frame.opcode() == Ok(Opcode::Hello) {
                    answer(
                        &mut out,
                        frame.request_id,
                        Status::Ok,
                        false,
                        &server_hello(),
                    );
                    continue;
                }
                answered += 1;
                let id = frame.request_id;
                match manner {
                    Manner::StallAt(number) if number == answered => std::thread::sleep(STALL),
                    Manner::Echo | Manner::FirstIsSilent | Manner::StallAt(_) => {}
                    Manner::RetryAndStale if answered % 2 == 0 => {
                        answer(&mut out, id, Status::Retry, false, b"");
                        continue;
                    }
                    Manner::RetryAndStale => {
                        answer(&mut out, id, Status::Ok, true, b"");
                        continue;
                    }
                    Manner::AnswerTwice => answer(&mut out, id, Status::Ok, false, b""),
                    Manner::Silent => continue,
                }
                answer(&mut out, id, Status::Ok, false, &frame.payload);
            }
            received.drain(..at);
            if stream.write_all(&out).is_err() {
                return;
            }
        }
    }

    fn answer(out: &mut Vec<u8>, request_id: u64, status: Status, stale: bool, payload: &[u8]) {
        ResponseFrame {
            status,
            flags: if stale {
                ResponseFlags::STALE
            } else {
                ResponseFlags::default()
            },
            request_id,
            key_version: 0,
            after_us: 0,
            key_age_ms: 0,
            payload: Octets(payload),
        }
        .encode(out)
        .unwrap();
    }

    fn server_hello() -> Vec<u8> {
        let mut payload = Vec::new();
        ServerHello {
            version: VERSION,
            dev: true,
            more: false,
            this_shard: 0,
            payload_len_max: 65536,
            map: ShardMap::new([0; 16], vec![0]).unwrap(),
            keyspaces: Vec::new(),
        }
        .encode(&mut payload)
        .unwrap();
        payload
    }

    fn ping(manner: Manner, connections: usize, pace: Pace) -> Result<Recording> {
        let frames = [encode(0, "", &Request::Ping(Octets(b"ping"))).unwrap()];
        let load = Load {
            address: fake_server(manner),
            connections,
            pace,
            frames: &frames,
            choose: &mut || 0,
            seed: 11,
            patience: if matches!(manner, Manner::Silent | Manner::FirstIsSilent) {
                SHORT
            } else {
                PATIENCE
            },
            observe: None,
        };
        run(load, &mut |_| {})
    }

    #[test]
    fn a_stalled_server_shows_in_the_tail() {
        let duration = Duration::from_millis(1200);
        let pace = Pace::Poisson {
            rate_per_s: 1000.0,
            duration,
        };
        let outcome = ping(Manner::StallAt(100), 1, pace).unwrap();
        // Some 300 of 1200 requests were due while it slept, one of them for all of the time. A
        // generator that waits for the answer before it sends again would have seen one slow one.
        assert!(
            outcome.latency_us(0.99) >= 200_000.0,
            "{}",
            outcome.latency_us(0.99)
        );
        assert!(outcome.latency_us(1.0) >= STALL.as_micros() as f64 * 0.99);
        assert_eq!(outcome.answered, outcome.offered);
        assert_eq!(outcome.seconds.len(), 1);
    }

    #[test]
    fn a_burst_beyond_the_window_of_a_connection_is_answered_whole() {
        let outcome = ping(Manner::Echo, 2, Pace::Burst { count: 5_000 }).unwrap();
        assert_eq!((outcome.offered, outcome.ok()), (5_000, 5_000));
    }

    #[test]
    fn a_closed_loop_ends_after_its_count() {
        let outcome = ping(
            Manner::Echo,
            1,
            Pace::ClosedCount {
                window: 8,
                count: 300,
            },
        )
        .unwrap();
        assert_eq!((outcome.ok(), outcome.unanswered()), (300, 0));
    }

    #[test]
    fn a_closed_loop_divides_its_window_among_the_connections() {
        let pace = Pace::Closed {
            window: 4,
            duration: SHORT,
        };
        let outcome = ping(Manner::FirstIsSilent, 2, pace).unwrap();
        // The first connection keeps its half of the window, and no more.
        assert_eq!(outcome.unanswered(), 2);
        assert!(outcome.ok() > 0);
    }

    #[test]
    fn statuses_and_stale_answers_are_counted() {
        let outcome = ping(Manner::RetryAndStale, 1, Pace::Burst { count: 10 }).unwrap();
        assert_eq!(
            (outcome.ok(), outcome.count(Status::Retry), outcome.stale),
            (5, 5, 5)
        );
    }

    #[test]
    fn an_observer_hears_of_each_answer() {
        let frame = |text: &[u8]| encode(0, "", &Request::Ping(Octets(text))).unwrap();
        let frames = [frame(b"one"), frame(b"two")];
        let (mut next, mut heard) = (0, Vec::new());
        let began = Instant::now();
        let load = Load {
            address: fake_server(Manner::RetryAndStale),
            connections: 1,
            pace: Pace::Burst { count: 4 },
            frames: &frames,
            choose: &mut || {
                next += 1;
                (next - 1) % 2
            },
            seed: 11,
            patience: PATIENCE,
            observe: Some(&mut |answer| heard.push(answer)),
        };
        run(load, &mut |_| {}).unwrap();
        let seen: Vec<_> = heard
            .iter()
            .map(|answer| (answer.frame, answer.status, answer.is_stale))
            .collect();
        let first = (0, Status::Ok, true);
        let second = (1, Status::Retry, false);
        assert_eq!(seen, [first, second, first, second]);
        assert!(
            heard
                .iter()
                .all(|answer| began <= answer.due && answer.due <= answer.at)
        );
    }

    #[test]
    fn a_second_answer_to_a_request_is_an_error() {
        let failed = ping(Manner::AnswerTwice, 1, Pace::Burst { count: 1 });
        // The run may end with the first answer before it sees the second.
        let failed = failed.and_then(|_| ping(Manner::AnswerTwice, 1, Pace::Burst { count: 100 }));
        assert!(failed.err().unwrap().to_string().contains("was not sent"));
    }

    #[test]
    fn requests_that_are_never_answered_are_counted_and_have_a_latency() {
        let duration = Duration::from_millis(50);
        let pace = Pace::Poisson {
            rate_per_s: 50_000.0,
            duration,
        };
        let outcome = ping(Manner::Silent, 1, pace).unwrap();
        assert_eq!(outcome.answered, 0);
        assert_eq!(outcome.unanswered(), outcome.offered);
        assert!(
            outcome.offered > 1_500,
            "those that found no room count: {}",
            outcome.offered
        );
        assert!(outcome.latency_us(0.0) >= SHORT.as_micros() as f64 * 0.99);
    }
}
