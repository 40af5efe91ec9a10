//! S1, steady hot keys: what a signature costs the server, against the bare library call, and a MAC
//! over many connections.

mod hmac;

use std::time::Duration;

use keyway_protocol::{Algorithm, Octets, Request};
use serde::Serialize;

use crate::Setup;
use crate::bare;
use crate::check::{self, Check};
use crate::control::Control;
use crate::cpu::pin;
use crate::error::Result;
use crate::load::{Load, PATIENCE, Pace, Recording, Second, encode, run as run_load};
use crate::machine::Provenance;
use crate::plot::{self, Plot, Series};
use crate::report;
use crate::server::Server;
use crate::table::Table;
use crate::traffic::{Keys, MESSAGE};

use hmac::HmacCosts;

/// CPU time of the server for one signature, as a multiple of the bare library call's.
const RATIO_MAX: f64 = 1.6;

const KEYSPACE: &str = "s1";
const KEYS: usize = 4;
/// Rounds of bare, sign, ping and MACs. They alternate so that a slower or faster clock meets all
/// alike.
const ROUNDS: usize = 5;
const BARE_DURATION: Duration = Duration::from_secs(1);
/// A round's share of the duration, for each operation.
const ROUND_SHARE: u32 = 10;
/// Requests in flight on the one connection of the closed loop.
const WINDOW: usize = 256;
/// Connections of the open loop.
const CONNECTIONS: usize = 4;
/// Offered rates, as parts of the closed loop's throughput.
const SWEEP: [f64; 3] = [0.25, 0.50, 0.75];

#[derive(Serialize)]
struct Report {
    scenario: &'static str,
    verdict: &'static str,
    #[serde(flatten)]
    provenance: Provenance,
    duration_s: u64,
    window: usize,
    checks: Vec<Check>,
    medians: Medians,
    rounds: Vec<Round>,
    sweep: Vec<Step>,
}

