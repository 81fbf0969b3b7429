//! `dataset_info.json` as in LLaMA-Factory: a name → a file, its columns and tags. It downloads nothing: it says which
//! names stand for data sets of a hub, and is told where their files are.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use fs_err as fs;
use serde::Deserialize;

use crate::dataset_format::Tags;
use crate::error::{DataError, Result, nearest};
use crate::options::{ColumnNames, Columns, DataOptions};

/// A dataset whose place on disk is known.
#[derive(Debug, Clone, PartialEq)]
pub struct Located {
    /// File or folder.
    pub path: PathBuf,
    /// Of a data set of a hub: its files.
    pub files: Option<Vec<PathBuf>>,
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
    subset: Option<String>,
    folder: Option<String>,
    split: Option<String>,
    #[serde(default)]
    ranking: bool,
    formatting: Option<String>,
    num_samples: Option<usize>,
    #[serde(default)]
    columns: BTreeMap<String, Option<String>>,
    #[serde(default)]
    tags: BTreeMap<String, Option<String>>,
}

/// An entry that names a data set of a hub, in the words of `dataset_info.json`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HubEntry {
    /// The entry's name.
    pub name: String,
    /// `hf_hub_url`: its id at Hugging Face.
    pub hugging_face: Option<String>,
    /// `ms_hub_url`: its id at ModelScope.
    pub model_scope: Option<String>,
    /// A part by its name.
    pub subset: Option<String>,
    /// Only what is below this folder.
    pub folder: Option<String>,
    /// `train` without one.
    pub split: Option<String>,
}

/// Those of `names` that stand for data sets of a hub: entries with an id and without a file that is here.
///
/// # Errors
/// `dataset_info.json` that cannot be read. Entries that cannot be used are left to [`locate`].
pub fn hub_entries(names: &[String], dataset_dir: &Path) -> Result<Vec<HubEntry>> {
    let (_, mut entries) = read_info(dataset_dir)?;
    let of_hub = |name: &String| {
        let entry: Entry = serde_json::from_value(entries.remove(name)?).ok()?;
        let is_here = entry.file_name.as_ref().is_some_and(|file| dataset_dir.join(file).exists());
        let Entry { hf_hub_url: hugging_face, ms_hub_url: model_scope, subset, folder, split, .. } = entry;
        let is_hub = hugging_face.is_some() || model_scope.is_some();
        let entry = HubEntry { name: name.clone(), hugging_face, model_scope, subset, folder, split };
        (is_hub && !is_here).then_some(entry)
    };
    Ok(names.iter().filter_map(of_hub).collect())
}

type Entries = BTreeMap<String, serde_json::Value>;

/// The file, if there is one, and its entries.
fn read_info(dataset_dir: &Path) -> Result<(Option<PathBuf>, Entries)> {
    let info = dataset_dir.join("dataset_info.json");
    if !info.is_file() {
        return Ok((None, BTreeMap::new()));
    }
    match serde_json::from_slice(&fs::read(&info)?) {
        Ok(entries) => Ok((Some(info), entries)),
        Err(error) => Err(DataError::DatasetInfoFile { path: info, message: error.to_string() }),
    }
}

