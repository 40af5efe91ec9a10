//! What an error about key material may quote. This type decides it, and nothing else does.
//!
//! A message is made of texts of this crate's own source, of numbers, and of names of algorithms.
//! There is no way to put bytes of the input into it: a key file may hold its secret anywhere,
//! in a label or a name too.

use crate::algorithm::Algorithm;
use core::fmt;

/// What was found in the place of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found(Vec<Part>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Text(&'static str),
    Number(usize),
    Algorithm(Algorithm),
}

impl Found {
    /// This, followed by `part`.
    pub(crate) fn and(mut self, part: impl Into<Part>) -> Self {
        self.0.push(part.into());
        self
    }
}

impl<P: Into<Part>> From<P> for Found {
    fn from(part: P) -> Self {
        Self(vec![part.into()])
    }
}

impl From<&'static str> for Part {
    fn from(text: &'static str) -> Self {
        Self::Text(text)
    }
}

impl From<usize> for Part {
    fn from(number: usize) -> Self {
        Self::Number(number)
    }
}

impl From<Algorithm> for Part {
    fn from(algorithm: Algorithm) -> Self {
        Self::Algorithm(algorithm)
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|part| match part {
            Part::Text(text) => f.write_str(text),
            Part::Number(number) => number.fmt(f),
            Part::Algorithm(algorithm) => algorithm.fmt(f),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_written_one_after_the_other() {
        let found = Found::from("a raw ")
            .and(Algorithm::HmacSha256)
            .and(" secret of ")
            .and(15)
            .and(" bytes");
        assert_eq!(found.to_string(), "a raw hmac-sha256 secret of 15 bytes");
    }
}
