//! Which keys are hot, kept in the data directory for the next start: names only.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::sync::Arc;

use keyway_protocol::Router;
use tokio::task::JoinHandle;

use super::messages::HotKey;

/// The file's name.
pub const FILE: &str = "hot_keys.txt";

const HEADER: &str =
    "# Keys that were hot, hottest first: keyspace id and key id in hex. Written by keywayd.";

/// Writes the file as a whole, durably.
pub type Save = Arc<dyn Fn(&[u8]) -> std::io::Result<()> + Send + Sync>;

/// The latest list of each shard, hottest first.
pub struct HotKeys {
    shards: RefCell<Vec<Vec<HotKey>>>,
    changed: Cell<bool>,
    writing: RefCell<Option<JoinHandle<()>>>,
    save: Save,
}

impl HotKeys {
    /// Over the lists of the last run, by the shard that owns the keys now.
    pub fn new(shards: Vec<Vec<HotKey>>, save: Save) -> Self {
        HotKeys {
            shards: RefCell::new(shards),
            changed: Cell::new(false),
            writing: RefCell::new(None),
            save,
        }
    }

    /// Takes a shard's newest list in place of its last one.
    pub fn take(&self, shard: u16, keys: Vec<HotKey>) {
        if let Some(list) = self.shards.borrow_mut().get_mut(usize::from(shard)) {
            *list = keys;
            self.changed.set(true);
        }
    }

    /// The keyspaces that have hot keys, the hottest first.
    pub fn keyspaces(&self) -> Vec<u32> {
        let shards = self.shards.borrow();
        let mut seen = HashSet::new();
        let keyspaces = by_rank(&shards).map(|key| key.keyspace);
        keyspaces
            .filter(|keyspace| seen.insert(*keyspace))
            .collect()
    }

    /// Writes the lists if one has come since the last time, one write at a time. The disk keeps nobody waiting.
    pub fn write_aside(&self) {
        let mut writing = self.writing.borrow_mut();
        let busy = writing.as_ref().is_some_and(|write| !write.is_finished());
        if !busy && self.changed.take() {
            let (text, save) = (self.text(), Arc::clone(&self.save));
            *writing = Some(tokio::task::spawn_blocking(move || write(&save, &text)));
        }
    }

    /// The same at the end, and waits for the disk.
    pub async fn write(&self) {
        let writing = self.writing.take();
        if let Some(writing) = writing {
            // A panic there has been logged; this write is another try.
            let _ = writing.await;
        }
        if self.changed.take() {
            write(&self.save, &self.text());
        }
    }

    fn text(&self) -> String {
        let shards = self.shards.borrow();
        let mut text = format!("{HEADER}\n");
        for key in by_rank(&shards) {
            text.push_str(&format!("{} ", key.keyspace));
            for byte in &*key.key_id {
                text.push_str(&format!("{byte:02x}"));
            }
            text.push('\n');
        }
        text
    }
}

fn write(save: &Save, text: &str) {
    if let Err(error) = save(text.as_bytes()) {
        tracing::warn!(%error, "{FILE} could not be written: the next start will be a colder one");
    }
}

/// The first of every shard, then the second of every shard, and so on: heat is told by rank, so that the order holds
/// after the number of shards has changed, too.
fn by_rank(shards: &[Vec<HotKey>]) -> impl Iterator<Item = &HotKey> {
    let longest = shards.iter().map(Vec::len).max().unwrap_or(0);
    (0..longest).flat_map(move |rank| shards.iter().filter_map(move |list| list.get(rank)))
}

/// Reads the file's text.
///
/// Errors: the line that is none of ours.
pub fn parse(text: &str) -> Result<Vec<HotKey>, String> {
    let lines = text
        .lines()
        .zip(1..)
        .filter(|(line, _)| !line.starts_with('#'));
    lines
        .map(|(line, number)| {
            parse_line(line).ok_or_else(|| format!("{FILE}, line {number}: `{line}` is no key"))
        })
        .collect()
}

fn parse_line(line: &str) -> Option<HotKey> {
    let (keyspace, hex) = line.split_once(' ')?;
    let digits: Option<Vec<u8>> = hex.chars().map(|c| Some(c.to_digit(16)? as u8)).collect();
    let digits = digits.filter(|digits| digits.len().is_multiple_of(2) && !digits.is_empty())?;
    Some(HotKey {
        keyspace: keyspace.parse().ok()?,
        key_id: digits
            .chunks_exact(2)
            .map(|pair| pair[0] << 4 | pair[1])
            .collect(),
    })
}

/// Gives each key to the shard that owns it, in their order.
pub fn route(keys: Vec<HotKey>, router: &Router) -> Vec<Vec<HotKey>> {
    let mut shards = vec![Vec::new(); usize::from(router.shard_count())];
    for key in keys {
        let owner = router.shard_of(key.keyspace, &key.key_id);
        shards[usize::from(owner)].push(key);
    }
    shards
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

    use super::*;
    use futures_lite::future::block_on;
    use std::sync::Mutex;

    fn key(keyspace: u32, key_id: &[u8]) -> HotKey {
        HotKey {
            keyspace,
            key_id: Box::from(key_id),
        }
    }

    /// Lists whose file is a cell.
    fn lists(shards: Vec<Vec<HotKey>>) -> (HotKeys, Arc<Mutex<String>>) {
        let file = Arc::new(Mutex::new(String::new()));
        let saved = Arc::clone(&file);
        let save = move |bytes: &[u8]| {
            *saved.lock().unwrap() = String::from_utf8(bytes.to_vec()).unwrap();
            Ok(())
        };
        (HotKeys::new(shards, Arc::new(save)), file)
    }

    #[test]
    fn what_was_written_is_read_again_in_order_of_heat() {
        let (hot, file) = lists(vec![Vec::new(), vec![key(7, b"second")]]);
        assert_eq!(hot.keyspaces(), [7]);
        block_on(hot.write());
        assert_eq!(*file.lock().unwrap(), "", "nothing has changed");
        hot.take(
            0,
            vec![key(3, b"first"), key(7, &[0, 255, b'\n']), key(3, b"last")],
        );
        hot.take(9, vec![key(1, b"of no shard")]);
        block_on(hot.write());
        let expected = [
            key(3, b"first"),
            key(7, b"second"),
            key(7, &[0, 255, b'\n']),
            key(3, b"last"),
        ];
        assert_eq!(parse(&file.lock().unwrap()).unwrap(), expected);
        assert_eq!(hot.keyspaces(), [3, 7]);
    }

    #[test]
    fn a_line_that_is_none_of_ours_is_named() {
        for line in ["7", "7 ", "x 6162", "7 616", "7 6g", "7 61 62", "-1 61"] {
            let error = parse(&format!("{HEADER}\n1 61\n{line}\n")).unwrap_err();
            assert!(error.contains("line 3") && error.contains(line), "{error}");
        }
    }

    #[test]
    fn each_key_goes_to_its_owner_in_order() {
        let keys: Vec<HotKey> = (0..100_u8).map(|n| key(1, &[n])).collect();
        let router = Router::new([5; 16], 3).unwrap();
        let routed = route(keys.clone(), &router);
        assert_eq!(routed.iter().map(Vec::len).sum::<usize>(), keys.len());
        for (shard, list) in routed.iter().enumerate() {
            assert!(
                list.iter()
                    .all(|k| usize::from(router.shard_of(1, &k.key_id)) == shard)
            );
            assert!(list.is_sorted_by(|a, b| a.key_id < b.key_id));
        }
    }
}
