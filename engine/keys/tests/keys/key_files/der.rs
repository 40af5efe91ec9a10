//! DER for files that no tool writes.

pub const INTEGER: u8 = 0x02;
pub const OCTET_STRING: u8 = 0x04;
pub const SEQUENCE: u8 = 0x30;

pub fn element(tag: u8, contents: &[u8]) -> Vec<u8> {
    let len = contents.len();
    let head = match len {
        0..=0x7f => vec![tag, len as u8],
        0x80..=0xff => vec![tag, 0x81, len as u8],
        _ => vec![tag, 0x82, (len >> 8) as u8, len as u8],
    };
    [head, contents.to_vec()].concat()
}

/// The same with a length of four bytes, which DER forbids and OpenSSL reads.
pub fn long_element(tag: u8, contents: &[u8]) -> Vec<u8> {
    let len = u32::try_from(contents.len()).unwrap().to_be_bytes();
    [&[tag, 0x84][..], &len, contents].concat()
}

pub fn sequence(parts: &[&[u8]]) -> Vec<u8> {
    element(SEQUENCE, &parts.concat())
}

/// A PKCS#8 document of version 1 (written 0).
pub fn pkcs8(algorithm: &[u8], private_key: &[u8]) -> Vec<u8> {
    let algorithm = element(SEQUENCE, algorithm);
    let private_key = element(OCTET_STRING, private_key);
    sequence(&[&[INTEGER, 1, 0], &algorithm, &private_key])
}

/// The contents of the elements that `bytes` consist of, with their tags.
pub fn elements(mut bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut all = Vec::new();
    while let [tag, first, ..] = *bytes {
        let (head, len) = match first {
            0x81 => (3, usize::from(bytes[2])),
            0x82 => (4, usize::from(bytes[2]) << 8 | usize::from(bytes[3])),
            len => (2, usize::from(len)),
        };
        all.push((tag, bytes[head..head + len].to_vec()));
        bytes = &bytes[head + len..];
    }
    all
}

/// The contents of the one element that `bytes` are.
pub fn inside(bytes: &[u8]) -> Vec<u8> {
    elements(bytes).remove(0).1
}
