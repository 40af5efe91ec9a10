//! Refused logins, and when the next one may be made.

use std::time::{Duration, Instant};

use crate::stamp::Stamp;
use crate::{Class, KmsError};

/// AppRole: OpenBao and Vault lock a role out for 15 minutes at the fifth refusal with less than 15 minutes between two.
/// The waits are so long that two servers with one role stay below that.
const COUNTED_WAITS: [Duration; 2] = [Duration::from_secs(60), Duration::from_secs(16 * 60)];
/// Counted refusals after which an operator waits too.
const COUNTED_HURRIES: u32 = 1;
/// Tokens, certificates and key pairs are not locked out, so only the server's load matters.
const OTHER_WAIT_MIN: Duration = Duration::from_secs(1);
const OTHER_WAIT_MAX: Duration = Duration::from_secs(30);
/// Doublings after which the wait no longer grows.
const OTHER_DOUBLINGS_MAX: u32 = 5;

/// How a server treats refused logins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lockout {
    /// It counts them, and locks the account out, including for other services that use it.
    Counts,
    Never,
}

/// The consecutive refusals. One refused login counts for all calls.
#[derive(Debug)]
pub(crate) struct Refusals {
    lockout: Lockout,
    /// Those that the server counts.
    counted: u32,
    others: u32,
    latest: Option<Refusal>,
}

#[derive(Debug)]
struct Refusal {
    error: KmsError,
    is_counted: bool,
    /// State of the files with which it was made: others may succeed.
    stamp: Stamp,
    at: Instant,
    until: Instant,
}

impl Refusals {
    pub(crate) fn new(lockout: Lockout) -> Self {
        Self {
            lockout,
            counted: 0,
            others: 0,
            latest: None,
        }
    }

    /// Returns why no login may be made now with files of this state.
    pub(crate) fn bar(&self, stamp: &Stamp, now: Instant) -> Option<KmsError> {
        let latest = self.latest.as_ref()?;
        let left = latest.until.checked_duration_since(now)?;
        if latest.stamp != *stamp || left.is_zero() {
            return None;
        }
        let what = format!(
            "{}; the next login is tried in {} s, or when its files change",
            latest.error.what(),
            left.as_secs() + 1
        );
        let mut remedy = latest.error.remedy().to_owned();
        if latest.is_counted && self.counted > COUNTED_HURRIES {
            remedy += "; an unlock does not try earlier, since the server locks the role out after too many refusals: \
                       once the cause is fixed, write the file again (touch it)";
        }
        let error = KmsError::new(latest.error.class(), what, remedy);
        Some(error.from_cause(latest.error.cause()))
    }

    /// Records how a login failed. Only a decision of the server, or what a person has to put right, blocks the next one.
    /// A server counts credentials that it refused. It knows nothing of a connection that TLS has ended, and counts no
    /// login at a mount that is not there.
    pub(crate) fn note(&mut self, error: &KmsError, stamp: Stamp, now: Instant) {
        if !matches!(error.class(), Class::Credential | Class::Misconfigured) {
            return;
        }
        if self
            .latest
            .as_ref()
            .is_some_and(|latest| latest.stamp != stamp)
        {
            (self.counted, self.others) = (0, 0);
        }
        let is_counted = self.lockout == Lockout::Counts && error.class() == Class::Credential;
        let wait = match is_counted {
            true => {
                let last = COUNTED_WAITS.len() - 1;
                self.counted = self.counted.saturating_add(1);
                COUNTED_WAITS
                    [usize::try_from(self.counted - 1).map_or(last, |count| count.min(last))]
            }
            false => {
                let doublings = self.others.min(OTHER_DOUBLINGS_MAX);
                self.others = self.others.saturating_add(1);
                (OTHER_WAIT_MIN * (1 << doublings)).min(OTHER_WAIT_MAX)
            }
        };
        self.latest = Some(Refusal {
            error: error.clone(),
            is_counted,
            stamp,
            at: now,
            until: now + wait,
        });
    }

    /// Brings the next login forward, because an operator requests one. The count remains: where the server counts, an
    /// operator's login replaces an automatic one, so that no number of commands locks the role out. Elsewhere there is
    /// at most one a second.
    pub(crate) fn hurry(&mut self, now: Instant) {
        let Some(latest) = &mut self.latest else {
            return;
        };
        let earliest = match latest.is_counted {
            true if self.counted > COUNTED_HURRIES => return,
            true => now,
            false => latest.at + OTHER_WAIT_MIN,
        };
        latest.until = latest.until.min(earliest);
    }

