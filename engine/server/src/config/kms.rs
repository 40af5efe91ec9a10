//! The KMSes that a server may ask: tables `[kms.NAME]` of the file.
//!
//! A table names its `provider`; the rest is that provider's, and `[kms.NAME.budget]` limits the calls.

use std::collections::BTreeMap;
use std::path::PathBuf;

use keyway_kms::Budget;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::{ConfigError, quote};

/// The KMS that there is when the file names none.
const LOCAL: &str = "local";

/// Longest name of a KMS, in bytes: it is a label of metrics.
const NAME_BYTES_MAX: usize = 64;

/// One KMS.
#[derive(Clone, Debug)]
pub struct KmsConfig {
    /// Which provider, and its settings.
    pub provider: ProviderConfig,
    /// Limits of the calls to it.
    pub budget: Budget,
    /// Whether a keyspace that an operator has locked can be unlocked without the KMS's secret while the KMS is open.
    pub unlock_without_secret: bool,
}

/// A provider and its settings.
#[derive(Clone, Debug)]
pub enum ProviderConfig {
    /// A KEK file.
    Local(LocalConfig),
    /// The transit engine of Vault or OpenBao.
    Vault(keyway_kms::VaultSettings),
    /// A token or HSM.
    Pkcs11(keyway_kms::Pkcs11Settings),
    /// AWS KMS.
    #[cfg(feature = "aws")]
    Aws(keyway_kms::AwsSettings),
}

/// Settings of the local provider.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LocalConfig {
    /// The KEK file; kek.json in the data directory if not given.
    pub file: Option<PathBuf>,
}

impl KmsConfig {
    fn local() -> Self {
        Self {
            provider: ProviderConfig::Local(LocalConfig::default()),
            budget: Budget::in_process(),
            unlock_without_secret: false,
        }
    }
}

/// The KMSes of the file, or the local one if it names none.
pub(super) fn resolve(
    tables: BTreeMap<String, toml::Table>,
) -> Result<BTreeMap<String, KmsConfig>, ConfigError> {
    if tables.is_empty() {
        return Ok(BTreeMap::from([(LOCAL.to_owned(), KmsConfig::local())]));
    }
    let mut kms = BTreeMap::new();
    for (name, table) in tables {
        check_name(&name)?;
        let config = read(&name, table)?;
        kms.insert(name, config);
    }
    Ok(kms)
}

/// The KMS of keyspaces that name none.
pub(super) fn default(
    kms: &BTreeMap<String, KmsConfig>,
    wanted: Option<String>,
) -> Result<String, ConfigError> {
    let names = || kms.keys().cloned().collect::<Vec<_>>().join(", ");
    match wanted {
        Some(name) if kms.contains_key(&name) => Ok(name),
        Some(name) => Err(ConfigError(format!(
            "default_kms `{name}` is not one of the KMSes {}; add [kms.{name}] or name another",
            names()
        ))),
        None => match kms.keys().next() {
            Some(only) if kms.len() == 1 => Ok(only.clone()),
            _ if kms.contains_key(LOCAL) => Ok(LOCAL.to_owned()),
            _ => Err(ConfigError(format!(
                "there are several KMSes ({}); say with default_kms which one new keyspaces use",
                names()
            ))),
        },
    }
}

fn check_name(name: &str) -> Result<(), ConfigError> {
    let fits =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte);
    if (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(fits) {
        return Ok(());
    }
    Err(ConfigError(format!(
        "`{name}` is no name for a KMS; use 1 to {NAME_BYTES_MAX} of a-z, 0-9, `.`, `_` and `-`"
    )))
}

