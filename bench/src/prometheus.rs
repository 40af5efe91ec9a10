//! What a Prometheus server would make of `/metrics`: the text format and `histogram_quantile`.

use std::collections::BTreeMap;

use crate::error::Result;

/// One scrape of the text exposition format.
#[derive(Clone, Debug, Default)]
pub struct Scrape {
    samples: Vec<Sample>,
}

#[derive(Clone, Debug)]
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

/// A classic histogram's buckets: upper bound and cumulative count, by rising bound, +Inf last.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Buckets(Vec<(f64, f64)>);

impl Scrape {
    /// Reads the samples; comments are passed over.
    pub fn parse(text: &str) -> Result<Self> {
        let lines = text.lines().map(str::trim);
        let samples = lines
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
            .map(|line| parse_sample(line).ok_or_else(|| format!("not a sample: {line}").into()))
            .collect::<Result<_>>()?;
        Ok(Self { samples })
    }

    /// The buckets of histogram `name` for one keyspace, as `sum by (le)` gives them.
    pub fn buckets(&self, name: &str, keyspace: &str) -> Buckets {
        let series = format!("{name}_bucket");
        let mut sums: Vec<(f64, f64)> = Vec::new();
        for sample in &self.samples {
            if sample.name != series || sample.labels.get("keyspace").is_none_or(|k| k != keyspace)
            {
                continue;
            }
            let Some(bound) = sample.labels.get("le").and_then(|le| number(le)) else {
                continue;
            };
            match sums.iter_mut().find(|(known, _)| *known == bound) {
                Some((_, count)) => *count += sample.value,
                None => sums.push((bound, sample.value)),
            }
        }
        sums.sort_by(|a, b| a.0.total_cmp(&b.0));
        Buckets(sums)
    }
}

impl Buckets {
    /// What was counted since `earlier`, a scrape of the same histogram. Buckets that were not
    /// there then count from zero.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let before = |bound: f64| {
            let found = earlier.0.iter().find(|(known, _)| *known == bound);
            found.map_or(0.0, |&(_, count)| count)
        };
        Self(
            self.0
                .iter()
                .map(|&(bound, count)| (bound, count - before(bound)))
                .collect(),
        )
    }

    /// All observations.
    pub fn count(&self) -> f64 {
        self.0.last().map_or(0.0, |&(_, count)| count)
    }

    /// `histogram_quantile(q, …)` for `0 <= q <= 1`: linear within the bucket that holds the rank,
    /// from 0 in the first; the highest finite bound if the rank lies in +Inf. `None` where
    /// Prometheus says NaN: no observation, or no +Inf bucket.
    pub fn quantile(&self, q: f64) -> Option<f64> {
        let (last, finite) = self.0.split_last()?;
        if finite.is_empty() || last.0 != f64::INFINITY || last.1 <= 0.0 {
            return None;
        }
        let rank = q * last.1;
        let Some(at) = finite.iter().position(|&(_, count)| count >= rank) else {
            return finite.last().map(|&(bound, _)| bound);
        };
        let (end, count) = finite[at];
        if at == 0 && end <= 0.0 {
            return Some(end);
        }
        let (start, below) = if at == 0 { (0.0, 0.0) } else { finite[at - 1] };
        if count == below {
            // Rank 0 in an empty first bucket: Prometheus divides by zero there.
            return None;
        }
        Some(start + (end - start) * (rank - below) / (count - below))
    }
}

/// `name{label="value",…} value [timestamp]`.
fn parse_sample(line: &str) -> Option<Sample> {
    let name_len = line.find(['{', ' ', '\t'])?;
    let (name, mut rest) = line.split_at(name_len);
    let mut labels = BTreeMap::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        loop {
            rest = rest.trim_start_matches([' ', ',']);
            if let Some(behind) = rest.strip_prefix('}') {
                rest = behind;
                break;
            }
            let (label, behind) = rest.split_once('=')?;
            let (value, behind) = quoted(behind)?;
            labels.insert(label.trim().to_owned(), value);
            rest = behind;
        }
    }
    let value = number(rest.split_whitespace().next()?)?;
    Some(Sample {
        name: name.to_owned(),
        labels,
        value,
    })
}

