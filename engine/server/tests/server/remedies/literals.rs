//! A small lexer: the string literals of Rust sources, with their places.

use std::ops::Range;
use std::path::{Path, PathBuf};

/// A string literal.
pub struct Literal {
    /// Its value, with continued lines joined.
    pub text: String,
    /// Its place in the source, quotation marks included.
    pub at: Range<usize>,
}

/// Returns the source files below a folder, without those of tests.
pub fn files(folder: &Path) -> Vec<PathBuf> {
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

/// Returns the string literals of a source file, without tests.
pub fn literals(source: &str) -> Vec<Literal> {
    let mut rest = program(source);
    let len = rest.len();
    let mut all = Vec::new();
    while let Some(at) = rest.find(['"', '/', '\'', 'r']) {
        let before = rest[..at].chars().next_back();
        rest = &rest[at..];
        let from = len - rest.len();
        let found = if rest.starts_with("//") {
            rest = rest.find('\n').map_or("", |end| &rest[end..]);
            None
        } else if rest.starts_with("'\"'") || rest.starts_with("'\\") {
            // A character, which may be a quotation mark.
            let len = rest[2..].find('\'').map_or(rest.len(), |end| end + 3);
            rest = &rest[len..];
            None
        } else if let (Some(raw), false) = (raw(rest), before.is_some_and(is_word)) {
            Some(raw)
        } else if let Some(quoted) = rest.strip_prefix('"') {
            Some(cooked(quoted))
        } else {
            rest = &rest[1..];
            None
        };
        if let Some((text, behind)) = found {
            let at = from..len - behind.len();
            all.push(Literal { text, at });
            rest = behind;
        }
    }
    all
}

/// Returns the part of a source file before its tests.
pub fn program(source: &str) -> &str {
    let end = source.find("#[cfg(test)]\nmod tests {");
    &source[..end.unwrap_or(source.len())]
}

pub fn is_word(char: char) -> bool {
    char.is_alphanumeric() || char == '_'
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
