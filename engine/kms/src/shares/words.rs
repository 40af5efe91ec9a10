//! SLIP-39's list of 1024 English words, each of which stands for ten bits.
//!
//! The words are secret: both directions go through the whole list for each word and select by masks. The list is the
//! standard's, `slip-0039/wordlist.txt`.

use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};

/// Words in the list.
pub(super) const WORD_COUNT: usize = 1024;
/// Letters of the longest word.
pub(super) const WORD_BYTES_MAX: usize = 8;

/// A word as a number: its letters, the first in the lowest byte, followed by zeros.
type Packed = u64;

static WORDS: [Packed; WORD_COUNT] = parse(include_bytes!("words.txt"));

/// Returns the number of `word`, in letters of either case, or `None` if it is not in the list.
pub(super) fn index_of(word: &str) -> Option<u16> {
    if word.len() > WORD_BYTES_MAX || !word.bytes().all(|letter| letter.is_ascii_alphabetic()) {
        return None;
    }
    let mut packed: Packed = 0;
    for letter in word.bytes().rev() {
        packed = packed << 8 | Packed::from(letter.to_ascii_lowercase());
    }
    let mut index = 0_u16;
    let mut is_known = Choice::from(0);
    for (candidate, known) in (0_u16..).zip(&WORDS) {
        let is_same = known.ct_eq(&packed);
        index.conditional_assign(&candidate, is_same);
        is_known |= is_same;
    }
    bool::from(is_known).then_some(index)
}

/// Appends the word with this number, of which the lowest ten bits count. `text` must have capacity for 8 more bytes.
pub(super) fn push_word(text: &mut Vec<u8>, index: u16) {
    let index = index & (WORD_COUNT as u16 - 1);
    let mut packed: Packed = 0;
    for (candidate, known) in (0_u16..).zip(&WORDS) {
        packed.conditional_assign(known, candidate.ct_eq(&index));
    }
    // The length of the word is visible to everyone who sees the text.
    for _ in 0..WORD_BYTES_MAX {
        let letter = packed as u8;
        if letter != 0 {
            text.push(letter);
        }
        packed >>= 8;
    }
}

/// Checks the list at compile time: the right number of words, lower-case letters, ascending.
const fn parse(text: &[u8]) -> [Packed; WORD_COUNT] {
    let mut words = [0; WORD_COUNT];
    let mut at = 0;
    let mut previous: u64 = 0;
    let mut index = 0;
    while index < WORD_COUNT {
        let mut packed: Packed = 0;
        let mut sortable: u64 = 0;
        let mut len = 0;
        while text[at] != b'\n' {
            assert!(text[at].is_ascii_lowercase());
            assert!(len < WORD_BYTES_MAX);
            packed |= (text[at] as Packed) << (8 * len);
            sortable |= (text[at] as u64) << (8 * (WORD_BYTES_MAX - 1 - len));
            len += 1;
            at += 1;
        }
        at += 1;
        assert!(sortable > previous);
        previous = sortable;
        words[index] = packed;
        index += 1;
    }
    assert!(at == text.len());
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_has_its_number() {
        let list = include_str!("words.txt");
        for (index, word) in (0_u16..).zip(list.lines()) {
            assert_eq!(index_of(word), Some(index), "{word}");
            assert_eq!(index_of(&word.to_uppercase()), Some(index), "{word}");
            let mut text = Vec::new();
            push_word(&mut text, index);
            assert_eq!(text, word.as_bytes());
        }
    }

    #[test]
    fn other_words_are_unknown() {
        for word in [
            "",
            "academi",
            "academics",
            "academicacademic",
            "zoo",
            "\0",
            "acid\0",
        ] {
            assert_eq!(index_of(word), None, "{word:?}");
        }
    }
}
