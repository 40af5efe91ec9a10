//! The time line: load on three keyspaces while their KMS goes away, is slow, throttles, denies and
//! comes back.

use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use keyway_protocol::Algorithm;
use keyway_testkit::fault_proxy::Call;
use serde::Serialize;

use super::answers::Seen;
use super::kms::{BUDGET, Kms};
use super::plan::{AFTER_OUTAGE, DENIED, GROUPS, Group, LONG, OUTAGE, Plan, SHORT, UNLOCKED};
use crate::Setup;
use crate::control::Control;
use crate::error::Result;
use crate::load::{Load, PATIENCE, Pace, Second, run as run_load};
use crate::rng::Rng;
use crate::server::Server;
use crate::traffic::Keys;
use crate::zipf::Zipf;

/// What all keyspaces have in common.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Parameters {
    /// Of each keyspace; half Ed25519, half HMAC-SHA-256.
    pub keys: usize,
    /// Of the Zipf distribution, within a keyspace.
    pub zipf_exponent: f64,
    /// Offered to the keyspaces in turn, as a Poisson process.
    pub rate_per_s: f64,
    /// TCP connections, each pipelined.
    pub connections: usize,
    pub soft_ttl_ms: u64,
    pub hard_ttl_ms: u64,
}

/// Keys soft-expire all the time, so that a refresh that does not get its DEK would show; the
/// server's core is mostly idle.
pub const PARAMETERS: Parameters = Parameters {
    keys: 300,
    zipf_exponent: 0.99,
    rate_per_s: 6_000.0,
    connections: 8,
    soft_ttl_ms: 5_000,
    hard_ttl_ms: 3_600_000,
};

/// What was seen.
pub struct Timeline {
    pub plan: Plan,
    /// The start of the load.
    pub start: Instant,
    pub answers: Vec<Seen>,
    pub unanswered: u64,
    /// The proxy's record, from before the start of the load.
    pub calls: Vec<Call>,
    /// Unlocked keys of `short` at the end of the denial.
    pub resident_when_denied: u64,
}

/// Runs it against a server of its own.
pub fn run(setup: &Setup, kms: &mut Kms) -> Result<Timeline> {
    let server = Server::start_with(
        &setup.server,
        &setup.out,
        "s5-timeline",
        setup.cores,
        &kms.config(BUDGET),
    )?;
    server.explain(measure(setup, kms, server.address()))
}

fn measure(setup: &Setup, kms: &mut Kms, address: SocketAddr) -> Result<Timeline> {
    let plan = Plan::new(setup.duration);
    eprintln!(
        "S5: making {} keys in each of {GROUPS} keyspaces",
        PARAMETERS.keys
    );
    let control = Control::connect(address)?;
    let algorithms = [Algorithm::Ed25519, Algorithm::HmacSha256];
    let mut frames = Vec::new();
    for group in &plan.groups {
        let keyspace_id = control.create_keyspace(group.name, &settings(group))?;
        let keys = Keys::name(keyspace_id, PARAMETERS.keys, &algorithms)?;
        keys.generate(address)?;
        keys.touch(address)?;
        frames.extend(keys.frames);
    }

    let rate_per_s = PARAMETERS.rate_per_s;
    let mut answers = Vec::with_capacity((1.1 * rate_per_s * plan.length().as_secs_f64()) as usize);
    let mut rng = Rng::new(5);
    let zipf = Zipf::new(PARAMETERS.keys, PARAMETERS.zipf_exponent);
    let mut turn = 0;
    let start = Instant::now();
    let load = Load {
        address,
        connections: PARAMETERS.connections,
        pace: Pace::Poisson {
            rate_per_s,
            duration: plan.length(),
        },
        frames: &frames,
        choose: &mut || {
            turn = (turn + 1) % GROUPS;
            turn * PARAMETERS.keys + zipf.draw(&mut rng)
        },
        seed: 1,
        patience: PATIENCE,
        observe: Some(&mut |answer| {
            answers.push(Seen::new(answer.frame / PARAMETERS.keys, answer));
        }),
    };
    let (stop, stopped) = channel();
    let (outcome, resident_when_denied) = thread::scope(|scope| {
        let directed = scope.spawn(|| {
            let director = Director {
                plan: &plan,
                start,
                kms: &mut *kms,
                stopped,
            };
            director.direct(control)
        });
        let outcome = run_load(load, &mut |second| show(&plan, second));
        // It does not listen any more when it is done.
        let _done = stop.send(());
        let resident = directed
            .join()
            .map_err(|_| "the directing thread panicked")?;
        Ok::<_, crate::error::Error>((outcome?, resident?))
    })?;
    Ok(Timeline {
        plan,
        start,
        answers,
        unanswered: outcome.unanswered(),
        calls: kms.proxy().calls(),
        resident_when_denied,
    })
}

/// Makes the KMS fail as planned, and does what an operator does.
struct Director<'a> {
    plan: &'a Plan,
    start: Instant,
    kms: &'a mut Kms,
    stopped: Receiver<()>,
}

impl Director<'_> {
    /// Gives the unlocked keys of `short` at the end of the denial.
    fn direct(self, control: Control) -> Result<u64> {
        let mut resident = None;
        for phase in &self.plan.phases {
            let wait = (self.start + phase.start).saturating_duration_since(Instant::now());
            match self.stopped.recv_timeout(wait) {
                Err(RecvTimeoutError::Timeout) => {}
                Ok(()) | Err(RecvTimeoutError::Disconnected) => {
                    return Err("the load ended before the time line did".into());
                }
            }
            if phase.name == UNLOCKED {
                let status = control.status(self.plan.groups[SHORT].name)?;
                resident = Some(status.count("resident_keys")?);
            }
            if phase.name == OUTAGE {
                self.kms.kill();
            }
            if phase.name == AFTER_OUTAGE {
                // Its start is part of the recovery.
                self.kms.restart();
            }
            self.kms.proxy().set(phase.fault);
            if phase.name == UNLOCKED {
                for group in [SHORT, LONG] {
                    control.unlock(self.plan.groups[group].name)?;
                }
            }
        }
        resident.ok_or_else(|| format!("the time line lacks what follows on {DENIED}").into())
    }
}

fn settings(group: &Group) -> String {
    let Parameters {
        soft_ttl_ms,
        hard_ttl_ms,
        ..
    } = PARAMETERS;
    let Group {
        kms, dek_lease_ms, ..
    } = group;
    format!(
        "kms={kms}\ndek_lease_ms={dek_lease_ms}\nsoft_ttl_ms={soft_ttl_ms}\n\
         hard_ttl_ms={hard_ttl_ms}\non_soft_expiry=serve_stale\n"
    )
}

fn show(plan: &Plan, second: &Second) {
    let at = Duration::from_secs(second.at_s);
    let phase = plan.phases.iter().rfind(|phase| phase.start <= at);
    eprintln!(
        "S5 {}: {}/{} s, {} answered, {} not OK",
        phase.map_or("", |phase| phase.name),
        second.at_s + 1,
        plan.length().as_secs(),
        second.answered,
        second.not_ok
    );
}
