//! Where a new key goes in the log.

use super::port::{Expect, KeyState, Known, WriteError};

/// Where a new key goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct KeyPlace {
    /// Its first version.
    pub(super) version: u32,
    /// What the log is to hold.
    pub(super) expect: Expect,
    /// It replaces a damaged record.
    pub(super) restores: bool,
}

/// Returns where a key of which the log has this record can be written.
pub(super) fn place_of(known: Option<Known>, is_import: bool) -> Result<KeyPlace, WriteError> {
    let absent = |version| KeyPlace {
        version,
        expect: Expect::Absent,
        restores: false,
    };
    let Some(known) = known else {
        return Ok(absent(1));
    };
    match known.state {
        KeyState::Revoked => Err(WriteError::Revoked),
        // Versions go on where they ended: what was made with the old key is not taken for the new one's.
        KeyState::Deleted => known.version.checked_add(1).map(absent).ok_or_else(|| {
            WriteError::Conflict(
                "the id has used up its version numbers; use another id".to_owned(),
            )
        }),
        KeyState::Damaged if is_import => Ok(KeyPlace {
            version: known.version,
            expect: Expect::Revision(known.version, known.revision),
            restores: true,
        }),
        KeyState::Damaged => Err(WriteError::Conflict(
            "the key exists and its record is damaged; import it again with `keyway key import`, or \
             revoke it"
                .to_owned(),
        )),
        KeyState::Live => Err(WriteError::Conflict(
            "the key exists; use `keyway key rotate` for a new version".to_owned(),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_go_on_where_a_deleted_key_ended_and_only_an_import_restores_a_damaged_one() {
        let known = |state| {
            Some(Known {
                version: 7,
                revision: 9,
                state,
            })
        };
        let new = place_of(known(KeyState::Deleted), false).map(|place| place.version);
        assert_eq!((place_of(None, false).unwrap().version, new), (1, Ok(8)));
        let restored = place_of(known(KeyState::Damaged), true).unwrap();
        assert_eq!(restored.expect, Expect::Revision(7, 9));
        assert!(restored.restores && restored.version == 7);
        for (state, is_import) in [
            (KeyState::Damaged, false),
            (KeyState::Live, true),
            (KeyState::Revoked, true),
        ] {
            assert!(place_of(known(state), is_import).is_err(), "{state:?}");
        }
    }
}
