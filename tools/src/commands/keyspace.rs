//! `keyspace …`.

use keyway_client::{KeyspaceInfo, KeyspaceName};
use serde_json::{Value, json};

use crate::args::{Cli, Keyspace, Setting};
use crate::connect::Server;
use crate::failure::Failure;
use crate::output::Output;
use crate::table::{Align, Table};
use crate::text;

pub fn run(cli: &Cli, command: &Keyspace, output: Output) -> Result<(), Failure> {
    match command {
        Keyspace::Create { keyspace, settings } => create(cli, keyspace, settings, output),
        Keyspace::Set { keyspace, settings } => set(cli, keyspace, settings, output),
        Keyspace::List { keyspace } => list(cli, keyspace.as_ref(), output),
    }
}

fn create(
    cli: &Cli,
    keyspace: &KeyspaceName,
    settings: &[Setting],
    output: Output,
) -> Result<(), Failure> {
    let doing = format!("keyspace create {keyspace}");
    let answer = Server::reach(cli)?.call(&doing, Some(keyspace.as_str()), |client| {
        client.keyspace_create(keyspace, &pairs(settings))
    })?;
    let id = answer.value;
    let document = json!({ "keyspace": keyspace.as_str(), "id": id });
    output.say(&document, &format!("{keyspace}: created, id {id}\n"))
}

fn set(
    cli: &Cli,
    keyspace: &KeyspaceName,
    settings: &[Setting],
    output: Output,
) -> Result<(), Failure> {
    let doing = format!("keyspace set {keyspace}");
    Server::reach(cli)?.call(&doing, Some(keyspace.as_str()), |client| {
        client.keyspace_set(keyspace, &pairs(settings))
    })?;
    let mut text = String::new();
    let mut members = serde_json::Map::new();
    for Setting { name, value } in settings {
        text.push_str(&format!("{keyspace}: {name} = {value}\n"));
        members.insert(name.clone(), value.clone().into());
    }
    let document = json!({ "keyspace": keyspace.as_str(), "set": members });
    output.say(&document, &text)
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
        Some(_) => keyspaces.iter().map(in_full).collect(),
        None => table(&keyspaces),
    };
    output.say(&document, &text)
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
        "settings": info.settings,
        "allow": info.allow,
    })
}

fn table(keyspaces: &[KeyspaceInfo]) -> String {
    if keyspaces.is_empty() {
        return "no keyspaces\n".into();
    }
    let mut table = Table::new(&[
        ("ID", Align::Right),
        ("KEYSPACE", Align::Left),
        ("STATE", Align::Left),
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
            time("soft_ttl_ms"),
            time("hard_ttl_ms"),
            time("dek_lease_ms"),
            max_in_flight.cloned().unwrap_or_else(|| "-".into()),
        ]);
    }
    table.render()
}

fn in_full(info: &KeyspaceInfo) -> String {
    let mut table = Table::new(&[("SETTING", Align::Left), ("VALUE", Align::Left)]);
    for (name, value) in &info.settings {
        table.row([name.clone(), value.clone()]);
    }
    for (principal, grants) in &info.allow {
        table.row([format!("allow:{principal}"), grants.clone()]);
    }
    let state = state(info.locked);
    let heading = format!("keyspace {}, id {}, {state}\n", info.name, info.id);
    heading + &table.render()
}

fn state(locked: Option<bool>) -> &'static str {
    match locked {
        Some(true) => "locked",
        Some(false) => "unlocked",
        None => "-",
    }
}
