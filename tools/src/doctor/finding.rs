//! One thing that is wrong, or worth knowing.

use serde::Serialize;
use serde_json::{Value, json};

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth knowing: it is over, or does no harm yet.
    Note,
    /// Look at it today.
    Warning,
    /// Callers are refused, or soon will be.
    Critical,
}

impl Severity {
    /// In capitals, for a heading.
    pub const fn heading(self) -> &'static str {
        match self {
            Self::Note => "NOTE",
            Self::Warning => "WARNING",
            Self::Critical => "CRITICAL",
        }
    }
}

/// What it concerns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// A keyspace, by name.
    Keyspace(String),
    /// A shard, by number.
    Shard(u16),
    /// A KMS, by name.
    Kms(String),
    /// The process.
    Server,
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The anchor in `docs/RUNBOOK.md`.
    pub id: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// What it concerns.
    pub subject: Subject,
    /// What is going on, in a few words.
    pub symptom: String,
    /// The values that show it.
    pub evidence: String,
    /// What is likely behind it; a sentence each.
    pub causes: Vec<String>,
    /// What to run next, the most useful first.
    pub next: Vec<String>,
}

impl Finding {
    /// A finding without causes and commands.
    pub fn new(
        id: &'static str,
        severity: Severity,
        subject: Subject,
        symptom: impl Into<String>,
        evidence: impl Into<String>,
    ) -> Self {
        Self {
            id,
            severity,
            subject,
            symptom: symptom.into(),
            evidence: evidence.into(),
            causes: Vec::new(),
            next: Vec::new(),
        }
    }

    /// Adds what is likely behind it.
    pub fn because(mut self, cause: impl Into<String>) -> Self {
        self.causes.push(cause.into());
        self
    }

    /// Adds what else is behind it, if anything.
    pub fn because_of(mut self, causes: impl IntoIterator<Item = String>) -> Self {
        self.causes.extend(causes);
        self
    }

    /// Adds a command.
    pub fn next(mut self, command: impl Into<String>) -> Self {
        self.next.push(command.into());
        self
    }

    /// Where the runbook has more.
    pub fn runbook(&self) -> String {
        format!("docs/RUNBOOK.md#{}", self.id)
    }

    /// What it concerns, in words.
    pub fn place(&self) -> String {
        match &self.subject {
            Subject::Keyspace(name) => name.clone(),
            Subject::Shard(shard) => format!("shard {shard}"),
            Subject::Kms(name) => format!("KMS {name}"),
            Subject::Server => "the server".into(),
        }
    }

    /// Returns the finding for scripts. `text` is all of it as text; the member that names the subject is not null.
    pub fn document(&self) -> Value {
        let (mut keyspace, mut shard, mut kms) = (None, None, None);
        match &self.subject {
            Subject::Keyspace(name) => keyspace = Some(name),
            Subject::Shard(number) => shard = Some(number),
            Subject::Kms(name) => kms = Some(name),
            Subject::Server => {}
        }
        let cause = self.causes.join(". ");
        let text = format!(
            "{}: {} ({}). {cause}",
            self.place(),
            self.symptom,
            self.evidence
        );
        json!({
            "id": self.id,
            "severity": self.severity,
            "keyspace": keyspace,
            "shard": shard,
            "kms": kms,
            "text": text.trim_end(),
            "evidence": self.evidence,
            "cause": cause,
            "next": self.next,
            "runbook": self.runbook(),
        })
    }
}
