//! Names of files → what they hold. It opens nothing.

use std::path::{Path, PathBuf};

use fs_err as fs;

use crate::error::{DataError, Result};

/// The endings that are read, for messages.
pub const READ_ENDINGS: &str = "`.jsonl`, `.json`, `.csv`, `.tsv`, `.txt` (also with `.gz` or `.zst` behind it, or in a \
                                `.zip`), `.parquet`, `.arrow` or `.xlsx`";

/// How rows lie in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Text,
    Json,
    JsonLines,
    Csv { separator: u8 },
    Parquet,
    Arrow,
    Workbook,
    Archive,
}

/// What a text file is packed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Packing {
    None,
    Gzip,
    Zstandard,
}

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileKind {
    pub(super) form: Form,
    pub(super) packing: Packing,
}

impl FileKind {
    pub(super) fn of(path: &Path) -> Option<Self> {
        let packing = match ending(path)?.as_str() {
            "gz" => Packing::Gzip,
            "zst" => Packing::Zstandard,
            _ => Packing::None,
        };
        let form = match packing {
            Packing::None => Form::of(&ending(path)?)?,
            _ => Form::of(&ending(Path::new(path.file_stem()?))?)?,
        };
        // Tables are packed inside.
        let kind = Self { form, packing };
        (kind.is_text() || packing == Packing::None).then_some(kind)
    }

    pub(super) fn is_text(self) -> bool {
        !matches!(self.form, Form::Parquet | Form::Arrow | Form::Workbook | Form::Archive)
    }
}

impl Form {
    fn of(ending: &str) -> Option<Self> {
        Some(match ending {
            "txt" => Self::Text,
            "json" => Self::Json,
            "jsonl" | "ndjson" => Self::JsonLines,
            "csv" => Self::Csv { separator: b',' },
            "tsv" => Self::Csv { separator: b'\t' },
            "parquet" => Self::Parquet,
            "arrow" => Self::Arrow,
            "xlsx" => Self::Workbook,
            "zip" => Self::Archive,
            _ => return None,
        })
    }
}

fn ending(path: &Path) -> Option<String> {
    Some(path.extension()?.to_str()?.to_ascii_lowercase())
}

/// A workbook's file and the sheet that is named behind `#`; any other path as it is.
pub fn split_sheet(path: &Path) -> (&Path, Option<&str>) {
    let is_workbook = |file: &str| file.to_ascii_lowercase().ends_with(".xlsx");
    match path.to_str().and_then(|path| path.rsplit_once('#')) {
        Some((file, sheet)) if is_workbook(file) && !path.exists() => (Path::new(file), Some(sheet)),
        _ => (path, None),
    }
}

/// Whether places in a file are rows and not lines.
pub(super) fn has_rows(path: &Path) -> bool {
    let is_table =
        |path: &Path| ending(path).is_some_and(|ending| ["parquet", "arrow", "xlsx"].contains(&&*ending));
    is_table(path)
        || path.to_str().and_then(|path| path.rsplit_once('#')).is_some_and(|path| is_table(path.0.as_ref()))
}

/// Whether a file of a folder only accompanies the data: a licence, a readme, what `datasets` writes beside it, a hidden
/// file.
pub(super) fn is_beside_data(path: &Path) -> bool {
    const NAMES: [&str; 5] = ["license", "licence", "readme", "notice", "changelog"];
    const OF_DATASETS: [&str; 4] =
        ["dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"];
    let Some(name) = path.file_name().map(|name| name.to_string_lossy().to_ascii_lowercase()) else {
        return true;
    };
    let is_plain = ending(path).is_none_or(|ending| ["txt", "md", "rst"].contains(&ending.as_str()));
    let stem = name.split('.').next().unwrap_or_default();
    let is_about = NAMES.contains(&stem) || stem.starts_with("readme_") || stem.starts_with("license-");
    name.starts_with('.') || OF_DATASETS.contains(&name.as_str()) || is_plain && is_about
}

/// Lists the data files below a folder in the order of their names.
pub(super) fn list_folder(folder: &Path, files: &mut Vec<PathBuf>, ignored: &mut Vec<PathBuf>) -> Result<()> {
    let mut entries = fs::read_dir(folder)?.collect::<std::io::Result<Vec<_>>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        // Links to folders are not followed: they could lead in circles.
        if entry.file_type()?.is_dir() {
            list_folder(&path, files, ignored)?;
        } else if FileKind::of(&path).is_some() && !is_beside_data(&path) {
            files.push(path);
        } else {
            ignored.push(path);
        }
    }
    Ok(())
}

/// The error for a file whose ending is not read, with the program that converts it.
pub(super) fn refusal(path: &Path) -> DataError {
    let name = path.display();
    let advice = match ending(path).as_deref() {
        Some("pdf") => format!("make text of it: `pdftotext -enc UTF-8 {name} FILE.txt` (poppler)"),
        Some("docx" | "odt" | "rtf" | "epub" | "html" | "htm" | "md") => {
            format!("make text of it: `pandoc --to plain --wrap none {name} --output FILE.txt`")
        }
        Some("doc" | "wps" | "mobi" | "azw3") => {
            format!("make text of it: `soffice --headless --convert-to txt:Text {name}` (LibreOffice)")
        }
        Some("xls" | "xlsb" | "ods" | "et") => {
            format!("make a workbook of it: `soffice --headless --convert-to xlsx {name}` (LibreOffice)")
        }
        Some("bz2") => format!("unpack it: `bunzip2 {name}`"),
        Some("xz") => format!("unpack it: `unxz {name}`"),
        Some("tar" | "tgz") => format!("unpack it: `tar xf {name}`"),
        Some("7z" | "rar") => format!("unpack it: `7z x {name}`"),
        Some("gz" | "zst") => {
            "of packed files only text is read: unpack it, or name what is inside, as in `rows.jsonl.gz`"
                .to_owned()
        }
        _ => "convert the file to one of these".to_owned(),
    };
    DataError::UnknownEnding { path: path.to_owned(), advice }
}
