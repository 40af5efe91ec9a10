//! The runbook's steps as rules, a file for each of its chapters. Limits are those of
//! `docs/alerts/keyway.rules.yml`, where each has its reason, brought to the time that was watched.

mod cores;
mod key_versions;
mod kms;
mod prefetch;
mod refresh;
mod unlock;

#[cfg(test)]
mod tests;

use super::{Evidence, Finding, KeyspaceDetails, Severity, Subject};
use crate::unlocking;
use crate::vitals::{Change, Keyspace, Kms, KmsTrouble};

/// Everything that is found, the worst first.
pub fn examine(case: &Evidence) -> Vec<Finding> {
    let change = case.change();
    if change.before.pid != change.now.pid {
        return vec![restarted(change)];
    }
    let mut findings = Vec::new();
    for (before, now) in change.keyspaces() {
        let patient = KeyspaceWindow {
            case,
            change,
            before: &before,
            now,
            listed: case.of(&now.name),
        };
        refresh::examine(&patient, &mut findings);
        prefetch::examine(&patient, &mut findings);
        unlock::examine(&patient, &mut findings);
    }
    kms::examine(case, &mut findings);
    key_versions::examine(case, &mut findings);
    cores::examine(case, &mut findings);
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    findings
}

/// Counters began again at 0, so there is nothing to compare.
fn restarted(change: Change<'_>) -> Finding {
    let evidence = format!("process {} became {}", change.before.pid, change.now.pid);
    let symptom = "it was restarted while it was watched";
    Finding::new(
        "instance-down",
        Severity::Critical,
        Subject::Server,
        symptom,
        evidence,
    )
    .because(
        "an operator restarted it, or it ended and its supervisor started it again: see its log",
    )
    .next(log_line("keywayd"))
    .next("keyway doctor")
}

/// One keyspace at both ends of what was watched.
struct KeyspaceWindow<'a> {
    case: &'a Evidence,
    change: Change<'a>,
    before: &'a Keyspace,
    now: &'a Keyspace,
    listed: &'a KeyspaceDetails,
}

impl KeyspaceWindow<'_> {
    fn name(&self) -> &str {
        &self.now.name
    }

    fn finding(
        &self,
        id: &'static str,
        severity: Severity,
        symptom: impl Into<String>,
        evidence: impl Into<String>,
    ) -> Finding {
        let subject = Subject::Keyspace(self.now.name.clone());
        Finding::new(id, severity, subject, symptom, evidence)
    }

    /// How much a counter rose.
    fn rise(&self, counter: impl Fn(&Keyspace) -> u64) -> u64 {
        counter(self.now).saturating_sub(counter(self.before))
    }

    /// `rehydrate_fail_total rose by 12 in 5 s, to 40`.
    fn rose(&self, series: &str, counter: impl Fn(&Keyspace) -> u64) -> String {
        format!(
            "{series} rose by {} in {}, to {}",
            self.rise(&counter),
            watched(self.change),
            counter(self.now)
        )
    }

    /// Whether requests came, answered or not.
    fn is_used(&self) -> bool {
        self.rise(Keyspace::answered_in_all) > 0
            || self.rise(|it| it.hits.saturating_add(it.misses)) > 0
    }

    /// Whether it has been in `state` in every sample.
    fn stays(&self, state: &str) -> bool {
        let mut samples = self.case.samples.iter();
        samples.all(|sample| {
            let mut keyspaces = sample.keyspaces.iter();
            keyspaces.any(|it| it.name == self.now.name && it.state == state)
        })
    }

    /// Why it has no data key, if it has none and cannot get one.
    fn without_dek(&self) -> Option<String> {
        let trouble = self.trouble();
        let said = |or: &str| match trouble {
            Some(trouble) => format!("{or}: {}", trouble.what),
            None => or.to_owned(),
        };
        match self.now.state.as_str() {
            "locked" => Some("an operator has locked the keyspace".into()),
            "denied" => Some(said("the KMS refuses the keyspace its data key")),
            "acquiring" if trouble.is_some() => Some(said("there is no data key")),
            "acquiring" => {
                Some("there is no data key: the KMS was called and has not answered".into())
            }
            _ => None,
        }
    }

    /// What is wrong at its KMS now, as the provider said it.
    fn trouble(&self) -> Option<&KmsTrouble> {
        let trouble = self.kms()?.trouble.as_ref()?;
        (!trouble.over).then_some(trouble)
    }

    fn set(&self, setting: &str) -> String {
        format!("keyway keyspace set {} {setting}", self.name())
    }

    fn history(&self) -> String {
        format!("keyway keyspace history {}", self.name())
    }

    /// The KMS that wraps it, if it is known.
    fn kms(&self) -> Option<&Kms> {
        let name = self.listed.info.as_ref()?.kms.as_deref()?;
        self.change.now.kms.iter().find(|kms| kms.name == name)
    }

    /// How to unlock it. An open KMS needs its secret only for what an operator has locked.
    fn unlock(&self) -> String {
        let kms = self
            .kms()
            .filter(|kms| kms.state == "locked" || self.now.state == "locked");
        unlocking::of_keyspace(self.name(), kms.map_or("none", |kms| &kms.need))
    }
}

/// How long was watched, in words.
fn watched(change: Change<'_>) -> String {
    format!("{:.0} s", change.seconds().max(1.0))
}

/// How to find a log line where keywayd runs under systemd.
fn log_line(line: &str) -> String {
    format!("journalctl -u keywayd --since -15min -g '{line}'")
}

/// A count that is reached within `window_s` if it goes on as now.
fn projected(change: Change<'_>, rise: u64, window_s: f64) -> f64 {
    rise as f64 * window_s / change.seconds()
}
