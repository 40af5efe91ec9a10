//! Settings by name: each one's typed value, and its text.

use super::{OnSoftExpiry, Settings, SettingsError};
use alloc::string::{String, ToString};
use core::fmt;
use core::str::FromStr;

/// The value that means "follows soft_ttl_ms".
const AUTO: &str = "auto";

/// The aliases used by the runbook.
const ALIASES: [(&str, SettingName); 4] = [
    ("signWaitBudget", SettingName::SignWaitBudgetUs),
    ("refreshWindow", SettingName::RefreshWindowMs),
    ("LowWater", SettingName::LowWaterPct),
    ("maxInFlight", SettingName::MaxInFlight),
];

/// Declares the settings once: the variant, and the field of [`Settings`] with its type, whose name is the setting's.
macro_rules! settings {
    ($($Variant:ident $field:ident: $Value:ty;)+) => {
        /// The name of a setting.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum SettingName {
            $(#[doc = concat!("`", stringify!($field), "`.")] $Variant,)+
        }

        /// One setting with its value.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Setting {
            $(#[doc = concat!("A value of `", stringify!($field), "`.")] $Variant($Value),)+
        }

        impl SettingName {
            /// All of them, in the order in which they are displayed.
            pub const ALL: &[SettingName] = &[$(SettingName::$Variant,)+];

            /// Returns the name as used in configuration and CLI.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(SettingName::$Variant => stringify!($field),)+
                }
            }
        }

        impl Setting {
            /// Returns the name of the setting.
            #[must_use]
            pub const fn name(self) -> SettingName {
                match self {
                    $(Setting::$Variant(_) => SettingName::$Variant,)+
                }
            }

            fn of(name: SettingName, value: &str) -> Result<Setting, SettingsError> {
                Ok(match name {
                    $(SettingName::$Variant => Setting::$Variant(Value::parse(name.as_str(), value)?),)+
                })
            }
        }

        /// Formats the value as [`Setting::parse`] accepts it.
        impl fmt::Display for Setting {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    $(Setting::$Variant(value) => value.write(f),)+
                }
            }
        }

        impl Settings {
            /// Returns one setting as it was set.
            #[must_use]
            pub const fn get(&self, name: SettingName) -> Setting {
                match name {
                    $(SettingName::$Variant => Setting::$Variant(self.$field),)+
                }
            }

            /// Sets one setting. Settings that depend on each other are set one after the other: call
            /// [`Settings::validate`] when all are set.
            pub const fn put(&mut self, setting: Setting) {
                match setting {
                    $(Setting::$Variant(value) => self.$field = value,)+
                }
            }
        }
    };
}

settings! {
    SoftTtlMs soft_ttl_ms: u64;
    HardTtlMs hard_ttl_ms: u64;
    DekLeaseMs dek_lease_ms: u64;
    RefreshWindowMs refresh_window_ms: Option<u64>;
    LowWaterPct low_water_pct: u8;
    MaxInFlight max_in_flight: u32;
    SignWaitBudgetUs sign_wait_budget_us: u64;
    OnSoftExpiry on_soft_expiry: OnSoftExpiry;
    JitterPct jitter_pct: u8;
    DeleteWaitMs delete_wait_ms: u64;
}

impl SettingName {
    /// Parses a name or an alias. Returns `None` if there is no such setting.
    #[must_use]
    pub fn parse(text: &str) -> Option<SettingName> {
        let mut aliases = ALIASES.iter();
        let alias = aliases.find(|(alias, _)| *alias == text);
        let mut names = Self::ALL.iter().copied();
        alias.map_or_else(
            || names.find(|name| name.as_str() == text),
            |(_, name)| Some(*name),
        )
    }
}

impl Setting {
    /// Parses one setting. Accepts the names of the fields, and the runbook's aliases. `refresh_window_ms` also accepts
    /// `auto`: a fifth of `soft_ttl_ms`.
    ///
    /// Checks only the form of the value: see [`Settings::put`].
    ///
    /// # Errors
    /// No such setting, or a value that cannot be read.
    pub fn parse(name: &str, value: &str) -> Result<Setting, SettingsError> {
        let Some(name) = SettingName::parse(name) else {
            let rule = "settings are soft_ttl_ms, hard_ttl_ms, dek_lease_ms, refresh_window_ms, \
                        low_water_pct, max_in_flight, sign_wait_budget_us, on_soft_expiry, \
                        jitter_pct, delete_wait_ms";
            return Err(SettingsError::new("setting", name, rule));
        };
        Setting::of(name, value)
    }
}

impl Settings {
    /// Iterates over every setting with its value in effect, for display.
    pub fn iter(&self) -> impl Iterator<Item = (SettingName, String)> + '_ {
        let in_effect = Settings {
            refresh_window_ms: Some(self.refresh_window_ms()),
            ..self.clone()
        };
        let names = SettingName::ALL.iter().copied();
        names.map(move |name| (name, in_effect.get(name).to_string()))
    }
}

/// A value of a setting, as text.
trait Value: Sized {
    fn parse(name: &'static str, text: &str) -> Result<Self, SettingsError>;

    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result;
}

impl Value for u64 {
    fn parse(name: &'static str, text: &str) -> Result<Self, SettingsError> {
        number(name, text)
    }

    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Value for u32 {
    fn parse(name: &'static str, text: &str) -> Result<Self, SettingsError> {
        number(name, text)
    }

    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A percentage.
impl Value for u8 {
    fn parse(name: &'static str, text: &str) -> Result<Self, SettingsError> {
        match number(name, text)? {
            percent @ 0..=100 => Ok(percent),
            _ => {
                let rule = "the value is a percentage, 0 to 100";
                Err(SettingsError::new(name, text, rule))
            }
        }
    }

    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A number, or `auto`.
impl Value for Option<u64> {
    fn parse(name: &'static str, text: &str) -> Result<Self, SettingsError> {
        match text {
            AUTO => Ok(None),
            _ => number(name, text).map(Some),
        }
    }

    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Some(number) => fmt::Display::fmt(number, f),
            None => f.write_str(AUTO),
        }
    }
}

impl Value for OnSoftExpiry {
    fn parse(name: &'static str, text: &str) -> Result<Self, SettingsError> {
        match text {
            "wait" => Ok(OnSoftExpiry::Wait),
            "serve_stale" => Ok(OnSoftExpiry::ServeStale),
            _ => {
                let rule = "on_soft_expiry is wait or serve_stale";
                Err(SettingsError::new(name, text, rule))
            }
        }
    }

    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            OnSoftExpiry::Wait => "wait",
            OnSoftExpiry::ServeStale => "serve_stale",
        })
    }
}

fn number<N: FromStr>(name: &'static str, value: &str) -> Result<N, SettingsError> {
    let rule = "the value is a whole number, without sign, unit or spaces, and not too large";
    let digits = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
    match value.parse() {
        Ok(number) if digits => Ok(number),
        _ => Err(SettingsError::new(name, value, rule)),
    }
}
