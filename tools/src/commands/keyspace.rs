//! `keyspace …`.

use std::time::Duration;

use keyway_client::{KeyspaceChange, KeyspaceInfo, KeyspaceName, KmsName, Override, Reseal};
use serde_json::{Value, json};

use super::poll::{Step, poll_until_done};

use crate::args::{Cli, Keyspace, Setting};
use crate::connect::Server;
use crate::failure::Failure;
use crate::output::Output;
use crate::printable::Lines;
use crate::streams::{self, confirm};
use crate::table::{Align, Table};
use crate::text;

pub fn run(cli: &Cli, command: &Keyspace, output: Output) -> Result<(), Failure> {
    match command {
        Keyspace::Create {
            keyspace,
            kms,
            settings,
        } => create(cli, keyspace, kms.as_ref(), settings, output),
        Keyspace::Set {
            keyspace,
            settings,
            lasts,
        } => set(cli, keyspace, settings, *lasts, output),
        Keyspace::History { keyspace, limit } => history(cli, keyspace, *limit, output),
        Keyspace::List { keyspace } => list(cli, keyspace.as_ref(), output),
        Keyspace::Rotate { keyspace, wait } => rotate(cli, keyspace, *wait, output),
        Keyspace::DestroyDeks { keyspace, yes } => destroy_deks(cli, keyspace, *yes, output),
        Keyspace::Rewrap { keyspace, kms } => rewrap(cli, keyspace, kms, output),
    }
}

fn create(
    cli: &Cli,
    keyspace: &KeyspaceName,
    kms: Option<&KmsName>,
    settings: &[Setting],
    output: Output,
) -> Result<(), Failure> {
    let doing = format!("keyspace create {keyspace}");
    let mut settings = pairs(settings);
    settings.extend(kms.map(|kms| ("kms", kms.as_str())));
    let answer = Server::reach(cli)?.call(&doing, Some(keyspace.as_str()), |client| {
        client.keyspace_create(keyspace, &settings)
    })?;
    let id = answer.value;
    let document = json!({ "keyspace": keyspace.as_str(), "id": id });
    output.print_result(
        &document,
        &Lines::of(format!("{keyspace}: created, id {id}")),
    )
}

fn set(
    cli: &Cli,
    keyspace: &KeyspaceName,
    settings: &[Setting],
    lasts: Option<Duration>,
    output: Output,
) -> Result<(), Failure> {
    let doing = format!("keyspace set {keyspace}");
    let changes = pairs(settings);
    Server::reach(cli)?.call(&doing, Some(keyspace.as_str()), |client| match lasts {
        None => client.keyspace_set(keyspace, &changes),
        Some(lasts) => client.keyspace_set_for(keyspace, &changes, lasts),
    })?;
    let lasts_ms = lasts.map(|lasts| lasts.as_millis() as u64);
    let while_text =
        lasts_ms.map_or_else(String::new, |ms| format!(" for {}", text::milliseconds(ms)));
    let mut text = Lines::default();
    let mut members = serde_json::Map::new();
    for Setting { name, value } in settings {
        text.push(format!("{keyspace}: {name} = {value}{while_text}"));
        members.insert(name.clone(), value.clone().into());
    }
    let mut document = json!({ "keyspace": keyspace.as_str(), "set": members });
    if let Some(ms) = lasts_ms {
        document["for_ms"] = ms.into();
    }
    output.print_result(&document, &text)
}

fn history(
    cli: &Cli,
    keyspace: &KeyspaceName,
    limit: Option<usize>,
    output: Output,
) -> Result<(), Failure> {
    let doing = format!("keyspace history {keyspace}");
    let answer = Server::reach(cli)?.call(&doing, Some(keyspace.as_str()), |client| {
        client.keyspace_history(keyspace)
    })?;
    let mut changes = answer.value.changes;
    changes.truncate(limit.unwrap_or(usize::MAX));
    let document = json!({ "keyspace": keyspace.as_str(), "changes": changes });
    output.print_result(&document, &history_table(&changes))
}

fn history_table(changes: &[KeyspaceChange]) -> Lines {
    if changes.is_empty() {
        return Lines::of("no changes");
    }
    let mut table = Table::new(&[
        ("WHEN", Align::Left),
        ("WHO", Align::Left),
        ("WHAT", Align::Left),
        ("FROM", Align::Left),
        ("TO", Align::Left),
        ("UNTIL", Align::Left),
    ]);
    let of = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".into());
    for change in changes {
        let until = change.until_unix_ms.map(text::moment);
        table.row([
            text::moment(change.unix_ms),
            change.who.clone(),
            change.what.clone(),
            of(&change.from),
            of(&change.to),
            of(&until),
        ]);
    }
    table.render()
}

