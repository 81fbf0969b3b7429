//! Where the questions of a benchmark lie: one file, files below a folder, or the members of a zip archive.
//!
//! | layout | questions | examples |
//! |---|---|---|
//! | C-Eval, MMLU | `DIR/val/<subject>_val.csv` (or another split) | `DIR/dev/<subject>_dev.csv` |
//! | CMMLU | `DIR/test/<subject>.csv` | `DIR/dev/<subject>.csv` |
//! | as on the hub | `DIR/<subject>/val-00000-of-00001.parquet`, `DIR/<subject>_val.parquet` | the same with `dev` |
//! | all subjects in one file | `DIR/all/test-00000-of-00001.parquet`, with a column `subject` | the same with `dev` |
//! | an archive | any of these in a `.zip`, but for Parquet | the same |
//! | plain folder | `DIR/<subject>.csv` | none |
//! | one file | `<subject>.csv`, or with a column `subject` | none |
//!
//! A subject's own file counts, not what a file of all subjects repeats of it. Two files of one subject are refused, unless
//! they are parts of a whole outside an archive.
//!
//! It says which rows are whose; what the columns mean is known in `rows`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use danlu_data::contamination::{archived_records, records};
use danlu_data::{Content, Record, Records};
use serde_json::{Map, Value};

use crate::{Error, Result};

/// The split that examples are in.
pub(super) const EXAMPLES: &str = "dev";

/// What folders and files are called by the split that they hold, and what it is called here.
const SPLITS: [(&str, &str); 6] = [
    (EXAMPLES, EXAMPLES),
    ("val", "val"),
    ("valid", "val"),
    ("validation", "val"),
    ("test", "test"),
    ("train", "train"),
];

/// Files of a folder that may hold questions.
const ENDINGS: [&str; 5] = ["csv", "tsv", "jsonl", "parquet", "arrow"];

/// Those of them that are no text.
const TABLES: [&str; 2] = ["parquet", "arrow"];

/// The folder of a hub that holds every subject once more.
const ALL: &str = "all";

/// The rows of a benchmark, by split and subject.
pub(super) struct Layout {
    path: PathBuf,
    /// By split and subject; a file in no split has none.
    parts: BTreeMap<Option<String>, BTreeMap<String, Place>>,
}

/// Where the rows of one subject are.
enum Place {
    /// Files one after another, read when they are wanted.
    Files(Vec<PathBuf>),
    /// Rows of a file that holds others too.
    Read(Vec<Record>),
}

/// What the name of a file says.
struct Named {
    split: Option<String>,
    /// The subject; none where the file may hold several.
    key: Option<String>,
}

impl Layout {
    /// Lists what is at `path`; `split` is known as one beside the usual names.
    ///
    /// # Errors
    /// A path that is missing, without questions, or with two files of one subject.
    pub(super) fn find(path: &Path, split: &str) -> Result<Self> {
        let mut layout = Self { path: path.to_owned(), parts: BTreeMap::new() };
        if !path.exists() {
            return Err(layout.problem("does not exist: expected a folder of questions or a file".into()));
        }
        if path.is_file() {
            match is_archive(path) {
                true => layout.add_archive(path, split)?,
                false => {
                    let key = Named::of(Path::new(path.file_name().unwrap_or_default()), split).key;
                    layout.add_subjects_of(None, key, records(path).collect::<Result<_, _>>()?)?;
                }
            }
            return Ok(layout);
        }
        let mut archives = Vec::new();
        for file in Records::open(path)?.files() {
            if is_archive(file) {
                archives.push(file.to_owned());
            } else if ends_in(file, &ENDINGS) {
                layout.add_file(file, split)?;
            }
        }
        // Beside what was unpacked from it, an archive would only repeat it.
        if layout.parts.is_empty() {
            archives.iter().try_for_each(|archive| layout.add_archive(archive, split))?;
        }
        layout.read_mixed()?;
        Ok(layout)
    }

    /// The subjects of a split, or of the files in none where nothing is in that split.
    ///
    /// # Errors
    /// Neither is there.
    pub(super) fn subjects(&self, split: &str) -> Result<Vec<&str>> {
        let subjects = self.parts.get(&self.found(split)).map(|parts| parts.keys().map(String::as_str));
        match subjects {
            Some(subjects) => Ok(subjects.collect()),
            None => {
                let splits: Vec<String> =
                    self.parts.keys().flatten().map(|name| format!("`{name}`")).collect();
                let found = match splits.as_slice() {
                    [] => String::new(),
                    splits => format!(", found the splits {}", splits.join(", ")),
                };
                Err(self.problem(format!(
                    "has no questions of the split `{split}`: expected the folders `{split}` and `{EXAMPLES}` with files \
                     like `law_{split}.csv`{found}"
                )))
            }
        }
    }

