//! A segment's name and its header.
//!
//! ```text
//!  0 8 bytes magic "KEYWLOG1"   16 u16 shard index    40 u64 revision floor
//!  8 u32 format                 18 u16 shard count    48 12 bytes reserved, 0
//! 12 u32 segment number         20 u32 generation     60 u32 checksum of bytes 0..60
//!                               24 16 bytes cluster id
//! ```

use crate::log::LogOptions;
use crate::record::Place;

/// Bytes before the first record.
pub(crate) const HEADER_LEN: usize = 64;

/// The version of the format that this code writes.
pub(crate) const FORMAT: u32 = 1;

const MAGIC: [u8; 8] = *b"KEYWLOG1";

/// The name of segment `number` (from 1): at least eight digits, so that names sort as numbers do.
pub(crate) fn file_name(number: u32) -> String {
    format!("{number:08}.log")
}

/// The number in a segment's name; none for any other file's name.
pub(crate) fn number_of(name: &str) -> Option<u32> {
    let number = name.strip_suffix(".log")?.parse().ok()?;
    // One spelling only: "+1.log" and "1.log" are not ours.
    (number > 0 && file_name(number) == name).then_some(number)
}

/// The place of a log's segment, which seeds its records' checksums.
pub(crate) fn place(options: &LogOptions, number: u32) -> Place {
    let shard = (options.shard_index, options.shard_count);
    Place::new(&options.cluster_id, options.generation, shard, number)
}

/// The header of segment `number`. All revisions below `revision_floor` may have been handed out
/// when it was made: the next start hands out none of them, even if the records are damaged.
pub(crate) fn encode_header(options: &LogOptions, number: u32, revision_floor: u64) -> Vec<u8> {
    let mut header = Vec::with_capacity(HEADER_LEN);
    header.extend_from_slice(&MAGIC);
    header.extend_from_slice(&FORMAT.to_le_bytes());
    header.extend_from_slice(&number.to_le_bytes());
    header.extend_from_slice(&options.shard_index.to_le_bytes());
    header.extend_from_slice(&options.shard_count.to_le_bytes());
    header.extend_from_slice(&options.generation.to_le_bytes());
    header.extend_from_slice(&options.cluster_id);
    header.extend_from_slice(&revision_floor.to_le_bytes());
    header.extend_from_slice(&[0; 12]);
    let sum = crc32c::crc32c(&header);
    header.extend_from_slice(&sum.to_le_bytes());
    assert_eq!(header.len(), HEADER_LEN);
    header
}

/// What the front of a segment file is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Header {
    /// As this log wrote it.
    Ours { revision_floor: u64 },
    /// Not whole, or not a header.
    Damaged,
    /// Whole, but another log's or another program's; says which part differs and how.
    Foreign(String),
}

/// Reads the front of a segment file.
pub(crate) fn parse_header(bytes: &[u8], options: &LogOptions, number: u32) -> Header {
    let Some(header) = bytes.first_chunk::<HEADER_LEN>() else {
        return Header::Damaged;
    };
    if header[..8] != MAGIC || crc32c::crc32c(&header[..60]).to_le_bytes() != header[60..] {
        return Header::Damaged;
    }
    let format = u32::from_le_bytes([header[8], header[9], header[10], header[11]]);
    if format != FORMAT {
        return Header::Foreign(format!(
            "it has format {format}, this program reads format {FORMAT}: use the program that wrote it"
        ));
    }
    let mut revision_floor = [0; 8];
    revision_floor.copy_from_slice(&header[40..48]);
    let revision_floor = u64::from_le_bytes(revision_floor);
    let expected = encode_header(options, number, revision_floor);
    let parts = [
        (12..16, "segment number"),
        (16..18, "shard index"),
        (18..20, "shard count"),
        (20..24, "generation"),
        (24..40, "cluster id"),
        (48..60, "reserved part"),
    ];
    for (range, what) in parts {
        if header[range.clone()] != expected[range.clone()] {
            return Header::Foreign(format!(
                "its {what} is {}, expected {} (hexadecimal, little-endian): put the file back \
                 where it came from",
                hex(&header[range.clone()]),
                hex(&expected[range])
            ));
        }
    }
    Header::Ours { revision_floor }
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> LogOptions {
        LogOptions::new("d".into(), [9; 16], 4, 1, 2)
    }

    #[test]
    fn a_header_reads_back() {
        let bytes = encode_header(&options(), 7, 99);
        assert_eq!(
            parse_header(&bytes, &options(), 7),
            Header::Ours { revision_floor: 99 }
        );
    }

    #[test]
    fn a_short_or_flipped_header_is_damaged() {
        let bytes = encode_header(&options(), 7, 99);
        for len in 0..HEADER_LEN {
            assert_eq!(parse_header(&bytes[..len], &options(), 7), Header::Damaged);
        }
        for bit in 0..HEADER_LEN * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(parse_header(&flipped, &options(), 7), Header::Damaged);
        }
    }

    #[test]
    fn another_logs_header_is_foreign_and_says_why() {
        let bytes = encode_header(&options(), 7, 99);
        let mut other = options();
        other.cluster_id = [1; 16];
        let Header::Foreign(why) = parse_header(&bytes, &other, 7) else {
            panic!("not foreign")
        };
        assert!(why.contains("cluster id is 0909"), "{why}");
        assert!(matches!(
            parse_header(&bytes, &options(), 8),
            Header::Foreign(_)
        ));
    }

    #[test]
    fn only_our_own_spelling_of_a_name_is_a_segment() {
        assert_eq!(number_of("00000001.log"), Some(1));
        assert_eq!(number_of("123456789.log"), Some(123_456_789));
        for name in [
            "1.log",
            "00000000.log",
            "+0000001.log",
            "00000001.tmp",
            "lock",
            "99999999999.log",
        ] {
            assert_eq!(number_of(name), None, "{name}");
        }
    }
}
