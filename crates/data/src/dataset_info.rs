//! `dataset_info.json` as in LLaMA-Factory: a name → a file, its columns and tags. Only files on this disk; it
//! downloads nothing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use fs_err as fs;
use serde::Deserialize;

use crate::dataset_format::Tags;
use crate::error::{DataError, Result, nearest};
use crate::options::{ColumnNames, Columns};

/// A dataset whose place on disk is known.
#[derive(Debug, Clone, PartialEq)]
pub struct Located {
    /// File or folder.
    pub path: PathBuf,
    /// Columns that `dataset_info.json` names.
    pub columns: Columns,
    /// Names inside its messages.
    pub tags: Tags,
    /// At most so many rows are taken.
    pub max_rows: Option<usize>,
    /// Columns that `dataset_info.json` names and nothing reads.
    pub unused_columns: Vec<String>,
}

#[derive(Deserialize)]
struct Entry {
    file_name: Option<String>,
    hf_hub_url: Option<String>,
    ms_hub_url: Option<String>,
    #[serde(default)]
    ranking: bool,
    formatting: Option<String>,
    num_samples: Option<usize>,
    #[serde(default)]
    columns: BTreeMap<String, Option<String>>,
    #[serde(default)]
    tags: BTreeMap<String, Option<String>>,
}

/// Finds a dataset: first as a name in `dataset_dir/dataset_info.json`, then as a path, then as a path under
/// `dataset_dir`.
pub fn locate(name: &str, dataset_dir: &Path) -> Result<Located> {
    let info = dataset_dir.join("dataset_info.json");
    let info = info.is_file().then_some(info);
    let mut entries: BTreeMap<String, serde_json::Value> = match &info {
        None => BTreeMap::new(),
        Some(path) => serde_json::from_slice(&fs::read(path)?)
            .map_err(|error| DataError::DatasetInfoFile { path: path.clone(), message: error.to_string() })?,
    };
    if let (Some(info), Some(entry)) = (&info, entries.remove(name)) {
        return from_entry(entry, dataset_dir).map_err(|problem| DataError::DatasetInfo {
            info: info.clone(),
            name: name.to_owned(),
            problem,
        });
    }
    let path = [PathBuf::from(name), dataset_dir.join(name)].into_iter().find(|path| path.exists());
    match path {
        Some(path) => Ok(Located {
            path,
            columns: Columns::default(),
            tags: Tags::default(),
            max_rows: None,
            unused_columns: Vec::new(),
        }),
        None => Err(DataError::UnknownDataset {
            name: name.to_owned(),
            nearest: nearest(name, entries.keys()).cloned(),
            info,
        }),
    }
}

fn from_entry(entry: serde_json::Value, dataset_dir: &Path) -> Result<Located, String> {
    let entry: Entry = serde_json::from_value(entry).map_err(|error| error.to_string())?;
    let Some(file_name) = entry.file_name else {
        let hub = entry.hf_hub_url.or(entry.ms_hub_url).unwrap_or_default();
        return Err(format!(
            "expected `file_name`, found only a hub id (`{hub}`): download the file and name it"
        ));
    };
    if entry.ranking {
        return Err("`ranking` marks preference pairs: expected rows with one answer each".to_owned());
    }
    if entry.columns.get("kto_tag").is_some_and(Option::is_some) {
        return Err(
            "`kto_tag` marks answers as wanted or unwanted: expected rows with wanted answers only, \
                    without `kto_tag`"
                .to_owned(),
        );
    }
    let path = dataset_dir.join(&file_name);
    if !path.exists() {
        return Err(format!("`file_name`: `{}` is not there", path.display()));
    }
    let (columns, unused_columns) = known_columns(entry.columns, entry.formatting.as_deref())?;
    let tag = |name: &str| entry.tags.get(name).cloned().flatten();
    let tags = Tags {
        role: tag("role_tag"),
        content: tag("content_tag"),
        user: tag("user_tag"),
        assistant: tag("assistant_tag"),
        system: tag("system_tag"),
    };
    Ok(Located { path, columns, tags, max_rows: entry.num_samples, unused_columns })
}

