//! Extracts messages with a remedy from the sources, by their language and by their place.
//!
//! A literal counts if one of its clauses begins with a verb in the imperative, or if it is the remedy of a constructor.

use std::collections::BTreeSet;
use std::path::Path;

use super::literals::{Literal, files, is_word, literals, program};
use super::sources::{FOLDERS, filled};

/// Constructors whose last argument is a remedy, whatever its words are.
const CONSTRUCTORS: [&str; 7] = [
    "KmsError::new",
    "KmsFailure::own",
    "KeyError::import",
    "Failure::usage",
    "refuse",
    "refused",
    "misconfigured",
];

/// Files of doubles for tests, which are among the sources.
const DOUBLES: [&str; 3] = ["_tests.rs", "fake_provider.rs", "fuzzing.rs"];

/// Verbs with which a clause that tells the reader what to do begins.
#[rustfmt::skip]
const VERBS: &[&str] = &[
    "add", "allow", "apply", "ask", "assign", "back", "be", "begin", "build", "change", "check", "choose", "clear", "close",
    "compare", "connect", "consult", "convert", "copy", "correct", "create", "decrease", "decrypt", "delete", "disable",
    "divide", "drop", "edit", "enable", "encrypt", "ensure", "enter", "exclude", "export", "finish", "fix", "follow", "free",
    "generate", "get", "give", "grant", "have", "import", "increase", "initialise", "insert", "install", "issue", "keep",
    "leave", "let", "limit", "list", "look", "lower", "make", "mount", "move", "name", "open", "pass", "pick", "point",
    "put", "raise", "read", "reconnect", "reduce", "register", "reload", "remove", "rename", "renew", "repair", "repeat",
    "replace", "report", "request", "reset", "resize", "restart", "restore", "resume", "retry", "revoke", "rewrap", "rotate",
    "run", "say", "search", "see", "select", "send", "set", "shorten", "sign", "start", "stop", "store", "switch", "take",
    "touch", "trim", "try", "type", "unlock", "unseal", "unset", "update", "upgrade", "use", "verify", "wait", "withdraw",
    "wrap", "write",
];

/// Words after which a clause may begin.
const BEFORE: [&str; 7] = ["or", "and", "then", "else", "first", "please", "otherwise"];

/// Returns every literal with a remedy, with `{}` for placeholders.
pub fn messages(root: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for folder in FOLDERS {
        for path in files(&root.join(folder)) {
            let name = path.to_str().unwrap();
            if DOUBLES.iter().any(|end| name.ends_with(end)) || name.contains("virtual_files") {
                continue;
            }
            found.extend(messages_of(&std::fs::read_to_string(&path).unwrap()));
        }
    }
    found
}

fn messages_of(source: &str) -> Vec<String> {
    let all = literals(source);
    let code = without(program(source), &all);
    let places = remedies_of_constructors(&code);
    let has_remedy = |literal: &&Literal| {
        let is_placed = places.iter().any(|place| place.contains(&literal.at.start));
        literal.text.trim().contains(' ') && (is_placed || is_told_what_to_do(&literal.text))
    };
    let found = all.iter().filter(has_remedy);
    found
        .map(|literal| one_line(&filled(&literal.text)))
        .collect()
}

/// Replaces each line end and the spaces around it by one space.
pub fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Returns `true` if a clause is in the imperative.
fn is_told_what_to_do(text: &str) -> bool {
    let words: Vec<&str> = text.split_whitespace().collect();
    words.iter().enumerate().any(|(at, word)| {
        let begins = match at.checked_sub(1).map(|before| words[before]) {
            None => true,
            Some(before) => before.ends_with([';', ':', ',', '.', '?']) || BEFORE.contains(&before),
        };
        // A capital letter begins a sentence; a word in capitals is a heading.
        let mut verb = word
            .trim_matches(|char: char| "(,;:".contains(char))
            .to_owned();
        if let Some(first) = verb.get_mut(..1) {
            first.make_ascii_lowercase();
        }
        let is_subject = words
            .get(at + 1)
            .is_some_and(|next| ["is", "are", "was", "of", "in"].contains(next));
        begins && !is_subject && VERBS.contains(&&*verb)
    })
}

/// Returns the source without the texts of its literals and comments, so that parentheses can be counted.
fn without(source: &str, literals: &[Literal]) -> String {
    let mut code = source.as_bytes().to_vec();
    for literal in literals {
        code[literal.at.clone()].fill(b'"');
    }
    let code = String::from_utf8(code).unwrap();
    let lines = code
        .split_inclusive('\n')
        .map(|line| match line.split_once("//") {
            Some((before, behind)) => format!("{before}{}", " ".repeat(behind.len() + 1) + "\n"),
            None => line.to_owned(),
        });
    lines.collect()
}

/// Returns the places of the last arguments of [`CONSTRUCTORS`].
fn remedies_of_constructors(code: &str) -> Vec<std::ops::Range<usize>> {
    let mut places = Vec::new();
    for constructor in CONSTRUCTORS {
        for (at, _) in code.match_indices(constructor) {
            let from = at + constructor.len() + 1;
            let is_name = code[..at].ends_with(is_word) || code[..at].ends_with("fn ");
            if !is_name && code[..from].ends_with('(') {
                places.push(last_argument(code, from));
            }
        }
    }
    places
}

/// Returns the place of the last argument of a call whose arguments begin at `from`.
fn last_argument(code: &str, from: usize) -> std::ops::Range<usize> {
    let (mut depth, mut begin, mut before) = (0, from, from);
    for (at, byte) in code.bytes().enumerate().skip(from) {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' if depth == 0 => {
                // A comma may follow the last argument.
                let is_empty = code[begin..at].trim().is_empty();
                return if is_empty { before..begin } else { begin..at };
            }
            b')' | b']' | b'}' => depth -= 1,
            b',' if depth == 0 => (before, begin) = (begin, at + 1),
            _ => {}
        }
    }
    from..from
}

#[test]
fn a_message_counts_by_its_language_or_its_place() {
    let source = r#"
        // "give it a comment"
        let a = "cannot read {path:?}; give its user access"; let b = "the file that was given, and a use of it";
        let c = "make it longer"; let d = "give";
        let e = KmsError::new(Class::Denied, "its name (give) is 9", "a name has 1 to 8 bytes");
        let f = refuse(
            format!("it is {len}"),
            "8 bytes at most", // (
        );
        fn refuse(what: &str) { print("of the other") }
    "#;
    assert_eq!(
        messages_of(source),
        [
            "cannot read {}; give its user access",
            "make it longer",
            "a name has 1 to 8 bytes",
            "8 bytes at most",
        ]
    );
}
