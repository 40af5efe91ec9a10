//! The list of hot keys, stored in the data directory for the next start. It contains key ids only.

use std::collections::BTreeSet;

use keyway_protocol::Router;

use crate::messages::HotKey;

/// The name of the file.
pub const FILE: &str = "hot_keys.txt";

const HEADER: &str =
    "# Keys that were hot, hottest first: keyspace id and key id in hex. Written by keywayd.";

/// The latest list of each shard, hottest first.
pub struct HotKeys {
    shards: Vec<Vec<HotKey>>,
    has_changed: bool,
    is_writing: bool,
}

impl HotKeys {
    /// Creates the state from the lists of the previous run, by the shard that owns the keys now.
    pub fn new(shards: Vec<Vec<HotKey>>) -> Self {
        HotKeys {
            shards,
            has_changed: false,
            is_writing: false,
        }
    }

    /// Replaces a shard's list.
    pub(super) fn take(&mut self, shard: u16, keys: Vec<HotKey>) {
        if let Some(list) = self.shards.get_mut(usize::from(shard)) {
            *list = keys;
            self.has_changed = true;
        }
    }

    /// Returns the keyspaces that have hot keys, hottest first.
    pub(super) fn keyspaces(&self) -> Vec<u32> {
        let mut seen = BTreeSet::new();
        let keyspaces = by_rank(&self.shards).map(|key| key.keyspace);
        keyspaces
            .filter(|keyspace| seen.insert(*keyspace))
            .collect()
    }

    /// Returns the text to write, if a list has arrived since the last write and no write is in progress.
    pub(super) fn next_write(&mut self) -> Option<String> {
        if self.is_writing || !self.has_changed {
            return None;
        }
        self.is_writing = true;
        self.take_text()
    }

    pub(super) fn is_writing(&self) -> bool {
        self.is_writing
    }

    /// Records that the write has ended.
    pub(super) fn saved(&mut self) {
        self.is_writing = false;
    }

    /// Returns the text of the file, if a list has arrived since it was last taken.
    pub(super) fn take_text(&mut self) -> Option<String> {
        std::mem::take(&mut self.has_changed).then(|| self.text())
    }

    fn text(&self) -> String {
        let mut text = format!("{HEADER}\n");
        for key in by_rank(&self.shards) {
            text.push_str(&format!("{} ", key.keyspace));
            for byte in &*key.key_id {
                text.push_str(&format!("{byte:02x}"));
            }
            text.push('\n');
        }
        text
    }
}

/// Iterates over the hottest key of every shard, then the second of every shard, and so on. Rank stands for heat, so the
/// order is still valid after the number of shards has changed.
fn by_rank(shards: &[Vec<HotKey>]) -> impl Iterator<Item = &HotKey> {
    let longest = shards.iter().map(Vec::len).max().unwrap_or(0);
    (0..longest).flat_map(move |rank| shards.iter().filter_map(move |list| list.get(rank)))
}

/// Parses the text of the file.
///
/// Errors: the first invalid line.
pub fn parse(text: &str) -> Result<Vec<HotKey>, String> {
    let lines = text
        .lines()
        .zip(1..)
        .filter(|(line, _)| !line.starts_with('#'));
    lines
        .map(|(line, number)| {
            parse_line(line).ok_or_else(|| format!("{FILE}, line {number}: `{line}` is not a key"))
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

/// Returns the keys of each shard, in their order.
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
    use super::*;

    fn key(keyspace: u32, key_id: &[u8]) -> HotKey {
        HotKey {
            keyspace,
            key_id: Box::from(key_id),
        }
    }

    #[test]
    fn written_list_is_read_back_hottest_first() {
        let mut hot = HotKeys::new(vec![Vec::new(), vec![key(7, b"second")]]);
        assert_eq!(hot.keyspaces(), [7]);
        assert_eq!(hot.next_write(), None, "nothing has changed");
        let list = [key(3, b"first"), key(7, &[0, 255, b'\n']), key(3, b"last")];
        hot.take(0, list.to_vec());
        hot.take(9, vec![key(1, b"of no shard")]);
        let text = hot.next_write().unwrap();
        let expected = [
            key(3, b"first"),
            key(7, b"second"),
            key(7, &[0, 255, b'\n']),
            key(3, b"last"),
        ];
        assert_eq!(parse(&text).unwrap(), expected);
        assert_eq!(hot.keyspaces(), [3, 7]);
    }

    #[test]
    fn lists_are_written_one_at_a_time() {
        let mut hot = HotKeys::new(vec![Vec::new()]);
        hot.take(0, vec![key(1, b"a")]);
        assert!(hot.next_write().is_some());
        hot.take(0, vec![key(1, b"b")]);
        assert_eq!(hot.next_write(), None);
        hot.saved();
        assert!(hot.next_write().is_some());
        hot.saved();
        assert_eq!(hot.next_write(), None);
    }

    #[test]
    fn invalid_line_is_named() {
        for line in ["7", "7 ", "x 6162", "7 616", "7 6g", "7 61 62", "-1 61"] {
            let error = parse(&format!("{HEADER}\n1 61\n{line}\n")).unwrap_err();
            assert!(error.contains("line 3") && error.contains(line), "{error}");
        }
    }

    #[test]
    fn keys_are_routed_to_their_owners_in_order() {
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
