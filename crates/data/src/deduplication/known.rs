//! What is known of all rows behind the first pass: their keys, made here or in other runs whose signature files are joined.

use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::fingerprints;
use super::partitions::{PARTITIONS, Partitions};
use super::passes::{Met, Row};
use super::row_text::{mix, normalise};
use super::signatures::{Description, Signatures, SignedFile};
use super::sketcher::Sketcher;
use super::{Deduplication, InputFile, Part, Progress, Step};
use crate::contamination::{Found, Questions};
use crate::error::{DataError, Result};

/// What is known of all rows behind the first pass.
pub(super) struct Known {
    pub met: Met,
    pub keys: Partitions,
    pub fingerprints: Vec<u128>,
    pub lengths: Vec<u32>,
    /// Questions by the rows that contain them.
    pub contaminated: Vec<(u32, Found)>,
}

impl Known {
    fn new(scratch: &Path, max_memory: u64) -> Self {
        Self {
            met: Met::default(),
            keys: Partitions::new(scratch.join("keys"), max_memory / 2),
            fingerprints: Vec::new(),
            lengths: Vec::new(),
            contaminated: Vec::new(),
        }
    }

    /// Adds the next row; one without words has no key to share.
    fn push(&mut self, sketcher: &Sketcher, row: u32, words: &[u64], length: u32) -> Result<()> {
        self.lengths.push(length);
        let keys = &mut self.keys;
        let mut push = |key: u64| keys.push((key >> (u64::BITS - PARTITIONS.ilog2())) as usize, (key, row));
        match sketcher {
            Sketcher::Text | Sketcher::SimHash => {
                let fingerprint = words.iter().fold(0, |bits, &word| bits << 64 | u128::from(word));
                self.fingerprints.push(fingerprint);
                match sketcher {
                    _ if words.is_empty() => Ok(()),
                    Sketcher::Text => push(words[0]),
                    // Mixed, so that the partitions are filled evenly.
                    _ => fingerprints::blocks(fingerprint).try_for_each(|block| push(mix(block))),
                }
            }
            Sketcher::Nothing | Sketcher::Shingles(_) | Sketcher::Characters(_) => {
                words.iter().try_for_each(|&key| push(key))
            }
        }
    }
}

impl Deduplication {
    /// The first pass: the keys of all rows, and the questions in them.
    pub(super) fn read(
        &self,
        sketcher: &Sketcher,
        scratch: &Path,
        pool: &rayon::ThreadPool,
        progress: Progress<'_>,
    ) -> Result<Known> {
        let mut known = Known::new(scratch, self.max_memory);
        let met = self.pass((&self.files, &[]), pool, Step::Reading, progress, &mut |batch| {
            let found = self.questions.as_ref().map(|questions| questions_in(questions, &batch.rows, pool));
            let found = found.unwrap_or_else(|| vec![Vec::new(); batch.rows.len()]);
            let sketches = sketcher.sketch(&batch.rows, pool);
            for ((row, (words, length)), found) in (batch.first..).zip(sketches).zip(found) {
                // What contains a question is no row that another could repeat.
                let keys: &[u64] = if found.is_empty() { &words } else { &[] };
                known.push(sketcher, row, keys, length)?;
                known.contaminated.extend(found.into_iter().map(|found| (row, found)));
            }
            Ok(())
        })?;
        known.met = met;
        Ok(known)
    }

    /// In place of the first pass: the keys that other runs made.
    pub(super) fn join(
        &self,
        sketcher: &Sketcher,
        paths: &[PathBuf],
        scratch: &Path,
        progress: Progress<'_>,
    ) -> Result<Known> {
        let mut parts: Vec<Option<Signatures>> = Vec::new();
        parts.resize_with(paths.len(), || None);
        for path in paths {
            let part = Signatures::open(path)?;
            let Description { part: Part { number, of }, settings, width, files } = &part.description;
            if *settings != self.settings() || *width != sketcher.width() {
                return Err(part.wrong(format!(
                    "was made with other settings: {settings}; expected {}",
                    self.settings()
                )));
            }
            let expected = self.files.iter().skip(number.wrapping_sub(1)).step_by((*of).max(1));
            let same = |(file, signed): (&InputFile, &SignedFile)| {
                file.name.to_string_lossy() == signed.name && file.bytes == signed.bytes
            };
            if *number == 0
                || *number > *of
                || *of > self.files.len()
                || expected.clone().count() != files.len()
            {
                return Err(part.wrong(format!(
                    "is part {number} of {of} of other inputs; expected the same {} files",
                    self.files.len()
                )));
            }
            if let Some((file, _)) = expected.zip(files).find(|pair| !same(*pair)) {
                return Err(part.wrong(format!(
                    "was made of another file than `{}`; expected the same inputs in the same order",
                    file.path.display()
                )));
            }
            let (number, of) = (*number, *of);
            if of != paths.len() {
                return Err(part.wrong(format!("is one of {of} parts, but {} are given", paths.len())));
            }
            if parts[number - 1].replace(part).is_some() {
                return Err(DataError::Signatures {
                    path: path.clone(),
                    problem: format!("is part {number}, which is given twice"),
                });
            }
        }
        let mut known = Known::new(scratch, self.max_memory);
        let parts: Vec<Signatures> = parts.into_iter().flatten().collect();
        let mut readers = parts.iter().map(Signatures::rows).collect::<Result<Vec<_>>>()?;
        let mut words = Vec::new();
        let mut row = 0;
        let mut skipped = 0;
        for index in 0..self.files.len() {
            let part = index % parts.len();
            let signed = &parts[part].description.files[index / parts.len()];
            for _ in 0..signed.met.rows {
                let length = readers[part].next(&mut words)?;
                known.push(sketcher, row, &words, length)?;
                row += 1;
            }
            skipped += u64::from(signed.met.skipped);
            known.met.files.push(signed.met);
            if progress(Step::Reading, index as u64 + 1, self.files.len() as u64).is_break() {
                return Err(DataError::Cancelled);
            }
        }
        known.met.rows = row;
        if skipped > 0 {
            known.met.skipped.insert("told when the parts were made".to_owned(), skipped);
        }
        Ok(known)
    }
}

fn questions_in(questions: &Questions, rows: &[Row], pool: &rayon::ThreadPool) -> Vec<Vec<Found>> {
    let find = |hashes: &mut Vec<u64>, row: &Row| questions.find_normalised(&normalise(row.text()), hashes);
    pool.install(|| rows.par_iter().map_init(Vec::new, find).collect())
}
