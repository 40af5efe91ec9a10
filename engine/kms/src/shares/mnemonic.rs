//! A share as words: SLIP-39's layout, ten bits to a word, most significant bit first.
//!
//! ```text
//! identifier 15 | extendable 1 | iteration exponent 4 | group index 4 | group threshold - 1 4 | group count - 1 4 |
//! share number 4 | threshold - 1 4 | zeros, up to 8 | value | checksum 30
//! ```

use zeroize::Zeroizing;

use super::checksum::{CHECKSUM_WORDS, checksum, is_right};
use super::words::{WORD_BYTES_MAX, index_of, push_word};
use super::{Member, Terms, refused};
use crate::secret::scrub_stack;
use crate::{KmsError, SHARE_BYTES_MAX, Share};

/// Words before the value.
const HEAD_WORDS: usize = 4;
const WORD_BITS: usize = 10;
/// Words of a share of a 32-byte secret.
pub(super) const WORDS: usize = word_count(32);

const _: () = assert!(WORDS == 33 && WORDS * (WORD_BYTES_MAX + 1) <= SHARE_BYTES_MAX);

/// Words of a share of a secret with this many bytes.
pub(super) const fn word_count(secret_bytes: usize) -> usize {
    HEAD_WORDS + (secret_bytes * 8).div_ceil(WORD_BITS) + CHECKSUM_WORDS
}

/// Returns the share's words. Errors: they have more than [`SHARE_BYTES_MAX`] bytes.
pub(super) fn encode(member: &Member) -> Result<Share, KmsError> {
    let terms = member.terms;
    let head = u64::from(terms.identifier & 0x7fff) << 25
        | u64::from(terms.is_extendable) << 24
        | u64::from(terms.iteration_exponent & 0x0f) << 20
        // One group, whose index, threshold - 1 and count - 1 are 0.
        | u64::from(member.number & 0x0f) << 4
        | u64::from((terms.threshold - 1) & 0x0f);
    let words_len = word_count(member.value.len());
    let mut words = Zeroizing::new(Vec::with_capacity(words_len));
    words.extend([30, 20, 10, 0].map(|shift| (head >> shift & 0x3ff) as u16));
    // The zeros come first, so that the value ends at a word boundary.
    let mut pending = 0_u32;
    let mut pending_bits = padding_bits(member.value.len());
    for byte in member.value.iter() {
        pending = (pending << 8 | u32::from(*byte)) & 0x3_ffff;
        pending_bits += 8;
        if pending_bits >= WORD_BITS {
            pending_bits -= WORD_BITS;
            words.push((pending >> pending_bits & 0x3ff) as u16);
        }
    }
    let sum = checksum(terms.is_extendable, &words);
    words.extend(sum);

    let mut text = Vec::with_capacity(words_len * (WORD_BYTES_MAX + 1));
    for (i, word) in words.iter().enumerate() {
        if i > 0 {
            text.push(b' ');
        }
        push_word(&mut text, *word);
    }
    scrub_stack();
    Share::new(text)
}

/// Decodes words into a share of a secret of `secret_bytes` bytes in one group. Errors name the position of the fault,
/// and never a word.
pub(super) fn decode(share: &Share, secret_bytes: usize) -> Result<Member, KmsError> {
    let text = share.expose();
    let words_len = word_count(secret_bytes);
    let given = text.split_ascii_whitespace().count();
    if given != words_len {
        return Err(refused(
            format!("the share has {given} words, and a share of Keyway has {words_len}"),
            "give all words of one share, and only those",
        ));
    }
    let mut words = Zeroizing::new(Vec::with_capacity(words_len));
    for (i, word) in text.split_ascii_whitespace().enumerate() {
        let index = index_of(word).ok_or_else(|| {
            refused(
                format!("word {} of the share is not in the word list", i + 1),
                "compare that word with what is written down",
            )
        })?;
        words.push(index);
    }
    let member = parse(&words, secret_bytes);
    scrub_stack();
    member
}