fn known_columns(
    given: BTreeMap<String, Option<String>>,
    formatting: Option<&str>,
) -> Result<(Columns, Vec<String>), String> {
    let mut columns = Columns::default();
    let mut unused = Vec::new();
    for (key, value) in given {
        match key.as_str() {
            "text" => columns.text = value.map(ColumnNames::One),
            "prompt" => columns.prompt = value,
            "query" => columns.query = value,
            "response" => columns.response = value,
            "history" => columns.history = value,
            "system" => columns.system = value,
            "messages" => columns.messages = value,
            _ => unused.push(key),
        }
    }
    match formatting {
        None | Some("alpaca") => {}
        Some("sharegpt" | "openai") => {
            let usual = if formatting == Some("openai") { "messages" } else { "conversations" };
            columns.messages.get_or_insert_with(|| usual.to_owned());
        }
        Some(other) => {
            return Err(format!("`formatting`: found `{other}`, expected `alpaca`, `sharegpt` or `openai`"));
        }
    }
    Ok((columns, unused))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(info: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("dataset_info.json"), info).unwrap();
        fs::write(folder.path().join("rows.json"), "[]").unwrap();
        folder
    }

    #[test]
    fn a_name_gives_file_columns_and_tags() {
        let folder = folder(
            r#"{"talk": {"file_name": "rows.json", "formatting": "sharegpt", "num_samples": 5,
                "columns": {"messages": "turns", "tools": "tools"}, "tags": {"role_tag": "who", "user_tag": "me"}}}"#,
        );
        let located = locate("talk", folder.path()).unwrap();
        assert_eq!(located.path, folder.path().join("rows.json"));
        assert_eq!(located.columns.messages.as_deref(), Some("turns"));
        assert_eq!((located.tags.role.as_deref(), located.tags.user.as_deref()), (Some("who"), Some("me")));
        assert_eq!(located.max_rows, Some(5));
        assert_eq!(located.unused_columns, ["tools"]);
        assert_eq!(locate("rows.json", folder.path()).unwrap().path, folder.path().join("rows.json"));
    }

    #[test]
    fn wrong_names_and_entries_say_what_to_do() {
        let folder = folder(
            r#"{"identity": {"file_name": "gone.json"}, "far": {"hf_hub_url": "org/far"},
                "pairs": {"file_name": "rows.json", "ranking": true},
                "odd": {"file_name": "rows.json", "formatting": "csv"}}"#,
        );
        let info = folder.path().join("dataset_info.json");
        let message = |name: &str| locate(name, folder.path()).unwrap_err().to_string();
        assert_eq!(
            message("identty"),
            format!(
                "dataset `identty` was not found: it is no file or folder, and no name in `{}`; did you mean `identity`?",
                info.display()
            )
        );
        let start = |name: &str| format!("{}: dataset `{name}`: ", info.display());
        let gone = folder.path().join("gone.json");
        assert_eq!(
            message("identity"),
            format!("{}`file_name`: `{}` is not there", start("identity"), gone.display())
        );
        assert_eq!(
            message("far"),
            format!(
                "{}expected `file_name`, found only a hub id (`org/far`): download the file and name it",
                start("far")
            )
        );
        assert_eq!(
            message("pairs"),
            format!("{}`ranking` marks preference pairs: expected rows with one answer each", start("pairs"))
        );
        assert_eq!(
            message("odd"),
            format!("{}`formatting`: found `csv`, expected `alpaca`, `sharegpt` or `openai`", start("odd"))
        );
    }

    #[test]
    fn a_broken_dataset_info_names_its_line() {
        let folder = folder("{\n\"a\": ]\n}");
        let message = locate("a", folder.path()).unwrap_err().to_string();
        assert!(message.ends_with(
            "dataset_info.json: expected value at line 2 column 6; \
             expected an object that maps dataset names to entries with `file_name`"
        ));
    }
}
