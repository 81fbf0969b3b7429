//! Bytes of a file from a place on, read by several threads at once without a lock: the calls of each system. Nothing else in
//! this room depends on the system.

use std::fs::File;
use std::io;

/// Fills `bytes` with those from `start` on.
///
/// # Errors
/// The file cannot be read, or ends before.
#[cfg(unix)]
pub fn read_exact_at(file: &File, bytes: &mut [u8], start: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, start)
}

/// Fills `bytes` with those from `start` on.
///
/// # Errors
/// The file cannot be read, or ends before.
#[cfg(windows)]
pub fn read_exact_at(file: &File, mut bytes: &mut [u8], mut start: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, bytes, start)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            length => {
                bytes = &mut bytes[length..];
                start += length as u64;
            }
        }
    }
    Ok(())
}
