//! Every property over its corpus and over mutations of it: what `make fuzz` looks for, without
//! libFuzzer and in seconds.
//!
//! The mutations are the same in every run. A failure writes the input to a file and prints the
//! command that runs it alone.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::time::Instant;

use keyway_fuzz::{Check, TARGETS};

/// A file to run alone instead of the corpus.
const INPUT_VARIABLE: &str = "KEYWAY_FUZZ_INPUT";

/// How many mutations of each target's corpus are run, over all its files.
const MUTATIONS_VARIABLE: &str = "KEYWAY_FUZZ_MUTATIONS";

/// The longest input that a mutation makes, in bytes.
const INPUT_LEN_MAX: usize = 8 << 10;

#[test]
fn headers_that_are_accepted_encode_to_the_same_bytes() {
    run("header", 200_000);
}

#[test]
fn a_stream_gives_the_same_frames_however_it_is_cut() {
    run("stream", 10_000);
}

#[test]
fn hellos_that_are_accepted_encode_to_the_same_bytes() {
    run("hello", 200_000);
}

#[test]
fn payloads_that_are_accepted_encode_to_the_same_bytes() {
    run("payload", 200_000);
}

#[test]
fn a_client_reads_whatever_a_server_sends() {
    run("client", 20_000);
}

#[test]
fn nothing_but_a_sealed_blob_opens() {
    run("envelope", 20_000);
}

#[test]
fn a_damaged_log_keeps_every_whole_record_before_the_damage() {
    run("recovery", 4_000);
}

#[test]
fn a_shard_answers_each_request_once_whatever_comes() {
    run("connection", 2_000);
}

#[test]
fn control_answers_each_command_once_whatever_comes() {
    run("control", 1_500);
}

#[test]
fn every_target_has_a_corpus_and_every_corpus_a_target() {
    let mut folders: Vec<String> = std::fs::read_dir(corpus())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    folders.sort();
    let mut names = TARGETS.map(|(name, _)| name.to_owned());
    names.sort();
    assert_eq!(folders, names);
    for name in names {
        let wrapper = format!("libfuzzer/fuzz_targets/{name}.rs");
        assert!(manifest_dir().join(&wrapper).is_file(), "no {wrapper}");
    }
}

/// Runs a target over its corpus, then over `mutations` of it in all.
fn run(target: &str, mutations: usize) {
    let (_, check) = TARGETS
        .into_iter()
        .find(|(name, _)| *name == target)
        .unwrap();
    if let Some(path) = std::env::var_os(INPUT_VARIABLE) {
        return check(&std::fs::read(path).unwrap());
    }
    let mutations = match std::env::var(MUTATIONS_VARIABLE) {
        Ok(text) => text.parse().unwrap(),
        Err(_) => mutations,
    };
    let begun = Instant::now();
    let files = files_of(target);
    for (path, bytes) in &files {
        run_one(target, check, bytes, &path.display().to_string());
    }
    for (index, (path, bytes)) in files.iter().enumerate() {
        for mutation in 0..mutations.div_ceil(files.len()) {
            let seed = (index as u64) << 32 | mutation as u64;
            let mut random = Random::new(seed);
            let other = &files[random.below(files.len())].1;
            let input = mutated(bytes, other, &mut random);
            let what = format!("{}, mutation {mutation}", path.display());
            run_one(target, check, &input, &what);
        }
    }
    println!(
        "{target}: {} files and {} mutations of each in {:.1?}",
        files.len(),
        mutations.div_ceil(files.len()),
        begun.elapsed()
    );
}

fn run_one(target: &str, check: Check, input: &[u8], what: &str) {
    let Err(panic) = catch_unwind(AssertUnwindSafe(|| check(input))) else {
        return;
    };
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("finding-{target}"));
    std::fs::write(&path, input).unwrap();
    eprintln!(
        "{target} fails for {what}, {} bytes. To run it alone:\n  {INPUT_VARIABLE}={} \
         cargo test -p keyway-fuzz --test corpus -- {}",
        input.len(),
        path.display(),
        std::thread::current().name().unwrap_or_default()
    );
    resume_unwind(panic);
}

fn manifest_dir() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn corpus() -> PathBuf {
    manifest_dir().join("corpus")
}

/// A target's corpus, in the order of its names. Never empty.
fn files_of(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(corpus().join(target))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    assert!(!paths.is_empty(), "{target} has no corpus");
    let read = |path: PathBuf| {
        let bytes = std::fs::read(&path).unwrap();
        (path, bytes)
    };
    paths.into_iter().map(read).collect()
}

/// A few changes to `bytes`, some of them with bytes of `other`.
fn mutated(bytes: &[u8], other: &[u8], random: &mut Random) -> Vec<u8> {
    let mut input = bytes.to_vec();
    for _ in 0..=random.below(6) {
        let at = random.below(input.len() + 1);
        match random.below(8) {
            0 => flip(&mut input, at, 1 << random.below(8)),
            1 => flip(&mut input, at, random.byte()),
            // Numbers at the edges of their ranges.
            2 => {
                let value = [0, 1, 0x7f, 0x80, 0xff][random.below(5)];
                let end = (at + 1 + random.below(4)).min(input.len());
                input[at..end].fill(value);
            }
            3 => input.truncate(at),
            4 => input.insert(at, random.byte()),
            5 => {
                let end = (at + 1 + random.below(16)).min(input.len());
                input.drain(at..end);
            }
            6 => {
                let from = random.below(other.len() + 1);
                let end = (from + random.below(64)).min(other.len());
                input.splice(at..at, other[from..end].iter().copied());
            }
            _ => {
                let end = (at + random.below(32)).min(input.len());
                let repeated = input[at..end].to_vec();
                input.splice(at..at, repeated);
            }
        }
    }
    input.truncate(INPUT_LEN_MAX);
    input
}

fn flip(bytes: &mut [u8], at: usize, mask: u8) {
    if let Some(byte) = bytes.get_mut(at) {
        *byte ^= mask;
    }
}

/// xorshift64*, seeded by the place of the input in the run.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11
    }

    fn byte(&mut self) -> u8 {
        self.next() as u8
    }

    /// From 0 to `bound - 1`; `bound` is at least 1.
    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}
