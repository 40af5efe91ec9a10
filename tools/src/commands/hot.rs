//! `hot`.

use keyway_client::{HotBy, HotFigure, HotKeys};

use crate::args::{Cli, Hot};
use crate::connect::Server;
use crate::failure::Failure;
use crate::output::Output;
use crate::printable::Lines;
use crate::table::{Align, Table};
use crate::text;

pub fn run(cli: &Cli, command: &Hot, output: Output) -> Result<(), Failure> {
    let keyspace = &command.keyspace;
    let doing = format!("hot {keyspace}");
    let answer = Server::reach(cli)?.call(&doing, Some(keyspace.as_str()), |client| {
        client.keyspace_hot(keyspace, command.by, command.limit)
    })?;
    let hot = answer.value;
    let document = serde_json::to_value(&hot);
    let mut document = document.map_err(|error| Failure::bad_answer(&doing, &error))?;
    document["keyspace"] = keyspace.as_str().into();
    let mut text = table(&hot, command.by);
    text.append(&summary(&hot, command.by));
    output.print_result(&document, &text)
}

fn table(hot: &HotKeys, by: HotBy) -> Lines {
    if hot.keys.is_empty() {
        return Lines::default();
    }
    let mut table = Table::new(&[
        ("KEY", Align::Left),
        ("SHARD", Align::Right),
        ("REQUESTS", Align::Right),
        ("PER SECOND", Align::Right),
        ("WAITERS", Align::Right),
        ("REHYDRATE MS", Align::Right),
        ("SHARE", Align::Right),
    ]);
    let total = match by {
        HotBy::Requests => hot.totals.requests,
        HotBy::Waiters => hot.totals.waiters,
        HotBy::RehydrateTime => hot.totals.rehydrate_us,
    };
    let sampled = hot.requests_counted_one_in > 1;
    for key in &hot.keys {
        let ordered_by = match by {
            HotBy::Requests => key.requests,
            HotBy::Waiters => key.waiters,
            HotBy::RehydrateTime => key.rehydrate_us,
        };
        table.row([
            key.key.clone(),
            key.shard.to_string(),
            figure(key.requests, sampled, |count| count.to_string()),
            figure(key.requests, sampled, |count| {
                per_second(count, hot.window_ms)
            }),
            figure(key.waiters, false, |count| count.to_string()),
            figure(key.rehydrate_us, false, milliseconds),
            figure(ordered_by, sampled && by == HotBy::Requests, |count| {
                share(count, total)
            }),
        ]);
    }
    table.render()
}

/// `~` before what may be a little less, `-` for what may be nothing at all.
fn figure(figure: HotFigure, sampled: bool, show: impl Fn(u64) -> String) -> String {
    let HotFigure { count, excess_max } = figure;
    match count.saturating_sub(excess_max) {
        0 if count > 0 => "-".into(),
        _ if excess_max > 0 || sampled => format!("~{}", show(count)),
        _ => show(count),
    }
}

fn summary(hot: &HotKeys, by: HotBy) -> Lines {
    let window = text::seconds(hot.window_ms.div_ceil(1_000));
    let totals = &hot.totals;
    let mut lines = Lines::of(format!(
        "in the last {window}: {}, {} and {} ms of rehydration in all",
        text::count(totals.requests, "request"),
        text::count(totals.waiters, "waiter"),
        milliseconds(totals.rehydrate_us)
    ));
    if hot.keys.is_empty() {
        return lines;
    }
    let unlisted = match by {
        HotBy::Requests => text::count(hot.unlisted_max, "request"),
        HotBy::Waiters => text::count(hot.unlisted_max, "waiter"),
        HotBy::RehydrateTime => format!("{} ms", milliseconds(hot.unlisted_max)),
    };
    lines.push(format!("unlisted keys: at most {unlisted} each"));
    if hot.requests_counted_one_in > 1 {
        let one_in = hot.requests_counted_one_in;
        lines.push(format!(
            "requests are estimates: one in {one_in}, chosen at random, was counted"
        ));
    }
    lines
}

fn per_second(count: u64, window_ms: u64) -> String {
    format!("{:.1}", count as f64 * 1_000.0 / window_ms.max(1) as f64)
}

fn milliseconds(us: u64) -> String {
    format!("{:.3}", us as f64 / 1_000.0)
}

fn share(count: u64, total: u64) -> String {
    format!("{:.1}%", count as f64 * 100.0 / total.max(1) as f64)
}