/// One round. CPU times are per operation; `ratio` is `sign_cpu_us / bare_cpu_us`.
#[derive(Clone, Copy, Debug, Serialize)]
struct Round {
    bare_cpu_us: f64,
    sign_cpu_us: f64,
    sign_shard_thread_cpu_us: f64,
    sign_per_s: f64,
    ping_cpu_us: f64,
    ping_per_s: f64,
    ratio: f64,
    hmac: HmacCosts,
    not_ok: u64,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct Medians {
    bare_cpu_us: f64,
    sign_cpu_us: f64,
    sign_shard_thread_cpu_us: f64,
    sign_per_s: f64,
    ping_cpu_us: f64,
    ping_per_s: f64,
    ratio: f64,
    hmac_64x16_cpu_us: f64,
    hmac_64x16_per_s: f64,
    hmac_64x1_cpu_us: f64,
    hmac_64x1_per_s: f64,
}

/// One offered rate of the open loop.
#[derive(Clone, Debug, Serialize)]
struct Step {
    offered_per_s: f64,
    achieved_per_s: f64,
    p50_us: f64,
    p99_us: f64,
    p999_us: f64,
    max_us: f64,
    not_ok: u64,
    seconds: Vec<Second>,
}

/// Runs the scenario and says whether it passed.
pub fn run(setup: &Setup) -> Result<bool> {
    let provenance = Provenance::collect();
    let server = Server::start(&setup.server, &setup.out, "s1", setup.cores)?;
    let (rounds, sweep) = server.explain(measure(setup, &server))?;
    drop(server);
    let medians = Medians::of(&rounds);
    let checks = checks(&medians, &rounds, &sweep);
    let verdict = check::verdict(&checks);
    println!(
        "\n{}\nHMAC of 64 bytes, connections x requests in flight on each:\n{}\n{}\n{}",
        cost_table(&rounds, &medians),
        hmac_table(&rounds, &medians),
        sweep_table(&sweep),
        check::table(&checks)
    );
    draw(setup, &rounds, &sweep)?;
    let report = Report {
        scenario: "s1",
        verdict,
        provenance,
        duration_s: setup.duration.as_secs(),
        window: WINDOW,
        checks,
        medians,
        rounds,
        sweep,
    };
    report::write(&setup.out.join("s1.json"), &report)?;
    println!("S1: {verdict}");
    Ok(verdict == "pass")
}

/// The rounds and the sweep.
fn measure(setup: &Setup, server: &Server) -> Result<(Vec<Round>, Vec<Step>)> {
    let address = server.address();
    let keyspace_id = Control::connect(address)?.create_keyspace(KEYSPACE, "")?;
    let keys = Keys::name(keyspace_id, KEYS, &[Algorithm::Ed25519])?;
    keys.generate(address)?;
    keys.touch(address)?;
    let macs = hmac::prepare(server)?;
    let ping = [encode(0, "", &Request::Ping(Octets(&MESSAGE)))?];

    let rounds = (0..ROUNDS)
        .map(|index| round(setup, server, &keys.frames, &ping, &macs, index))
        .collect::<Result<Vec<_>>>()?;
    let sign_per_s = Medians::of(&rounds).sign_per_s;
    let sweep = SWEEP
        .iter()
        .map(|part| step(setup, server, &keys, part * sign_per_s))
        .collect::<Result<Vec<_>>>()?;
    Ok((rounds, sweep))
}

fn round(
    setup: &Setup,
    server: &Server,
    sign: &[Vec<u8>],
    ping: &[Vec<u8>],
    macs: &Keys,
    index: usize,
) -> Result<Round> {
    // On the server's core, which is idle now: cores may differ.
    pin(setup.cores.server)?;
    let bare = bare::ed25519_sign_us(&MESSAGE, BARE_DURATION);
    pin(setup.cores.load)?;
    let bare_cpu_us = bare?;
    let duration = setup.duration / ROUND_SHARE;
    let signed = closed(server, sign, 1, WINDOW, duration)?;
    let pinged = closed(server, ping, 1, WINDOW, duration)?;
    let hmac = hmac::measure(server, macs, duration)?;
    let round = Round {
        bare_cpu_us,
        sign_cpu_us: signed.cpu_us,
        sign_shard_thread_cpu_us: signed.busiest_cpu_us,
        sign_per_s: signed.per_s,
        ping_cpu_us: pinged.cpu_us,
        ping_per_s: pinged.per_s,
        ratio: signed.cpu_us / bare_cpu_us,
        hmac,
        not_ok: signed.not_ok + pinged.not_ok + hmac.not_ok(),
    };
    eprintln!(
        "S1 round {}/{ROUNDS}: bare {:.2} us, sign {:.2} us, ping {:.2} us, {:.0} signs/s, ratio {:.2}, \
         HMAC 64 x 16 {:.2} us, 64 x 1 {:.2} us",
        index + 1,
        round.bare_cpu_us,
        round.sign_cpu_us,
        round.ping_cpu_us,
        round.sign_per_s,
        round.ratio,
        round.hmac.connections_64_in_flight_16.cpu_us,
        round.hmac.connections_64_in_flight_1.cpu_us,
    );
    Ok(round)
}

/// A closed loop's measurements. CPU times are per operation.
#[derive(Clone, Copy, Debug, Serialize)]
struct Closed {
    cpu_us: f64,
    /// Of the busiest thread alone.
    busiest_cpu_us: f64,
    per_s: f64,
    not_ok: u64,
}

/// Pipelined connections, always full: `in_flight` requests on each.
fn closed(
    server: &Server,
    frames: &[Vec<u8>],
    connections: usize,
    in_flight: usize,
    duration: Duration,
) -> Result<Closed> {
    let before = server.cpu()?;
    let mut next = 0;
    let mut choose = || {
        next = (next + 1) % frames.len();
        next
    };
    let load = Load {
        address: server.address(),
        connections,
        pace: Pace::Closed {
            window: connections * in_flight,
            duration,
        },
        frames,
        choose: &mut choose,
        seed: 1,
        patience: PATIENCE,
        observe: None,
    };
    let outcome = run_load(load, &mut |_| {})?;
    let cpu = server.cpu()?.since(before);
    let per_op_us = |time: Duration| time.as_secs_f64() * 1e6 / outcome.answered.max(1) as f64;
    Ok(Closed {
        cpu_us: per_op_us(cpu.total),
        busiest_cpu_us: per_op_us(cpu.busiest),
        per_s: outcome.ok() as f64 / outcome.elapsed.as_secs_f64(),
        not_ok: not_ok(&outcome),
    })
}

fn step(setup: &Setup, server: &Server, keys: &Keys, rate_per_s: f64) -> Result<Step> {
    let duration = setup.duration;
    let pace = Pace::Poisson {
        rate_per_s: rate_per_s.max(1.0),
        duration,
    };
    let mut next = 0;
    let mut choose = || {
        next = (next + 1) % KEYS;
        next
    };
    let mut show = |second: &Second| {
        let (at_s, of_s) = (second.at_s + 1, duration.as_secs());
        let (p50_us, p99_us) = (second.p50_us, second.p99_us);
        eprintln!(
            "S1 {rate_per_s:.0}/s: {at_s}/{of_s} s, {} answered, p50 {p50_us:.0} us, p99 {p99_us:.0} us",
            second.answered
        );
    };
    let outcome = keys.load(server.address(), CONNECTIONS, pace, &mut choose, &mut show)?;
    Ok(Step {
        offered_per_s: outcome.offered as f64 / duration.as_secs_f64(),
        achieved_per_s: outcome.ok() as f64 / outcome.elapsed.as_secs_f64(),
        p50_us: outcome.latency_us(0.5),
        p99_us: outcome.latency_us(0.99),
        p999_us: outcome.latency_us(0.999),
        max_us: outcome.latency_us(1.0),
        not_ok: not_ok(&outcome),
        seconds: outcome.seconds,
    })
}

fn not_ok(outcome: &Recording) -> u64 {
    outcome.offered - outcome.ok()
}

impl Medians {
    fn of(rounds: &[Round]) -> Self {
        let of = |figure: fn(&Round) -> f64| median(rounds.iter().map(figure).collect());
        Self {
            bare_cpu_us: of(|round| round.bare_cpu_us),
            sign_cpu_us: of(|round| round.sign_cpu_us),
            sign_shard_thread_cpu_us: of(|round| round.sign_shard_thread_cpu_us),
            sign_per_s: of(|round| round.sign_per_s),
            ping_cpu_us: of(|round| round.ping_cpu_us),
            ping_per_s: of(|round| round.ping_per_s),
            ratio: of(|round| round.ratio),
            hmac_64x16_cpu_us: of(|round| round.hmac.connections_64_in_flight_16.cpu_us),
            hmac_64x16_per_s: of(|round| round.hmac.connections_64_in_flight_16.per_s),
            hmac_64x1_cpu_us: of(|round| round.hmac.connections_64_in_flight_1.cpu_us),
            hmac_64x1_per_s: of(|round| round.hmac.connections_64_in_flight_1.per_s),
        }
    }
}

/// The middle value, or the mean of the two; NaN of nothing.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        len if len % 2 == 1 => values[len / 2],
        len => (values[len / 2 - 1] + values[len / 2]) / 2.0,
    }
}

