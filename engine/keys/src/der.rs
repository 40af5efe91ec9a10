//! As much DER as key files need: definite lengths below 64 KiB.
//!
//! What is ours (stored material, public keys on the wire) is read strictly. Key files of others
//! are read as OpenSSL reads them: lengths need not be minimal, and numbers may have leading zeros.

/// The bytes are not DER of the expected shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NotDer;

pub(crate) const INTEGER: u8 = 0x02;
pub(crate) const BIT_STRING: u8 = 0x03;
pub(crate) const OCTET_STRING: u8 = 0x04;
pub(crate) const NULL: u8 = 0x05;
pub(crate) const OID: u8 = 0x06;
pub(crate) const SEQUENCE: u8 = 0x30;
pub(crate) const CONTEXT_0: u8 = 0xa0;
pub(crate) const CONTEXT_1: u8 = 0xa1;
/// `[1] IMPLICIT BIT STRING`: a PKCS#8 v2 document's public key.
pub(crate) const CONTEXT_1_PRIMITIVE: u8 = 0x81;

/// Reads elements one after the other.
#[derive(Clone, Copy)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
    lenient: bool,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self {
            rest: bytes,
            lenient: false,
        }
    }

    /// A reader that takes lengths and numbers with leading zeros.
    pub(crate) fn lenient(bytes: &'a [u8]) -> Self {
        Self {
            rest: bytes,
            lenient: true,
        }
    }

    /// The contents of the one element of `tag` that `bytes` consist of.
    pub(crate) fn only(bytes: &'a [u8], tag: u8) -> Result<&'a [u8], NotDer> {
        let mut reader = Self::new(bytes);
        let contents = reader.read(tag)?;
        reader.end()?;
        Ok(contents)
    }

    /// The tag of the next element, if there is one.
    pub(crate) fn tag(&self) -> Option<u8> {
        self.rest.first().copied()
    }

    /// What has not been read.
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// The contents of the next element, which is of `tag`.
    pub(crate) fn read(&mut self, tag: u8) -> Result<&'a [u8], NotDer> {
        let (len, behind) = match *self.rest {
            [t, len @ 0..=0x7f, ref behind @ ..] if t == tag => (usize::from(len), behind),
            [t, count @ 0x81..=0x88, ref behind @ ..] if t == tag => {
                let (digits, behind) = split(behind, usize::from(count & 0x7f))?;
                (self.len(digits)?, behind)
            }
            _ => return Err(NotDer),
        };
        let (contents, rest) = split(behind, len)?;
        self.rest = rest;
        Ok(contents)
    }

    fn len(&self, digits: &[u8]) -> Result<usize, NotDer> {
        let zeros = digits.iter().take_while(|digit| **digit == 0).count();
        let len = match digits[zeros..] {
            [] => 0,
            [low] => usize::from(low),
            [high, low] => usize::from(u16::from_be_bytes([high, low])),
            _ => return Err(NotDer),
        };
        let minimal = zeros == 0 && (len >= 0x80);
        if minimal || self.lenient {
            Ok(len)
        } else {
            Err(NotDer)
        }
    }

    /// A reader, as lenient as this one, of the contents of the next element, which is of `tag`.
    pub(crate) fn enter(&mut self, tag: u8) -> Result<Self, NotDer> {
        let lenient = self.lenient;
        self.read(tag).map(|rest| Self { rest, lenient })
    }

    /// The contents of the next element if there is one of `tag`.
    pub(crate) fn read_optional(&mut self, tag: u8) -> Result<Option<&'a [u8]>, NotDer> {
        match self.tag() {
            Some(next) if next == tag => self.read(tag).map(Some),
            _ => Ok(None),
        }
    }

    /// A reader of the contents of the next element if there is one of `tag`.
    pub(crate) fn enter_optional(&mut self, tag: u8) -> Result<Option<Self>, NotDer> {
        match self.tag() {
            Some(next) if next == tag => self.enter(tag).map(Some),
            _ => Ok(None),
        }
    }

    /// The big-endian digits of a non-negative INTEGER, without leading zeros.
    pub(crate) fn read_unsigned(&mut self) -> Result<&'a [u8], NotDer> {
        match self.read(INTEGER)? {
            [] | [0x80..=0xff, ..] => Err(NotDer),
            [0] => Ok(&[]),
            [0, rest @ ..] if rest[0] >= 0x80 => Ok(rest),
            digits @ [0, ..] if self.lenient => Ok(without_zeros(digits)),
            [0, ..] => Err(NotDer),
            digits => Ok(digits),
        }
    }

    /// There is nothing left.
    pub(crate) fn end(self) -> Result<(), NotDer> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(NotDer)
        }
    }
}

/// Big-endian digits without leading zeros.
pub(crate) fn without_zeros(digits: &[u8]) -> &[u8] {
    let zeros = digits.iter().take_while(|digit| **digit == 0).count();
    &digits[zeros..]
}

fn split(bytes: &[u8], len: usize) -> Result<(&[u8], &[u8]), NotDer> {
    bytes.split_at_checked(len).ok_or(NotDer)
}

