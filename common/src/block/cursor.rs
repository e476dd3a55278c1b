//! Bounded reading and plain writing of the primitive fields of a section: LEB128 varints, zigzag, lengths, text.

use super::{DecodeError, check};

/// Appends fields to a section.
#[derive(Debug, Default)]
pub struct Writer(Vec<u8>);

impl Writer {
    /// One byte.
    pub fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    /// Eight bytes, little-endian.
    pub fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    /// A LEB128 varint.
    pub fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push((value as u8) | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    /// A signed number, zigzag then varint.
    pub fn signed(&mut self, value: i64) {
        self.varint(((value << 1) ^ (value >> 63)) as u64);
    }

    /// A double, little-endian.
    pub fn f64(&mut self, value: f64) {
        self.u64(value.to_bits());
    }

    /// Bytes with their length before them.
    pub fn bytes(&mut self, value: &[u8]) {
        self.varint(value.len() as u64);
        self.0.extend_from_slice(value);
    }

    /// Bytes as they are.
    pub fn raw(&mut self, value: &[u8]) {
        self.0.extend_from_slice(value);
    }

    /// Text of at most `bytes_max` bytes; what is longer is cut at a character's border.
    pub fn text(&mut self, value: &str, bytes_max: usize) {
        self.bytes(cut(value, bytes_max).as_bytes());
    }

    /// What was written.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

fn cut(value: &str, bytes_max: usize) -> &str {
    let mut end = value.len().min(bytes_max);
    while !value.is_char_boundary(end) {
        end -= 1;
    }
    &value[..end]
}

/// Reads fields from a section; never past its end, never more than a limit allows.
#[derive(Debug)]
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// A reader of all of `bytes`.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Whether everything has been read.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next `len` bytes.
    ///
    /// # Errors
    /// Fewer are left.
    pub fn take(&mut self, len: usize, what: &'static str) -> Result<&'a [u8], DecodeError> {
        let (head, tail) = self.0.split_at_checked(len).ok_or(DecodeError::Truncated(what))?;
        self.0 = tail;
        Ok(head)
    }

    /// The next `N` bytes as an array.
    ///
    /// # Errors
    /// Fewer are left.
    pub fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], DecodeError> {
        let (head, tail) = self.0.split_first_chunk::<N>().ok_or(DecodeError::Truncated(what))?;
        self.0 = tail;
        Ok(*head)
    }

    /// One byte.
    ///
    /// # Errors
    /// None is left.
    pub fn u8(&mut self, what: &'static str) -> Result<u8, DecodeError> {
        Ok(self.array::<1>(what)?[0])
    }

    /// Four bytes, little-endian.
    ///
    /// # Errors
    /// Fewer are left.
    pub fn u32(&mut self, what: &'static str) -> Result<u32, DecodeError> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    /// Eight bytes, little-endian.
    ///
    /// # Errors
    /// Fewer are left.
    pub fn u64(&mut self, what: &'static str) -> Result<u64, DecodeError> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    /// A LEB128 varint of at most ten bytes.
    ///
    /// # Errors
    /// The bytes end, or the number does not fit 64 bits.
    pub fn varint(&mut self, what: &'static str) -> Result<u64, DecodeError> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8(what)?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                break;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(DecodeError::Malformed(what))
    }

    /// A signed number, zigzag then varint.
    ///
    /// # Errors
    /// As [`Self::varint`].
    pub fn signed(&mut self, what: &'static str) -> Result<i64, DecodeError> {
        let value = self.varint(what)?;
        Ok(((value >> 1) as i64) ^ -((value & 1) as i64))
    }

    /// A double, little-endian.
    ///
    /// # Errors
    /// Fewer than eight bytes are left.
    pub fn f64(&mut self, what: &'static str) -> Result<f64, DecodeError> {
        Ok(f64::from_bits(self.u64(what)?))
    }

    /// A count of at most `max`.
    ///
    /// # Errors
    /// As [`Self::varint`], or the count is greater than `max`.
    pub fn count(&mut self, what: &'static str, max: usize) -> Result<usize, DecodeError> {
        let value = self.varint(what)?;
        check(what, usize::try_from(value).unwrap_or(usize::MAX), max)
    }

    /// Text of at most `max` bytes.
    ///
    /// # Errors
    /// As [`Self::count`], or the bytes are not UTF-8.
    pub fn text(&mut self, what: &'static str, max: usize) -> Result<String, DecodeError> {
        let len = self.count(what, max)?;
        let bytes = self.take(len, what)?;
        Ok(std::str::from_utf8(bytes).map_err(|_| DecodeError::Malformed(what))?.to_owned())
    }
}