fn checks(medians: &Medians, rounds: &[Round], sweep: &[Step]) -> Vec<Check> {
    let bad = rounds.iter().map(|round| round.not_ok).sum::<u64>()
        + sweep.iter().map(|step| step.not_ok).sum::<u64>();
    vec![
        Check::at_most(
            "server CPU per sign / bare call",
            medians.ratio,
            RATIO_MAX,
            "",
        ),
        Check::exactly("requests not answered OK", bad, 0),
    ]
}

fn cost_table(rounds: &[Round], medians: &Medians) -> Table {
    let mut table = Table::new([
        "round", "bare, us", "sign, us", "ping, us", "signs/s", "pings/s", "ratio",
    ]);
    let mut row = |name: String, figures: [f64; 6]| {
        let [bare, sign, ping, signs, pings, ratio] = figures;
        table.row([
            name,
            format!("{bare:.2}"),
            format!("{sign:.2}"),
            format!("{ping:.2}"),
            format!("{signs:.0}"),
            format!("{pings:.0}"),
            format!("{ratio:.2}"),
        ]);
    };
    for (index, r) in rounds.iter().enumerate() {
        let figures = [
            r.bare_cpu_us,
            r.sign_cpu_us,
            r.ping_cpu_us,
            r.sign_per_s,
            r.ping_per_s,
            r.ratio,
        ];
        row((index + 1).to_string(), figures);
    }
    let m = medians;
    let figures = [
        m.bare_cpu_us,
        m.sign_cpu_us,
        m.ping_cpu_us,
        m.sign_per_s,
        m.ping_per_s,
        m.ratio,
    ];
    row("median".into(), figures);
    table
}

