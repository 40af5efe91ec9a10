//! The process reads its own memory: a secret is somewhere while its key is unlocked, and nowhere
//! once the key is dropped. The stack, both heaps and the arena are all in view.
//!
//! What is searched for never lies in memory as such: needles are kept with every bit flipped, and
//! the buffer that memory is read into is left out of the search.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

use keyway_keys::{
    Algorithm, Arena, ArenaOptions, Context, Dek, ImportFormat, Input, NewKey, ProviderChoice,
    Scheme, UnlockedKey, Vault, ZeroingAllocator, scrub_stack, wipe,
};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Mutex;

#[global_allocator]
static GLOBAL: ZeroingAllocator = ZeroingAllocator;

/// One test at a time: each looks at the whole process.
static TURN: Mutex<()> = Mutex::new(());

const ALICE: Context<'static> = Context {
    keyspace: 1,
    key_id: b"alice",
};
const NEW: NewKey = NewKey {
    usage: None,
    exportable: true,
    not_before_unix_ms: 0,
    not_after_unix_ms: 0,
    now_unix_ms: 1,
    first_version: 1,
};
/// Long enough never to occur by chance, short enough to find a part of a secret.
const NEEDLE_LEN: usize = 16;
const CHUNK_LEN: usize = 1 << 20;

/// A stretch of a secret, with every bit flipped.
#[derive(Clone, Copy)]
struct Needle([u8; NEEDLE_LEN]);

impl Needle {
    fn of(secret: &[u8]) -> Self {
        Self(std::array::from_fn(|i| !secret[i]))
    }

    /// As `of`, for a number that is kept with its lowest byte first.
    fn reversed(secret: &[u8]) -> Self {
        Self(std::array::from_fn(|i| !secret[NEEDLE_LEN - 1 - i]))
    }

    fn is_at(self, place: &[u8]) -> bool {
        self.0
            .iter()
            .zip(place)
            .all(|(flipped, byte)| !flipped == *byte)
    }
}

/// How often any of `needles` occurs in this process's memory.
fn occurrences(needles: &[Needle]) -> usize {
    let mut buffer = vec![0_u8; CHUNK_LEN];
    let hidden = buffer.as_ptr() as usize..buffer.as_ptr() as usize + CHUNK_LEN;
    let memory = File::open("/proc/self/mem").unwrap();
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    // Most places are ruled out by their first byte.
    let mut may_begin = [false; 256];
    for needle in needles {
        may_begin[usize::from(!needle.0[0])] = true;
    }
    let mut count = 0;
    for line in maps.lines() {
        let mut words = line.split_whitespace();
        let range = words.next().unwrap();
        let readable = words.next().unwrap().starts_with('r');
        if !readable || line.ends_with("[vvar]") || line.ends_with("[vsyscall]") {
            continue;
        }
        let (start, end) = range.split_once('-').unwrap();
        let start = usize::from_str_radix(start, 16).unwrap();
        let end = usize::from_str_radix(end, 16).unwrap();
        let pieces = [(start, end.min(hidden.start)), (start.max(hidden.end), end)];
        for (start, end) in pieces {
            let mut at = start;
            while at < end {
                let len = CHUNK_LEN.min(end - at);
                if memory.read_exact_at(&mut buffer[..len], at as u64).is_err() {
                    break;
                }
                count += buffer[..len]
                    .windows(NEEDLE_LEN)
                    .filter(|place| {
                        may_begin[usize::from(place[0])]
                            && needles.iter().any(|needle| needle.is_at(place))
                    })
                    .count();
                // The next chunk overlaps, so that nothing hides on a boundary.
                at += if len < CHUNK_LEN {
                    len
                } else {
                    len - NEEDLE_LEN
                };
            }
        }
    }
    wipe(&mut buffer);
    count
}

fn vault(choice: ProviderChoice) -> (Vault, Dek) {
    let arena = Arena::new(ArenaOptions {
        capacity_bytes: 1 << 18,
        lock: true,
    })
    .unwrap();
    let vault = Vault::new(arena, choice);
    let dek = vault.dek(1, &mut [0x11; 32]).unwrap();
    (vault, dek)
}

/// The stretches of an exported secret that must not stay behind.
fn needles(key: &UnlockedKey) -> Vec<Needle> {
    let mut secret = Vec::with_capacity(4096);
    key.export(0, &mut secret).unwrap();
    let needles = match key.metadata().algorithm {
        // PKCS#8 around 32 bytes of seed.
        Algorithm::Ed25519 => vec![Needle::of(&secret[16..]), Needle::of(&secret[32..])],
        Algorithm::EcdsaP256 => numbers(&secret, &[36, 52]),
        Algorithm::EcdsaP384 => numbers(&secret, &[35, 51, 67]),
        Algorithm::Rsa2048 | Algorithm::Rsa3072 | Algorithm::Rsa4096 => {
            let len = secret.len();
            // From the back: qInv, dQ and dP, then q, p and d: some stretch within each.
            let half = match key.metadata().algorithm {
                Algorithm::Rsa2048 => 128,
                Algorithm::Rsa3072 => 192,
                _ => 256,
            };
            let within = |nth: usize| len - (half + 4) * nth - half / 2;
            numbers(&secret, &[within(0), within(1), within(3), within(4)])
        }
        _ => vec![Needle::of(&secret), Needle::of(&secret[16..])],
    };
    wipe(&mut secret);
    needles
}

