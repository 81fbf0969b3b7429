//! What is left out, said of each row as it passes and listed in a report.

use std::path::Path;

use serde_json::{Value, json};

use super::Duplicate;
use crate::contamination::{Found, Questions};
use crate::error::Result;
use crate::record_writer::RecordWriter;
use crate::records::Source;

/// What is left out, and where the rows stand that are named.
pub struct Findings {
    duplicates: Vec<Duplicate>,
    contaminated: Vec<(u32, Found)>,
    /// Rows that are named, ascending, with their places once they are met.
    named: Vec<(u32, Option<Source>)>,
    next_named: usize,
    next_duplicate: usize,
    next_contaminated: usize,
    contaminated_rows: u32,
}

impl Findings {
    pub fn new(duplicates: Vec<Duplicate>, contaminated: Vec<(u32, Found)>) -> Self {
        let of_duplicates = duplicates.iter().flat_map(|duplicate| [duplicate.row, duplicate.of]);
        let mut rows: Vec<u32> = of_duplicates.chain(contaminated.iter().map(|(row, _)| *row)).collect();
        rows.sort_unstable();
        rows.dedup();
        let named = rows.into_iter().map(|row| (row, None)).collect();
        let contaminated_rows = contaminated.chunk_by(|a, b| a.0 == b.0).count() as u32;
        Self {
            duplicates,
            contaminated,
            named,
            next_named: 0,
            next_duplicate: 0,
            next_contaminated: 0,
            contaminated_rows,
        }
    }

    /// Rows left out as duplicates and for a question.
    pub fn counts(&self) -> (u32, u32) {
        (self.duplicates.len() as u32, self.contaminated_rows)
    }

    /// Whether a row is left out; to be asked for each row in order.
    pub fn leaves_out(&mut self, row: u32, source: &Source) -> bool {
        if let Some((named, place)) = self.named.get_mut(self.next_named)
            && *named == row
        {
            *place = Some(source.clone());
            self.next_named += 1;
        }
        let is_duplicate =
            self.duplicates.get(self.next_duplicate).is_some_and(|duplicate| duplicate.row == row);
        self.next_duplicate += usize::from(is_duplicate);
        let found =
            self.contaminated[self.next_contaminated..].iter().take_while(|found| found.0 == row).count();
        self.next_contaminated += found;
        is_duplicate || found > 0
    }

    fn place(&self, row: u32) -> String {
        let found = self.named.binary_search_by_key(&row, |(named, _)| *named);
        let source = found.ok().and_then(|at| self.named[at].1.as_ref());
        source.map(ToString::to_string).unwrap_or_default()
    }

    pub fn write(&self, path: &Path, questions: Option<&Questions>) -> Result<()> {
        let duplicates = self.duplicates.iter().map(|duplicate| {
            let line = json!({
                "row": self.place(duplicate.row),
                "reason": "duplicate",
                "of": self.place(duplicate.of),
                "similarity": duplicate.similarity,
            });
            (duplicate.row, line)
        });
        let contaminated = self.contaminated.iter().map(|(row, found)| {
            let question = questions.map(|questions| questions.source(found.question).to_string());
            let line = json!({
                "row": self.place(*row),
                "reason": "contamination",
                "of": question,
                "similarity": found.share,
            });
            (*row, line)
        });
        let mut lines: Vec<(u32, Value)> = duplicates.chain(contaminated).collect();
        lines.sort_by_key(|(row, _)| *row);
        let mut writer = RecordWriter::create(path)?;
        for (_, line) in lines {
            if let Value::Object(fields) = line {
                writer.write(&fields)?;
            }
        }
        writer.finish()
    }
}