fn read(name: &str, mut table: toml::Table) -> Result<KmsConfig, ConfigError> {
    let provider = match table.remove("provider") {
        Some(toml::Value::String(provider)) => provider,
        _ => {
            return Err(ConfigError(format!(
                "[kms.{name}] names no provider; write provider = \"local\", \"vault\", \"aws\" or \"pkcs11\""
            )));
        }
    };
    let budget = table.remove("budget");
    let unlock_without_secret = match table.remove("unlock_without_secret") {
        None => false,
        Some(toml::Value::Boolean(value)) => value,
        Some(other) => {
            return Err(ConfigError(format!(
                "[kms.{name}] has an unlock_without_secret that is {} {}; write true or false",
                match other.type_str().starts_with(['a', 'i']) {
                    true => "an",
                    false => "a",
                },
                other.type_str()
            )));
        }
    };
    let (provider, budget_default) = match provider.as_str() {
        "local" => (
            ProviderConfig::Local(settings(name, table)?),
            Budget::in_process(),
        ),
        "vault" => (
            ProviderConfig::Vault(settings(name, table)?),
            Budget::default(),
        ),
        "pkcs11" => (
            ProviderConfig::Pkcs11(settings(name, table)?),
            Budget::default(),
        ),
        #[cfg(feature = "aws")]
        "aws" => (
            ProviderConfig::Aws(settings(name, table)?),
            Budget::default(),
        ),
        #[cfg(not(feature = "aws"))]
        "aws" => {
            return Err(ConfigError(format!(
                "[kms.{name}] has provider `aws`, which this build leaves out; build keywayd with \
                 its default features"
            )));
        }
        _ => {
            return Err(ConfigError(format!(
                "[kms.{name}] has provider `{provider}`; this build knows local, vault, aws and pkcs11"
            )));
        }
    };
    let budget = match budget {
        None => budget_default,
        Some(toml::Value::Table(limits)) => settings(&format!("{name}.budget"), limits)?,
        Some(_) => {
            return Err(ConfigError(format!(
                "budget of [kms.{name}] is not a table; write [kms.{name}.budget]"
            )));
        }
    };
    budget
        .check()
        .map_err(|error| ConfigError(format!("[kms.{name}.budget]: {error}")))?;
    Ok(KmsConfig {
        provider,
        budget,
        unlock_without_secret,
    })
}

fn settings<T: DeserializeOwned>(name: &str, table: toml::Table) -> Result<T, ConfigError> {
    toml::Value::Table(table)
        .try_into()
        .map_err(|error: toml::de::Error| {
            let told = quote::without_values(error.message());
            ConfigError(format!("[kms.{name}] is not valid: {told}"))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<BTreeMap<String, KmsConfig>, ConfigError> {
        #[derive(Deserialize)]
        struct File {
            #[serde(default)]
            kms: BTreeMap<String, toml::Table>,
        }
        resolve(toml::from_str::<File>(text).unwrap().kms)
    }

    #[test]
    fn without_any_there_is_the_local_one() {
        let kms = parse("").unwrap();
        assert!(matches!(kms["local"].provider, ProviderConfig::Local(_)));
        assert_eq!(default(&kms, None).unwrap(), "local");
    }

    #[test]
    fn settings_and_budget_are_the_providers_own() {
        let kms =
            parse("[kms.a]\nprovider = \"local\"\nfile = \"/x\"\n[kms.a.budget]\nrate_per_s = 7\n")
                .unwrap();
        assert_eq!(kms["a"].budget.rate_per_s, 7);
        let ProviderConfig::Local(local) = &kms["a"].provider else {
            panic!("it is local");
        };
        assert_eq!(local.file.as_deref(), Some(std::path::Path::new("/x")));
        assert_eq!(default(&kms, None).unwrap(), "a");
        assert!(
            default(&kms, Some("b".into()))
                .unwrap_err()
                .0
                .contains("`b`")
        );
    }

    #[test]
    fn what_is_wrong_is_named() {
        let table = [
            ("[kms.a]", "names no provider"),
            ("[kms.a]\nprovider = \"pigeon\"", "`pigeon`"),
            ("[kms.a]\nprovider = \"local\"\nfil = \"x\"", "fil"),
            ("[kms.A]\nprovider = \"local\"", "`A`"),
            (
                "[kms.a]\nprovider = \"local\"\nbudget = 3",
                "[kms.a.budget]",
            ),
            (
                "[kms.a]\nprovider = \"local\"\n[kms.a.budget]\nrate_per_s = 0",
                "rate_per_s",
            ),
        ];
        for (text, reason) in table {
            let error = parse(text).unwrap_err();
            assert!(error.0.contains(reason), "{error} should name {reason}");
        }
        let several = "[kms.a]\nprovider = \"local\"\n[kms.b]\nprovider = \"local\"";
        let error = default(&parse(several).unwrap(), None).unwrap_err();
        assert!(error.0.contains("default_kms"), "{error}");
    }
}
