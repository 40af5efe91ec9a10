//! What may reach a terminal. All that a server sends goes through here before it is printed, and
//! so does every message: names of files may hold escape sequences as well.

use std::fmt::Write;

/// Text of several lines. Each is made printable when it is added, so no name that a server sends begins a line of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lines(String);

impl Lines {
    /// One line.
    pub fn of(text: impl AsRef<str>) -> Self {
        let mut lines = Self::default();
        lines.push(text);
        lines
    }

    /// Adds a line. An empty one is a blank line.
    pub fn push(&mut self, text: impl AsRef<str>) {
        self.0.push_str(&line(text.as_ref()));
        self.0.push('\n');
    }

    /// Adds the lines of another text.
    pub fn append(&mut self, other: &Self) {
        self.0.push_str(&other.0);
    }

    /// Returns the texts that are not empty, with blank lines between them.
    pub fn paragraphs(texts: &[Self]) -> Self {
        let texts = texts.iter().filter(|text| !text.0.is_empty());
        let texts: Vec<&str> = texts.map(Self::as_str).collect();
        Self(texts.join("\n"))
    }

    /// Returns the lines, each with its line feed.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// One line without anything that acts on a terminal: such characters, line ends included, are
/// written as `\u{1b}`.
pub fn line(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for char in text.chars() {
        match acts(char) {
            true => out.extend(char.escape_unicode()),
            false => out.push(char),
        }
    }
    out
}

/// A JSON document, written as `\u009b` what JSON itself lets through.
pub fn json(document: &str) -> String {
    // Below U+0020 the document has escaped everything, so what is left is inside its texts.
    let mut out = String::with_capacity(document.len());
    for char in document.chars() {
        match char {
            char if acts(char) => {
                let mut units = [0; 2];
                for unit in char.encode_utf16(&mut units) {
                    write!(out, "\\u{unit:04x}").expect("a String takes everything");
                }
            }
            char => out.push(char),
        }
    }
    out
}

/// Whether a character does something but stand where it is: control characters (the 8-bit ones
/// too, which begin sequences on some terminals), line and paragraph separators, and those that
/// turn the direction of writing round or cannot be seen.
fn acts(char: char) -> bool {
    char.is_control()
        || matches!(
            char,
            '\u{ad}'
                | '\u{180e}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{061c}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e007f}'
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    const BAD: &str = "no\u{1b}]0;owned\u{7}\u{1b}[2J\r\u{9b}2J\u{202e}x\u{7f}\u{e0041}";

    #[test]
    fn nothing_that_acts_is_left_and_the_rest_stays() {
        let line = line(&format!("é 漢 {BAD}\nkeyway: done"));
        assert!(!line.chars().any(acts), "{line:?}");
        assert!(line.starts_with("é 漢 no\\u{1b}]0;owned\\u{7}"));
        assert!(line.ends_with("\\u{a}keyway: done"));
        let mut lines = Lines::of("a\n\tb");
        lines.push("");
        assert_eq!(lines.as_str(), "a\\u{a}\\u{9}b\n\n");
    }

    #[test]
    fn a_document_stays_the_same_document() {
        let value = serde_json::json!({ "name": BAD, "more": ["\u{2028}", 1] });
        let text = json(&value.to_string());
        assert!(!text.chars().any(acts), "{text:?}");
        let read: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(read, value);
    }
}
