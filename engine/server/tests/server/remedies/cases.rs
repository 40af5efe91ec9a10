//! What provokes each message with a remedy, and how its remedy was executed.
//!
//! Each file in `cases` has cases of one area. A case begins with `# says:` and a part of each message that it covers;
//! the part must identify one literal of the sources. What follows is a script, or one of these:
//!
//! - `# test: FILE NAME`, a test elsewhere that provokes the message and executes its remedy;
//! - `# why: CATEGORY`, if there is nothing that a test could execute: see [`WHYS`].
//!
//! A script must print the messages of its case, and its last line shows that the trouble is gone. Lines in front of the
//! first case are executed once. Messages that no case covers yet are in `debts.txt`, which may only become shorter.

use std::collections::{BTreeMap, BTreeSet};

use keyway_testkit::openbao::{Mode, OpenBao};
use keyway_testkit::{softhsm, tools};

use super::{clauses, is_test, root};
use crate::command_line::operator::{Ended, Operator};
use crate::common::Setup;

/// The number of messages without a case. Lower it with each case; it is never raised.
const DEBTS: usize = 87;

/// Why nothing can be executed, and the number of messages at most.
const WHYS: [(&str, usize); 5] = [
    // The message asks for a report of a bug, which no test can provoke.
    ("bug", 9),
    // A person has to act at the cloud's account or at a supplier's device.
    ("account", 7),
    ("device", 12),
    // A person has to look at something: which file, which disk, which of two.
    ("person", 12),
    // The words look like a remedy and are none.
    ("none", 20),
];

/// A case, or the lines in front of the first one.
struct Case {
    /// Its file and first line.
    place: String,
    /// Parts of its messages.
    says: Vec<String>,
    body: String,
}

fn folder() -> std::path::PathBuf {
    root().join("engine/server/tests/server/remedies/cases")
}

fn cases(name: &str) -> Vec<Case> {
    let text = std::fs::read_to_string(folder().join(name)).unwrap();
    let new = |line| Case {
        place: format!("{name}:{line}"),
        says: Vec::new(),
        body: String::new(),
    };
    let mut all = vec![new(1)];
    for (at, line) in text.lines().enumerate() {
        let says = line.strip_prefix("# says: ");
        if says.is_some() && (at == 0 || !text.lines().nth(at - 1).unwrap().starts_with("# says: "))
        {
            all.push(new(at + 1));
        }
        let case = all.last_mut().unwrap();
        match says {
            Some(part) => case.says.push(part.to_owned()),
            None => case.body += &format!("{line}\n"),
        }
    }
    all
}

/// Returns the first line of the body, which says what it is. Comments in front of the next case follow.
fn first_line(case: &Case) -> &str {
    case.body.trim().lines().next().unwrap_or("")
}

fn all_cases() -> Vec<Case> {
    let mut names: Vec<_> = std::fs::read_dir(folder()).unwrap().collect();
    names.sort_by_key(|entry| entry.as_ref().unwrap().file_name());
    let names = names
        .into_iter()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let names = names.filter(|name| name.ends_with(".sh") || name.ends_with(".txt"));
    names
        .filter(|name| name != "debts.txt" && name != "functions.sh")
        .flat_map(|name| cases(&name).split_off(1))
        .collect()
}

/// Returns the one literal that contains the part.
fn literal<'a>(literals: &'a BTreeSet<String>, part: &str) -> Result<&'a str, String> {
    let found: Vec<_> = literals
        .iter()
        .filter(|literal| literal.contains(part))
        .collect();
    match *found {
        [literal] => Ok(literal),
        // A literal may be the beginning of another one.
        _ => literals
            .get(part)
            .map(|it| &**it)
            .ok_or_else(|| format!("{part:?} is in {} messages: {found:#?}", found.len())),
    }
}

