//! BER that is not DER: lengths that are unknown until two zeros end the contents, strings in pieces. OpenSSL reads it, so it
//! is rewritten as DER before it is parsed.

use crate::arena::{Arena, ArenaBytes};
use crate::der::{self, NotDer};
use crate::error::KeyError;

/// A key's document has five levels, curves spelled out included.
const DEPTH_MAX: usize = 12;
const CONSTRUCTED: u8 = 0x20;
const INDEFINITE: u8 = 0x80;
const END: [u8; 2] = [0, 0];

/// Whether these bytes begin as a document whose length is not told.
pub(super) fn is_indefinite(bytes: &[u8]) -> bool {
    matches!(
        bytes,
        [der::SEQUENCE, INDEFINITE, der::INTEGER | der::SEQUENCE, ..]
    )
}

/// The document as DER; `None` if it is not BER as a whole.
pub(super) fn to_der(arena: &Arena, bytes: &[u8]) -> Result<Option<ArenaBytes>, KeyError> {
    let Ok(element) = Element::read(bytes, 0) else {
        return Ok(None);
    };
    let Ok(len) = element.len(0) else {
        return Ok(None);
    };
    let is_padding = |byte: &u8| byte.is_ascii_whitespace() || *byte == 0;
    if len > bytes.len() || !bytes[element.read_len..].iter().all(is_padding) {
        return Ok(None);
    }
    let mut document = ArenaBytes::zeroed(arena, len)?;
    let mut out = Out {
        bytes: &mut document,
        at: 0,
    };
    Ok(match element.write(&mut out, 0) {
        Ok(()) => Some(document),
        Err(NotDer) => None,
    })
}

#[derive(Clone, Copy)]
struct Element<'a> {
    tag: u8,
    contents: &'a [u8],
    /// With its head, and with its end if its length was not told.
    read_len: usize,
}

impl<'a> Element<'a> {
    fn read(bytes: &'a [u8], depth: usize) -> Result<Self, NotDer> {
        let (tag, len) = match *bytes {
            // Tags of several bytes are in no key.
            [tag, len, ..] if depth < DEPTH_MAX && tag & 0x1f != 0x1f => (tag, len),
            _ => return Err(NotDer),
        };
        if len == INDEFINITE {
            if tag & CONSTRUCTED == 0 {
                return Err(NotDer);
            }
            let mut at = 2;
            while !bytes[at..].starts_with(&END) {
                at += Self::read(&bytes[at..], depth + 1)?.read_len;
            }
            return Ok(Self {
                tag,
                contents: &bytes[2..at],
                read_len: at + END.len(),
            });
        }
        let mut reader = der::Reader::lenient(bytes);
        let contents = reader.read(tag)?;
        Ok(Self {
            tag,
            contents,
            read_len: bytes.len() - reader.rest().len(),
        })
    }

    fn children(
        &self,
        depth: usize,
    ) -> impl Iterator<Item = Result<Element<'a>, NotDer>> + use<'a> {
        let mut rest = self.contents;
        std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            let child = Element::read(rest, depth + 1);
            rest = child.as_ref().map_or(&[], |child| &rest[child.read_len..]);
            Some(child)
        })
    }

    /// The tag of a string that is in pieces here, and in one in DER.
    fn string_tag(&self) -> Option<u8> {
        const OCTETS: u8 = der::OCTET_STRING | CONSTRUCTED;
        const BITS: u8 = der::BIT_STRING | CONSTRUCTED;
        match self.tag {
            OCTETS => Some(der::OCTET_STRING),
            BITS => Some(der::BIT_STRING),
            _ => None,
        }
    }

    /// Length as DER, with its head.
    fn len(&self, depth: usize) -> Result<usize, NotDer> {
        self.contents_len(depth).map(der::element_len)
    }

    fn contents_len(&self, depth: usize) -> Result<usize, NotDer> {
        let len = if let Some(tag) = self.string_tag() {
            usize::from(tag == der::BIT_STRING) + self.pieces_len(tag, depth)?
        } else if self.tag & CONSTRUCTED != 0 {
            let mut children = self.children(depth);
            children.try_fold(0, |sum, child| Ok(sum + child?.len(depth + 1)?))?
        } else {
            self.contents.len()
        };
        // What `der::write_head` can write.
        if len > usize::from(u16::MAX) {
            return Err(NotDer);
        }
        Ok(len)
    }

    fn pieces_len(&self, tag: u8, depth: usize) -> Result<usize, NotDer> {
        let mut children = self.children(depth);
        children.try_fold(0, |sum, child| {
            let child = child?;
            Ok(sum
                + match child.string_tag() {
                    Some(inner) if inner == tag => child.pieces_len(tag, depth + 1)?,
                    _ => child.piece(tag)?.len(),
                })
        })
    }

    /// The bytes of one piece. Keys have whole bytes of bits only.
    fn piece(&self, tag: u8) -> Result<&'a [u8], NotDer> {
        match (self.tag == tag, tag, self.contents) {
            (true, der::BIT_STRING, [0, bytes @ ..]) => Ok(bytes),
            (true, der::OCTET_STRING, bytes) => Ok(bytes),
            _ => Err(NotDer),
        }
    }

    fn write(&self, out: &mut Out<'_>, depth: usize) -> Result<(), NotDer> {
        let len = self.contents_len(depth)?;
        let mut head = Vec::with_capacity(4);
        if let Some(tag) = self.string_tag() {
            der::write_head(&mut head, tag, len);
            if tag == der::BIT_STRING {
                head.push(0);
            }
            out.put(&head)?;
            return self.write_pieces(out, tag, depth);
        }
        der::write_head(&mut head, self.tag, len);
        out.put(&head)?;
        if self.tag & CONSTRUCTED == 0 {
            return out.put(self.contents);
        }
        let mut children = self.children(depth);
        children.try_for_each(|child| child?.write(out, depth + 1))
    }

    fn write_pieces(&self, out: &mut Out<'_>, tag: u8, depth: usize) -> Result<(), NotDer> {
        let mut children = self.children(depth);
        children.try_for_each(|child| {
            let child = child?;
            match child.string_tag() {
                Some(inner) if inner == tag => child.write_pieces(out, tag, depth + 1),
                _ => out.put(child.piece(tag)?),
            }
        })
    }
}

/// Where the document is written.
struct Out<'a> {
    bytes: &'a mut [u8],
    at: usize,
}

impl Out<'_> {
    fn put(&mut self, part: &[u8]) -> Result<(), NotDer> {
        let end = self.at + part.len();
        let place = self.bytes.get_mut(self.at..end).ok_or(NotDer)?;
        place.copy_from_slice(part);
        self.at = end;
        Ok(())
    }
}
