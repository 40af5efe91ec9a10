//! Named values in wire order, as vector files write them.

use std::collections::VecDeque;
use std::fmt;

#[derive(Clone, Default, PartialEq, Eq)]
pub struct Fields(Vec<(String, Value)>);

#[derive(Clone, PartialEq, Eq)]
pub enum Value {
    Int(u64),
    Bytes(Vec<u8>),
}

impl Fields {
    pub fn push(&mut self, name: &str, value: Value) {
        self.0.push((name.to_owned(), value));
    }

    pub fn with_int(mut self, name: &str, value: impl Into<u64>) -> Self {
        self.push(name, Value::Int(value.into()));
        self
    }

    pub fn with_bytes(mut self, name: &str, value: &[u8]) -> Self {
        self.push(name, Value::Bytes(value.to_vec()));
        self
    }

    pub fn take(self) -> Take {
        Take(self.0.into())
    }
}

/// Takes fields off the front, by the names that are expected.
pub struct Take(VecDeque<(String, Value)>);

impl Take {
    pub fn int(&mut self, name: &str) -> u64 {
        match self.next(name) {
            Value::Int(value) => value,
            Value::Bytes(_) => panic!("{name} is not a number"),
        }
    }

    pub fn bytes(&mut self, name: &str) -> Vec<u8> {
        match self.next(name) {
            Value::Bytes(value) => value,
            Value::Int(_) => panic!("{name} is a number"),
        }
    }

    pub fn array<const N: usize>(&mut self, name: &str) -> [u8; N] {
        self.bytes(name)
            .try_into()
            .expect("as many bytes as the field has")
    }

    pub fn text(&mut self, name: &str) -> String {
        String::from_utf8(self.bytes(name)).expect("text")
    }

    /// Whether the next field is of this name.
    pub fn is_next(&self, name: &str) -> bool {
        self.0.front().is_some_and(|(next, _)| next == name)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn next(&mut self, name: &str) -> Value {
        let (next, value) = self.0.pop_front().unwrap_or_else(|| panic!("no {name}"));
        assert_eq!(next, name);
        value
    }
}

impl fmt::Debug for Fields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map()
            .entries(self.0.iter().map(|(name, value)| (name, value)))
            .finish()
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Int(value) => value.fmt(f),
            Self::Bytes(value) => write!(f, "\"{}\"", value.escape_ascii()),
        }
    }
}
