//! The table in docs/KMS.md: one part for each provider, between two comments.

use std::fmt::Write;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use super::figures::{self, Figures};

/// The observations of one fault.
pub struct Row {
    pub trouble: &'static str,
    /// What callers were answered: before the end of service, after it, and once the KMS had recovered.
    pub answers: [String; 3],
    /// What ended service.
    pub end: &'static str,
    pub state: String,
    pub figures: Figures,
    pub line: String,
    pub finding: String,
    pub recovery: &'static str,
}

/// Held while the document is read and written: tests run concurrently.
static DOCUMENT: Mutex<()> = Mutex::new(());

/// Compares with the committed part; with `KEYWAY_WRITE_MATRIX` in the environment it writes it.
pub fn check(part: &str, rows: &[Row]) {
    let all: Vec<&Figures> = rows.iter().map(|row| &row.figures).collect();
    let Some(alerts) = figures::firing(&all) else {
        return;
    };
    let mut table = String::from(
        "| trouble | before the end | what ends service | after it | after recovery | state | alerts | \
         log line \"unwrap failed\" | doctor | recovers |\n\
         |---|---|---|---|---|---|---|---|---|---|\n",
    );
    for (row, alerts) in rows.iter().zip(alerts) {
        let Row {
            trouble,
            answers: [before, after, again],
            end,
            state,
            line,
            finding,
            recovery,
            ..
        } = row;
        writeln!(
            table,
            "| {trouble} | {before} | {end} | {after} | {again} | `{state}` | {alerts} | {line} | `{finding}` | {recovery} |"
        )
        .unwrap();
    }
    let _turn = DOCUMENT.lock().unwrap_or_else(PoisonError::into_inner);
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/KMS.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let begin = format!("<!-- matrix {part} -->\n");
    let end = format!("<!-- end of matrix {part} -->\n");
    let (before, rest) = text.split_once(&begin).expect("docs/KMS.md has this part");
    let (committed, after) = rest.split_once(&end).expect("the part ends");
    if std::env::var_os("KEYWAY_WRITE_MATRIX").is_some() {
        std::fs::write(&path, format!("{before}{begin}{table}{end}{after}")).unwrap();
        return;
    }
    assert_eq!(
        committed, table,
        "docs/KMS.md differs; to rewrite it: KEYWAY_WRITE_MATRIX=1 cargo test -p keyway-server --test server troubles"
    );
}
