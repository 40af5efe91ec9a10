//! How errands end.

use keyway_node::port::{Blob, Found, KeyState, Page, ReadError, Row, WriteError};
use keyway_node::shard::{Done, Errand};

/// How an errand ends; 0: well.
pub(super) fn ended(errand: &Errand, how: u8) -> Done {
    let blob = || Blob {
        version: 1 + u32::from(how >> 6),
        revision: 1 + u64::from(how >> 7),
        bytes: vec![1 + (how >> 4 & 3); 64],
    };
    match how % 8 {
        7 => return Done::Lost,
        6 => return Done::Reserved(Ok(())),
        _ => {}
    }
    let failed = how & 7 == 1;
    let error = || match how >> 3 & 3 {
        0 => WriteError::Store("the disk is full".to_owned()),
        1 => WriteError::Conflict("changed at the same time".to_owned()),
        2 => WriteError::Unknown("it may be done".to_owned()),
        _ => WriteError::NotPersisted("not written yet".to_owned()),
    };
    match errand {
        Errand::Read(_) => Done::Read(match how & 7 {
            1 => Err(ReadError::Io("the disk has failed".to_owned())),
            2 => Err(ReadError::Damaged("the sum is wrong".to_owned())),
            3 => Ok(Found::Missing),
            4 => Ok(Found::Revoked),
            _ => Ok(Found::Blob(blob())),
        }),
        Errand::Put(..) if failed => Done::Put(Err(error())),
        Errand::Put(..) => Done::Put(Ok(1 + u32::from(how >> 6))),
        Errand::RevokedAt(_) if failed => Done::RevokedAt(Err(error())),
        Errand::RevokedAt(_) => Done::RevokedAt(Ok((how & 7 != 2).then_some(0))),
        Errand::List { .. } if failed => Done::Listed(Err("no such cursor".to_owned())),
        Errand::List { rows_max, .. } => Done::Listed(Ok(Page {
            rows: (0..usize::from(how >> 3).min(*rows_max))
                .map(|number| Row {
                    key_id: format!("key-{number}").into_bytes(),
                    blob: blob(),
                    state: KeyState::Live,
                    revoked: 0,
                })
                .collect(),
            cursor: vec![1; usize::from(how >> 3 & 1)],
            unsettled: how >> 6 == 3,
        })),
        Errand::Generate(_) if failed => Done::Generated(Err(error())),
        Errand::Generate(_) => Done::Generated(Ok(vec![1; 40].into())),
        Errand::Reserve(..) if failed => Done::Reserved(Err(error())),
        Errand::Reserve(..) => Done::Reserved(Ok(())),
    }
}