/// Finds a dataset: first as a name in `dataset_dir/dataset_info.json`, then as a path, then as a path under
/// `dataset_dir`.
pub fn locate(name: &str, options: &DataOptions) -> Result<Located> {
    let dataset_dir = &options.dataset_dir;
    let (info, mut entries) = read_info(dataset_dir)?;
    if let (Some(info), Some(entry)) = (&info, entries.remove(name)) {
        let files = options.downloaded.get(name).cloned();
        return from_entry(entry, dataset_dir, files).map_err(|problem| DataError::DatasetInfo {
            info: info.clone(),
            name: name.to_owned(),
            problem,
        });
    }
    let path = [PathBuf::from(name), dataset_dir.join(name)].into_iter().find(|path| path.exists());
    match path {
        Some(path) => Ok(Located {
            path,
            files: None,
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

fn from_entry(
    entry: serde_json::Value,
    dataset_dir: &Path,
    files: Option<Vec<PathBuf>>,
) -> Result<Located, String> {
    let entry: Entry = serde_json::from_value(entry).map_err(|error| error.to_string())?;
    let hub = entry.hf_hub_url.or(entry.ms_hub_url);
    let path = match (&files, &entry.file_name, &hub) {
        (Some(files), ..) => files.first().and_then(|file| file.parent()).unwrap_or(dataset_dir).to_owned(),
        (None, Some(file_name), _) => dataset_dir.join(file_name),
        (None, None, Some(hub)) => {
            return Err(format!(
                "`{hub}` was not downloaded: get it with `danlu download dataset {hub}` and name its files with `file_name`"
            ));
        }
        (None, None, None) => {
            return Err("expected `file_name`, `hf_hub_url` or `ms_hub_url`, found none of them".to_owned());
        }
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
    Ok(Located { path, files, columns, tags, max_rows: entry.num_samples, unused_columns })
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

    fn at(name: &str, folder: &Path) -> Result<Located> {
        locate(name, &DataOptions { dataset_dir: folder.to_owned(), ..DataOptions::default() })
    }

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
        let located = at("talk", folder.path()).unwrap();
        assert_eq!(located.path, folder.path().join("rows.json"));
        assert_eq!(located.columns.messages.as_deref(), Some("turns"));
        assert_eq!((located.tags.role.as_deref(), located.tags.user.as_deref()), (Some("who"), Some("me")));
        assert_eq!(located.max_rows, Some(5));
        assert_eq!(located.unused_columns, ["tools"]);
        assert_eq!(at("rows.json", folder.path()).unwrap().path, folder.path().join("rows.json"));
    }

    #[test]
    fn wrong_names_and_entries_say_what_to_do() {
        let folder = folder(
            r#"{"identity": {"file_name": "gone.json"}, "far": {"hf_hub_url": "org/far"},
                "pairs": {"file_name": "rows.json", "ranking": true},
                "odd": {"file_name": "rows.json", "formatting": "csv"}}"#,
        );
        let info = folder.path().join("dataset_info.json");
        let message = |name: &str| at(name, folder.path()).unwrap_err().to_string();
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
                "{}`org/far` was not downloaded: get it with `danlu download dataset org/far` and name its files with \
                 `file_name`",
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
    fn entries_of_a_hub_are_told_and_take_files() {
        let folder = folder(
            r#"{"far": {"hf_hub_url": "org/far", "ms_hub_url": "Org/far", "subset": "zh", "folder": "f", "split": "test"},
                "near": {"file_name": "rows.json", "hf_hub_url": "org/near"},
                "gone": {"file_name": "gone.json", "ms_hub_url": "org/gone"}}"#,
        );
        let names = ["far", "near", "gone", "unknown", "rows.json"].map(str::to_owned);
        let entries = hub_entries(&names, folder.path()).unwrap();
        let text = |text: &str| Some(text.to_owned());
        let far = HubEntry {
            name: "far".into(),
            hugging_face: text("org/far"),
            model_scope: text("Org/far"),
            subset: text("zh"),
            folder: text("f"),
            split: text("test"),
        };
        let gone = HubEntry { name: "gone".into(), model_scope: text("org/gone"), ..HubEntry::default() };
        assert_eq!(entries, [far, gone]);
        let files = vec![folder.path().join("rows.json")];
        let options = DataOptions {
            dataset_dir: folder.path().to_owned(),
            downloaded: [("far".to_owned(), files.clone())].into(),
            ..DataOptions::default()
        };
        assert_eq!(locate("far", &options).unwrap().files, Some(files));
        assert_eq!(locate("near", &options).unwrap().files, None);
    }

    #[test]
    fn a_broken_dataset_info_names_its_line() {
        let folder = folder("{\n\"a\": ]\n}");
        let message = at("a", folder.path()).unwrap_err().to_string();
        assert!(message.ends_with(
            "dataset_info.json: expected value at line 2 column 6; \
             expected an object that maps dataset names to entries with `file_name`"
        ));
    }
}
