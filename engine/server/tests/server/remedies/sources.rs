//! Extracts remedies from the sources: commands and flags in texts for users.

use std::collections::BTreeSet;
use std::path::Path;

use super::literals::{files, is_word, literals};

/// Where messages are written.
pub const FOLDERS: [&str; 8] = [
    "tools/src",
    "protocol/client/src",
    "engine/keys/src",
    "engine/kms/src",
    "engine/node/src",
    "engine/server/src",
    "engine/store/src",
    "protocol/src",
];

/// Programs that a remedy may name.
const PROGRAMS: [&str; 20] = [
    "keyway",
    "keywayd",
    "openssl",
    "ssh-keygen",
    "iconv",
    "sed",
    "head",
    "bao",
    "vault",
    "sysctl",
    "chmod",
    "journalctl",
    "chown",
    "docker",
    "jq",
    "mv",
    "pkcs11-tool",
    "puttygen",
    "systemctl",
    "ulimit",
];

/// Words after `keyway` that make it a command and not the product's name.
const SUBCOMMANDS: [&str; 20] = [
    "keyspace",
    "key",
    "public",
    "import",
    "sign",
    "verify",
    "mac",
    "encrypt",
    "decrypt",
    "derive",
    "get",
    "refresh",
    "lock",
    "unlock",
    "kms",
    "hot",
    "status",
    "doctor",
    "top",
    "--version",
];

/// Returns every command and every flag that a message names, with `{}` for placeholders.
pub fn remedies(root: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for folder in FOLDERS {
        for path in files(&root.join(folder)) {
            let text = std::fs::read_to_string(&path).unwrap();
            for literal in literals(&text) {
                // A single word is a name, an argument or a key, not a message.
                if literal.text.contains(' ') {
                    commands(&literal.text, &mut found);
                    flags(&literal.text, &mut found);
                }
            }
        }
    }
    found
}

/// Returns the words that doctor tells its reader to search for in the log.
pub fn log_lines(folder: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for path in files(folder) {
        let text = std::fs::read_to_string(&path).unwrap();
        let calls = text.split("log_line(\"").skip(1);
        found.extend(calls.filter_map(|call| Some(call.split_once('"')?.0.to_owned())));
    }
    found
}

fn commands(literal: &str, found: &mut BTreeSet<String>) {
    for program in PROGRAMS {
        for (at, _) in literal.match_indices(program) {
            let behind = &literal[at + program.len()..];
            let is_word = !literal[..at].chars().next_back().is_some_and(is_part);
            let Some(arguments) = behind.strip_prefix(' ').filter(|_| is_word) else {
                continue;
            };
            let arguments = arguments[..command_len(arguments)].trim_end();
            let first = arguments.split(' ').next().unwrap_or("");
            let is_word = |word: &str| word.bytes().all(|byte| byte.is_ascii_graphic());
            let is_command = match program {
                "keyway" => SUBCOMMANDS.contains(&first),
                "keywayd" => first.starts_with("--") && !literal[..at].ends_with("-u "),
                // Also used as parts of English.
                "sed" => first.starts_with(['\'', '-']),
                "head" | "docker" | "ulimit" | "mv" => first.starts_with('-'),
                "vault" => first == "write",
                _ => is_word(first) && !first.is_empty(),
            };
            if is_command {
                found.insert(filled(&format!("{program} {arguments}")));
            }
        }
    }
}

/// Returns the length up to the first character that ends a command in a sentence, outside of single quotes.
fn command_len(arguments: &str) -> usize {
    let mut is_quoted = false;
    let end = arguments.find(|char| {
        is_quoted ^= char == '\'';
        !is_quoted && matches!(char, '`' | ';' | ',' | ')' | '\n' | '"')
    });
    end.unwrap_or(arguments.len())
}

fn flags(literal: &str, found: &mut BTreeSet<String>) {
    for (at, _) in literal.match_indices("--") {
        if literal[..at].chars().next_back().is_some_and(is_part) {
            continue;
        }
        let name = &literal[at + 2..];
        let end = name.find(|char: char| !char.is_ascii_lowercase() && char != '-');
        let name = name[..end.unwrap_or(name.len())].trim_end_matches('-');
        if name.len() > 1 {
            found.insert(format!("--{name}"));
        }
    }
}

fn is_part(char: char) -> bool {
    is_word(char) || char == '-' || char == '/' || char == '.'
}

/// Replaces `{name}` and `{name:?}` by `{}`.
pub fn filled(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, behind)) = rest.split_once('{') {
        out.push_str(before);
        out.push_str("{}");
        rest = behind.split_once('}').map_or("", |(_, behind)| behind);
    }
    out + rest
}

#[test]
fn commands_and_flags_are_found_in_messages_and_nowhere_else() {
    let source = r##"
        // "keyway lock a comment"
        /// `keyway top --once`
        let quote = '"'; let text = "run `keyway unlock {name:?} --wait`, then \
            openssl dgst -binary {file}; or --timeout; sed -E 's/(a); b/c/' FILE, or chown {uid} {path}";
        let raw = r#"make it: keyway kms init "x""#;
        let name = "keyway"; let words = "the keyway that was used; head of it";
        #[cfg(test)]
mod tests { let no = "keyway status now"; }
    "##;
    let mut found = BTreeSet::new();
    for literal in literals(source)
        .iter()
        .filter(|literal| literal.text.contains(' '))
    {
        commands(&literal.text, &mut found);
        flags(&literal.text, &mut found);
    }
    let found: Vec<&str> = found.iter().map(String::as_str).collect();
    assert_eq!(
        found,
        [
            "--timeout",
            "--wait",
            "chown {} {}",
            "keyway kms init",
            "keyway unlock {} --wait",
            "openssl dgst -binary {}",
            "sed -E 's/(a); b/c/' FILE",
        ]
    );
}