/// Appends the tag and length of an element whose contents are `len` bytes long.
pub(crate) fn write_head(out: &mut Vec<u8>, tag: u8, len: usize) {
    let len = u16::try_from(len).expect("no element written here reaches 64 KiB");
    let [high, low] = len.to_be_bytes();
    match len {
        0..=0x7f => out.extend_from_slice(&[tag, low]),
        0x80..=0xff => out.extend_from_slice(&[tag, 0x81, low]),
        0x100.. => out.extend_from_slice(&[tag, 0x82, high, low]),
    }
}

/// Length of an element whose contents are `len` bytes long, in bytes.
pub(crate) fn element_len(len: usize) -> usize {
    len + match len {
        0..=0x7f => 2,
        0x80..=0xff => 3,
        _ => 4,
    }
}

/// Appends an element with these contents.
pub(crate) fn write(out: &mut Vec<u8>, tag: u8, contents: &[u8]) {
    write_head(out, tag, contents.len());
    out.extend_from_slice(contents);
}

/// Appends a non-negative INTEGER with these big-endian digits, which have no leading zeros.
pub(crate) fn write_unsigned(out: &mut Vec<u8>, digits: &[u8]) {
    write_unsigned_head(out, digits);
    out.extend_from_slice(digits);
}

/// Appends all of such an INTEGER that comes before its digits.
pub(crate) fn write_unsigned_head(out: &mut Vec<u8>, digits: &[u8]) {
    write_head(out, INTEGER, unsigned_len(digits));
    if needs_zero(digits) {
        out.push(0);
    }
}

/// Length of the contents of such an INTEGER, in bytes.
pub(crate) fn unsigned_len(digits: &[u8]) -> usize {
    digits.len() + usize::from(needs_zero(digits))
}

fn needs_zero(digits: &[u8]) -> bool {
    digits.first().is_none_or(|first| *first >= 0x80)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lengths_that_are_not_minimal_are_refused() {
        let long = [vec![OCTET_STRING, 0x82, 0, 0xff], vec![7; 255]].concat();
        assert_eq!(Reader::only(&long, OCTET_STRING), Err(NotDer));
        assert_eq!(
            Reader::only(&[OCTET_STRING, 0x81, 1, 7], OCTET_STRING),
            Err(NotDer)
        );
        assert_eq!(
            Reader::only(&[OCTET_STRING, 0x80, 0, 0], OCTET_STRING),
            Err(NotDer)
        );
    }

    #[test]
    fn a_lenient_reader_takes_leading_zeros_of_lengths_and_numbers() {
        let long = [vec![OCTET_STRING, 0x84, 0, 0, 0, 2], vec![7; 2]].concat();
        assert_eq!(Reader::lenient(&long).read(OCTET_STRING), Ok(&[7, 7][..]));
        assert_eq!(Reader::new(&long).read(OCTET_STRING), Err(NotDer));
        let number = [INTEGER, 3, 0, 0, 5];
        assert_eq!(Reader::lenient(&number).read_unsigned(), Ok(&[5][..]));
        let inside = [&[SEQUENCE, 5][..], &number].concat();
        let mut inside = Reader::lenient(&inside).enter(SEQUENCE).unwrap();
        assert_eq!(inside.read_unsigned(), Ok(&[5][..]));
        // A length that reaches 64 KiB, and one that cannot be counted.
        for bad in [
            &[OCTET_STRING, 0x83, 1, 0, 0][..],
            &[OCTET_STRING, 0x80, 0, 0],
            &[OCTET_STRING, 0xff, 0, 0],
        ] {
            assert_eq!(Reader::lenient(bad).read(OCTET_STRING), Err(NotDer));
        }
    }

    #[test]
    fn integers_are_minimal_and_not_negative() {
        let unsigned = |contents: &'static [u8]| {
            let mut out = Vec::new();
            write(&mut out, INTEGER, contents);
            Reader::new(&out).read_unsigned().map(<[u8]>::to_vec)
        };
        assert_eq!(unsigned(&[0]), Ok(vec![]));
        assert_eq!(unsigned(&[0, 0x80]), Ok(vec![0x80]));
        assert_eq!(unsigned(&[0x7f, 1]), Ok(vec![0x7f, 1]));
        for refused in [&[][..], &[0x80], &[0, 0x7f], &[0, 0]] {
            assert_eq!(unsigned(refused), Err(NotDer), "{refused:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(contents in prop::collection::vec(any::<u8>(), 0..600)) {
            let mut out = Vec::new();
            write(&mut out, SEQUENCE, &contents);
            prop_assert_eq!(out.len(), element_len(contents.len()));
            prop_assert_eq!(Reader::only(&out, SEQUENCE), Ok(&contents[..]));
            out.push(0);
            prop_assert_eq!(Reader::only(&out, SEQUENCE), Err(NotDer));
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let mut reader = Reader::new(&bytes);
            while reader.read(SEQUENCE).or_else(|_| reader.read_unsigned()).is_ok() {}
        }
    }
}
