//! A cursor over a payload that names the field in every error.

use crate::ProtocolError;

pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(crate) fn bytes(
        &mut self,
        field: &'static str,
        len: usize,
    ) -> Result<&'a [u8], ProtocolError> {
        match self.rest.split_at_checked(len) {
            Some((taken, rest)) => {
                self.rest = rest;
                Ok(taken)
            }
            None => Err(ProtocolError::Truncated {
                field,
                needed: len as u64,
                left: self.rest.len() as u64,
            }),
        }
    }

    pub(crate) fn array<const N: usize>(
        &mut self,
        field: &'static str,
    ) -> Result<[u8; N], ProtocolError> {
        let mut array = [0; N];
        array.copy_from_slice(self.bytes(field, N)?);
        Ok(array)
    }

    pub(crate) fn u8(&mut self, field: &'static str) -> Result<u8, ProtocolError> {
        self.array(field).map(u8::from_le_bytes)
    }

    pub(crate) fn u16(&mut self, field: &'static str) -> Result<u16, ProtocolError> {
        self.array(field).map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self, field: &'static str) -> Result<u32, ProtocolError> {
        self.array(field).map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self, field: &'static str) -> Result<u64, ProtocolError> {
        self.array(field).map(u64::from_le_bytes)
    }

    /// Reads `N` reserved bytes, which must be zero.
    pub(crate) fn reserved<const N: usize>(
        &mut self,
        field: &'static str,
    ) -> Result<(), ProtocolError> {
        match self.array::<N>(field)?.into_iter().find(|&byte| byte != 0) {
            None => Ok(()),
            Some(byte) => Err(ProtocolError::NotZero {
                field,
                value: u64::from(byte),
            }),
        }
    }

    pub(crate) fn rest(self) -> &'a [u8] {
        self.rest
    }

    pub(crate) fn remaining(&self) -> usize {
        self.rest.len()
    }

    pub(crate) fn finish(self, message: &'static str) -> Result<(), ProtocolError> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(ProtocolError::Trailing {
                message,
                count: self.rest.len() as u64,
            })
        }
    }
}

pub(crate) fn at_most(field: &'static str, len: usize, max: usize) -> Result<(), ProtocolError> {
    if len > max {
        return Err(ProtocolError::TooLong {
            field,
            len: len as u64,
            max: max as u64,
        });
    }
    Ok(())
}

pub(crate) fn at_least(field: &'static str, len: usize, min: usize) -> Result<(), ProtocolError> {
    if len < min {
        return Err(ProtocolError::TooShort {
            field,
            len: len as u64,
            min: min as u64,
        });
    }
    Ok(())
}

pub(crate) fn in_range(
    field: &'static str,
    value: u64,
    min: u64,
    max: u64,
) -> Result<(), ProtocolError> {
    if value < min || value > max {
        return Err(ProtocolError::OutOfRange {
            field,
            value,
            min,
            max,
        });
    }
    Ok(())
}

pub(crate) fn zero(field: &'static str, value: u64) -> Result<(), ProtocolError> {
    if value != 0 {
        return Err(ProtocolError::NotZero { field, value });
    }
    Ok(())
}
