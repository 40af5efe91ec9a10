//! Extracts remedies from the sources: commands and flags in texts for users.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Where messages are written.
const FOLDERS: [&str; 8] = [
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
                if literal.contains(' ') {
                    commands(&literal, &mut found);
                    flags(&literal, &mut found);
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

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        match path.is_dir() {
            true if name == "tests" => {}
            true => all.extend(files(&path)),
            false if name.ends_with(".rs") && name != "tests.rs" => all.push(path),
            false => {}
        }
    }
    all
}

/// Returns the string literals of a source file, without tests, with continued lines joined.
fn literals(source: &str) -> Vec<String> {
    let end = source.find("#[cfg(test)]\nmod tests {");
    let mut rest = &source[..end.unwrap_or(source.len())];
    let mut all = Vec::new();
    while let Some(at) = rest.find(['"', '/', '\'', 'r']) {
        let before = rest[..at].chars().next_back();
        rest = &rest[at..];
        if rest.starts_with("//") {
            rest = rest.find('\n').map_or("", |end| &rest[end..]);
        } else if rest.starts_with("'\"'") || rest.starts_with("'\\") {
            // A character, which may be a quotation mark.
            let len = rest[2..].find('\'').map_or(rest.len(), |end| end + 3);
            rest = &rest[len..];
        } else if let (Some(raw), false) = (raw(rest), before.is_some_and(is_word)) {
            all.push(raw.0);
            rest = raw.1;
        } else if let Some(quoted) = rest.strip_prefix('"') {
            let (literal, behind) = cooked(quoted);
            all.push(literal);
            rest = behind;
        } else {
            rest = &rest[1..];
        }
    }
    all
}

/// Parses a raw literal at the start of the text. Returns it and the rest.
fn raw(text: &str) -> Option<(String, &str)> {
    let hashes = text[1..].bytes().take_while(|byte| *byte == b'#').count();
    let body = text.strip_prefix('r')?[hashes..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    let (literal, behind) = body.split_once(&end)?;
    Some((literal.to_owned(), behind))
}

/// Parses the literal up to its quotation mark. Returns it and the rest.
fn cooked(text: &str) -> (String, &str) {
    let mut literal = String::new();
    let mut chars = text.char_indices();
    while let Some((at, char)) = chars.next() {
        match char {
            '"' => return (literal, &text[at + 1..]),
            '\\' => match chars.next() {
                Some((at, '\n')) => {
                    let behind = text[at..].trim_start();
                    let (more, behind) = cooked(behind);
                    return (literal + &more, behind);
                }
                Some((_, 'n')) => literal.push('\n'),
                Some((_, other)) => literal.push(other),
                None => {}
            },
            char => literal.push(char),
        }
    }
    (literal, "")
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

fn is_word(char: char) -> bool {
    char.is_alphanumeric() || char == '_'
}

fn is_part(char: char) -> bool {
    is_word(char) || char == '-' || char == '/' || char == '.'
}

/// Replaces `{name}` and `{name:?}` by `{}`.
fn filled(text: &str) -> String {
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
    for literal in literals(source).iter().filter(|text| text.contains(' ')) {
        commands(literal, &mut found);
        flags(literal, &mut found);
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
