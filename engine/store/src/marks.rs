//! Marks: numbers that record what a program has reached, stored in the manifest. They only rise.
//!
//! A file that is replaced atomically can be restored to an older state, and a missing one looks like one that never
//! existed. The owner of such a file records its progress here, and checks the mark at the next start.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Longest name of a mark, in bytes.
pub const MARK_NAME_LEN_MAX: usize = 96;

/// Most marks of a data directory.
pub const MARKS_MAX: usize = 1_024;

/// Numbers by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Marks(BTreeMap<String, u64>);

impl Marks {
    pub(crate) fn get(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or(0)
    }

    /// These marks, and any of `marks` that is higher. `None`: there is none.
    ///
    /// # Panics
    /// If a name is none: names are the program's.
    pub(crate) fn raised(&self, marks: &[(&str, u64)]) -> Option<Marks> {
        let mut raised = self.clone();
        for (name, value) in marks {
            assert!(is_name(name), "{name:?} is no name of a mark");
            if *value > self.get(name) {
                raised.0.insert((*name).to_owned(), *value);
            }
        }
        (raised != *self).then_some(raised)
    }

    /// Checks what was read; the error says what is wrong.
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.0.len() > MARKS_MAX {
            return Err(format!(
                "it has {} marks, can have {MARKS_MAX}",
                self.0.len()
            ));
        }
        match self.0.keys().find(|name| !is_name(name)) {
            Some(name) => Err(format!("{name:?} is no name of a mark")),
            None => Ok(()),
        }
    }
}

fn is_name(name: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    (1..=MARK_NAME_LEN_MAX).contains(&name.len()) && name.bytes().all(is_part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_only_rises() {
        let marks = Marks::default();
        assert_eq!(marks.get("revision"), 0);
        assert_eq!(marks.raised(&[("revision", 0)]), None);
        let marks = marks.raised(&[("revision", 3), ("next", 1)]).unwrap();
        assert_eq!(marks.raised(&[("revision", 2)]), None);
        let marks = marks.raised(&[("revision", 2), ("next", 2)]).unwrap();
        assert_eq!((marks.get("revision"), marks.get("next")), (3, 2));
    }
}
