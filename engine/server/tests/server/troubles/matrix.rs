//! The table in docs/KMS.md: one part for each provider, between two comments.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::PathBuf;

use crate::dashboards::alert_rules;

/// Alerts about a KMS whose condition is true as soon as one series has a value.
const ALERTS: [&str; 4] = [
    "KeywayKeyspaceDenied",
    "KeywayKmsBreakerOpen",
    "KeywayKmsLocked",
    "KeywayKmsTrouble",
];

/// The observations of one fault.
pub struct Row {
    pub trouble: &'static str,
    pub callers: String,
    pub state: String,
    pub alerts: String,
    pub line: String,
    pub finding: String,
    pub recovery: String,
}

/// Returns the committed alerts whose condition is true in these metrics, except breaker alerts: whether the breaker
/// opens before the lease ends depends on the length of leases.
pub fn alerts(metrics: &str) -> BTreeSet<&'static str> {
    let rules = alert_rules();
    let holds = |alert: &&str| {
        let rule = rules.split_once(&format!("alert: {alert}\n")).unwrap().1;
        let condition = rule.split_once("expr: ").unwrap().1;
        let condition = condition.lines().next().unwrap();
        let (series, limit) = condition.rsplit_once(' ').unwrap();
        let (series, sign) = series.rsplit_once(' ').unwrap();
        let limit: f64 = limit.parse().unwrap();
        let (name, label) = series.split_once('{').unwrap_or((series, "}"));
        let label = label.trim_end_matches('}');
        metrics.lines().any(|line| {
            let Some((labels, value)) = line.rsplit_once(' ') else {
                return false;
            };
            let is_it = labels
                .strip_prefix(name)
                .is_some_and(|it| it.starts_with('{'));
            let is_spare = labels.contains("kms=\"spare\"");
            let value: f64 = value.parse().unwrap_or(f64::NAN);
            let fits = match sign {
                "==" => value == limit,
                ">" => value > limit,
                other => panic!("{alert} compares with {other}"),
            };
            is_it && !is_spare && labels.contains(label) && fits
        })
    };
    ALERTS
        .into_iter()
        .filter(|alert| *alert != "KeywayKmsBreakerOpen")
        .filter(holds)
        .collect()
}

/// Compares with the committed part; with `KEYWAY_WRITE_MATRIX` in the environment it writes it.
pub fn check(provider: &str, rows: &[Row]) {
    let mut table = String::from(
        "| trouble | what callers see | state | alert | log line \"unwrap failed\" | doctor | recovers |\n\
         |---|---|---|---|---|---|---|\n",
    );
    for row in rows {
        let Row {
            trouble,
            callers,
            state,
            alerts,
            line,
            finding,
            recovery,
        } = row;
        writeln!(
            table,
            "| {trouble} | {callers} | `{state}` | {alerts} | {line} | `{finding}` | {recovery} |"
        )
        .unwrap();
    }
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/KMS.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let begin = format!("<!-- matrix {provider} -->\n");
    let end = format!("<!-- end of matrix {provider} -->\n");
    let (before, rest) = text.split_once(&begin).expect("docs/KMS.md has this part");
    let (committed, after) = rest.split_once(&end).expect("the part ends");
    if std::env::var_os("KEYWAY_WRITE_MATRIX").is_some() {
        std::fs::write(&path, format!("{before}{begin}{table}{end}{after}")).unwrap();
        return;
    }
    assert_eq!(
        committed, table,
        "docs/KMS.md differs; to rewrite it: KEYWAY_WRITE_MATRIX=1 cargo test -p keyway-server --test server \
         troubles -- --test-threads 1"
    );
}
