//! `keyspace …`.

use std::time::Duration;

use keyway_client::{KeyspaceInfo, KeyspaceName, KmsName, Reseal};
use serde_json::{Value, json};

use super::follow::{Step, follow};

use crate::args::{Cli, Keyspace, Setting};
use crate::connect::Server;
use crate::failure::Failure;
use crate::output::Output;
use crate::streams;
use crate::table::{Align, Table};
use crate::text;

pub fn run(cli: &Cli, command: &Keyspace, output: Output) -> Result<(), Failure> {
    match command {
        Keyspace::Create {
            keyspace,
            kms,
            settings,
        } => create(cli, keyspace, kms.as_ref(), settings, output),
        Keyspace::Set { keyspace, settings } => set(cli, keyspace, settings, output),
        Keyspace::List { keyspace } => list(cli, keyspace.as_ref(), output),
        Keyspace::Rotate { keyspace, wait } => rotate(cli, keyspace, *wait, output),
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
    let mut text = format!("{keyspace}: rotated, DEK generation {generation}\n");
    match wait {
        None => text.push_str(&format!(
            "its keys are sealed again in the background; see: keyway keyspace list {keyspace}\n"
        )),
        Some(patience) => {
            let remedy = format!(
                "it goes on at the server; see how far with `keyway keyspace list {keyspace}`"
            );
            follow(&doing, patience, &remedy, || {
                Ok(match info_of(&server, &doing, keyspace)?.reseal {
                    None => Step::Over(()),
                    Some(reseal) => Step::Pending(progress(reseal)),
                })
            })?;
            document["reseal"] = Value::Null;
            text.push_str(&format!("{keyspace}: all keys are sealed under it\n"));
        }
    }
    output.say(&document, &text)
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
    output.say(&document, &format!("{keyspace}: wrapped by KMS {kms}\n"))?;
    streams::tell(&format!(
        "keyway: the KMS that wrapped it so far could still unwrap its DEK from a backup; rotate \
         it next: keyway keyspace rotate {keyspace}"
    ));
    Ok(())
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
    let reseal = info.reseal.map_or_else(String::new, |reseal| {
        format!("rotation under way: {}\n", progress(reseal))
    });
    let heading = format!(
        "keyspace {}, id {}, {state}, KMS {}, DEK generation {}\n",
        info.name,
        info.id,
        kms(info),
        generation(info)
    );
    heading + &reseal + &table.render()
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
