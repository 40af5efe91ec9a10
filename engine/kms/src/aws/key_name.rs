//! The four ways to name a key at AWS KMS, and whether an answer came from that key.

use crate::{Class, KmsError};

/// AWS's own limit for `KeyId`.
const KEY_ID_BYTES_MAX: usize = 2048;

const FORMS: &str = "give a key's id, its ARN, alias/NAME, or an alias's ARN";

/// A key's name, as given in the settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum KeyName {
    /// An ARN of a key. Answers contain it verbatim.
    KeyArn(String),
    /// A key id. Answers carry an ARN that ends in it.
    KeyId(String),
    /// An alias or its ARN. The first answer shows which key that is.
    Alias(String),
}

impl KeyName {
    /// Parses a name. Only KMS can tell whether the key exists.
    pub(super) fn parse(name: &str) -> Result<Self, KmsError> {
        let refused = || {
            KmsError::new(
                Class::Misconfigured,
                format!("key_id is {:?}, which names no key", shown(name)),
                FORMS,
            )
        };
        let is_printable = |byte: u8| byte.is_ascii_graphic();
        if name.is_empty() || name.len() > KEY_ID_BYTES_MAX || !name.bytes().all(is_printable) {
            return Err(refused());
        }
        if name.starts_with("arn:") {
            let resource = ArnParts::split(name).ok_or_else(refused)?.resource;
            return match resource.split_once('/') {
                Some(("key", id)) if is_key_id(id) => Ok(Self::KeyArn(name.to_owned())),
                Some(("alias", alias)) if !alias.is_empty() => Ok(Self::Alias(name.to_owned())),
                _ => Err(refused()),
            };
        }
        match name.strip_prefix("alias/") {
            Some("") => Err(refused()),
            Some(_) => Ok(Self::Alias(name.to_owned())),
            None if is_key_id(name) => Ok(Self::KeyId(name.to_owned())),
            None => Err(refused()),
        }
    }

    /// Returns the name, as it was given.
    pub(super) fn as_str(&self) -> &str {
        match self {
            Self::KeyArn(name) | Self::KeyId(name) | Self::Alias(name) => name,
        }
    }

    /// Returns the region, if the name holds one.
    pub(super) fn region(&self) -> Option<&str> {
        ArnParts::split(self.as_str()).map(|parts| parts.region)
    }

    /// Returns `true` if an answer that names key `arn` can be from this key. An alias does not contain the key's id; its
    /// ARN contains the key's account and region.
    pub(super) fn can_be(&self, arn: &str) -> bool {
        let Some(answered) = ArnParts::split(arn) else {
            return false;
        };
        let Some(id) = answered.resource.strip_prefix("key/") else {
            return false;
        };
        match self {
            Self::KeyArn(asked) => asked == arn,
            Self::KeyId(asked) => asked == id,
            Self::Alias(asked) => ArnParts::split(asked).is_none_or(|asked| {
                (asked.region, asked.account) == (answered.region, answered.account)
            }),
        }
    }
}

/// Returns `true` if `id` is a key id: a UUID, with `mrk-` and without hyphens for a multi-Region key.
fn is_key_id(id: &str) -> bool {
    let digits = id.strip_prefix("mrk-").unwrap_or(id);
    digits.len() >= 32
        && digits
            .bytes()
            .all(|byte| byte.is_ascii_hexdigit() || byte == b'-')
}

/// `arn:PARTITION:kms:REGION:ACCOUNT:RESOURCE`.
struct ArnParts<'a> {
    region: &'a str,
    account: &'a str,
    resource: &'a str,
}

impl<'a> ArnParts<'a> {
    fn split(arn: &'a str) -> Option<Self> {
        let mut parts = arn.splitn(6, ':');
        let (Some("arn"), Some(_partition), Some("kms")) =
            (parts.next(), parts.next(), parts.next())
        else {
            return None;
        };
        let (region, account, resource) = (parts.next()?, parts.next()?, parts.next()?);
        (!region.is_empty() && !account.is_empty()).then_some(Self {
            region,
            account,
            resource,
        })
    }
}

fn shown(name: &str) -> String {
    name.chars().take(100).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "c85555f2-bc0f-4988-aa25-fc9e6ab776b6";
    const ARN: &str =
        "arn:aws:kms:eu-central-1:123456789012:key/c85555f2-bc0f-4988-aa25-fc9e6ab776b6";
    const MRK: &str = "arn:aws:kms:eu-west-1:123456789012:key/mrk-1234abcd12ab34cd56ef1234567890ab";
    const ALIAS_ARN: &str = "arn:aws:kms:eu-central-1:123456789012:alias/keyway";

    #[test]
    fn each_form_is_told_from_the_others() {
        let table = [
            (ID, KeyName::KeyId(ID.to_owned()), None),
            (ARN, KeyName::KeyArn(ARN.to_owned()), Some("eu-central-1")),
            (MRK, KeyName::KeyArn(MRK.to_owned()), Some("eu-west-1")),
            (
                "alias/keyway",
                KeyName::Alias("alias/keyway".to_owned()),
                None,
            ),
            (
                ALIAS_ARN,
                KeyName::Alias(ALIAS_ARN.to_owned()),
                Some("eu-central-1"),
            ),
        ];
        for (name, parsed, region) in table {
            let key = KeyName::parse(name).unwrap();
            assert_eq!(key, parsed);
            assert_eq!(key.as_str(), name);
            assert_eq!(key.region(), region);
        }
    }

    #[test]
    fn what_names_no_key_is_refused() {
        let long = "a".repeat(KEY_ID_BYTES_MAX + 1);
        for name in [
            "",
            "keyway",
            "alias/",
            "arn:aws:kms",
            "arn:aws:s3:::bucket/key",
            "arn:aws:kms::123456789012:key/c85555f2-bc0f-4988-aa25-fc9e6ab776b6",
            "arn:aws:kms:eu-central-1:123456789012:key/",
            "alias/with space",
            "alias/line\nbreak",
            &long,
        ] {
            assert_eq!(
                KeyName::parse(name).unwrap_err().class(),
                Class::Misconfigured,
                "{name}"
            );
        }
    }

    #[test]
    fn an_answer_must_come_from_the_key_that_was_asked() {
        let other =
            "arn:aws:kms:eu-central-1:123456789012:key/00000000-bc0f-4988-aa25-fc9e6ab776b6";
        let elsewhere =
            "arn:aws:kms:eu-central-1:999999999999:key/c85555f2-bc0f-4988-aa25-fc9e6ab776b6";
        let table = [
            (ARN, ARN, true),
            (ARN, other, false),
            (ARN, elsewhere, false),
            (ID, ARN, true),
            (ID, elsewhere, true),
            (ID, other, false),
            ("alias/keyway", ARN, true),
            ("alias/keyway", "alias/keyway", false),
            ("alias/keyway", "", false),
            (ALIAS_ARN, other, true),
            (ALIAS_ARN, elsewhere, false),
            (ALIAS_ARN, MRK, false),
        ];
        for (asked, answered, can_be) in table {
            let key = KeyName::parse(asked).unwrap();
            assert_eq!(
                key.can_be(answered),
                can_be,
                "{asked} answered by {answered}"
            );
        }
    }
}
