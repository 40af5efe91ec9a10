//! RS1024: the Reed-Solomon checksum over words at the end of each SLIP-39 share. It detects any three wrong words.

/// Words of the checksum.
pub(super) const CHECKSUM_WORDS: usize = 3;
const GENERATOR: [u32; 10] = [
    0x00e0_e040,
    0x01c1_c080,
    0x0383_8100,
    0x0707_0200,
    0x0e0e_0009,
    0x1c0c_2412,
    0x3808_6c24,
    0x3090_fc48,
    0x21b1_f890,
    0x03f3_f120,
];

/// Returns the checksum's words for the words before it.
pub(super) fn checksum(is_extendable: bool, words: &[u16]) -> [u16; CHECKSUM_WORDS] {
    let rest = remainder(
        is_extendable,
        words.iter().copied().chain([0; CHECKSUM_WORDS]),
    ) ^ 1;
    [20, 10, 0].map(|shift| (rest >> shift & 0x3ff) as u16)
}

/// Returns `true` if the words end in their checksum.
pub(super) fn is_right(is_extendable: bool, words: &[u16]) -> bool {
    remainder(is_extendable, words.iter().copied()) == 1
}

/// Computes the remainder. The words are secret: it uses masks, and no branches.
fn remainder(is_extendable: bool, words: impl Iterator<Item = u16>) -> u32 {
    let customization: &[u8] = if is_extendable {
        b"shamir_extendable"
    } else {
        b"shamir"
    };
    let mut sum = 1_u32;
    for value in customization
        .iter()
        .map(|&byte| u16::from(byte))
        .chain(words)
    {
        let top = sum >> 20;
        sum = (sum & 0x000f_ffff) << 10 ^ u32::from(value);
        for (bit, generator) in GENERATOR.iter().enumerate() {
            sum ^= generator & 0_u32.wrapping_sub(top >> bit & 1);
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn up_to_three_wrong_words_are_found() {
        for is_extendable in [false, true] {
            let mut words: Vec<u16> = (0..30).map(|i| i * 37 % 1024).collect();
            words.extend(checksum(is_extendable, &words));
            assert!(is_right(is_extendable, &words));
            assert!(!is_right(!is_extendable, &words));
            for first in 0..33 {
                for (second, third) in [(0, 0), (first, 32), (16, 32)] {
                    let mut bad = words.clone();
                    bad[first] ^= 1;
                    bad[second] ^= 2;
                    bad[third] ^= 0x204;
                    assert!(!is_right(is_extendable, &bad), "{first} {second} {third}");
                }
            }
        }
    }
}
