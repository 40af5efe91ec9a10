//! Rules between settings.

use super::Settings;
use alloc::string::{String, ToString};
use core::fmt;

/// The longest duration that may be set, in ms: 365 days.
const TTL_MS_MAX: u64 = 365 * 86_400_000;
/// The shortest: less would be dominated by the wheel's tick, in ms.
const TTL_MS_MIN: u64 = 10;
const DEK_LEASE_MS_MIN: u64 = 100;
const MAX_IN_FLIGHT_MAX: u32 = 65_536;
const WAIT_BUDGET_US_MAX: u64 = 1_000_000;
const JITTER_PCT_MAX: u8 = 50;

/// A refused setting, with the rule that it violates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingsError {
    /// The setting, by its name in configuration and CLI.
    pub name: &'static str,
    /// The given value.
    pub value: String,
    /// The violated rule.
    pub rule: &'static str,
}

impl SettingsError {
    pub(super) fn new(name: &'static str, value: impl ToString, rule: &'static str) -> Self {
        Self {
            name,
            value: value.to_string(),
            rule,
        }
    }
}

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={} is refused: {}", self.name, self.value, self.rule)
    }
}

impl core::error::Error for SettingsError {}

impl Settings {
    /// Checks the range of every setting, and that they do not conflict with each other.
    ///
    /// # Errors
    /// The first setting that breaks a rule.
    pub fn validate(&self) -> Result<(), SettingsError> {
        let fail = |name, value: &dyn ToString, rule| {
            Err(SettingsError::new(name, value.to_string(), rule))
        };
        if !(TTL_MS_MIN..=TTL_MS_MAX).contains(&self.soft_ttl_ms) {
            return fail(
                "soft_ttl_ms",
                &self.soft_ttl_ms,
                "10 <= soft_ttl_ms <= 31536000000",
            );
        }
        if !(TTL_MS_MIN..=TTL_MS_MAX).contains(&self.hard_ttl_ms) {
            return fail(
                "hard_ttl_ms",
                &self.hard_ttl_ms,
                "10 <= hard_ttl_ms <= 31536000000",
            );
        }
        if !(DEK_LEASE_MS_MIN..=TTL_MS_MAX).contains(&self.dek_lease_ms) {
            return fail(
                "dek_lease_ms",
                &self.dek_lease_ms,
                "100 <= dek_lease_ms <= 31536000000",
            );
        }
        if self.hard_ttl_ms < self.soft_ttl_ms {
            return fail(
                "hard_ttl_ms",
                &self.hard_ttl_ms,
                "soft_ttl_ms <= hard_ttl_ms",
            );
        }
        if self.jitter_pct > JITTER_PCT_MAX {
            return fail("jitter_pct", &self.jitter_pct, "jitter_pct <= 50");
        }
        let window_ms = self.refresh_window_ms();
        // A key whose soft TTL was shortened by jitter must not be due again as soon as it is loaded.
        let soft_ms_min = self.soft_ttl_ms * (100 - u64::from(self.jitter_pct)) / 100;
        if window_ms > 0 && window_ms >= soft_ms_min.max(1) {
            let rule = "refresh_window_ms < soft_ttl_ms * (100 - jitter_pct) / 100";
            return fail("refresh_window_ms", &window_ms, rule);
        }
        let low_water_ms = self.soft_ttl_ms * u64::from(self.low_water_pct) / 100;
        if low_water_ms > window_ms {
            let rule = "soft_ttl_ms * low_water_pct / 100 <= refresh_window_ms";
            return fail("low_water_pct", &self.low_water_pct, rule);
        }
        if self.max_in_flight > MAX_IN_FLIGHT_MAX {
            return fail(
                "max_in_flight",
                &self.max_in_flight,
                "max_in_flight <= 65536",
            );
        }
        if self.sign_wait_budget_us > WAIT_BUDGET_US_MAX {
            let rule = "sign_wait_budget_us <= 1000000";
            return fail("sign_wait_budget_us", &self.sign_wait_budget_us, rule);
        }
        if self.delete_wait_ms > TTL_MS_MAX {
            let rule = "delete_wait_ms <= 31536000000";
            return fail("delete_wait_ms", &self.delete_wait_ms, rule);
        }
        Ok(())
    }
}
