//! TensorBoard event files: scalars over steps, as `tensorboard --logdir` shows them.
//!
//! An event file is a row of TFRecords (length, masked CRC-32C of it, bytes, masked CRC-32C of them), each an `Event` in
//! protobuf's wire form. Nothing but scalars is written, and where a run that goes on replaces what an earlier one wrote.

use std::io::Write;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fs_err as fs;

/// Begins the name of every event file.
pub const FILE_PREFIX: &str = "events.out.tfevents.";

/// Field numbers of the messages `Event`, `Summary`, `Summary.Value` and `SessionLog`.
mod field {
    pub const WALL_TIME: u64 = 1;
    pub const STEP: u64 = 2;
    pub const FILE_VERSION: u64 = 3;
    pub const SUMMARY: u64 = 5;
    pub const SESSION_LOG: u64 = 7;
    pub const VALUE: u64 = 1;
    pub const TAG: u64 = 1;
    pub const SIMPLE_VALUE: u64 = 2;
    pub const STATUS: u64 = 1;
}

/// Protobuf's kinds of fields.
const VARINT: u64 = 0;
const EIGHT_BYTES: u64 = 1;
const LENGTH_DELIMITED: u64 = 2;
const FOUR_BYTES: u64 = 5;

/// `SessionLog.START`.
const START: u64 = 1;

/// Appends events to one file.
#[derive(Debug)]
pub struct EventFile(fs::File);

impl EventFile {
    /// Begins a file in `folder`, which is created; another one that is there stays.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn create(folder: &Path) -> std::io::Result<Self> {
        fs::create_dir_all(folder)?;
        let seconds = now().as_secs();
        let process = std::process::id();
        let name = |number: u32| format!("{FILE_PREFIX}{seconds:010}.danlu.{process}.{number}");
        let mut numbers = 0..;
        let path = numbers.find_map(|number| {
            let path = folder.join(name(number));
            (!path.exists()).then_some(path)
        });
        let mut file = Self(fs::File::create(path.unwrap_or_else(|| folder.join(name(0))))?);
        let mut event = header();
        put_bytes(&mut event, field::FILE_VERSION, b"brain.Event:2");
        file.append(&event)?;
        Ok(file)
    }

    /// Says that this file replaces what earlier ones have of `step` and later steps, as PyTorch's `purge_step` does.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn replace_from(&mut self, step: u64) -> std::io::Result<()> {
        let mut session = Vec::new();
        put_key(&mut session, field::STATUS, VARINT);
        put_varint(&mut session, START);
        let mut event = header();
        put_key(&mut event, field::STEP, VARINT);
        put_varint(&mut event, step);
        put_bytes(&mut event, field::SESSION_LOG, &session);
        self.append(&event)
    }

    /// Writes the values of a step.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn scalars<'v>(
        &mut self,
        step: u64,
        values: impl IntoIterator<Item = (&'v str, f64)>,
    ) -> std::io::Result<()> {
        let mut summary = Vec::new();
        for (name, number) in values {
            let mut value = Vec::new();
            put_bytes(&mut value, field::TAG, tag(name).as_bytes());
            put_key(&mut value, field::SIMPLE_VALUE, FOUR_BYTES);
            value.extend((number as f32).to_le_bytes());
            put_bytes(&mut summary, field::VALUE, &value);
        }
        let mut event = header();
        put_key(&mut event, field::STEP, VARINT);
        put_varint(&mut event, step);
        put_bytes(&mut event, field::SUMMARY, &summary);
        self.append(&event)
    }

    /// One write call, so that a kill leaves at most one torn record.
    fn append(&mut self, event: &[u8]) -> std::io::Result<()> {
        let length = (event.len() as u64).to_le_bytes();
        let mut record = length.to_vec();
        record.extend(masked_crc32c(&length).to_le_bytes());
        record.extend(event);
        record.extend(masked_crc32c(event).to_le_bytes());
        self.0.write_all(&record)
    }
}

/// The tag that the Hugging Face Trainer gives a logged value: `eval_loss` is `eval/loss`, `loss` is `train/loss`.
fn tag(name: &str) -> String {
    match name.strip_prefix("eval_") {
        Some(rest) => format!("eval/{rest}"),
        None => format!("train/{name}"),
    }
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// An event with its time.
fn header() -> Vec<u8> {
    let mut event = Vec::new();
    put_key(&mut event, field::WALL_TIME, EIGHT_BYTES);
    event.extend(now().as_secs_f64().to_le_bytes());
    event
}

fn put_key(out: &mut Vec<u8>, field: u64, kind: u64) {
    put_varint(out, field << 3 | kind);
}

fn put_bytes(out: &mut Vec<u8>, field: u64, bytes: &[u8]) {
    put_key(out, field, LENGTH_DELIMITED);
    put_varint(out, bytes.len() as u64);
    out.extend(bytes);
}

fn put_varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// TFRecord's guard against checksums of checksums: turned right by 15 bits, plus a constant.
fn masked_crc32c(bytes: &[u8]) -> u32 {
    crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// CRC-32C (Castagnoli), bit by bit: events are small.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| crc >> 1 ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_castagnolis() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
    }

    #[test]
    fn records_are_framed_and_scalars_keep_their_names() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = EventFile::create(folder.path()).unwrap();
        file.scalars(300, [("loss", 2.5), ("eval_loss", -1.0)]).unwrap();
        file.replace_from(300).unwrap();
        EventFile::create(folder.path()).unwrap();
        let mut paths: Vec<_> =
            fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        assert_eq!(paths.len(), 2, "a second file of the same second is another one");
        let bytes = fs::read(&paths[0]).unwrap();
        let mut rest = bytes.as_slice();
        let mut events = Vec::new();
        while let Some((length, after)) = rest.split_first_chunk::<8>() {
            let count = u64::from_le_bytes(*length) as usize;
            assert_eq!(after[..4], masked_crc32c(length).to_le_bytes());
            let event = &after[4..4 + count];
            assert_eq!(after[4 + count..8 + count], masked_crc32c(event).to_le_bytes());
            events.push(event);
            rest = &after[8 + count..];
        }
        assert_eq!(events.len(), 3);
        // Behind the time, which has 9 bytes.
        assert_eq!(&events[0][9..], b"\x1a\x0dbrain.Event:2");
        let mut expected = b"\x10\xac\x02\x2a\x25\x0a\x11\x0a\x0atrain/loss\x15".to_vec();
        expected.extend(2.5_f32.to_le_bytes());
        expected.extend(b"\x0a\x10\x0a\x09eval/loss\x15");
        expected.extend((-1.0_f32).to_le_bytes());
        assert_eq!(&events[1][9..], expected);
        assert_eq!(&events[2][9..], b"\x10\xac\x02\x3a\x02\x08\x01");
    }
}