fn list(cli: &Cli, only: Option<&KeyspaceName>, output: Output) -> Result<(), Failure> {
    let mut keyspaces =
        Server::reach(cli)?.call("keyspace list", None, |client| client.keyspace_list())?;
    if let Some(name) = only {
        keyspaces.retain(|info| info.name.as_str() == name.as_str());
        if keyspaces.is_empty() {
            return Err(Failure::refused(
                format!("there is no keyspace {name}, or this user may not use it"),
                format!("see `keyway keyspace list`; make it with `keyway keyspace create {name}`"),
            ));
        }
    }
    let document = json!({ "keyspaces": keyspaces.iter().map(document).collect::<Vec<_>>() });
    let text = match only {
        Some(_) => {
            let mut text = Lines::default();
            keyspaces
                .iter()
                .for_each(|info| text.append(&in_full(info)));
            text
        }
        None => table(&keyspaces),
    };
    output.print_result(&document, &text)
}

fn rotate(
    cli: &Cli,
    keyspace: &KeyspaceName,
    wait: Option<Duration>,
    output: Output,
) -> Result<(), Failure> {
    let doing = format!("keyspace rotate {keyspace}");
    let server = Server::reach(cli)?;
    let answer = server.call(&doing, Some(keyspace.as_str()), |client| {
        client.keyspace_rotate(keyspace)
    })?;
    let generation = answer.value;
    let mut document = json!({ "keyspace": keyspace.as_str(), "generation": generation });
    let mut text = Lines::of(format!("{keyspace}: rotated, DEK generation {generation}"));
    match wait {
        None => text.push(format!(
            "its keys are sealed again in the background; see: keyway keyspace list {keyspace}"
        )),
        Some(patience) => {
            let remedy = format!(
                "it goes on at the server; see how far with `keyway keyspace list {keyspace}`"
            );
            poll_until_done(&doing, patience, &remedy, || {
                Ok(match info_of(&server, &doing, keyspace)?.reseal {
                    None => Step::Over(()),
                    Some(reseal) => Step::Pending(progress(reseal)),
                })
            })?;
            document["reseal"] = Value::Null;
            text.push(format!("{keyspace}: all keys are sealed under it"));
        }
    }
    output.print_result(&document, &text)
}

fn info_of(server: &Server, doing: &str, keyspace: &KeyspaceName) -> Result<KeyspaceInfo, Failure> {
    let keyspaces = server.call(doing, None, |client| client.keyspace_list())?;
    let of_name = |info: &KeyspaceInfo| info.name.as_str() == keyspace.as_str();
    keyspaces.into_iter().find(of_name).ok_or_else(|| {
        Failure::refused(
            format!("{doing}: the keyspace is not listed any more"),
            "see `keyway keyspace list`",
        )
    })
}

fn rewrap(
    cli: &Cli,
    keyspace: &KeyspaceName,
    kms: &KmsName,
    output: Output,
) -> Result<(), Failure> {
    let doing = format!("keyspace rewrap {keyspace}");
    Server::reach(cli)?.call(&doing, Some(keyspace.as_str()), |client| {
        client.keyspace_rewrap(keyspace, kms)
    })?;
    let document = json!({ "keyspace": keyspace.as_str(), "kms": kms.as_str() });
    output.print_result(
        &document,
        &Lines::of(format!("{keyspace}: wrapped by KMS {kms}")),
    )?;
    streams::eprint_line(&format!(
        "keyway: the KMS that wrapped it so far could still unwrap its DEK from a backup; rotate \
         it next: keyway keyspace rotate {keyspace}"
    ));
    Ok(())
}

fn destroy_deks(
    cli: &Cli,
    keyspace: &KeyspaceName,
    yes: bool,
    output: Output,
) -> Result<(), Failure> {
    let doing = format!("keyspace destroy-deks {keyspace}");
    if !yes {
        let question = format!(
            "{keyspace}: no backup from before its last rotation can be read once its retired DEKs are destroyed"
        );
        confirm(&doing, &question, keyspace.as_str())?;
    }
    let answer = Server::reach(cli)?.call(&doing, Some(keyspace.as_str()), |client| {
        client.keyspace_destroy_deks(keyspace)
    })?;
    let destroyed = answer.value;
    let document = json!({ "keyspace": keyspace.as_str(), "destroyed": destroyed });
    let text = text::count(destroyed.into(), "retired DEK");
    output.print_result(
        &document,
        &Lines::of(format!("{keyspace}: {text} destroyed")),
    )
}

