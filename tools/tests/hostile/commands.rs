//! Every command that there is, as the help lists them.

use std::collections::BTreeSet;

use super::keyway;

/// A command as it is typed.
pub struct Typed {
    pub line: &'static str,
    /// Its output is bytes, unless `--json` is given.
    pub is_raw: bool,
}

const fn text(line: &'static str) -> Typed {
    Typed {
        line,
        is_raw: false,
    }
}

const fn raw(line: &'static str) -> Typed {
    Typed { line, is_raw: true }
}

/// Each command, once at least.
pub const COMMANDS: [Typed; 44] = [
    text("keyspace create prod"),
    text("keyspace set prod max_in_flight=0 --for 90s"),
    text("keyspace history prod"),
    text("keyspace list"),
    text("keyspace list prod"),
    text("keyspace rotate prod"),
    text("keyspace rotate prod --wait=300ms"),
    text("keyspace destroy-deks prod --yes"),
    text("keyspace rewrap prod --kms bao"),
    text("key generate prod/alice --alg ed25519"),
    text("key import prod/alice --file key"),
    text("key list prod"),
    text("key rotate prod/alice"),
    text("key revoke prod/alice"),
    text("key revoke prod/alice --version 1"),
    text("key trim prod/alice --below 2"),
    text("key delete prod/alice"),
    text("key public prod/alice"),
    raw("key public prod/alice --der"),
    text("public prod/alice"),
    text("import prod --dir keys --skip-existing"),
    text("import prod --ndjson lines --window 1"),
    raw("sign prod/alice --in msg"),
    text("verify prod/alice --in msg --sig msg"),
    raw("mac prod/alice --in msg"),
    raw("encrypt prod/alice --in msg"),
    raw("decrypt prod/alice --in sealed"),
    raw("derive prod/alice --len 9"),
    raw("get prod/alice"),
    text("refresh prod/alice"),
    text("lock prod"),
    text("lock --all"),
    text("unlock prod"),
    text("unlock prod --wait=300ms"),
    text("unlock prod --share-fd 0"),
    text("unlock prod --ticket 42"),
    text("kms init bao --shares 3 --threshold 2"),
    text("kms unlock bao"),
    text("kms lock bao"),
    text("kms list"),
    text("hot prod"),
    text("status"),
    text("top --once --interval 50ms"),
    text("doctor --duration 2s"),
];

/// The commands below `path`, as their help lists them: those without others below them.
fn listed(path: &[String], found: &mut BTreeSet<String>) {
    let help = keyway().args(path).arg("--help").output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let lines = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let names = lines
        .take_while(|line| !line.is_empty())
        .filter_map(|line| {
            let line = line
                .strip_prefix("  ")
                .filter(|line| !line.starts_with(' '))?;
            line.split(' ').next().filter(|name| *name != "help")
        });
    let names: Vec<&str> = names.collect();
    if names.is_empty() {
        found.insert(path.join(" "));
    }
    for name in names {
        listed(&[path, &[name.to_owned()]].concat(), found);
    }
}

#[test]
fn no_command_is_forgotten() {
    let mut found = BTreeSet::new();
    listed(&[], &mut found);
    let path = |typed: &Typed| {
        let words: Vec<&str> = typed.line.split(' ').collect();
        let two = words[..words.len().min(2)].join(" ");
        if found.contains(&two) {
            two
        } else {
            words[0].to_owned()
        }
    };
    let typed: BTreeSet<String> = COMMANDS.iter().map(path).collect();
    assert_eq!(typed, found, "left: this list; right: the help");
    assert!(found.len() > 30, "{found:?}");
}
