//! Lines that stand in many documents: menus, copyright notes, "click here". A first pass over the corpus counts them.
//!
//! Counting is exact, and its memory bounded: hashes of lines are sorted in runs, which are written to a folder when
//! there are many, and merged.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use fs_err as fs;

use super::Change;
use crate::error::{DataError, Result};

/// Hashes that memory holds.
const RUN: usize = 8 << 20;

/// Hashes of lines that are removed.
#[derive(Default)]
pub struct BoilerplateLines(HashSet<u64>);

impl BoilerplateLines {
    /// Reads a list, one line of text a line.
    ///
    /// # Errors
    /// A file that cannot be read or holds no line.
    pub fn open(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path)?;
        let hashes: HashSet<u64> = line_hashes(text.trim_start_matches('\u{feff}')).collect();
        if hashes.is_empty() {
            let problem = format!("`{}` is empty: expected one line of text a line", path.display());
            return Err(DataError::Option { option: "boilerplate-lines", problem });
        }
        Ok(Self(hashes))
    }

    /// Adds lines of another list.
    pub fn extend(&mut self, hashes: impl IntoIterator<Item = u64>) {
        self.0.extend(hashes);
    }

    /// Removes the lines. Space around a line counts for nothing.
    pub fn remove(&self, text: &str) -> Option<Change> {
        let is_boilerplate = |line: &str| !line.is_empty() && self.0.contains(&hash(line));
        let count = text.split('\n').filter(|line| is_boilerplate(line.trim())).count() as u64;
        if count == 0 {
            return None;
        }
        let kept: Vec<&str> = text.split('\n').filter(|line| !is_boilerplate(line.trim())).collect();
        Some(Change { text: kept.join("\n"), count })
    }
}

/// Hashes of the lines of a text, blank ones left out.
pub fn line_hashes(text: &str) -> impl Iterator<Item = u64> {
    text.split('\n').map(str::trim).filter(|line| !line.is_empty()).map(hash)
}

fn hash(line: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    line.hash(&mut hasher);
    hasher.finish()
}

/// Counts in how many documents each line stands.
pub struct LineCounter<'a> {
    hashes: Vec<u64>,
    capacity: usize,
    folder: &'a Path,
    runs: Vec<PathBuf>,
}

impl<'a> LineCounter<'a> {
    /// Runs that memory does not hold go to `folder`.
    pub fn new(folder: &'a Path) -> Self {
        Self { hashes: Vec::new(), capacity: RUN, folder, runs: Vec::new() }
    }

    /// Counts the lines of a document, whose hashes are each given once.
    ///
    /// # Errors
    /// A full disk.
    pub fn add(&mut self, document: impl IntoIterator<Item = u64>) -> Result<()> {
        self.hashes.extend(document);
        if self.hashes.len() >= self.capacity {
            self.hashes.sort_unstable();
            let path = self.folder.join(format!("lines-{}", self.runs.len()));
            let mut file = BufWriter::new(fs::File::create(&path)?);
            for hash in self.hashes.drain(..) {
                file.write_all(&hash.to_le_bytes())?;
            }
            file.flush()?;
            self.runs.push(path);
        }
        Ok(())
    }

    /// The lines that stand in more than `most` documents.
    ///
    /// # Errors
    /// Runs that cannot be read again.
    pub fn finish(mut self, most: u64) -> Result<Vec<u64>> {
        self.hashes.sort_unstable();
        let mut runs: Vec<Box<dyn Iterator<Item = Result<u64>>>> = Vec::new();
        for path in &self.runs {
            let mut file = BufReader::new(fs::File::open(path)?);
            let mut left = fs::metadata(path)?.len() / 8;
            runs.push(Box::new(std::iter::from_fn(move || {
                left = left.checked_sub(1)?;
                let mut bytes = [0; 8];
                Some(file.read_exact(&mut bytes).map(|()| u64::from_le_bytes(bytes)).map_err(DataError::from))
            })));
        }
        runs.push(Box::new(self.hashes.into_iter().map(Ok)));
        let mut heads = BinaryHeap::new();
        for (index, run) in runs.iter_mut().enumerate() {
            if let Some(hash) = run.next().transpose()? {
                heads.push(Reverse((hash, index)));
            }
        }
        let (mut frequent, mut current, mut count) = (Vec::new(), None, 0);
        while let Some(Reverse((hash, index))) = heads.pop() {
            count = if current == Some(hash) { count + 1 } else { 1 };
            current = Some(hash);
            // Once, when the limit is passed.
            if count == most.saturating_add(1) {
                frequent.push(hash);
            }
            if let Some(hash) = runs[index].next().transpose()? {
                heads.push(Reverse((hash, index)));
            }
        }
        drop(runs);
        self.runs.iter().try_for_each(fs::remove_file)?;
        Ok(frequent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frequent_lines_are_found_in_bounded_memory() {
        let folder = tempfile::tempdir().unwrap();
        for capacity in [3, RUN] {
            let mut counter = LineCounter { capacity, ..LineCounter::new(folder.path()) };
            for number in 0..20 {
                let text = format!(" 首页 | 登录\n\n正文{number}\n版权所有{}", number % 2);
                counter.add(line_hashes(&text).collect::<HashSet<u64>>()).unwrap();
            }
            assert_eq!(counter.runs.len() > 5, capacity == 3);
            let lines = BoilerplateLines(counter.finish(10).unwrap().into_iter().collect());
            let change = lines.remove("首页 | 登录\n正文1\n版权所有1").unwrap();
            assert_eq!((change.text.as_str(), change.count), ("正文1\n版权所有1", 1));
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        }
    }
}
