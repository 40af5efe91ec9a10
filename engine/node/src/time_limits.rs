//! Which settings take something away when they become less.

use keyway_core::{SettingName, Settings};

/// A time limit among the settings.
pub(crate) type TimeLimit = (SettingName, fn(&mut Settings) -> &mut u64);

/// The settings of which a lower value takes something away: a key or a lease ends earlier. The only list of them, from
/// which it follows what two guards meet in, and which changes overtake others.
pub(crate) const TIME_LIMITS: [TimeLimit; 3] = [
    (SettingName::SoftTtlMs, |settings| &mut settings.soft_ttl_ms),
    (SettingName::HardTtlMs, |settings| &mut settings.hard_ttl_ms),
    (SettingName::DekLeaseMs, |settings| {
        &mut settings.dek_lease_ms
    }),
];

/// Returns whether a change of a setting may take something away.
pub(crate) fn is_time_limit(name: SettingName) -> bool {
    TIME_LIMITS.iter().any(|(limit, _)| *limit == name)
}
