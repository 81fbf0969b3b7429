//! Writing zip archives of stored entries in one pass, as `torch.save` lays them out: data at multiples of 64 bytes,
//! the checksum behind the data, a 64-bit directory.

use crate::{AtomicFile, Result};

/// PyTorch's alignment of data, so that files can be mapped.
const ALIGNMENT: u64 = 64;
/// The extra field in which PyTorch hides the padding.
const PADDING_FIELD: &[u8] = b"FB";
const ZIP64_FIELD: u16 = 1;
/// The first version with 64-bit sizes.
const VERSION: u16 = 45;
/// The checksum follows the data; names are UTF-8.
const FLAGS: u16 = 0x0808;
/// 1980-01-01, the first that the format knows: the same tensors give the same bytes at any time.
const DATE: u16 = 0x0021;
/// "See the 64-bit field."
const WIDE: u32 = u32::MAX;

/// The directory of an archive under construction; the bytes go to the file that each call names.
#[derive(Debug, Default)]
pub(crate) struct ZipWriter {
    position: u64,
    central: Vec<u8>,
    entries: u64,
    open: Option<Entry>,
}

#[derive(Debug)]
struct Entry {
    name: String,
    size: u64,
    header_start: u64,
}

impl ZipWriter {
    /// Begins an entry; its `size` bytes are then written to `file`, and [`finish_entry`](Self::finish_entry) follows.
    pub fn start_entry(&mut self, file: &mut AtomicFile, name: String, size: usize) -> Result<()> {
        let size = size as u64;
        let mut header = b"PK\x03\x04".to_vec();
        put16(&mut header, &[VERSION, FLAGS, 0, 0, DATE]);
        put32(&mut header, &[0, WIDE, WIDE]);
        let wide_field = 4 + 16;
        let unpadded = self.position + 30 + name.len() as u64 + wide_field + 4;
        let padding = unpadded.next_multiple_of(ALIGNMENT) - unpadded;
        put16(&mut header, &[name.len() as u16, (wide_field + 4 + padding) as u16]);
        header.extend(name.as_bytes());
        put16(&mut header, &[ZIP64_FIELD, 16]);
        put64(&mut header, &[size, size]);
        header.extend(PADDING_FIELD);
        put16(&mut header, &[padding as u16]);
        header.resize(header.len() + padding as usize, b'Z');
        file.write(&header)?;
        self.open = Some(Entry { name, size, header_start: self.position });
        self.position += header.len() as u64 + size;
        Ok(())
    }

    /// Ends the entry that was begun, with the CRC-32 of its bytes.
    pub fn finish_entry(&mut self, file: &mut AtomicFile, checksum: u32) -> Result<()> {
        let Some(Entry { name, size, header_start }) = self.open.take() else { return Ok(()) };
        let mut descriptor = b"PK\x07\x08".to_vec();
        put32(&mut descriptor, &[checksum]);
        put64(&mut descriptor, &[size, size]);
        file.write(&descriptor)?;
        self.position += descriptor.len() as u64;

        let central = &mut self.central;
        central.extend(b"PK\x01\x02");
        put16(central, &[VERSION, VERSION, FLAGS, 0, 0, DATE]);
        put32(central, &[checksum, WIDE, WIDE]);
        put16(central, &[name.len() as u16, 4 + 24, 0, 0, 0]);
        put32(central, &[0, WIDE]);
        central.extend(name.as_bytes());
        put16(central, &[ZIP64_FIELD, 24]);
        put64(central, &[size, size, header_start]);
        self.entries += 1;
        Ok(())
    }

    /// A whole entry.
    pub fn entry(&mut self, file: &mut AtomicFile, name: String, bytes: &[u8]) -> Result<()> {
        self.start_entry(file, name, bytes.len())?;
        file.write(bytes)?;
        self.finish_entry(file, crc32fast::hash(bytes))
    }

    /// Writes the directory, which ends the archive.
    pub fn finish(self, file: &mut AtomicFile) -> Result<()> {
        let (start, size) = (self.position, self.central.len() as u64);
        let mut end = self.central;
        end.extend(b"PK\x06\x06");
        put64(&mut end, &[44]);
        put16(&mut end, &[VERSION, VERSION]);
        put32(&mut end, &[0, 0]);
        put64(&mut end, &[self.entries, self.entries, size, start]);
        end.extend(b"PK\x06\x07");
        put32(&mut end, &[0]);
        put64(&mut end, &[start + size]);
        put32(&mut end, &[1]);
        end.extend(b"PK\x05\x06");
        put16(&mut end, &[0, 0, u16::MAX, u16::MAX]);
        put32(&mut end, &[WIDE, WIDE]);
        put16(&mut end, &[0]);
        file.write(&end)
    }
}

fn put16(bytes: &mut Vec<u8>, values: &[u16]) {
    bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
}

fn put32(bytes: &mut Vec<u8>, values: &[u32]) {
    bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
}

fn put64(bytes: &mut Vec<u8>, values: &[u64]) {
    bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
}
