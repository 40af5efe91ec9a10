//! Verdicts: measurements against their targets.

use serde::Serialize;

/// One figure and whether it is good enough.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    /// What is checked.
    pub name: String,
    /// What was measured, with its unit.
    pub measured: String,
    /// What it has to be.
    pub target: String,
    /// Whether it is.
    pub pass: bool,
}

impl Check {
    /// `value < limit`. A figure that could not be measured fails.
    pub fn below(name: impl Into<String>, value: Option<f64>, limit: f64, unit: &str) -> Self {
        Self {
            name: name.into(),
            measured: value.map_or("none".into(), |value| format!("{} {unit}", short(value))),
            target: format!("< {limit} {unit}"),
            pass: value.is_some_and(|value| value < limit),
        }
    }

    /// `value <= limit`.
    pub fn at_most(name: impl Into<String>, value: f64, limit: f64, unit: &str) -> Self {
        Self {
            name: name.into(),
            measured: format!("{} {unit}", short(value)).trim_end().to_owned(),
            target: format!("<= {limit} {unit}").trim_end().to_owned(),
            pass: value <= limit,
        }
    }

    /// `value >= limit`.
    pub fn at_least(name: impl Into<String>, value: f64, limit: f64) -> Self {
        Self {
            name: name.into(),
            measured: short(value),
            target: format!(">= {limit}"),
            pass: value >= limit,
        }
    }

    /// `value == expected`.
    pub fn exactly(name: impl Into<String>, value: u64, expected: u64) -> Self {
        Self {
            name: name.into(),
            measured: value.to_string(),
            target: format!("= {expected}"),
            pass: value == expected,
        }
    }
}

/// At most five decimals, and none that say nothing.
fn short(value: f64) -> String {
    format!("{}", (value * 1e5).round() / 1e5)
}

/// `pass` if all checks do and there is at least one, else `fail`.
pub fn verdict(checks: &[Check]) -> &'static str {
    if !checks.is_empty() && checks.iter().all(|check| check.pass) {
        "pass"
    } else {
        "fail"
    }
}

/// The checks as a table.
pub fn table(checks: &[Check]) -> crate::table::Table {
    let mut table = crate::table::Table::new(["check", "measured", "target", "verdict"]);
    for check in checks {
        let word = if check.pass { "pass" } else { "FAIL" };
        table.row([&check.name, &check.measured, &check.target, word]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_kept_as_they_are_written() {
        assert!(Check::below("p95", Some(1.999), 2.0, "ms").pass);
        assert!(!Check::below("p95", Some(2.0), 2.0, "ms").pass);
        assert!(!Check::below("p95", Some(f64::NAN), 2.0, "ms").pass);
        assert!(!Check::below("p95", None, 2.0, "ms").pass);
        assert!(Check::at_most("ratio", 1.6, 1.6, "").pass);
        assert!(!Check::at_most("ratio", f64::NAN, 1.6, "").pass);
        assert!(!Check::at_least("share", 0.5, 0.999).pass);
        assert!(!Check::exactly("rehydrates", 2, 1).pass);
    }

    #[test]
    fn one_failure_fails_all_and_nothing_checked_is_no_success() {
        let good = Check::exactly("a", 1, 1);
        let bad = Check::exactly("b", 0, 1);
        assert_eq!(verdict(std::slice::from_ref(&good)), "pass");
        assert_eq!(verdict(&[good, bad]), "fail");
        assert_eq!(verdict(&[]), "fail");
    }
}
