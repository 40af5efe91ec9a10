//! `store.toml`: what the whole data directory is.

use serde::{Deserialize, Serialize};

use crate::marks::Marks;
use crate::segment::hex;

/// The version of the directory's layout that this code writes. Format 1, which is also read, had no marks.
const FORMAT: u32 = 2;

/// The oldest version that is read.
const FORMAT_MIN: u32 = 1;

/// Most shards that a data directory can have.
pub const SHARD_COUNT_MAX: u16 = 1024;

/// What the whole data directory is. It changes at a reshard only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// Names the cluster; random, drawn once. Every segment carries it, and the KMS binds the
    /// wrapped data keys to it.
    pub cluster_id: [u8; 16],
    /// Seeds the hash that gives each key its shard; random, drawn once, published to clients.
    pub routing_seed: [u8; 16],
    /// How many shards the keys are spread over. 1 to [`SHARD_COUNT_MAX`].
    pub shard_count: u16,
    /// Which `blobs-` directory is in use; from 1, one more at each reshard.
    pub generation: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    format: u32,
    cluster_id: String,
    routing_seed: String,
    shard_count: u16,
    generation: u32,
    #[serde(default)]
    marks: Marks,
}

#[derive(Deserialize)]
struct FormatOnly {
    format: u32,
}

impl Manifest {
    /// The file's text.
    pub(crate) fn to_text(self, marks: &Marks) -> String {
        let text = Text {
            format: FORMAT,
            cluster_id: hex(&self.cluster_id),
            routing_seed: hex(&self.routing_seed),
            shard_count: self.shard_count,
            generation: self.generation,
            marks: marks.clone(),
        };
        let body = toml::to_string(&text).expect("numbers and hexadecimal strings are valid TOML");
        format!(
            "# Written by keywayd: the logs, and how far other files have come. Back it up with them.\n{body}"
        )
    }

    /// Reads the file's text; the error says what is wrong.
    pub(crate) fn from_text(text: &str) -> Result<(Self, Marks), String> {
        let FormatOnly { format } = toml::from_str(text).map_err(|error| error.to_string())?;
        if !(FORMAT_MIN..=FORMAT).contains(&format) {
            return Err(format!(
                "it has format {format}, this program reads formats {FORMAT_MIN} to {FORMAT}: use \
                 the program that wrote it"
            ));
        }
        let text: Text = toml::from_str(text).map_err(|error| error.to_string())?;
        if !(1..=SHARD_COUNT_MAX).contains(&text.shard_count) {
            return Err(format!(
                "shard_count is {}, must be from 1 to {SHARD_COUNT_MAX}",
                text.shard_count
            ));
        }
        if text.generation == 0 {
            return Err("generation is 0, must be at least 1".into());
        }
        text.marks.check()?;
        let manifest = Self {
            cluster_id: sixteen_bytes("cluster_id", &text.cluster_id)?,
            routing_seed: sixteen_bytes("routing_seed", &text.routing_seed)?,
            shard_count: text.shard_count,
            generation: text.generation,
        };
        Ok((manifest, text.marks))
    }
}

fn sixteen_bytes(name: &str, text: &str) -> Result<[u8; 16], String> {
    let digits = text.as_bytes();
    let digit = |at: usize| (digits[at] as char).to_digit(16);
    let wrong = || format!("{name} is \"{text}\", must be 32 hexadecimal digits");
    if digits.len() != 32 {
        return Err(wrong());
    }
    let mut bytes = [0; 16];
    for (at, byte) in bytes.iter_mut().enumerate() {
        let (Some(high), Some(low)) = (digit(2 * at), digit(2 * at + 1)) else {
            return Err(wrong());
        };
        *byte = (high << 4 | low) as u8;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: Manifest = Manifest {
        cluster_id: [0xab; 16],
        routing_seed: [0x01; 16],
        shard_count: 4,
        generation: 3,
    };

    fn marks() -> Marks {
        let marks = Marks::default().raised(&[("logs", 3), ("catalogue.sealed.vault-eu", 7)]);
        marks.unwrap()
    }

    #[test]
    fn a_manifest_reads_back() {
        let text = SAMPLE.to_text(&marks());
        assert_eq!(Manifest::from_text(&text), Ok((SAMPLE, marks())));
        let without = SAMPLE.to_text(&Marks::default());
        assert_eq!(
            Manifest::from_text(&without),
            Ok((SAMPLE, Marks::default()))
        );
    }

    #[test]
    fn format_1_is_read_and_has_no_marks() {
        let text = SAMPLE.to_text(&Marks::default());
        let text = text.replace("format = 2", "format = 1");
        let text = text.replace("[marks]", "");
        assert_eq!(Manifest::from_text(&text), Ok((SAMPLE, Marks::default())));
    }

    #[test]
    fn a_wrong_manifest_is_refused_with_the_reason() {
        let text = SAMPLE.to_text(&marks());
        let cases = [
            (text.replace("format = 2", "format = 3"), "format 3"),
            (text.replace("logs", "\"lo gs\""), "lo gs"),
            (
                text.replace("shard_count = 4", "shard_count = 0"),
                "shard_count is 0",
            ),
            (
                text.replace("generation = 3", "generation = 0"),
                "generation",
            ),
            (text.replace("abab\"", "ab\""), "cluster_id"),
            (text.replace("abab\"", "ab\u{e9}\""), "cluster_id"),
            (text.replace("generation", "generations"), "generation"),
            (String::new(), "format"),
        ];
        for (text, reason) in cases {
            let error = Manifest::from_text(&text).expect_err(&text);
            assert!(error.contains(reason), "{error}");
        }
    }
}
