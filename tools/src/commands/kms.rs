//! `kms …`.

use keyway_client::{Custody, KmsName, KmsState};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::figures::{self, dash, decimal, rows, word};
use crate::args::{Cli, Kms, KmsInit, KmsUnlock};
use crate::connect::Server;
use crate::failure::Failure;
use crate::output::{self, Output};
use crate::printable::Lines;
use crate::secrets::{Given, new_passphrase};
use crate::streams::{self, Content, PathOrStdio};
use crate::table::{Align, Table};
use crate::text;
use crate::unlocking;

pub fn run(cli: &Cli, command: &Kms, output: Output) -> Result<(), Failure> {
    match command {
        Kms::Init(command) => match (command.shares, command.threshold) {
            (Some(count), Some(threshold)) => init_shares(cli, command, count, threshold, output),
            _ => init_passphrase(cli, command, output),
        },
        Kms::Unlock(command) => unlock(cli, command, output),
        Kms::Lock { kms } => lock(cli, kms, output),
        Kms::List => list(cli, output),
    }
}

fn init_passphrase(cli: &Cli, command: &KmsInit, output: Output) -> Result<(), Failure> {
    let kms = &command.kms;
    let server = Server::reach(cli)?;
    let passphrase = new_passphrase(command.passphrase(), &format!("KMS {kms}"))?;
    server.call(&format!("kms init {kms}"), None, |client| {
        client.kms_init(kms, Custody::Passphrase(&passphrase))
    })?;
    let document = json!({ "kms": kms.as_str(), "initialised": true });
    output.print_result(&document, &Lines::of(format!("{kms}: initialised")))
}

fn init_shares(
    cli: &Cli,
    command: &KmsInit,
    count: u8,
    threshold: u8,
    output: Output,
) -> Result<(), Failure> {
    let kms = &command.kms;
    if threshold > count {
        return Err(Failure::usage(
            format!("a threshold of {threshold} is more than the {count} shares there are to be"),
            "give a --threshold of at most --shares",
        ));
    }
    let content = Content::Secret {
        force: command.out.force,
    };
    command.out.out.check(content)?;
    let server = Server::reach(cli)?;
    // Before the shares are made: they are shown once, and there must be a place for them.
    let sink = command.out.out.open(content)?;
    let answer = server.call(&format!("kms init {kms}"), None, |client| {
        client.kms_init(kms, Custody::Shares { count, threshold })
    })?;
    streams::eprint_line(&format!(
        "keyway: the shares of {kms} are shown this once; give each to its holder: any {threshold} \
         of them unlock it, and without them it cannot be unlocked"
    ));
    let shares = texts(&answer.value)?;
    let heading = Lines::of(format!(
        "{kms}: initialised, any {threshold} of {count} shares unlock it"
    ));
    let mut lines = Zeroizing::new(String::with_capacity(lines_len(&shares)));
    for (number, share) in (1..).zip(&shares) {
        lines.push_str(&format!("share {number} of {}: ", shares.len()));
        lines.push_str(share);
        lines.push('\n');
    }
    let mut document = json!({
        "kms": kms.as_str(),
        "initialised": true,
        "threshold": threshold,
    });
    if let PathOrStdio::File(path) = &command.out.out {
        sink.write(lines.as_bytes())?;
        document["out"] = path.display().to_string().into();
        return output.print_result(&document, &heading);
    }
    if !output.json {
        output.print_result(&document, &heading)?;
        return sink.write(lines.as_bytes());
    }
    document["shares"] = shares.into();
    let said = output.print_result(&document, &Lines::default());
    output::wipe(&mut document);
    said
}

fn texts(shares: &[keyway_client::Secret]) -> Result<Vec<&str>, Failure> {
    let text = |share| std::str::from_utf8(share);
    let texts: Result<_, _> = shares.iter().map(|share| text(share)).collect();
    texts.map_err(|error| Failure::bad_answer("kms init", &error))
}

/// At least as long as the shares' lines, so that they are written once and never moved.
fn lines_len(shares: &[&str]) -> usize {
    /// `share 16 of 16: ` and the line feed.
    const FRAME_LEN: usize = 17;
    shares.iter().map(|share| FRAME_LEN + share.len()).sum()
}

fn unlock(cli: &Cli, command: &KmsUnlock, output: Output) -> Result<(), Failure> {
    let kms = &command.kms;
    let server = Server::reach(cli)?;
    let given = Given::read(&command.opener, command.force, &format!("KMS {kms}"))?;
    let answer = server.call(&format!("kms unlock {kms}"), None, |client| {
        client.kms_unlock(kms, given.with())
    })?;
    let opening = answer.value;
    let state = match opening.state {
        KmsState::Unlocked => "unlocked",
        KmsState::Locked => "locked",
        KmsState::Uninitialised => "uninitialised",
    };
    let mut document = json!({ "kms": kms.as_str(), "state": state });
    let text = match opening.shares {
        Some(shares) => {
            document["given"] = shares.given.into();
            document["threshold"] = shares.threshold.into();
            text::shares(shares.given, shares.threshold)
        }
        None => state.into(),
    };
    output.print_result(&document, &Lines::of(format!("{kms}: {text}")))
}