/// A string in double quotes with `\\`, `\"` and `\n`, and what follows it.
fn quoted(text: &str) -> Option<(String, &str)> {
    let text = text.strip_prefix('"')?;
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, character)) = chars.next() {
        match character {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => match chars.next()?.1 {
                'n' => value.push('\n'),
                other => value.push(other),
            },
            other => value.push(other),
        }
    }
    None
}

fn number(text: &str) -> Option<f64> {
    match text {
        "+Inf" | "Inf" => Some(f64::INFINITY),
        "-Inf" => Some(f64::NEG_INFINITY),
        _ => text.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn buckets(pairs: &[(f64, f64)]) -> Buckets {
        Buckets(pairs.to_vec())
    }

    const INF: f64 = f64::INFINITY;

    #[test]
    fn quantiles_are_linear_within_a_bucket() {
        // Of 100 observations 60 are up to 1 and 90 up to 2. Rank 75 lies half-way from 60 to 90,
        // so the answer is half-way from 1 to 2; rank 30 is half-way from 0 to 60.
        let some = buckets(&[(1.0, 60.0), (2.0, 90.0), (4.0, 100.0), (INF, 100.0)]);
        assert_eq!(some.quantile(0.75), Some(1.5));
        assert_eq!(some.quantile(0.30), Some(0.5));
        assert_eq!(some.quantile(0.95), Some(3.0));
        assert_eq!(some.quantile(0.90), Some(2.0));
        assert_eq!(some.quantile(1.0), Some(4.0));
    }

    #[test]
    fn a_rank_in_the_last_bucket_gives_the_highest_finite_bound() {
        let slow = buckets(&[(1.0, 1.0), (2.0, 2.0), (INF, 100.0)]);
        assert_eq!(slow.quantile(0.95), Some(2.0));
    }

    #[test]
    fn nothing_observed_gives_no_quantile() {
        assert_eq!(buckets(&[(1.0, 0.0), (INF, 0.0)]).quantile(0.95), None);
        assert_eq!(buckets(&[]).quantile(0.95), None);
        assert_eq!(buckets(&[(INF, 3.0)]).quantile(0.95), None);
        assert_eq!(buckets(&[(1.0, 3.0)]).quantile(0.95), None);
    }

    #[test]
    fn a_first_bucket_at_or_below_zero_is_its_own_bound() {
        let odd = buckets(&[(0.0, 10.0), (1.0, 10.0), (INF, 10.0)]);
        assert_eq!(odd.quantile(0.5), Some(0.0));
    }

    #[test]
    fn buckets_are_read_and_subtracted_by_keyspace() {
        let early = Scrape::parse(
            "# TYPE rehydrate_latency_ms histogram\n\
             rehydrate_latency_ms_bucket{keyspace=\"a\",le=\"0.1\"} 2\n\
             rehydrate_latency_ms_bucket{keyspace=\"a\",le=\"+Inf\"} 4\n\
             rehydrate_latency_ms_bucket{keyspace=\"b\",le=\"+Inf\"} 1000\n\
             rehydrate_latency_ms_sum{keyspace=\"a\"} 0.5\n",
        )
        .unwrap();
        let late = Scrape::parse(
            "rehydrate_latency_ms_bucket{le=\"+Inf\",keyspace=\"a\"} 14 1700000000\n\
             rehydrate_latency_ms_bucket{le=\"0.1\", keyspace=\"a\",} 10\n",
        )
        .unwrap();
        let grown = late
            .buckets("rehydrate_latency_ms", "a")
            .since(&early.buckets("rehydrate_latency_ms", "a"));
        assert_eq!(grown, buckets(&[(0.1, 8.0), (INF, 10.0)]));
        assert_eq!(grown.count(), 10.0);
    }

    #[test]
    fn escapes_in_labels_are_undone_and_nonsense_is_refused() {
        let sample = parse_sample(r#"x{a="q\"\\\n}",b=""} 1e3"#).unwrap();
        assert_eq!(sample.labels["a"], "q\"\\\n}");
        assert_eq!(sample.value, 1000.0);
        for bad in ["x", "x{a=1} 2", "x{a=\"1} 2", "x abc"] {
            assert!(Scrape::parse(bad).is_err(), "{bad}");
        }
    }
}