/// The stretches at these offsets, as they are exported and with the lowest byte first.
fn numbers(secret: &[u8], offsets: &[usize]) -> Vec<Needle> {
    offsets
        .iter()
        .flat_map(|offset| {
            let stretch = &secret[*offset..*offset + NEEDLE_LEN];
            [Needle::of(stretch), Needle::reversed(stretch)]
        })
        .collect()
}

/// Everything that the key can do, failures included.
#[inline(never)]
fn use_everything(key: &UnlockedKey) {
    let message = Input::Message(b"message");
    let out = &mut Vec::new();
    let _ = key.sign(Scheme::Default, message, out);
    let signature = std::mem::take(out);
    let _ = key.verify(0, Scheme::Default, message, &signature);
    let _ = key.verify(0, Scheme::Default, message, &[7; 70]);
    for digest_len in [32, 48] {
        let _ = key.sign(Scheme::Default, Input::Digest(&[7; 64][..digest_len]), out);
    }
    let _ = key.mac(b"message", out);
    out.clear();
    if key.encrypt(b"aad", b"plaintext", out).is_ok() {
        key.decrypt(b"aad", out, &mut Vec::new()).unwrap();
        let _ = key.decrypt(b"other", out, &mut Vec::new());
    }
    let _ = key.derive(64, b"salt", b"info", out);
    let _ = key.public_key(0, out);
}

#[test]
fn no_algorithm_leaves_its_secret_behind() {
    let _turn = TURN.lock();
    for choice in [ProviderChoice::Default, ProviderChoice::RingOnly] {
        for algorithm in Algorithm::ALL {
            let (vault, dek) = vault(choice);
            let sealed = match algorithm {
                Algorithm::Rsa2048 | Algorithm::Rsa3072 | Algorithm::Rsa4096 => {
                    let document = keyway_keys::generate_rsa_pkcs8(algorithm).unwrap();
                    let format = ImportFormat::Pkcs8Der;
                    vault.seal_imported(&dek, ALICE, None, format, &document, &NEW)
                }
                _ => vault.seal_generated(&dek, ALICE, algorithm, &NEW),
            };
            let blob = sealed.unwrap();
            let key = vault.open(&dek, ALICE, 1, &blob).unwrap();
            let needles = needles(&key);
            use_everything(&key);
            assert!(
                occurrences(&needles) > 0,
                "{algorithm}: not found while live"
            );
            drop(key);
            scrub_stack();
            let left = occurrences(&needles);
            assert_eq!(left, 0, "{algorithm} with {choice:?} stays behind");
        }
    }
}

#[test]
fn older_versions_and_imported_text_leave_nothing_behind() {
    let _turn = TURN.lock();
    let (vault, dek) = vault(ProviderChoice::Default);
    let first = vault
        .seal_generated(&dek, ALICE, Algorithm::EcdsaP256, &NEW)
        .unwrap();
    let (second, _) = vault
        .seal_rotated(&dek, ALICE, &first, &dek, None, 2)
        .unwrap();
    let old = vault.open(&dek, ALICE, 1, &first).unwrap();
    let needles = needles(&old);
    drop(old);
    assert_eq!(occurrences(&needles), 0);
    let key = vault.open(&dek, ALICE, 2, &second).unwrap();
    assert!(occurrences(&needles) > 0);
    drop(key);
    assert_eq!(occurrences(&needles), 0);
}

#[test]
fn a_dek_is_gone_once_dropped() {
    let _turn = TURN.lock();
    let (vault, dek) = vault(ProviderChoice::Default);
    let mut bytes = [0; 32];
    for (i, byte) in (0_u8..).zip(&mut bytes) {
        *byte = i.wrapping_mul(37) ^ 0xc3;
    }
    let needles = [Needle::of(&bytes), Needle::of(&bytes[16..])];
    let other = vault.dek(2, &mut bytes).unwrap();
    let blob = vault
        .seal_generated(&other, ALICE, Algorithm::Ed25519, &NEW)
        .unwrap();
    drop(vault.open(&other, ALICE, 1, &blob).unwrap());
    assert!(occurrences(&needles) > 0, "not found while live");
    drop(other);
    scrub_stack();
    assert_eq!(occurrences(&needles), 0);
    drop(dek);
}

#[test]
fn what_a_deep_call_leaves_on_the_stack_is_scrubbed() {
    #[inline(never)]
    fn leave_behind(needle: Needle) {
        let mut frame = [0_u8; 4096];
        for place in frame.chunks_exact_mut(NEEDLE_LEN) {
            for (byte, flipped) in place.iter_mut().zip(needle.0) {
                *byte = !flipped;
            }
        }
        std::hint::black_box(&frame);
    }
    let _turn = TURN.lock();
    let needle = Needle(std::array::from_fn(|i| (i as u8).wrapping_mul(59) ^ 0x77));
    leave_behind(needle);
    // The search itself runs over the lower part of what was left.
    assert!(occurrences(&[needle]) > 0, "nothing was left to scrub");
    leave_behind(needle);
    scrub_stack();
    assert_eq!(occurrences(&[needle]), 0);
}
