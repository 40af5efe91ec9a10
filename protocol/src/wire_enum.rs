//! One macro for all one-byte ids that also have names, so that each table exists once.

/// Makes an enum of `u8` ids with names: `ALL`, `code`, `of`, `name`, `TryFrom<u8>`, `FromStr` and
/// `Display`, which writes the name.
macro_rules! wire_enum {
    (
        $(#[$meta:meta])*
        pub enum $type:ident, $what:literal {
            $( $(#[$variant_meta:meta])* $variant:ident = $code:literal, $name:literal; )+
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum $type {
            $( $(#[$variant_meta])* $variant = $code, )+
        }

        impl $type {
            /// All of them, in the order of their codes.
            pub const ALL: &'static [Self] = &[ $( Self::$variant, )+ ];

            /// The id on the wire.
            #[must_use]
            pub const fn code(self) -> u8 {
                self as u8
            }

            /// The one with this id, if this version knows it.
            #[inline]
            #[must_use]
            pub const fn of(code: u8) -> Option<Self> {
                match code {
                    $( $code => Some(Self::$variant), )+
                    _ => None,
                }
            }

            /// The name, as commands, settings and labels spell it.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $( Self::$variant => $name, )+
                }
            }
        }

        impl TryFrom<u8> for $type {
            type Error = $crate::ProtocolError;

            #[inline]
            fn try_from(code: u8) -> Result<Self, Self::Error> {
                Self::of(code).ok_or($crate::ProtocolError::Unknown {
                    field: $what,
                    value: u64::from(code),
                })
            }
        }

        impl core::str::FromStr for $type {
            type Err = $crate::UnknownName;

            fn from_str(name: &str) -> Result<Self, Self::Err> {
                match name {
                    $( $name => Ok(Self::$variant), )+
                    _ => Err($crate::UnknownName::new($what, name, &[ $( $name, )+ ])),
                }
            }
        }

        impl core::fmt::Display for $type {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                f.pad(self.name())
            }
        }
    };
}

/// Makes a set of named bits: constants, `bits`, `from_bits`, `contains`, `FromStr` for a list
/// with commas, and `Display`, which writes that list.
macro_rules! wire_bits {
    (
        $(#[$meta:meta])*
        pub struct $type:ident($repr:ty), $what:literal {
            $( $(#[$bit_meta:meta])* $constant:ident = $bit:literal, $name:literal; )+
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
        pub struct $type($repr);

        impl $type {
            /// None of them.
            pub const NONE: Self = Self(0);
            /// All that this version knows.
            pub const ALL: Self = Self(0 $( | $bit )+);
            $( $(#[$bit_meta])* pub const $constant: Self = Self($bit); )+

            /// The bits on the wire.
            #[must_use]
            pub const fn bits(self) -> $repr {
                self.0
            }

            /// The set with these bits; unknown bits are refused.
            pub const fn from_bits(bits: $repr) -> Result<Self, $crate::ProtocolError> {
                let unknown = bits & !Self::ALL.0;
                if unknown != 0 {
                    return Err($crate::ProtocolError::UnknownFlags {
                        field: $what,
                        bits: unknown as u64,
                    });
                }
                Ok(Self(bits))
            }

            /// Whether all of `other` are in this set.
            #[must_use]
            pub const fn contains(self, other: Self) -> bool {
                self.0 & other.0 == other.0
            }

            /// Whether at least one of `other` is in this set.
            #[must_use]
            pub const fn intersects(self, other: Self) -> bool {
                self.0 & other.0 != 0
            }

            /// This set and `other` together.
            #[must_use]
            pub const fn union(self, other: Self) -> Self {
                Self(self.0 | other.0)
            }

            /// Whether nothing is in this set.
            #[must_use]
            pub const fn is_empty(self) -> bool {
                self.0 == 0
            }

            /// The names of what is in this set, in the order of their bits.
            pub fn names(self) -> impl Iterator<Item = &'static str> {
                [ $( (Self($bit), $name), )+ ]
                    .into_iter()
                    .filter(move |(bit, _)| self.contains(*bit))
                    .map(|(_, name)| name)
            }
        }

        impl core::ops::BitOr for $type {
            type Output = Self;

            fn bitor(self, other: Self) -> Self {
                self.union(other)
            }
        }

        impl core::str::FromStr for $type {
            type Err = $crate::UnknownName;

            /// Reads names with commas between them; the empty text is the empty set.
            fn from_str(names: &str) -> Result<Self, Self::Err> {
                let mut set = Self::NONE;
                for name in names.split(',').map(str::trim).filter(|name| !name.is_empty()) {
                    set = set.union(match name {
                        $( $name => Self($bit), )+
                        _ => return Err($crate::UnknownName::new($what, name, &[ $( $name, )+ ])),
                    });
                }
                Ok(set)
            }
        }

        impl core::fmt::Display for $type {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                for (index, name) in self.names().enumerate() {
                    if index > 0 {
                        f.write_str(",")?;
                    }
                    f.write_str(name)?;
                }
                Ok(())
            }
        }
    };
}

pub(crate) use {wire_bits, wire_enum};
