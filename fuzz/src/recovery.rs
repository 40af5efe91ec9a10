//! The blob log's recovery: every whole record before the first damage is there, and nothing is seen
//! that nobody wrote.

use crate::disk::Disk;
use futures_lite::future::block_on;
use keyway_store::{BlobLog, Expect, LogOptions, Lookup};
use std::collections::BTreeMap;

const KEYS: u8 = 5;
const WRITES_MAX: usize = 24;

/// A key's blobs by version, as they were written.
type Written = BTreeMap<(u8, u32), Vec<u8>>;

/// A state of the log: what the newest record of each key is, and where its records end.
#[derive(Clone, Default)]
struct State {
    newest: BTreeMap<u8, u32>,
    revoked: [bool; KEYS as usize],
    end: usize,
}

/// `data`: a count, so many writes of two bytes (key, length), then damage: (place, change) in three
/// bytes each, and perhaps a length to which the file is cut.
pub fn check(data: &[u8]) {
    let Some((count, script)) = data.split_first() else {
        return;
    };
    let writes = (usize::from(*count) % (WRITES_MAX + 1)).min(script.len() / 2);
    let (script, damage) = script.split_at(writes * 2);
    let disk = Disk::default();
    let mut written = Written::new();
    let states = block_on(write(&disk, script, &mut written));
    let intact = harm(&disk, damage);
    block_on(recover(&disk, &written, &states, intact));
}

fn options() -> LogOptions {
    LogOptions::new("log".into(), [5; 16], 1, 0, 1)
}

async fn write(disk: &Disk, script: &[u8], written: &mut Written) -> Vec<State> {
    let opened = BlobLog::open(disk.clone(), options(), |_| {}).await;
    let (log, _) = opened.expect("an empty log opens");
    let mut states = vec![State::default()];
    for (number, write) in script.chunks_exact(2).enumerate() {
        let (key, len) = (write[0] % KEYS, usize::from(write[1]));
        let mut state = states.last().cloned().unwrap_or_default();
        if state.revoked[usize::from(key)] {
            continue;
        }
        let version = state.newest.get(&key).copied().unwrap_or(0);
        if write[0] >= 0xf0 && version > 0 {
            let stored = log.put_revoked(1, &[key]).await;
            stored.expect("a disk that works takes a revocation");
            state.revoked[usize::from(key)] = true;
        } else {
            let blob = vec![number as u8; len + 1];
            let expect = match version {
                0 => Expect::Absent,
                version => Expect::Version(version),
            };
            let put = log
                .put_blob(1, &[key], version + 1, blob.clone(), expect)
                .await;
            put.expect("a disk that works takes a blob");
            written.insert((key, version + 1), blob);
            state.newest.insert(key, version + 1);
        }
        state.end = disk.files().iter().map(|file| file.borrow().len()).sum();
        states.push(state);
    }
    log.close().await.expect("a disk that works closes");
    states
}

/// Damages the file. Returns up to where it is as it was.
fn harm(disk: &Disk, damage: &[u8]) -> usize {
    let files = disk.files();
    assert!(files.len() <= 1, "a short history fits into one segment");
    let Some(file) = files.first() else {
        return usize::MAX;
    };
    let mut bytes = file.borrow_mut();
    let mut intact = usize::MAX;
    let edits = damage.chunks_exact(3);
    let rest = edits.remainder();
    for edit in edits {
        let at = usize::from(u16::from_le_bytes([edit[0], edit[1]])) % bytes.len().max(1);
        if let Some(byte) = bytes.get_mut(at)
            && edit[2] != 0
        {
            *byte ^= edit[2];
            intact = intact.min(at);
        }
    }
    if let [low, high] = *rest {
        let len = usize::from(u16::from_le_bytes([low, high])) % (bytes.len() + 1);
        bytes.truncate(len);
        intact = intact.min(len);
    }
    intact
}

async fn recover(disk: &Disk, written: &Written, states: &[State], intact: usize) {
    // A start may be refused, with a reason; what starts must be right.
    let Ok((log, _)) = BlobLog::open(disk.clone(), options(), |_| {}).await else {
        return;
    };
    let whole = states.iter().rfind(|state| state.end <= intact);
    let whole = whole.cloned().unwrap_or_default();
    for key in 0..KEYS {
        let least = whole.newest.get(&key).copied().unwrap_or(0);
        let revoked = whole.revoked[usize::from(key)];
        let seen = match log.get(1, &[key]).await {
            Ok(Lookup::Blob(blob)) => {
                let wrote = written.get(&(key, blob.version)).map(Vec::as_slice);
                assert_eq!(wrote, Some(blob.bytes()), "nobody wrote this");
                assert!(
                    !revoked,
                    "key {key}: its revocation is whole, and it shows again"
                );
                blob.version
            }
            Ok(Lookup::Revoked { version, .. }) => {
                let ever = states.iter().any(|state| state.revoked[usize::from(key)]);
                assert!(ever, "key {key}: nobody revoked it");
                version
            }
            Ok(Lookup::Missing) => 0,
            // Said to be damaged: that is an answer, as long as there is damage.
            Err(_) => {
                assert!(intact < usize::MAX, "damage that nobody did");
                continue;
            }
        };
        assert!(
            seen >= least,
            "key {key}: version {seen}, and {least} is whole"
        );
    }
}
