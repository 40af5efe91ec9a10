//! Two KMSes that are slow, away, refuse or are locked. A record says which DEK it wraps, and for which KMS.

use super::plan::KmsMood;
use keyway_core::Instant;
use keyway_node::catalogue::WrappedDek;
use keyway_node::control::{
    Deks, FailureClass, KmsAnswer, KmsFailure, KmsRequest, KmsStatus, Need, NewDek, Unlocked,
};
use keyway_node::messages::{DekBytes, DekCopies};
use zeroize::Zeroizing;

/// By number; the second one needs a passphrase.
pub(crate) const NAMES: [&str; 2] = ["first", "second"];

/// A DEK, by what tells it from every other: two that were made for one generation are two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Dek {
    pub(crate) keyspace: u32,
    pub(crate) generation: u32,
    pub(crate) made: u64,
}

#[derive(Debug)]
pub(crate) struct SimKms {
    pub(crate) mood: KmsMood,
    pub(crate) takes_us: u64,
    pub(crate) is_open: bool,
    is_checked: bool,
    number: usize,
}

impl SimKms {
    pub(crate) fn new(number: usize) -> Self {
        Self {
            mood: KmsMood::Good,
            takes_us: 1_000,
            is_open: true,
            is_checked: false,
            number,
        }
    }

    pub(crate) fn status(&self) -> KmsStatus {
        KmsStatus {
            is_open: self.is_open,
            need: match self.number {
                0 => Need::Nothing,
                _ => Need::Passphrase,
            },
            is_checked: self.is_checked,
        }
    }

    /// A new process: it has its secret still, and has checked nothing.
    pub(crate) fn restart(&mut self) {
        self.is_checked = false;
    }

    /// What it answers. `made` numbers a new DEK.
    pub(crate) fn answer(&mut self, request: KmsRequest, sent_at: u64, made: u64) -> KmsAnswer {
        let failing = request.failing();
        let class = match self.mood {
            KmsMood::Denies => Some(FailureClass::Denied),
            KmsMood::Unavailable => Some(FailureClass::Unavailable {
                retry_after_us: None,
            }),
            KmsMood::Misconfigured => Some(FailureClass::Misconfigured),
            KmsMood::Good => None,
        };
        if let Some(class) = class {
            return failing(failure(class));
        }
        let sent_at = Instant::from_micros(sent_at);
        match request {
            KmsRequest::Open { .. } => {
                self.is_open = true;
                KmsAnswer::Opened(Ok(Unlocked::Open))
            }
            KmsRequest::Check(_) => {
                self.is_checked = true;
                KmsAnswer::Checked(Ok(()))
            }
            _ if !self.is_open => failing(failure(FailureClass::Locked)),
            KmsRequest::Unwrap { keyspace, deks } => match self.unwrap_each(keyspace, &deks) {
                Some(deks) => KmsAnswer::Unwrapped(Ok(Deks { sent_at, deks })),
                None => failing(failure(FailureClass::Corrupt)),
            },
            KmsRequest::NewDek {
                keyspace,
                generation,
            } => {
                let dek = Dek {
                    keyspace,
                    generation,
                    made,
                };
                KmsAnswer::Made(Ok(NewDek {
                    sent_at,
                    record: record(self.number, dek),
                    dek: bytes(dek),
                }))
            }
            KmsRequest::Move {
                keyspace,
                from,
                in_use,
                retired,
            } => {
                let from = NAMES.iter().position(|name| *name == from);
                let other = Self::new(from.unwrap_or(self.number));
                let Some(deks) = other.unwrap_each(keyspace, &in_use) else {
                    return failing(failure(FailureClass::Corrupt));
                };
                let moved = in_use.iter().chain(&retired).filter_map(|wrapped| {
                    let (_, dek) = read(&wrapped.record)?;
                    Some(WrappedDek {
                        generation: wrapped.generation,
                        record: record(self.number, dek),
                    })
                });
                let moved = moved.collect();
                KmsAnswer::Moved(Ok((Deks { sent_at, deks }, moved)))
            }
            KmsRequest::Initialise { .. } => failing(failure(FailureClass::Misconfigured)),
        }
    }

    /// `None`: a record is not this KMS's, or not this keyspace's.
    fn unwrap_each(&self, keyspace: u32, wrapped: &[WrappedDek]) -> Option<DekCopies> {
        let each = wrapped.iter().map(|wrapped| {
            let (kms, dek) = read(&wrapped.record)?;
            let is_ours = kms == self.number
                && dek.keyspace == keyspace
                && dek.generation == wrapped.generation;
            is_ours.then(|| bytes(dek))
        });
        each.collect()
    }
}

fn failure(class: FailureClass) -> KmsFailure {
    KmsFailure {
        class,
        cause: "simulated",
        what: "the simulated KMS says so".to_owned(),
        remedy: "wait".to_owned(),
    }
}

/// What a KMS makes of a DEK.
pub(crate) fn record(kms: usize, dek: Dek) -> Vec<u8> {
    format!("{kms} {} {} {}", dek.keyspace, dek.generation, dek.made).into_bytes()
}

/// Which DEK a record wraps, and for which KMS.
pub(crate) fn read(record: &[u8]) -> Option<(usize, Dek)> {
    let text = std::str::from_utf8(record).ok()?;
    let mut numbers = text.split(' ').map(|number| number.parse::<u64>().ok());
    let mut next = || numbers.next().flatten();
    let (kms, keyspace, generation, made) = (next()?, next()?, next()?, next()?);
    let dek = Dek {
        keyspace: keyspace as u32,
        generation: generation as u32,
        made,
    };
    Some((kms as usize, dek))
}

fn bytes(dek: Dek) -> Box<DekBytes> {
    let mut bytes = Zeroizing::new([0; 32]);
    bytes[..4].copy_from_slice(&dek.keyspace.to_le_bytes());
    bytes[4..12].copy_from_slice(&dek.made.to_le_bytes());
    let generation = dek.generation;
    Box::new(DekBytes { generation, bytes })
}

/// The DEK that these bytes are.
pub(crate) fn dek_of(dek: &DekBytes) -> Dek {
    let mut keyspace = [0; 4];
    keyspace.copy_from_slice(&dek.bytes[..4]);
    let mut made = [0; 8];
    made.copy_from_slice(&dek.bytes[4..12]);
    Dek {
        keyspace: u32::from_le_bytes(keyspace),
        generation: dek.generation,
        made: u64::from_le_bytes(made),
    }
}