    /// The rows of a subject of a split; of no file where the split lacks it.
    ///
    /// # Errors
    /// A file or row that cannot be read.
    pub(super) fn rows(&self, split: &str, key: &str) -> Result<Option<Vec<Record>>> {
        match self.parts.get(&self.found(split)).and_then(|parts| parts.get(key)) {
            None => Ok(None),
            Some(Place::Read(rows)) => Ok(Some(rows.clone())),
            Some(Place::Files(files)) => {
                let rows = files.iter().flat_map(|file| records(file)).collect::<Result<_, _>>();
                Ok(Some(rows?))
            }
        }
    }

    /// The file that a subject's rows begin in, for messages.
    pub(super) fn file(&self, split: &str, key: &str) -> &Path {
        match self.parts.get(&self.found(split)).and_then(|parts| parts.get(key)) {
            Some(Place::Files(files)) => files.first().unwrap_or(&self.path),
            Some(Place::Read(rows)) => rows.first().map_or(&self.path, |row| &row.source.path),
            None => &self.path,
        }
    }

    /// Whether anything is in the split that examples are in.
    pub(super) fn has_examples(&self) -> bool {
        self.parts.contains_key(&Some(EXAMPLES.to_owned()))
    }

    fn found(&self, split: &str) -> Option<String> {
        let split = canonical(split).to_owned();
        // Examples are never taken from the questions themselves.
        (split == EXAMPLES || self.parts.contains_key(&Some(split.clone()))).then_some(split)
    }

    fn add_file(&mut self, file: &Path, split: &str) -> Result<()> {
        let below = file.strip_prefix(&self.path).unwrap_or(file);
        let Named { split, key } = Named::of(below, split);
        let key = key.unwrap_or_else(|| ALL.to_owned());
        let parts = self.parts.entry(split).or_default();
        match parts.get_mut(&key) {
            None => _ = parts.insert(key, Place::Files(vec![file.to_owned()])),
            Some(Place::Files(files))
                if whole_of(file).is_some() && whole_of(file) == whole_of(&files[0]) =>
            {
                files.push(file.to_owned());
            }
            Some(_) => return Err(self.twice(&key, file)),
        }
        Ok(())
    }

    fn add_archive(&mut self, path: &Path, split: &str) -> Result<()> {
        let members = archived_records(path)?;
        if let Some(table) = members.ignored.iter().find(|name| ends_in(Path::new(name), &TABLES)) {
            let problem = format!("`{table}` is not read inside an archive: unpack it, and name its folder");
            return Err(Error::File { path: path.into(), problem });
        }
        for (member, rows) in members.records {
            if ends_in(&member, &ENDINGS) {
                let Named { split, key } = Named::of(member.strip_prefix(path).unwrap_or(&member), split);
                self.add_subjects_of(split, key, rows.collect::<Result<_, _>>()?)?;
            }
        }
        match self.parts.is_empty() {
            true => {
                let problem = "has no file of questions: expected members like `val/law_val.csv`".into();
                Err(Error::File { path: path.into(), problem })
            }
            false => Ok(()),
        }
    }

    /// Adds the rows of a file: by the column `subject` where the file's name does not tell it, or tells nothing of splits.
    fn add_subjects_of(
        &mut self,
        split: Option<String>,
        key: Option<String>,
        rows: Vec<Record>,
    ) -> Result<()> {
        let key = key.unwrap_or_else(|| {
            let name = self.path.file_stem().unwrap_or_default().to_string_lossy();
            name.into_owned()
        });
        let named = split.is_some() && key != ALL;
        let mut subjects: BTreeMap<String, Vec<Record>> = BTreeMap::new();
        if rows.is_empty() {
            subjects.insert(key.clone(), Vec::new());
        }
        for row in rows {
            let subject = match &row.content {
                Content::Fields(fields) if !named => text(fields, "subject"),
                _ => None,
            };
            let subject = subject.unwrap_or(&key).to_owned();
            subjects.entry(subject).or_default().push(row);
        }
        let parts = self.parts.entry(split).or_default();
        if let Some(unnamed) = subjects.get(ALL).and_then(|rows| rows.first()).filter(|_| !parts.is_empty()) {
            let problem = format!(
                "has rows without a column `subject`, beside files of single subjects in `{}`: remove it, or name one folder \
                 of the two",
                self.path.display()
            );
            return Err(Error::File { path: unnamed.source.path.to_path_buf(), problem });
        }
        for (subject, rows) in subjects {
            match parts.get(&subject) {
                None => _ = parts.insert(subject, Place::Read(rows)),
                // The subject's own file counts.
                Some(Place::Files(_)) => {}
                Some(Place::Read(_)) => {
                    let file =
                        rows.first().map_or_else(|| self.path.clone(), |row| row.source.path.to_path_buf());
                    return Err(self.twice(&subject, &file));
                }
            }
        }
        Ok(())
    }