fn lock(cli: &Cli, kms: &KmsName, output: Output) -> Result<(), Failure> {
    Server::reach(cli)?.call(&format!("kms lock {kms}"), None, |client| {
        client.kms_lock(kms)
    })?;
    let document = json!({ "kms": kms.as_str(), "state": "locked" });
    output.print_result(
        &document,
        &Lines::of(format!("{kms}: locked, with every keyspace that it wraps")),
    )
}

fn list(cli: &Cli, output: Output) -> Result<(), Failure> {
    let status = figures::of(&Server::reach(cli)?, "kms list")?;
    let kmses = rows(&status["kms"]);
    let mut text = table(kmses);
    text.append(&troubles(kmses));
    output.print_result(&json!({ "kms": kmses }), &text)
}

/// The KMSes of the server's status, a line for each.
pub fn table(kmses: &[Value]) -> Lines {
    if kmses.is_empty() {
        return Lines::of("no KMSes");
    }
    let mut table = Table::new(&[
        ("KMS", Align::Left),
        ("PROVIDER", Align::Left),
        ("STATE", Align::Left),
        ("CALLS IN FLIGHT", Align::Right),
        ("RATE LEFT", Align::Right),
        ("RETRIES LEFT", Align::Right),
        ("BREAKER", Align::Left),
        ("CALLS/H FORECAST", Align::Right),
    ]);
    for kms in kmses {
        table.row([
            word(&kms["name"]),
            word(&kms["provider"]),
            word(&kms["state"]),
            word(&kms["calls_in_flight"]),
            decimal(&kms["rate_tokens"]),
            decimal(&kms["retry_tokens"]),
            word(&kms["breaker"]),
            decimal(&kms["calls_per_hour_forecast"]),
        ]);
    }
    table.render()
}

/// What is wrong with each KMS whose last calls failed, in the provider's words; empty if nothing is.
pub fn troubles(kmses: &[Value]) -> Lines {
    let in_trouble = kmses
        .iter()
        .filter(|kms| kms["trouble"]["over"] == json!(false));
    let line = |kms: &Value| {
        let trouble = &kms["trouble"];
        format!(
            "{}: {} ({}): {}; {}",
            word(&kms["name"]),
            word(&trouble["cause"]),
            text::count(trouble["keyspaces"].as_u64().unwrap_or(0), "keyspace"),
            word(&trouble["what"]),
            word(&trouble["remedy"]),
        )
    };
    let behind = kmses.iter().filter_map(|kms| {
        let keyspaces = kms["key_versions"]["keyspaces_behind"].as_u64();
        let keyspaces = keyspaces.filter(|keyspaces| *keyspaces > 0)?;
        Some(format!(
            "{name}: {} wrapped under versions of its key older than {}; run keyway keyspace rewrap KEYSPACE \
             --kms {name} before it stops decrypting with those",
            text::count(keyspaces, "keyspace"),
            word(&kms["key_versions"]["newest"]),
            name = word(&kms["name"]),
        ))
    });
    let waiting = kmses.iter().filter_map(|kms| {
        let state = kms["state"].as_str()?;
        if !matches!(state, "locked" | "uninitialised") {
            return None;
        }
        let command = unlocking::of_kms(&word(&kms["name"]), kms["need"].as_str().unwrap_or(""));
        let each = match kms["need"].as_str() {
            Some("shares") => "each holder of a share runs",
            _ => "run",
        };
        Some(format!(
            "{}: {state}; {each} `{command}`",
            word(&kms["name"])
        ))
    });
    let mut text = Lines::default();
    let all = in_trouble.map(line).chain(waiting).chain(behind);
    all.for_each(|line| text.push(line));
    text
}

/// The calls of all KMSes so far; empty if there were none.
pub fn calls(kmses: &[Value]) -> Lines {
    let mut table = Table::new(&[
        ("KMS", Align::Left),
        ("KEYSPACE", Align::Left),
        ("OPERATION", Align::Left),
        ("OUTCOME", Align::Left),
        ("CALLS", Align::Right),
    ]);
    let mut is_empty = true;
    for kms in kmses {
        for call in rows(&kms["calls"]) {
            is_empty = false;
            // Calls about the KMS itself are for no keyspace.
            let keyspace = match call["keyspace"].as_str() {
                None | Some("") => dash(),
                Some(_) => word(&call["keyspace"]),
            };
            table.row([
                word(&kms["name"]),
                keyspace,
                word(&call["operation"]),
                word(&call["outcome"]),
                word(&call["count"]),
            ]);
        }
    }
    match is_empty {
        true => Lines::default(),
        false => table.render(),
    }
}
