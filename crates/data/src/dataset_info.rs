//! `dataset_info.json` as in LLaMA-Factory: a name → a file, its columns and tags. It downloads nothing: it says which
//! names stand for data sets of a hub, and is told where their files are.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use fs_err as fs;
use serde::Deserialize;

use crate::dataset_format::Tags;
use crate::error::{DataError, Result, did_you_mean, nearest};
use crate::options::{ColumnNames, Columns, DataOptions};
use crate::records::split_sheet;

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
    /// What the user should know: what of the entry or the folder is not used.
    pub notices: Vec<String>,
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
    script_url: Option<String>,
    cloud_file_name: Option<serde_json::Value>,
    /// What is neither above nor known to be without effect here.
    #[serde(flatten)]
    others: BTreeMap<String, serde_json::Value>,
}

/// Keys of an entry, for messages about misspelt ones.
const KEYS: [&str; 13] = [
    "file_name",
    "hf_hub_url",
    "ms_hub_url",
    "subset",
    "folder",
    "split",
    "ranking",
    "formatting",
    "num_samples",
    "columns",
    "tags",
    "script_url",
    "cloud_file_name",
];
/// Keys that say where else a data set is, or what its bytes are.
const WITHOUT_EFFECT: [&str; 2] = ["om_hub_url", "file_sha1"];
const TAGS: [&str; 7] =
    ["role_tag", "content_tag", "user_tag", "assistant_tag", "observation_tag", "function_tag", "system_tag"];
/// Columns of what is no text.
const MEDIA: [&str; 3] = ["images", "videos", "audios"];

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
        return from_entry(name, entry, dataset_dir, files).map_err(|problem| DataError::DatasetInfo {
            info: info.clone(),
            name: name.to_owned(),
            problem,
        });
    }
    let path =
        [PathBuf::from(name), dataset_dir.join(name)].into_iter().find(|path| split_sheet(path).0.exists());
    match path {
        Some(path) => {
            let (files, notices) = parts(&path);
            let (columns, tags) = Default::default();
            Ok(Located { path, files, columns, tags, max_rows: None, notices })
        }
        None => Err(DataError::UnknownDataset {
            name: name.to_owned(),
            nearest: nearest(name, entries.keys()).cloned(),
            info,
        }),
    }
}

/// Of a folder with `train.jsonl` and the other parts that mlx-lm looks for, the first alone is trained on.
fn parts(path: &Path) -> (Option<Vec<PathBuf>>, Vec<String>) {
    let train = path.join("train.jsonl");
    let others: Vec<PathBuf> = ["valid.jsonl", "test.jsonl"].map(|name| path.join(name)).into();
    let others: Vec<PathBuf> = others.into_iter().filter(|path| path.is_file()).collect();
    if !train.is_file() || others.is_empty() {
        return (None, Vec::new());
    }
    let notice = |other: PathBuf| {
        format!(
            "`{}` is not read: only `train.jsonl` of its folder is; name it in `eval_dataset`",
            other.display()
        )
    };
    (Some(vec![train]), others.into_iter().map(notice).collect())
}