fn pairs(settings: &[Setting]) -> Vec<(&str, &str)> {
    let settings = settings.iter();
    settings
        .map(|setting| (setting.name.as_str(), setting.value.as_str()))
        .collect()
}

fn document(info: &KeyspaceInfo) -> Value {
    json!({
        "id": info.id,
        "name": info.name.as_str(),
        "locked": info.locked,
        "kms": info.kms,
        "generation": info.generation,
        "reseal": info.reseal,
        "retired_deks": info.retired_deks,
        "settings": info.settings,
        "allow": info.allow,
        "overrides": info.overrides,
    })
}

fn table(keyspaces: &[KeyspaceInfo]) -> Lines {
    if keyspaces.is_empty() {
        return Lines::of("no keyspaces");
    }
    let mut table = Table::new(&[
        ("ID", Align::Right),
        ("KEYSPACE", Align::Left),
        ("STATE", Align::Left),
        ("KMS", Align::Left),
        ("DEK GENERATION", Align::Right),
        ("SOFT TTL", Align::Right),
        ("HARD TTL", Align::Right),
        ("DEK LEASE", Align::Right),
        ("MAX IN FLIGHT", Align::Right),
    ]);
    for info in keyspaces {
        let time = |name: &str| match info.settings.get(name) {
            Some(value) => value
                .parse()
                .map_or_else(|_| value.clone(), text::milliseconds),
            None => "-".into(),
        };
        let max_in_flight = info.settings.get("max_in_flight");
        table.row([
            info.id.to_string(),
            info.name.to_string(),
            state(info.locked).into(),
            kms(info).into(),
            generation(info),
            time("soft_ttl_ms"),
            time("hard_ttl_ms"),
            time("dek_lease_ms"),
            max_in_flight.cloned().unwrap_or_else(|| "-".into()),
        ]);
    }
    let mut text = table.render();
    for info in keyspaces {
        for (name, temporary) in &info.overrides {
            let value = with_end(value_of(info, name), Some(temporary));
            text.push(format!("{}: {name} {value}", info.name));
        }
    }
    text
}

/// What stands under a name of `overrides`. A grant that is not listed is none.
fn value_of<'a>(info: &'a KeyspaceInfo, name: &str) -> &'a str {
    let value = match name.strip_prefix("allow:") {
        Some(principal) => info.allow.get(principal),
        None => info.settings.get(name),
    };
    value.map_or("none", String::as_str)
}

/// `256 until 2026-11-26T14:05:00Z, then 64`.
fn with_end(value: &str, temporary: Option<&Override>) -> String {
    match temporary {
        None => value.to_owned(),
        Some(Override {
            until_unix_ms,
            then,
        }) => {
            let until = text::moment(*until_unix_ms);
            format!("{value} until {until}, then {then}")
        }
    }
}

fn in_full(info: &KeyspaceInfo) -> Lines {
    let mut table = Table::new(&[("SETTING", Align::Left), ("VALUE", Align::Left)]);
    for (name, value) in &info.settings {
        table.row([name.clone(), with_end(value, info.overrides.get(name))]);
    }
    let granted = info.allow.keys();
    let mut grants: Vec<String> = granted
        .map(|principal| format!("allow:{principal}"))
        .collect();
    // What a temporary override takes away is not among the grants.
    let names = info.overrides.keys();
    grants.extend(names.filter(|name| name.starts_with("allow:")).cloned());
    grants.sort();
    grants.dedup();
    for name in grants {
        let value = with_end(value_of(info, &name), info.overrides.get(&name));
        table.row([name, value]);
    }
    let state = state(info.locked);
    let mut text = Lines::of(format!(
        "keyspace {}, id {}, {state}, KMS {}, DEK generation {}",
        info.name,
        info.id,
        kms(info),
        generation(info)
    ));
    if let Some(reseal) = info.reseal {
        text.push(format!("rotation in progress: {}", progress(reseal)));
    }
    text.append(&table.render());
    text
}

fn kms(info: &KeyspaceInfo) -> &str {
    info.kms.as_deref().unwrap_or("-")
}

fn generation(info: &KeyspaceInfo) -> String {
    info.generation
        .map_or_else(|| "-".into(), |generation| generation.to_string())
}

fn progress(reseal: Reseal) -> String {
    let Reseal { resealed, left } = reseal;
    let all = text::count(resealed.saturating_add(left), "key");
    format!("{resealed} of {all} sealed again")
}

fn state(locked: Option<bool>) -> &'static str {
    match locked {
        Some(true) => "locked",
        Some(false) => "unlocked",
        None => "-",
    }
}
