//! A file's bytes: as programs see them, and as the last sync made them durable.

const SECTOR_LEN: usize = 512;

#[derive(Clone, Default)]
pub(super) struct Inode {
    /// Bytes that it can have without taking space.
    pub reserved: usize,
    pub now: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<(u64, Change)>,
    changes_so_far: u64,
}

/// What a power cut leaves of what was not synced: nothing, all of it, or any mixture.
pub(super) struct Loss<'a> {
    draw: &'a mut dyn FnMut(usize) -> usize,
    mode: usize,
}

impl<'a> Loss<'a> {
    pub fn new(draw: &'a mut dyn FnMut(usize) -> usize) -> Self {
        let mode = draw(4);
        Self { draw, mode }
    }

    /// Decides about a sector or a name.
    pub fn keeps(&mut self) -> bool {
        match self.mode {
            0 => false,
            1 => true,
            _ => self.below(2) == 0,
        }
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.draw)(bound)
    }
}

#[derive(Clone)]
enum Change {
    Write(usize, Vec<u8>),
    Truncate(usize),
}

impl Inode {
    /// Returns how many changes there have been: a sync that begins now is for these.
    pub fn changes(&self) -> u64 {
        self.changes_so_far
    }

    pub fn write(&mut self, offset: usize, bytes: Vec<u8>) {
        put(&mut self.now, offset, &bytes);
        self.change(Change::Write(offset, bytes));
    }

    pub fn truncate(&mut self, len: usize) {
        self.now.truncate(len);
        self.reserved = 0;
        self.change(Change::Truncate(len));
    }

    fn change(&mut self, change: Change) {
        self.unsynced.push((self.changes_so_far, change));
        self.changes_so_far += 1;
    }

    /// Makes the first `changes` durable, but for the last `left_out` of them. What an earlier failed sync dropped stays
    /// dropped.
    pub fn sync(&mut self, changes: u64, left_out: usize) {
        let synced = self.unsynced.partition_point(|(at, _)| *at < changes);
        let synced = synced.saturating_sub(left_out);
        for (_, change) in self.unsynced.drain(..synced) {
            match change {
                Change::Write(offset, bytes) => put(&mut self.durable, offset, &bytes),
                Change::Truncate(len) => self.durable.truncate(len),
            }
        }
    }

    /// Drops the first `changes`, as a failed sync does: programs still see them.
    pub fn drop_unsynced(&mut self, changes: u64) {
        self.unsynced.retain(|(at, _)| *at >= changes);
    }

    /// Changes the bytes durably.
    pub fn edit(&mut self, edit: impl FnOnce(&mut Vec<u8>)) {
        edit(&mut self.now);
        self.durable.clone_from(&self.now);
        self.unsynced.clear();
    }

    /// Returns the file as it is after a power cut.
    pub fn after_power_cut(&self, loss: &mut Loss<'_>) -> Self {
        let mut image = self.durable.clone();
        for (_, change) in &self.unsynced {
            match change {
                Change::Truncate(len) => {
                    if loss.keeps() {
                        image.truncate(*len);
                    }
                }
                Change::Write(offset, bytes) => {
                    let mut at = 0;
                    while at < bytes.len() {
                        let start = offset + at;
                        let len = (SECTOR_LEN - start % SECTOR_LEN).min(bytes.len() - at);
                        if loss.keeps() {
                            put(&mut image, start, &bytes[at..at + len]);
                        } else if start >= image.len() && loss.below(4) == 0 {
                            // A sector that the file has got and that was never written.
                            let junk = vec![loss.below(256) as u8; len];
                            put(&mut image, start, &junk);
                        }
                        at += len;
                    }
                }
            }
        }
        Self {
            reserved: self.reserved,
            now: image.clone(),
            durable: image,
            unsynced: Vec::new(),
            changes_so_far: 0,
        }
    }
}

fn put(image: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    if image.len() < offset + bytes.len() {
        image.resize(offset + bytes.len(), 0);
    }
    image[offset..offset + bytes.len()].copy_from_slice(bytes);
}