fn hmac_table(rounds: &[Round], medians: &Medians) -> Table {
    let mut table = Table::new(["round", "64 x 16, us", "MACs/s", "64 x 1, us", "MACs/s"]);
    let mut row = |name: String, [deep, deep_per_s, one, one_per_s]: [f64; 4]| {
        table.row([
            name,
            format!("{deep:.2}"),
            format!("{deep_per_s:.0}"),
            format!("{one:.2}"),
            format!("{one_per_s:.0}"),
        ]);
    };
    for (index, round) in rounds.iter().enumerate() {
        let deep = &round.hmac.connections_64_in_flight_16;
        let one = &round.hmac.connections_64_in_flight_1;
        let figures = [deep.cpu_us, deep.per_s, one.cpu_us, one.per_s];
        row((index + 1).to_string(), figures);
    }
    let figures = [
        medians.hmac_64x16_cpu_us,
        medians.hmac_64x16_per_s,
        medians.hmac_64x1_cpu_us,
        medians.hmac_64x1_per_s,
    ];
    row("median".into(), figures);
    table
}

fn sweep_table(sweep: &[Step]) -> Table {
    let mut table = Table::new([
        "offered, 1/s",
        "achieved, 1/s",
        "p50, us",
        "p99, us",
        "p99.9, us",
        "max, us",
    ]);
    for step in sweep {
        let figures = [
            step.offered_per_s,
            step.achieved_per_s,
            step.p50_us,
            step.p99_us,
            step.p999_us,
            step.max_us,
        ];
        table.row(figures.map(|figure| format!("{figure:.0}")));
    }
    table
}

fn draw(setup: &Setup, rounds: &[Round], sweep: &[Step]) -> Result<()> {
    let by_round = |name: &str, figure: fn(&Round) -> f64| Series {
        name: name.into(),
        points: (1..)
            .map(f64::from)
            .zip(rounds.iter().map(figure))
            .collect(),
    };
    let by_rate = |name: &str, figure: fn(&Step) -> f64| Series {
        name: name.into(),
        points: sweep
            .iter()
            .map(|step| (step.offered_per_s, figure(step)))
            .collect(),
    };
    plot::draw(
        &setup.out.join("s1-cost.svg"),
        Plot {
            title: "S1: CPU time per operation",
            x_label: "round",
            y_label: "CPU time, µs",
        },
        &[
            by_round("server, sign", |round| round.sign_cpu_us),
            by_round("bare library call", |round| round.bare_cpu_us),
            by_round("server, ping", |round| round.ping_cpu_us),
        ],
    )?;
    plot::draw(
        &setup.out.join("s1-latency.svg"),
        Plot {
            title: "S1: latency by offered load, from the due time",
            x_label: "offered, 1/s",
            y_label: "latency, µs",
        },
        &[
            by_rate("p50", |step| step.p50_us),
            by_rate("p99", |step| step.p99_us),
            by_rate("p99.9", |step| step.p999_us),
        ],
    )?;
    println!("Plots: s1-cost.svg and s1-latency.svg, beside the report");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::verdict;

    const CLOSED: Closed = Closed {
        cpu_us: 1.0,
        busiest_cpu_us: 1.0,
        per_s: 800_000.0,
        not_ok: 0,
    };

    fn round_of(ratio: f64, not_ok: u64) -> Round {
        Round {
            bare_cpu_us: 10.0,
            sign_cpu_us: 10.0 * ratio,
            sign_shard_thread_cpu_us: 10.0 * ratio,
            sign_per_s: 60_000.0,
            ping_cpu_us: 4.0,
            ping_per_s: 200_000.0,
            ratio,
            hmac: HmacCosts {
                connections_64_in_flight_16: CLOSED,
                connections_64_in_flight_1: CLOSED,
            },
            not_ok,
        }
    }

    fn judged(rounds: &[Round]) -> &'static str {
        verdict(&checks(&Medians::of(rounds), rounds, &[]))
    }

    #[test]
    fn the_median_ratio_decides() {
        assert_eq!(
            judged(&[round_of(1.4, 0), round_of(1.5, 0), round_of(9.0, 0)]),
            "pass"
        );
        assert_eq!(
            judged(&[round_of(1.4, 0), round_of(1.7, 0), round_of(1.8, 0)]),
            "fail"
        );
        assert_eq!(judged(&[round_of(1.4, 0), round_of(1.4, 1)]), "fail");
        assert_eq!(judged(&[]), "fail");
    }

    #[test]
    fn the_median_of_an_even_count_lies_between() {
        assert_eq!(median(vec![4.0, 1.0, 3.0, 2.0]), 2.5);
    }
}