    /// Clears the refusals, because a login has succeeded.
    pub(crate) fn clear(&mut self) {
        (self.counted, self.others) = (0, 0);
        self.latest = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Refusals on a clock of the test's own.
    struct Rig {
        refusals: Refusals,
        now: Instant,
        stamp: Stamp,
        attempts: Vec<u64>,
        began: Instant,
        class: Class,
    }

    impl Rig {
        fn new(lockout: Lockout) -> Self {
            let now = Instant::now();
            Self {
                refusals: Refusals::new(lockout),
                now,
                stamp: Stamp::default(),
                attempts: Vec::new(),
                began: now,
                class: Class::Credential,
            }
        }

        /// Tries each second for `seconds`, with an operator's command in those for which `hurries`.
        fn run(&mut self, seconds: u64, hurries: impl Fn(u64) -> bool) {
            for second in 0..seconds {
                if hurries(second) {
                    self.refusals.hurry(self.now);
                }
                if self.refusals.bar(&self.stamp, self.now).is_none() {
                    self.attempts.push((self.now - self.began).as_secs());
                    let error = KmsError::new(self.class, "refused", "renew it");
                    self.refusals.note(&error, self.stamp.clone(), self.now);
                }
                self.now += Duration::from_secs(1);
            }
        }
    }

    #[test]
    fn a_counted_login_is_repeated_so_rarely_that_two_servers_stay_below_the_lockout() {
        let mut rig = Rig::new(Lockout::Counts);
        rig.run(40 * 60, |_| false);
        assert_eq!(rig.attempts, [0, 60, 1020, 1980]);
    }

    /// Each UNLOCK cleared the count: five commands, the remedy of five keyspaces, were five refused logins.
    #[test]
    fn no_number_of_commands_locks_a_role_out() {
        let mut rig = Rig::new(Lockout::Counts);
        rig.run(40 * 60, |second| second > 0);
        assert_eq!(rig.attempts, [0, 1, 961, 1921]);
        let barred = rig.refusals.bar(&rig.stamp, rig.now).unwrap();
        assert!(barred.what().contains("the next login is tried in"));
        assert!(barred.remedy().contains("touch"), "{barred}");
    }

    #[test]
    fn other_logins_are_repeated_under_a_backoff_and_once_a_second_by_command() {
        let mut rig = Rig::new(Lockout::Never);
        rig.run(120, |_| false);
        assert_eq!(rig.attempts, [0, 1, 3, 7, 15, 31, 61, 91]);
        let before = rig.attempts.len();
        rig.run(10, |_| true);
        assert_eq!(rig.attempts.len() - before, 10);
        rig.refusals.hurry(rig.now);
        assert!(rig.refusals.bar(&rig.stamp, rig.now).is_none());
        let error = KmsError::new(Class::Credential, "refused", "renew it");
        rig.refusals.note(&error, rig.stamp.clone(), rig.now);
        for _ in 0..100 {
            rig.refusals.hurry(rig.now);
            assert!(rig.refusals.bar(&rig.stamp, rig.now).is_some());
        }
    }

    /// A server whose certificate was not trusted was asked again after up to 16 minutes, and the lease ended meanwhile.
    #[test]
    fn what_the_server_does_not_count_is_tried_again_soon() {
        let mut rig = Rig::new(Lockout::Counts);
        rig.class = Class::Misconfigured;
        rig.run(120, |_| false);
        assert_eq!(rig.attempts, [0, 1, 3, 7, 15, 31, 61, 91]);
        let barred = rig.refusals.bar(&rig.stamp, rig.now).unwrap();
        assert!(!barred.remedy().contains("touch"), "{barred}");
        // And it brings no refusal forward.
        rig.attempts.clear();
        rig.class = Class::Credential;
        rig.run(40 * 60, |_| false);
        assert_eq!(rig.attempts, [121, 181, 1141, 2101]);
    }

    #[test]
    fn other_files_and_a_success_begin_again() {
        let mut rig = Rig::new(Lockout::Counts);
        rig.run(100, |_| false);
        assert_eq!(rig.attempts, [0, 60]);
        rig.stamp = Stamp::of([std::path::Path::new("/")]);
        rig.run(61, |_| false);
        assert_eq!(rig.attempts, [0, 60, 100, 160]);
        rig.refusals.clear();
        rig.run(1, |_| false);
        assert_eq!(rig.attempts, [0, 60, 100, 160, 161]);
        // An outage is no decision.
        rig.refusals.clear();
        let down = KmsError::new(Class::Unavailable { retry_after: None }, "down", "wait");
        rig.refusals.note(&down, rig.stamp.clone(), rig.now);
        assert!(rig.refusals.bar(&rig.stamp, rig.now).is_none());
    }
}
