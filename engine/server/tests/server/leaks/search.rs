//! Searches texts for parts of secrets, in any encoding.

use std::collections::BTreeSet;

/// Length of a part: shorter ones occur by chance.
const PART_LEN: usize = 12;

/// The secrets, as parts of their possible encodings.
#[derive(Default)]
pub struct Secrets(BTreeSet<Vec<u8>>);

impl Secrets {
    /// Adds a secret of at least 16 bytes.
    pub fn add(&mut self, secret: &[u8]) {
        assert!(secret.len() >= 16);
        for written in writings(secret) {
            self.0.extend(written.windows(PART_LEN).map(<[u8]>::to_vec));
        }
    }

    /// Returns the text before a part of a secret, if one occurs. Never the part itself.
    pub fn found_in(&self, text: &[u8]) -> Option<String> {
        // A part in base64 may be broken by the end of a line.
        let lines: Vec<u8> = text
            .iter()
            .copied()
            .filter(|b| !b"\r\n".contains(b))
            .collect();
        [text, &lines].into_iter().find_map(|text| {
            let at = text
                .windows(PART_LEN)
                .position(|part| self.0.contains(part))?;
            let before = &text[at.saturating_sub(120)..at];
            Some(String::from_utf8_lossy(before).into_owned())
        })
    }
}

/// Returns a secret as bytes, as hexadecimal digits, in base64 from each of three offsets, and as Rust's `Debug` prints
/// bytes and numbers.
fn writings(secret: &[u8]) -> Vec<Vec<u8>> {
    let lower: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut all = vec![secret.to_vec(), lower.to_uppercase().into_bytes()];
    all.push(lower.into_bytes());
    all.push(secret.escape_ascii().to_string().into_bytes());
    // Complete numbers only: the beginning of one may be the end of a longer one.
    all.push(format!("{secret:?}").into_bytes());
    for skipped in 0..3 {
        let text = base64(&secret[skipped..]);
        all.push(text.replace('+', "-").replace('/', "_").into_bytes());
        all.push(text.into_bytes());
    }
    all
}

/// Encodes without padding, and without an incomplete last group.
pub fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let (groups, _) = bytes.as_chunks::<3>();
    let letters = groups.iter().flat_map(|&[a, b, c]| {
        let bits = u32::from_be_bytes([0, a, b, c]);
        [18, 12, 6, 0].map(|shift| char::from(LETTERS[(bits >> shift & 63) as usize]))
    });
    letters.collect()
}

#[test]
fn a_planted_part_is_found_however_it_is_written() {
    let secret: Vec<u8> = (0..48)
        .map(|i: u8| i.wrapping_mul(89).wrapping_add(7))
        .collect();
    let mut secrets = Secrets::default();
    secrets.add(&secret);
    assert_eq!(
        secrets.found_in(b"INFO a log without any of it: 0123456789abcdef"),
        None
    );
    let whole = base64(&secret);
    for part in [
        &secret[9..30],
        &whole.as_bytes()[5..25],
        base64(&secret[10..40]).as_bytes(),
        format!("{:?}", &secret[4..12]).as_bytes(),
        format!("{:02x?}", &secret[4..12])
            .replace(", ", "")
            .as_bytes(),
        format!("error at \"{}\"", secret[4..24].escape_ascii()).as_bytes(),
        format!("{}\n{}", &whole[..10], &whole[10..20]).as_bytes(),
    ] {
        let planted = [b"ERROR it is ", part, b"!"].concat();
        let before = secrets.found_in(&planted);
        assert!(before.is_some_and(|before| before.contains("ERROR it is")));
    }
}
