//! What several unit tests share.

use std::os::unix::fs::FileExt;

/// `len` bytes of this process's memory at `address`, read through the kernel.
pub(crate) fn own_memory(address: usize, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    std::fs::File::open("/proc/self/mem")
        .unwrap()
        .read_exact_at(&mut bytes, address as u64)
        .unwrap();
    bytes
}

/// A line of `/proc/self/maps`.
pub(crate) struct Mapping {
    pub(crate) start: usize,
    pub(crate) end: usize,
    pub(crate) permissions: String,
}

/// This process's memory map.
pub(crate) fn mappings() -> Vec<Mapping> {
    std::fs::read_to_string("/proc/self/maps")
        .unwrap()
        .lines()
        .map(|line| {
            let mut words = line.split_whitespace();
            let (start, end) = words.next().unwrap().split_once('-').unwrap();
            Mapping {
                start: usize::from_str_radix(start, 16).unwrap(),
                end: usize::from_str_radix(end, 16).unwrap(),
                permissions: words.next().unwrap().to_owned(),
            }
        })
        .collect()
}

/// Whether `needle` occurs in `haystack`.
pub(crate) fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack
        .windows(needle.len())
        .any(|window| window == needle)
}
