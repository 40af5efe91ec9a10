//! What can be wrong with bytes: which field, which value, what would be right.

use alloc::string::String;
use core::fmt;

use crate::Status;

/// Bytes, or values about to be encoded, that break a rule of the protocol.
///
/// The sender is to blame. Sending the same again never helps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProtocolError {
    /// A field or a frame has more bytes than its limit.
    TooLong {
        /// The field.
        field: &'static str,
        /// Its length in bytes.
        len: u64,
        /// The longest allowed.
        max: u64,
    },
    /// A field or a frame has fewer bytes than it must.
    TooShort {
        /// The field.
        field: &'static str,
        /// Its length in bytes.
        len: u64,
        /// The shortest allowed.
        min: u64,
    },
    /// Two lengths that must agree do not.
    LengthMismatch {
        /// The field that declares a length.
        field: &'static str,
        /// What it declares, in bytes.
        declared: u64,
        /// What the rest of the message says, in bytes.
        actual: u64,
    },
    /// The payload ends inside a field.
    Truncated {
        /// The field.
        field: &'static str,
        /// How many bytes it needs.
        needed: u64,
        /// How many are left.
        left: u64,
    },
    /// Bytes are left over after the last field.
    Trailing {
        /// The message.
        message: &'static str,
        /// How many bytes are left over.
        count: u64,
    },
    /// An id that this version does not know.
    Unknown {
        /// The field.
        field: &'static str,
        /// Its value.
        value: u64,
    },
    /// A bit that this version does not know is set.
    UnknownFlags {
        /// The field.
        field: &'static str,
        /// The unknown bits.
        bits: u64,
    },
    /// A field that must be zero is not.
    NotZero {
        /// The field.
        field: &'static str,
        /// Its value.
        value: u64,
    },
    /// A number outside of its range.
    OutOfRange {
        /// The field.
        field: &'static str,
        /// Its value.
        value: u64,
        /// The smallest allowed.
        min: u64,
        /// The largest allowed.
        max: u64,
    },
    /// A byte that this text may not hold.
    BadByte {
        /// The field.
        field: &'static str,
        /// Where in the field, from 0.
        at: u64,
        /// The byte.
        byte: u8,
    },
    /// A rule that no other kind describes.
    Rule {
        /// The field.
        field: &'static str,
        /// The rule that is broken.
        rule: &'static str,
    },
}

impl ProtocolError {
    /// The field that is wrong.
    #[must_use]
    pub fn field(&self) -> &'static str {
        match *self {
            Self::TooLong { field, .. }
            | Self::TooShort { field, .. }
            | Self::LengthMismatch { field, .. }
            | Self::Truncated { field, .. }
            | Self::Unknown { field, .. }
            | Self::UnknownFlags { field, .. }
            | Self::NotZero { field, .. }
            | Self::OutOfRange { field, .. }
            | Self::BadByte { field, .. }
            | Self::Rule { field, .. } => field,
            Self::Trailing { message, .. } => message,
        }
    }

    /// The status that a server answers with: UNSUPPORTED for ids from another version of the
    /// protocol, BAD_REQUEST for everything else.
    #[must_use]
    pub fn status(&self) -> Status {
        match self {
            Self::Unknown { .. } => Status::Unsupported,
            _ => Status::BadRequest,
        }
    }
}

impl fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::TooLong { field, len, max } => {
                write!(f, "{field} has {len} bytes, at most {max} are allowed")
            }
            Self::TooShort { field, len, min } => {
                write!(f, "{field} has {len} bytes, at least {min} are needed")
            }
            Self::LengthMismatch {
                field,
                declared,
                actual,
            } => write!(
                f,
                "{field} says {declared} bytes, the other lengths say {actual}"
            ),
            Self::Truncated {
                field,
                needed,
                left,
            } => write!(f, "{field} needs {needed} bytes, {left} are left"),
            Self::Trailing { message, count } => {
                write!(f, "{message} is followed by {count} bytes too many")
            }
            Self::Unknown { field, value } => {
                write!(f, "{field} {value} is not known to this version")
            }
            Self::UnknownFlags { field, bits } => write!(
                f,
                "{field} has bits {bits:#x} that are not known to this version, clear them"
            ),
            Self::NotZero { field, value } => write!(f, "{field} is {value}, it must be 0"),
            Self::OutOfRange {
                field,
                value,
                min,
                max,
            } => write!(f, "{field} is {value}, allowed is {min} to {max}"),
            Self::BadByte { field, at, byte } => {
                write!(f, "{field} holds byte {byte:#04x} at {at}, not allowed")
            }
            Self::Rule { field, rule } => write!(f, "{field}: {rule}"),
        }
    }
}

impl core::error::Error for ProtocolError {}

/// A name that stands for nothing: an algorithm, scheme, usage or operation misspelt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownName {
    /// What was to be named.
    pub what: &'static str,
    /// The text that was given, shortened to 40 characters.
    pub name: String,
    /// The names there are, with commas.
    pub known: String,
}

impl UnknownName {
    pub(crate) fn new(what: &'static str, name: &str, known: &[&str]) -> Self {
        Self {
            what,
            name: name.chars().take(40).collect(),
            known: known.join(", "),
        }
    }
}

impl fmt::Display for UnknownName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, name, known } = self;
        write!(f, "unknown {what} {name:?}; there are: {known}")
    }
}

impl core::error::Error for UnknownName {}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;

    use super::*;

    #[test]
    fn messages_name_the_field_the_value_and_the_bound() {
        let error = ProtocolError::TooLong {
            field: "payload_len",
            len: 70_000,
            max: 66_560,
        };
        assert_eq!(
            error.to_string(),
            "payload_len has 70000 bytes, at most 66560 are allowed"
        );
        assert_eq!(error.field(), "payload_len");
    }

    #[test]
    fn ids_of_another_version_are_unsupported_and_everything_else_is_a_bad_request() {
        let unknown = ProtocolError::Unknown {
            field: "opcode",
            value: 0x99,
        };
        assert_eq!(unknown.status(), Status::Unsupported);
        let flags = ProtocolError::UnknownFlags {
            field: "flags",
            bits: 4,
        };
        assert_eq!(flags.status(), Status::BadRequest);
    }
}
