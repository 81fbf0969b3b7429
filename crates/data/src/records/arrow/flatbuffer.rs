//! Flatbuffers, in which Arrow writes its metadata: tables of numbered fields, each of which may be absent
//! (<https://flatbuffers.dev/internals/>). Every place is checked against the bytes that are there; it knows no schema.

/// What makes a file unreadable, in words.
pub(super) type Checked<T> = Result<T, String>;

pub(super) fn damaged() -> String {
    "it is damaged".to_owned()
}

/// A table of a flatbuffer.
#[derive(Clone, Copy)]
pub(super) struct Table<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Place and length of the list of offsets.
    offsets: usize,
    offsets_length: usize,
}

impl<'a> Table<'a> {
    pub(super) fn root(bytes: &'a [u8]) -> Checked<Self> {
        let at = number::<4>(bytes, 0)?;
        Self::at(bytes, u32::from_le_bytes(at) as usize)
    }

    pub(super) fn at(bytes: &'a [u8], at: usize) -> Checked<Self> {
        let back = i64::from(i32::from_le_bytes(number(bytes, at)?));
        let offsets = usize::try_from(at as i64 - back).map_err(|_| damaged())?;
        let offsets_length = usize::from(u16::from_le_bytes(number(bytes, offsets)?));
        Ok(Self { bytes, at, offsets, offsets_length })
    }

    /// Where a field lies.
    pub(super) fn place(&self, field: usize) -> Checked<Option<usize>> {
        let entry = 4 + 2 * field;
        if entry + 2 > self.offsets_length {
            return Ok(None);
        }
        let offset = u16::from_le_bytes(number(self.bytes, self.offsets + entry)?);
        Ok((offset != 0).then_some(self.at + usize::from(offset)))
    }

    pub(super) fn byte(&self, field: usize) -> Checked<u8> {
        self.place(field)?.map_or(Ok(0), |at| Ok(number::<1>(self.bytes, at)?[0]))
    }

    pub(super) fn short(&self, field: usize) -> Checked<i16> {
        self.place(field)?.map_or(Ok(0), |at| Ok(i16::from_le_bytes(number(self.bytes, at)?)))
    }

    pub(super) fn int(&self, field: usize) -> Checked<i32> {
        self.place(field)?.map_or(Ok(0), |at| Ok(i32::from_le_bytes(number(self.bytes, at)?)))
    }

    pub(super) fn long(&self, field: usize) -> Checked<i64> {
        self.place(field)?.map_or(Ok(0), |at| Ok(i64::from_le_bytes(number(self.bytes, at)?)))
    }

    /// Where a reference leads.
    pub(super) fn target(&self, at: usize) -> Checked<usize> {
        Ok(at + u32::from_le_bytes(number(self.bytes, at)?) as usize)
    }

    pub(super) fn table(&self, field: usize) -> Checked<Option<Self>> {
        let Some(at) = self.place(field)? else { return Ok(None) };
        Self::at(self.bytes, self.target(at)?).map(Some)
    }

    /// Items of a list: the place of the first, and their number.
    pub(super) fn list(&self, field: usize, item: usize) -> Checked<(usize, usize)> {
        let Some(at) = self.place(field)? else { return Ok((0, 0)) };
        let start = self.target(at)?;
        let length = u32::from_le_bytes(number(self.bytes, start)?) as usize;
        match length.checked_mul(item).and_then(|bytes| bytes.checked_add(start + 4)) {
            Some(end) if end <= self.bytes.len() => Ok((start + 4, length)),
            _ => Err(damaged()),
        }
    }

    pub(super) fn tables(&self, field: usize) -> Checked<Vec<Self>> {
        let (start, length) = self.list(field, 4)?;
        (0..length).map(|index| Self::at(self.bytes, self.target(start + 4 * index)?)).collect()
    }

    pub(super) fn text(&self, field: usize) -> Checked<String> {
        let (start, length) = self.list(field, 1)?;
        String::from_utf8(self.bytes[start..start + length].to_vec()).map_err(|_| damaged())
    }

    /// Pairs of long numbers.
    pub(super) fn pairs(&self, field: usize) -> Checked<Vec<(usize, usize)>> {
        let (start, length) = self.list(field, 16)?;
        let long =
            |at: usize| usize::try_from(i64::from_le_bytes(number(self.bytes, at)?)).map_err(|_| damaged());
        (0..length).map(|index| Ok((long(start + 16 * index)?, long(start + 16 * index + 8)?))).collect()
    }
}

pub(super) fn number<const N: usize>(bytes: &[u8], at: usize) -> Checked<[u8; N]> {
    let end = at.checked_add(N).ok_or_else(damaged)?;
    bytes.get(at..end).and_then(|bytes| bytes.try_into().ok()).ok_or_else(damaged)
}