    /// Reads the files that hold all subjects.
    fn read_mixed(&mut self) -> Result<()> {
        let splits: Vec<Option<String>> = self.parts.keys().cloned().collect();
        for split in splits {
            let Some(Place::Files(files)) = self.parts.get_mut(&split).and_then(|parts| parts.remove(ALL))
            else {
                continue;
            };
            self.belongs_together(&split, &files[0])?;
            let rows = files.iter().flat_map(|file| records(file)).collect::<Result<_, _>>()?;
            self.add_subjects_of(split, Some(ALL.to_owned()), rows)?;
        }
        Ok(())
    }

    /// Refuses a file of all subjects of one benchmark beside single subjects of another.
    fn belongs_together(&self, split: &Option<String>, all: &Path) -> Result<()> {
        let folder = all.parent().unwrap_or(&self.path);
        let is_all = folder.file_name().is_some_and(|name| name == ALL || name == "data");
        let benchmark = if is_all { folder.parent().unwrap_or(folder) } else { folder };
        let files = self.parts.get(split).into_iter().flatten().filter_map(|(_, place)| match place {
            Place::Files(files) => files.first(),
            Place::Read(_) => None,
        });
        match files.into_iter().find(|file| !file.starts_with(benchmark)) {
            Some(other) => Err(self.problem(format!(
                "`{}` holds all subjects, and `{}` is of another folder: name one folder of the two",
                all.display(),
                other.display()
            ))),
            None => Ok(()),
        }
    }

    fn twice(&self, key: &str, file: &Path) -> Error {
        self.problem(format!(
            "`{}` holds `{key}` too, which another file beside it holds already: name one folder of the two",
            file.display()
        ))
    }

    fn problem(&self, problem: String) -> Error {
        Error::File { path: self.path.clone(), problem }
    }
}

impl Named {
    /// What the name of a file says, given below the folder that it was found in.
    fn of(file: &Path, wanted: &str) -> Self {
        let split_of = |name: &str| {
            let known = SPLITS.iter().find(|(known, _)| *known == name).map(|(_, split)| *split);
            known.or((name == wanted).then_some(wanted)).map(str::to_owned)
        };
        let stem = file.file_stem().unwrap_or_default().to_string_lossy();
        let folder = file.parent().and_then(Path::file_name).map(|name| name.to_string_lossy());
        let whole = stem.split_once("-00").map_or(&*stem, |(whole, _)| whole);
        if let Some(split) = split_of(whole) {
            let key = folder.filter(|name| *name != "data").map(std::borrow::Cow::into_owned);
            return Self { split: Some(split), key };
        }
        let cut = whole.rsplit_once('_').and_then(|(key, split)| Some((key, split_of(split)?)));
        if let Some((key, split)) = cut.filter(|(key, _)| !key.is_empty()) {
            return Self { split: Some(split), key: Some(key.to_owned()) };
        }
        let split = folder.and_then(|name| split_of(&name));
        Self { split, key: Some(stem.into_owned()) }
    }
}

fn canonical(split: &str) -> &str {
    SPLITS.iter().find(|(known, _)| *known == split).map_or(split, |(_, split)| split)
}

/// What a file is a part of, if its name says so: `test` of `test-00000-of-00002.parquet` in the same folder.
fn whole_of(file: &Path) -> Option<PathBuf> {
    let (whole, _) = file.file_stem()?.to_str()?.split_once("-00")?;
    Some(file.with_file_name(whole))
}

fn is_archive(path: &Path) -> bool {
    ends_in(path, &["zip"])
}

fn ends_in(path: &Path, endings: &[&str]) -> bool {
    let ending = path.extension().unwrap_or_default();
    endings.iter().any(|known| ending.eq_ignore_ascii_case(known))
}

fn text<'a>(fields: &'a Map<String, Value>, name: &str) -> Option<&'a str> {
    fields.get(name).and_then(Value::as_str).filter(|text| !text.trim().is_empty())
}
