//! Random permanent and temporary changes against a model, which keeps permanent values and overrides apart.

use std::collections::BTreeMap;

use keyway_core::Instant;

use super::*;
use crate::splitmix::Random;

/// The settings to change and their values: few, so that values often conflict.
const VALUES: [(&str, [&str; 4]); 6] = [
    ("soft_ttl_ms", ["1000", "5000", "30000", "600000"]),
    ("hard_ttl_ms", ["1000", "4000", "100000", "3600000"]),
    ("refresh_window_ms", ["auto", "0", "900", "20000"]),
    ("low_water_pct", ["0", "5", "20", "60"]),
    ("jitter_pct", ["0", "10", "50", "25"]),
    ("max_in_flight", ["0", "1", "64", "256"]),
];

const HISTORIES: u64 = 100;
const STEPS: u64 = 60;

fn any_of<T: Copy>(random: &mut Random, choices: &[T]) -> T {
    choices[random.below(choices.len() as u64) as usize]
}

#[derive(Clone, Default)]
struct Model {
    for_good: BTreeMap<&'static str, &'static str>,
    /// Overrides by setting: the value, and the second in which it expires.
    on_top: BTreeMap<&'static str, (&'static str, u64)>,
}

impl Model {
    /// Returns the settings in the second `at`, or `None` if they conflict.
    fn settings(&self, at: u64) -> Option<Settings> {
        let mut settings = Settings::default();
        for (name, value) in &self.for_good {
            settings.put(Setting::parse(name, value).unwrap());
        }
        for (name, (value, end)) in &self.on_top {
            if *end > at {
                settings.put(Setting::parse(name, value).unwrap());
            }
        }
        settings.validate().is_ok().then_some(settings)
    }

    fn is_valid_from(&self, now: u64) -> bool {
        let ends = self.on_top.values().map(|(_, end)| *end);
        ends.chain([now])
            .filter(|at| *at >= now)
            .all(|at| self.settings(at).is_some())
    }

    fn set(&mut self, name: &'static str, value: &'static str, end: Option<u64>) {
        match end {
            Some(end) => {
                self.on_top.insert(name, (value, end));
            }
            None => {
                self.on_top.remove(name);
                self.for_good.insert(name, value);
            }
        }
    }
}

/// Returns the second `at`, on a wall clock that is `ahead_ms` ahead.
fn moment(at: u64, ahead_ms: u64) -> Moment {
    Moment {
        unix_ms: at * 1_000 + ahead_ms,
        instant: Instant::from_micros(at * 1_000_000),
    }
}

/// Counts of accepted and refused changes, and of reverted settings.
#[derive(Debug, Default)]
struct Tally {
    accepted: u64,
    refused: u64,
    ended: u64,
}

/// Runs one history. The model can predict each expiry across a restart only if clocks are `steady`.
fn run(seed: u64, steady: bool, tally: &mut Tally) {
    let mut random = Random(seed);
    let (mut now, mut ahead_ms) = (10_000, 500_000_000);
    let mut model = Model::default();
    let mut catalogue = Catalogue::default();
    let by = ChangeAuthor::server(moment(now, ahead_ms));
    catalogue.make("prod", "", "local", b"dek", &by).unwrap();
    for _ in 0..STEPS {
        match random.below(8) {
            0..5 => {
                let end = (random.below(2) == 0).then(|| any_of(&mut random, &[5, 10, 20, 40]));
                let mut changed = model.clone();
                let mut lines = String::new();
                for _ in 0..=random.below(2) {
                    let (name, values) = any_of(&mut random, &VALUES);
                    let value = any_of(&mut random, &values);
                    lines += &format!("{name}={value}\n");
                    changed.set(name, value, end.map(|end| now + end));
                }
                let lasts =
                    end.map(|end| OverrideDuration::parse(&(end * 1_000).to_string()).unwrap());
                let by = ChangeAuthor::server(moment(now, ahead_ms));
                let before = catalogue.text();
                match catalogue.set_lines(1, &lines, lasts, &by) {
                    Ok(()) => {
                        assert!(!steady || changed.is_valid_from(now), "accepted: {lines}");
                        model = changed;
                        tally.accepted += 1;
                    }
                    Err(error) => {
                        assert!(!steady || !changed.is_valid_from(now), "{error}");
                        assert_eq!(catalogue.text(), before);
                        tally.refused += 1;
                    }
                }
            }
            5..7 => now += random.below(15),
            _ => {
                now += random.below(15);
                if !steady {
                    ahead_ms = random.below(1_000_000_000);
                }
                catalogue = Catalogue::parse(&catalogue.text()).unwrap();
                catalogue.resume(moment(now, ahead_ms));
            }
        }
        tally.ended += catalogue.revert_expired(moment(now, ahead_ms)).len() as u64;
        assert!(!catalogue.is_due(moment(now, ahead_ms)));
        let settings = catalogue.keyspace(1).unwrap().settings();
        assert_eq!(settings.validate(), Ok(()), "seed {seed}");
        if steady {
            assert_eq!(Some(settings), model.settings(now), "seed {seed}");
        }
    }
    // When every override has expired, the permanent values apply.
    now += 100;
    catalogue.revert_expired(moment(now, ahead_ms));
    let keyspace = catalogue.keyspace(1).unwrap();
    assert_eq!(
        Some(keyspace.settings()),
        model.settings(now),
        "seed {seed}"
    );
    assert_eq!(keyspace.overrides().count(), 0);
}

#[test]
fn what_is_changed_for_a_while_holds_on_top_and_ends_in_its_second() {
    let mut tally = Tally::default();
    (0..HISTORIES).for_each(|seed| run(seed, true, &mut tally));
    let Tally {
        accepted,
        refused,
        ended,
    } = tally;
    assert!(accepted.min(refused).min(ended) > HISTORIES, "{tally:?}");
}

#[test]
fn whatever_the_wall_clock_does_between_runs_settings_never_contradict_each_other() {
    let mut tally = Tally::default();
    (0..HISTORIES).for_each(|seed| run(seed, false, &mut tally));
    assert!(tally.ended > HISTORIES, "{tally:?}");
}
