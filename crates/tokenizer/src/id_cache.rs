//! The ids of short texts that were cut before, for words that come again and again. It only remembers: what is not
//! in it is cut anew, with the same ids.

use std::fmt;
use std::sync::{Mutex, PoisonError};

/// Bytes of the longest text that is kept.
const TEXT: usize = 24;
/// Ids of a text that is kept.
const IDS: usize = 9;
/// Texts that are kept at first, 32 KiB, and at most, 2 MiB.
const FEWEST: usize = 1 << 9;
const MOST: usize = 1 << 15;
/// 2⁶⁴ over the golden ratio.
const MIX: u64 = 0x9E37_79B9_7F4A_7C15;

/// A text, filled up with zeros, and its ids: one line of the processor's cache.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Entry {
    text: [u8; TEXT],
    /// 0 where nothing is kept.
    length: u8,
    count: u8,
    ids: [u32; IDS],
}

/// What one thread remembers. Two texts of one place displace each other; it grows when that happens often.
pub(crate) struct IdCache {
    /// A power of two.
    entries: Box<[Entry]>,
    /// Texts that were put in since it grew.
    added: usize,
}

impl Default for IdCache {
    fn default() -> Self {
        Self { entries: Self::empty(FEWEST), added: 0 }
    }
}

impl IdCache {
    fn empty(entries: usize) -> Box<[Entry]> {
        vec![Entry { text: [0; TEXT], length: 0, count: 0, ids: [0; IDS] }; entries].into()
    }

    /// Adds the ids of `text`, by `cut` if they are not known. `cut` may depend on nothing but the text.
    pub(crate) fn extend(&mut self, ids: &mut Vec<u32>, text: &str, cut: impl FnOnce(&mut Vec<u32>)) {
        let length = text.len();
        if length > TEXT {
            cut(ids);
            return;
        }
        let mut padded = [0; TEXT];
        padded[..length].copy_from_slice(text.as_bytes());
        let entry = &mut self.entries[place(&padded, self.entries.len())];
        if usize::from(entry.length) == length && entry.text == padded {
            ids.extend_from_slice(&entry.ids[..usize::from(entry.count)]);
            return;
        }
        let start = ids.len();
        cut(ids);
        let found = &ids[start..];
        if found.len() <= IDS {
            *entry = Entry { text: padded, length: length as u8, count: found.len() as u8, ids: [0; IDS] };
            entry.ids[..found.len()].copy_from_slice(found);
            self.added += 1;
            if self.added > 4 * self.entries.len() && self.entries.len() < MOST {
                *self = Self { entries: Self::empty(4 * self.entries.len()), added: 0 };
            }
        }
    }
}

fn place(text: &[u8; TEXT], entries: usize) -> usize {
    let mut hash = 0_u64;
    for part in text.chunks_exact(8) {
        let mut word = [0; 8];
        word.copy_from_slice(part);
        hash = (hash.rotate_left(23) ^ u64::from_le_bytes(word)).wrapping_mul(MIX);
    }
    (hash >> (u64::BITS - entries.ilog2())) as usize
}

/// What threads that cut with one vocabulary at the same time keep to themselves. A copy starts without.
pub(crate) struct PerThread<T>(Mutex<Vec<T>>);

impl<T> Default for PerThread<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T> fmt::Debug for PerThread<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("PerThread")
    }
}

impl<T> Clone for PerThread<T> {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl<T: Default> PerThread<T> {
    /// Lends what one thread keeps to `work`.
    pub(crate) fn with<R>(&self, work: impl FnOnce(&mut T) -> R) -> R {
        let free = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut own = free.unwrap_or_default();
        let result = work(&mut own);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(own);
        result
    }
}