#[test]
fn every_message_with_a_remedy_has_a_case_or_is_a_debt() {
    let found = clauses::messages(&root());
    let mut faults = Vec::new();
    let mut covered = BTreeMap::new();
    for case in all_cases() {
        for part in &case.says {
            match literal(&found, part) {
                Ok(literal) => {
                    covered.insert(literal.to_owned(), case.place.clone());
                }
                Err(why) => faults.push(format!("{}: {why}", case.place)),
            }
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
    let file = folder().join("debts.txt");
    let text = std::fs::read_to_string(&file).unwrap_or_default();
    let debts: BTreeSet<String> = text.lines().map(str::to_owned).collect();
    let covered: BTreeSet<String> = covered.into_keys().collect();
    let missing: BTreeSet<String> = found.difference(&covered).cloned().collect();
    let new: Vec<_> = missing.difference(&debts).collect();
    assert!(new.is_empty(), "these messages need a case: {new:#?}");
    let gone: Vec<_> = debts.difference(&missing).collect();
    assert!(gone.is_empty(), "these are no longer debts: {gone:#?}");
    assert_eq!(debts.len(), DEBTS, "set the number of debts");
}

#[test]
fn what_cannot_be_executed_is_little_and_says_why() {
    let mut counts = BTreeMap::new();
    for case in all_cases() {
        if let Some(why) = first_line(&case).strip_prefix("# why: ") {
            *counts.entry(why.to_owned()).or_insert(0) += case.says.len();
        } else if let Some(test) = first_line(&case).strip_prefix("# test: ") {
            let (path, name) = test.split_once(' ').unwrap();
            let text = std::fs::read_to_string(root().join(path)).unwrap();
            assert!(
                is_test(&text, name),
                "{}: {path} has no test {name}",
                case.place
            );
        } else {
            let is_script = case.place.contains(".sh:") && !case.body.trim().is_empty();
            assert!(is_script, "{} executes nothing", case.place);
        }
    }
    for (why, most) in WHYS {
        let count = counts.remove(why).unwrap_or(0);
        assert!(count <= most, "{why}: {count} messages, {most} at most");
    }
    assert!(counts.is_empty(), "unknown categories: {counts:?}");
}

/// Executes the scripts of an area, each in a folder of its own. Asserts that each prints its messages and succeeds.
fn walk(name: &str, shell: impl Fn(&str) -> Ended) {
    let found = clauses::messages(&root());
    let mut faults = Vec::new();
    let all = cases(name);
    shell(&all[0].body).done();
    for (at, case) in all.iter().enumerate().skip(1) {
        if first_line(case).starts_with("# test: ") || first_line(case).starts_with("# why: ") {
            continue;
        }
        let functions = folder().join("functions.sh");
        let functions = format!(". {}", functions.display());
        let began = std::time::Instant::now();
        let ended = shell(&format!(
            "{functions}\nmkdir case-{at}; cd case-{at}\n{}",
            case.body
        ));
        println!("{}: {:?}", case.place, began.elapsed());
        if let Some(why) = ended.out.strip_prefix("SKIP: ") {
            println!("{}: skipped: {why}", case.place);
            continue;
        }
        let (code, output) = (ended.code, ended.out + &ended.err);
        if code != 0 {
            faults.push(format!("{}: {code}: {output}", case.place));
        }
        for part in &case.says {
            let is_printed = literal(&found, part).map(|literal| prints(&output, literal));
            if is_printed != Ok(true) {
                faults.push(format!(
                    "{}: {part:?}: {is_printed:?}: {output}",
                    case.place
                ));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// Returns `true` if the output contains the literal, with anything for its placeholders.
fn prints(output: &str, literal: &str) -> bool {
    let output = &clauses::one_line(output);
    let mut parts = literal.split("{}").filter(|part| !part.trim().is_empty());
    let Some(first) = parts.next() else {
        return true;
    };
    let rests = output
        .match_indices(first)
        .map(|(at, _)| &output[at + first.len()..]);
    let parts: Vec<&str> = parts.collect();
    rests.into_iter().any(|mut rest| {
        parts.iter().all(|part| match rest.split_once(part) {
            Some((_, behind)) => {
                rest = behind;
                true
            }
            None => false,
        })
    })
}

#[test]
fn a_message_is_found_in_the_output_with_any_values() {
    assert!(prints("keyway: a b: c; give 5", "{} b: {}; give {}"));
    assert!(prints("give x give 5 or 6", "give {} or {}"));
    for output in ["give 5", "or 6 give 5", ""] {
        assert!(!prints(output, "give {} or {}"), "{output}");
    }
}

/// Executes an area at a server, whose other addresses are `$LISTEN` and `$METRICS`.
fn walk_at_a_server(name: &str) {
    let operator = Operator::new();
    let server = Setup::new(&operator.path("data")).shards(1).start();
    let address = |name: &str| server.endpoints[name].as_str().unwrap().to_owned();
    let (listen, metrics) = (address("tcp"), address("metrics"));
    let metrics = metrics
        .trim_start_matches("http://")
        .trim_end_matches("/metrics");
    let addresses = format!("LISTEN={listen} METRICS={metrics}");
    walk(name, |script| {
        operator.shell(&server, &format!("{addresses}\n{script}"))
    });
}

#[test]
fn command_line() {
    walk_at_a_server("cli.sh");
}

#[test]
fn key_files() {
    walk_at_a_server("import.sh");
}

fn walk_alone(name: &str) {
    let operator = Operator::new();
    walk(name, |script| operator.shell_alone(script));
}

#[test]
fn start() {
    walk_alone("start.sh");
}

#[test]
fn configuration() {
    walk_alone("config.sh");
}

#[test]
fn data_directory() {
    walk_alone("data.sh");
}

#[test]
fn local_kms() {
    walk_alone("local.sh");
}

/// Returns the path of a Python. moto's virtual environment has one.
fn python() -> String {
    let path = tools::dir().join("moto/bin/python");
    path.display().to_string()
}

#[test]
fn openbao() {
    let Some(bao) = OpenBao::start_or_skip(Mode::Tls) else {
        return;
    };
    let variables = [
        ("BAO_ADDR", bao.url()),
        ("BAO_TOKEN", bao.root_token().to_owned()),
        ("BAO_CACERT", bao.ca_file().display().to_string()),
        ("UNSEAL_KEY", bao.unseal_key().to_owned()),
        ("PYTHON", python()),
    ];
    let exports = variables.map(|(name, value)| format!("export {name}={value}\n"));
    let program = bao.program().parent().unwrap().display().to_string();
    let exports = format!("{}export PATH=\"{program}:$PATH\"\n", exports.concat());
    let operator = Operator::new();
    walk("vault.sh", |script| {
        operator.shell_alone(&format!("{exports}{script}"))
    });
}

#[test]
fn tokens() {
    let Some(token) = softhsm::start_or_skip() else {
        return;
    };
    let mut exports = String::new();
    for (name, value) in token.env() {
        exports += &format!("export {name}={}\n", value.display());
    }
    exports += &format!(
        "MODULE={} TOKEN={} PIN={} SO_PIN={}\n",
        token.module().display(),
        token.token_label(),
        token.pin(),
        token.so_pin()
    );
    let operator = Operator::new();
    walk("token.sh", |script| {
        operator.shell_alone(&format!("{exports}{script}"))
    });
}

#[test]
fn shares() {
    let python = tools::path_or_skip("shamir-mnemonic", &["shamir/bin/python"]);
    let Some(python) = python else { return };
    let vectors = root().join("engine/kms/tests/data/slip39_vectors.json");
    let variables = format!(
        "PYTHON={} VECTORS={}\n",
        python.display(),
        vectors.display()
    );
    let operator = Operator::new();
    walk("shares.sh", |script| {
        operator.shell_alone(&format!("{variables}{script}"))
    });
}

#[cfg(feature = "aws")]
#[test]
fn amazon() {
    use keyway_testkit::microburst::Microburst;
    use keyway_testkit::moto::{Moto, REGION};

    let Some(moto) = Moto::start() else { return };
    let Some(proxy) = Microburst::start(&moto) else {
        return;
    };
    let programs = tools::dir().join("moto/bin");
    let credentials = moto.create_user("keyway", &["kms:*"]);
    let variables = [
        ("REGION", REGION.to_owned()),
        ("MOTO", moto.endpoint_url()),
        ("PROXY", proxy.endpoint_url()),
        ("CREDENTIALS", credentials.display().to_string()),
        ("PYTHON", python()),
        (
            "MOTO_SERVER",
            programs.join("moto_server").display().to_string(),
        ),
    ];
    let variables = variables.map(|(name, value)| format!("{name}={value}\n"));
    let variables = variables.concat();
    let operator = Operator::new();
    walk("aws.sh", |script| {
        operator.shell_alone(&format!("{variables}{script}"))
    });
}