fn parse(words: &[u16], secret_bytes: usize) -> Result<Member, KmsError> {
    let (head_words, rest) = words.split_at(HEAD_WORDS);
    let head = head_words
        .iter()
        .fold(0_u64, |head, word| head << WORD_BITS | u64::from(*word));
    let field = |shift: u32| (head >> shift & 0x0f) as u8;
    let terms = Terms {
        identifier: (head >> 25) as u16,
        is_extendable: head >> 24 & 1 == 1,
        iteration_exponent: field(20),
        threshold: field(0) + 1,
    };
    if !is_right(terms.is_extendable, words) {
        return Err(refused(
            "the share's checksum is wrong: a word is mistyped, or words are not in their order",
            "compare the words with what is written down",
        ));
    }
    let (group_index, group_threshold, group_count) = (field(16), field(12) + 1, field(8) + 1);
    if (group_index, group_threshold, group_count) != (0, 1, 1) {
        return Err(refused(
            format!(
                "the share is of group {} of {group_count}, of which {group_threshold} are needed, and shares of \
                 Keyway have one group",
                group_index + 1
            ),
            "give a share that keyway made",
        ));
    }

    let value_words = &rest[..rest.len() - CHECKSUM_WORDS];
    let mut value = Zeroizing::new(Vec::with_capacity(secret_bytes));
    let mut pending = 0_u32;
    let mut pending_bits = 0;
    let mut padding_left = padding_bits(secret_bytes);
    for word in value_words {
        pending = (pending << WORD_BITS | u32::from(*word)) & 0x3_ffff;
        pending_bits += WORD_BITS;
        if padding_left > 0 {
            // The first word: it contains all of the padding.
            pending_bits -= padding_left;
            if pending >> pending_bits != 0 {
                return Err(refused(
                    "the share's checksum is right, and its padding is not zero",
                    "give a share that keyway, or another tool that follows SLIP-39, made",
                ));
            }
            padding_left = 0;
        }
        while pending_bits >= 8 {
            pending_bits -= 8;
            value.push((pending >> pending_bits) as u8);
        }
    }
    Ok(Member {
        terms,
        number: field(4),
        value,
    })
}

/// Returns the number of zero bits before a value of this many bytes: 2 for 16 bytes, 4 for 32.
const fn padding_bits(secret_bytes: usize) -> usize {
    (WORD_BITS - secret_bytes * 8 % WORD_BITS) % WORD_BITS
}

const _: () = assert!(padding_bits(16) == 2 && padding_bits(32) == 4);

#[cfg(test)]
mod tests {
    use super::super::words::WORD_COUNT;
    use super::*;

    /// Returns words from a linear congruence, so that a failure can be replayed.
    fn words(seed: u64, count: usize) -> Vec<u16> {
        let mut state = seed;
        let mut next = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 40) as u16 % WORD_COUNT as u16
        };
        (0..count).map(|_| next()).collect()
    }

    fn text(words: &[u16]) -> Share {
        let mut text = Vec::new();
        for word in words {
            push_word(&mut text, *word);
            text.push(b' ');
        }
        Share::new(text).unwrap()
    }

    #[test]
    fn any_words_with_a_right_checksum_are_refused_or_mean_themselves() {
        let mut read = 0;
        for seed in 0..3000 {
            for secret_bytes in [16, 32] {
                let mut words = words(seed, word_count(secret_bytes) - CHECKSUM_WORDS);
                if seed % 2 == 0 {
                    // One group, and no padding bits: the rest of these words is as free as the others.
                    words[2] = 0;
                    words[3] &= 0x0ff;
                    words[HEAD_WORDS] &= 0x3ff >> padding_bits(secret_bytes);
                }
                let is_extendable = words[1] >> 4 & 1 == 1;
                words.extend(checksum(is_extendable, &words));
                let given = text(&words);
                match decode(&given, secret_bytes) {
                    Ok(member) => {
                        assert_eq!(member.value.len(), secret_bytes);
                        let again = encode(&member).unwrap();
                        assert_eq!(again.expose(), given.expose().trim_end(), "seed {seed}");
                        read += 1;
                    }
                    Err(error) => assert!(seed % 2 == 1, "seed {seed}: {error}"),
                }
            }
        }
        assert!(read >= 3000, "{read}");
    }
}
