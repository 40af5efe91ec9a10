//! Searches texts for parts of secrets, in any encoding.

use std::collections::BTreeSet;

/// Lengths of parts: eight bytes as they are, in base64 (which has at least ten letters of any eight), or as digits and
/// escapes, of which shorter ones occur by chance.
const PART_LENS: [usize; 3] = [8, 10, 12];

/// The secrets, as parts of their possible encodings.
#[derive(Default)]
pub struct Secrets(BTreeSet<Vec<u8>>);

impl Secrets {
    /// Adds a secret of at least 16 bytes.
    pub fn add(&mut self, secret: &[u8]) {
        assert!(secret.len() >= 16);
        for (part_len, written) in writings(secret) {
            self.0.extend(written.windows(part_len).map(<[u8]>::to_vec));
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
        let texts = [text, &lines].into_iter();
        let mut all = texts.flat_map(|text| PART_LENS.map(|len| (text, len)));
        all.find_map(|(text, part_len)| {
            let at = text
                .windows(part_len)
                .position(|part| self.0.contains(part))?;
            let before = &text[at.saturating_sub(120)..at];
            Some(String::from_utf8_lossy(before).into_owned())
        })
    }
}

/// Returns a secret as bytes, as hexadecimal digits, in base64 from each of three offsets, and as Rust's `Debug` prints
/// bytes and numbers, each with the length of a part of it.
fn writings(secret: &[u8]) -> Vec<(usize, Vec<u8>)> {
    let [raw, letters, digits] = PART_LENS;
    let lower: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut all = vec![
        (raw, secret.to_vec()),
        (digits, lower.to_uppercase().into_bytes()),
    ];
    all.push((digits, lower.into_bytes()));
    all.push((digits, secret.escape_ascii().to_string().into_bytes()));
    // Complete numbers only: the beginning of one may be the end of a longer one.
    all.push((digits, format!("{secret:?}").into_bytes()));
    for skipped in 0..3 {
        let text = base64(&secret[skipped..]);
        let url = text.replace('+', "-").replace('/', "_");
        all.extend([(letters, url.into_bytes()), (letters, text.into_bytes())]);
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
        &secret[20..28],
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
