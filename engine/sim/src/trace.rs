//! A history as text, or as a hash of that text, for comparing two runs.

/// Collects lines, hashes them, or does neither.
#[derive(Debug, Default)]
pub(crate) enum Trace {
    #[default]
    Off,
    Lines(Vec<String>),
    Hash(u64),
}

/// FNV-1a (Fowler, Noll, Vo), 64 bits: the same on every machine and in every process.
const FNV_START: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0000_0100_0000_01b3;

impl Trace {
    pub(crate) fn on() -> Self {
        Self::Lines(Vec::new())
    }

    pub(crate) fn hashed() -> Self {
        Self::Hash(FNV_START)
    }

    #[inline]
    pub(crate) fn note(&mut self, now: u64, what: impl FnOnce() -> String) {
        match self {
            Self::Off => {}
            Self::Lines(lines) => lines.push(line(now, &what())),
            Self::Hash(hash) => {
                for byte in line(now, &what()).bytes().chain([b'\n']) {
                    *hash = (*hash ^ u64::from(byte)).wrapping_mul(FNV_PRIME);
                }
            }
        }
    }

    pub(crate) fn take(&mut self) -> Vec<String> {
        match std::mem::take(self) {
            Self::Lines(lines) => lines,
            Self::Off | Self::Hash(_) => Vec::new(),
        }
    }

    /// Returns the hash so far, 0 if nothing is hashed.
    pub(crate) fn hash(&self) -> u64 {
        match self {
            Self::Hash(hash) => *hash,
            Self::Off | Self::Lines(_) => 0,
        }
    }
}

fn line(now: u64, what: &str) -> String {
    format!("{:>14.3} ms  {what}", now as f64 / 1_000.0)
}