fn from_entry(
    name: &str,
    entry: serde_json::Value,
    dataset_dir: &Path,
    files: Option<Vec<PathBuf>>,
) -> Result<Located, String> {
    let mut entry: Entry = serde_json::from_value(entry).map_err(|error| error.to_string())?;
    let mut notices = Vec::new();
    for key in entry.others.keys().filter(|key| !WITHOUT_EFFECT.contains(&key.as_str())) {
        // A misspelt key would change what rows mean.
        if let Some(known) = nearest(key, &KEYS.map(str::to_owned)) {
            return Err(format!("there is no key `{key}`; did you mean `{known}`?"));
        }
        notices.push(format!("key `{key}` of dataset `{name}` is not used"));
    }
    if let Some(key) = entry.tags.keys().find(|key| !TAGS.contains(&key.as_str())) {
        let nearest = nearest(key, &TAGS.map(str::to_owned)).cloned();
        return Err(format!(
            "`tags`: there is no tag `{key}`, expected one of {}{}",
            TAGS.join(", "),
            did_you_mean(&nearest)
        ));
    }
    if let Some(column) = MEDIA.iter().find(|name| entry.columns.get(**name).is_some_and(Option::is_some)) {
        return Err(format!("its rows have `{column}`: expected text only"));
    }
    if entry.num_samples == Some(0) {
        return Err("`num_samples`: found 0: expected at least 1, or none to take all rows".to_owned());
    }
    let is_of_a_hub = files.is_some() || entry.file_name.is_none();
    // The one file with parts that have names is a workbook.
    let is_workbook = |name: &String| name.to_ascii_lowercase().ends_with(".xlsx");
    let sheet = if entry.file_name.as_ref().is_some_and(is_workbook) { entry.subset.take() } else { None };
    for (key, value) in [("subset", &entry.subset), ("folder", &entry.folder), ("split", &entry.split)] {
        // `train` is what a file alone is called there.
        if !is_of_a_hub && value.as_deref().is_some_and(|value| value != "train") {
            notices.push(format!("`{key}` of dataset `{name}` is not used: a file has no such part"));
        }
    }
    let hub = entry.hf_hub_url.or(entry.ms_hub_url);
    let path = match (&files, &entry.file_name, &hub) {
        (Some(files), ..) => files.first().and_then(|file| file.parent()).unwrap_or(dataset_dir).to_owned(),
        (None, Some(file_name), _) => match sheet {
            Some(sheet) => dataset_dir.join(format!("{file_name}#{sheet}")),
            None => dataset_dir.join(file_name),
        },
        (None, None, Some(hub)) => {
            return Err(format!(
                "`{hub}` was not downloaded: get it with `danlu download dataset {hub}` and name its files with `file_name`"
            ));
        }
        (None, None, None) if entry.script_url.is_some() || entry.cloud_file_name.is_some() => {
            return Err(
                "`script_url` and `cloud_file_name` are not read: expected `file_name`, `hf_hub_url` or \
                        `ms_hub_url`"
                    .to_owned(),
            );
        }
        (None, None, None) => {
            return Err("expected `file_name`, `hf_hub_url` or `ms_hub_url`, found none of them".to_owned());
        }
    };
    if !split_sheet(&path).0.exists() {
        return Err(format!("`file_name`: `{}` is not there", path.display()));
    }
    let (mut columns, unused) = known_columns(entry.columns, entry.formatting.as_deref())?;
    notices.extend(unused.iter().map(|column| format!("column `{column}` of dataset `{name}` is not used")));
    if entry.ranking {
        columns.chosen.get_or_insert_with(|| "chosen".to_owned());
        columns.rejected.get_or_insert_with(|| "rejected".to_owned());
    }
    let tag = |name: &str| entry.tags.get(name).cloned().flatten();
    let tags = Tags {
        role: tag("role_tag"),
        content: tag("content_tag"),
        user: tag("user_tag"),
        assistant: tag("assistant_tag"),
        system: tag("system_tag"),
        observation: tag("observation_tag"),
        function: tag("function_tag"),
    };
    Ok(Located { path, files, columns, tags, max_rows: entry.num_samples, notices })
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
            "tools" => columns.tools = value,
            "chosen" => columns.chosen = value,
            "rejected" => columns.rejected = value,
            "kto_tag" => columns.kto_tag = value,
            // A column that is null is one that the rows do not have.
            _ if value.is_none() => {}
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
                "columns": {"messages": "turns", "tools": "functions", "seen": "seen"}, "tags": {"role_tag": "who", "user_tag": "me"}}}"#,
        );
        let located = at("talk", folder.path()).unwrap();
        assert_eq!(located.path, folder.path().join("rows.json"));
        assert_eq!(located.columns.messages.as_deref(), Some("turns"));
        assert_eq!((located.tags.role.as_deref(), located.tags.user.as_deref()), (Some("who"), Some("me")));
        assert_eq!(located.max_rows, Some(5));
        assert_eq!(located.columns.tools.as_deref(), Some("functions"));
        assert_eq!(located.notices, ["column `seen` of dataset `talk` is not used"]);
        assert_eq!(at("rows.json", folder.path()).unwrap().path, folder.path().join("rows.json"));
    }

    #[test]
    fn wrong_names_and_entries_say_what_to_do() {
        let folder = folder(
            r#"{"identity": {"file_name": "gone.json"}, "far": {"hf_hub_url": "org/far"},
                "picture": {"file_name": "rows.json", "columns": {"images": "pictures"}},
                "script": {"script_url": "load.py"},
                "tagged": {"file_name": "rows.json", "tags": {"user": "me"}},
                "none": {"file_name": "rows.json", "num_samples": 0},
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
            message("picture"),
            format!("{}its rows have `images`: expected text only", start("picture"))
        );
        assert_eq!(
            message("none"),
            format!("{}`num_samples`: found 0: expected at least 1, or none to take all rows", start("none"))
        );
        assert!(message("script").contains("expected `file_name`, `hf_hub_url` or `ms_hub_url`"));
        assert!(message("tagged").ends_with(
            "there is no tag `user`, expected one of role_tag, content_tag, user_tag, \
            assistant_tag, observation_tag, function_tag, system_tag; did you mean `user_tag`?"
        ));
        assert_eq!(
            message("odd"),
            format!("{}`formatting`: found `csv`, expected `alpaca`, `sharegpt` or `openai`", start("odd"))
        );
    }

    #[test]
    fn lf_7577_a_misspelt_key_is_not_overlooked() {
        let folder = folder(
            r#"{"talk": {"file_name": "rows.json", "format": "sharegpt", "columns": {"messages": "messages"}},
                "other": {"file_name": "rows.json", "licence": "MIT", "om_hub_url": "a/b", "split": "test"}}"#,
        );
        let message = at("talk", folder.path()).unwrap_err().to_string();
        assert!(
            message.ends_with("dataset `talk`: there is no key `format`; did you mean `formatting`?"),
            "{message}"
        );
        let other = at("other", folder.path()).unwrap();
        let expected = [
            "key `licence` of dataset `other` is not used",
            "`split` of dataset `other` is not used: a file has no such part",
        ];
        assert_eq!(other.notices, expected);
    }

    #[test]
    fn the_subset_of_a_workbook_is_its_sheet() {
        let folder = folder(r#"{"book": {"file_name": "rows.xlsx", "subset": "问答"}}"#);
        fs::write(folder.path().join("rows.xlsx"), "").unwrap();
        let book = at("book", folder.path()).unwrap();
        assert_eq!((book.path, book.notices), (folder.path().join("rows.xlsx#问答"), Vec::new()));
    }

    #[test]
    fn ranking_names_the_columns_of_pairs() {
        let folder = folder(
            r#"{"pairs": {"file_name": "rows.json", "ranking": true, "columns": {"rejected": "bad"}}}"#,
        );
        let columns = at("pairs", folder.path()).unwrap().columns;
        assert_eq!((columns.chosen.as_deref(), columns.rejected.as_deref()), (Some("chosen"), Some("bad")));
    }

    #[test]
    fn of_a_folder_for_mlx_only_the_training_part_is_trained_on() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["train.jsonl", "test.jsonl"] {
            fs::write(folder.path().join(name), "{}").unwrap();
        }
        let located = locate(&folder.path().display().to_string(), &DataOptions::default()).unwrap();
        assert_eq!(located.files, Some(vec![folder.path().join("train.jsonl")]));
        assert!(located.notices[0].ends_with("name it in `eval_dataset`"), "{:?}", located.notices);
        fs::remove_file(folder.path().join("test.jsonl")).unwrap();
        assert_eq!(
            locate(&folder.path().display().to_string(), &DataOptions::default()).unwrap().files,
            None
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
