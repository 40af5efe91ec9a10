//! `import`: many keys at once, from a directory or a file of JSON lines.

mod entry;
mod pipeline;
mod source;

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use crate::args::{BulkImport, Cli};
use crate::connect::Server;
use crate::failure::{Exit, Failure};
use crate::output::Output;
use crate::printable::Lines;
use crate::streams;
use crate::text;
use entry::Defaults;
use pipeline::{Pipeline, Summary};
use source::Source;

/// Most failures that are reported one by one; all are counted.
const REPORTED_FAILURES_MAX: u64 = 20;

pub fn run(cli: &Cli, command: &BulkImport, output: Output) -> Result<Exit, Failure> {
    let defaults = Defaults {
        algorithm: command.alg,
        format: command.format,
        encoding: command.encoding,
        options: (&command.options).into(),
    };
    let source = Source::open(command.dir.as_deref(), command.ndjson.as_ref(), defaults)?;
    let log = command.acked.as_deref().map(AckLog::open).transpose()?;
    let server = Server::reach(cli)?;
    let report = Report {
        progress: progress(source.count()),
        log,
        told: 0,
    };
    let mut pipeline = Pipeline::new(
        &server,
        &command.keyspace,
        usize::from(command.window),
        command.skip_existing,
        report,
    );
    let result = pipeline.run(source);
    let (summary, report) = pipeline.into_parts();
    report.progress.finish_and_clear();
    let document = json!({
        "keyspace": command.keyspace.as_str(),
        "imported": summary.imported,
        "existing": summary.existing,
        "failed": summary.failed,
        "complete": result.is_ok(),
    });
    let text = Lines::of(sentence(command.keyspace.as_str(), &summary));
    output.print_result(&document, &text)?;
    result?;
    Ok(match summary.failed {
        0 => Exit::Done,
        _ => Exit::Refused,
    })
}

fn sentence(keyspace: &str, summary: &Summary) -> String {
    let imported = text::count(summary.imported, "key");
    let mut sentence = format!("{keyspace}: {imported} imported");
    if summary.existing > 0 {
        sentence.push_str(&format!(
            ", {} there already and not compared",
            summary.existing
        ));
    }
    if summary.failed > 0 {
        sentence.push_str(&format!(", {} failed", summary.failed));
    }
    sentence
}

fn progress(count: Option<u64>) -> ProgressBar {
    let (bar, template) = match count {
        Some(count) => (
            ProgressBar::new(count),
            "{bar:30} {human_pos}/{human_len} keys  {per_sec}  {eta} left",
        ),
        None => (
            ProgressBar::new_spinner(),
            "{spinner} {human_pos} keys  {per_sec}",
        ),
    };
    bar.with_style(ProgressStyle::with_template(template).expect("the template is well-formed"))
}

/// Where the result of each key is reported: the terminal, and the file of acknowledged keys.
pub struct Report {
    progress: ProgressBar,
    log: Option<AckLog>,
    told: u64,
}

impl Report {
    fn imported(&mut self, key_id: &str) -> Result<(), Failure> {
        self.progress.inc(1);
        match &mut self.log {
            Some(log) => log.append(key_id),
            None => Ok(()),
        }
    }

    fn existing(&self) {
        self.progress.inc(1);
    }

    fn failed(&mut self, message: &str) {
        self.progress.inc(1);
        self.told += 1;
        if self.told > REPORTED_FAILURES_MAX {
            return;
        }
        self.progress.suspend(|| {
            streams::eprint_line(&format!("keyway: {message}"));
            if self.told == REPORTED_FAILURES_MAX {
                streams::eprint_line("keyway: further failures are counted, not shown");
            }
        });
    }
}

/// The file of `--acked`: one id a line, written as soon as the key is known to be durable.
struct AckLog {
    path: PathBuf,
    file: File,
}

impl AckLog {
    fn open(path: &Path) -> Result<Self, Failure> {
        match OpenOptions::new().append(true).create(true).open(path) {
            Ok(file) => Ok(Self {
                path: path.to_owned(),
                file,
            }),
            Err(error) => Err(Failure::file("write", path, &error)),
        }
    }

    fn append(&mut self, key_id: &str) -> Result<(), Failure> {
        // One write of the whole line, unbuffered: it is with the kernel when this returns.
        let written = self.file.write_all(format!("{key_id}\n").as_bytes());
        written.map_err(|error| Failure::file("write", &self.path, &error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_names_only_what_there_was() {
        let mut summary = Summary {
            imported: 1,
            ..Summary::default()
        };
        assert_eq!(sentence("prod", &summary), "prod: 1 key imported");
        summary.existing = 2;
        summary.failed = 3;
        assert_eq!(
            sentence("prod", &summary),
            "prod: 1 key imported, 2 there already and not compared, 3 failed"
        );
    }
}
