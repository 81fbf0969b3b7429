//! Which files of a data set are meant: its part by name, folder and split, as the `datasets` library finds them. Scripts
//! are not run, and formats that danlu does not read are refused by name.

use serde::Deserialize;

use crate::select::matches;
use crate::{Error, Hub, Listing, RemoteFile, Repository, Result};

const README: &str = "README.md";
/// What rows are read from.
const READ: [&str; 11] =
    ["json", "jsonl", "csv", "tsv", "txt", "parquet", "arrow", "xlsx", "gz", "zst", "zip"];
/// What holds rows, and is not read yet.
const NOT_READ: [&str; 4] = ["bz2", "xz", "tar", "py"];
/// Files about the data.
const ABOUT: [&str; 7] = [
    "dataset_infos.json",
    "dataset_dict.json",
    "dataset_info.json",
    "state.json",
    "requirements.txt",
    "license.txt",
    "readme.txt",
];
/// Words in names of files, by the split that they mean.
const SPLITS: [(&str, &[&str]); 3] = [
    ("train", &["train", "training"]),
    ("validation", &["validation", "valid", "dev", "val"]),
    ("test", &["test", "testing", "eval", "evaluation"]),
];

/// Which part of a data set, in the words of LLaMA-Factory's `dataset_info.json`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DatasetPart {
    /// Configuration by its name.
    pub subset: Option<String>,
    /// Only what is below this folder.
    pub folder: Option<String>,
    /// `train` without one.
    pub split: Option<String>,
}

#[derive(Deserialize)]
struct Card {
    #[serde(default)]
    configs: Vec<Configuration>,
}

#[derive(Deserialize)]
struct Configuration {
    config_name: String,
    #[serde(default)]
    default: bool,
    data_files: Option<DataFiles>,
    data_dir: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum DataFiles {
    Pattern(String),
    Patterns(Vec<String>),
    Splits(Vec<Split>),
}

#[derive(Deserialize)]
struct Split {
    split: String,
    path: Patterns,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Patterns {
    One(String),
    Many(Vec<String>),
}

impl Patterns {
    fn match_file(&self, path: &str) -> bool {
        let patterns = match self {
            Self::One(pattern) => std::slice::from_ref(pattern),
            Self::Many(patterns) => patterns,
        };
        patterns.iter().any(|pattern| {
            let pattern = pattern.trim_start_matches("./").replace("**/", "*");
            matches(pattern.as_bytes(), path.as_bytes())
        })
    }
}

impl Hub {
    /// The files of `part` of a data set.
    ///
    /// # Errors
    /// As [`listing`](Self::listing), and as [`dataset_files`].
    pub fn dataset_files(
        &self,
        repository: &Repository,
        listing: &Listing,
        part: &DatasetPart,
    ) -> Result<Vec<RemoteFile>> {
        let card = match listing.files.iter().any(|file| file.path == README) {
            true => Some(self.text(repository, &listing.commit, README)?),
            false => None,
        };
        dataset_files(repository, &listing.files, card.as_deref(), part)
    }
}

/// The files of `part`: as the data set's card says, else by folders and by words such as `train` in their names.
///
/// # Errors
/// A part that is not there, or whose files are not read.
pub fn dataset_files(
    repository: &Repository,
    files: &[RemoteFile],
    card: Option<&str>,
    part: &DatasetPart,
) -> Result<Vec<RemoteFile>> {
    let error = |problem: String, names: Vec<String>| {
        Err(Error::Files { id: repository.id.clone(), problem, files: names })
    };
    let names = |files: &[&RemoteFile]| files.iter().map(|file| file.path.clone()).collect::<Vec<_>>();
    let split = part.split.as_deref().unwrap_or("train");
    if split.contains(['[', '+']) {
        let problem =
            format!("has no split `{split}`: give its name alone, and `num_samples` for fewer rows");
        return error(problem, names(&files.iter().collect::<Vec<_>>()));
    }
    let mut found: Vec<&RemoteFile> = files.iter().filter(|file| ending(file).is_some()).collect();
    if let Some(folder) = &part.folder {
        let start = format!("{}/", folder.trim_matches('/'));
        found.retain(|file| file.path.starts_with(&start));
        if found.is_empty() {
            return error(
                format!("has no data in a folder `{folder}`"),
                names(&files.iter().collect::<Vec<_>>()),
            );
        }
    }
    let configurations = if part.folder.is_none() { configurations(card) } else { Vec::new() };
    let found = if configurations.is_empty() {
        if let Some(subset) = &part.subset {
            let start = format!("{subset}/");
            let here: Vec<&RemoteFile> =
                found.iter().copied().filter(|file| file.path.contains(&start)).collect();
            if here.is_empty() {
                return error(format!("has no subset `{subset}`"), names(&found));
            }
            found = here;
        }
        of_split(&found, split)
    } else {
        let of_name = |name: &str| configurations.iter().find(|one| one.config_name == name);
        let chosen = match &part.subset {
            Some(subset) => of_name(subset),
            None if configurations.len() == 1 => configurations.first(),
            None => configurations.iter().find(|one| one.default).or_else(|| of_name("default")),
        };
        let Some(chosen) = chosen else {
            let known: Vec<&str> = configurations.iter().map(|one| one.config_name.as_str()).collect();
            let wanted = part.subset.as_ref().map_or_else(
                || "several subsets and no default one: set `subset` to one of".to_owned(),
                |subset| format!("no subset `{subset}`: there are"),
            );
            return error(format!("has {wanted} {}", known.join(", ")), names(&found));
        };
        of_configuration(&found, chosen, split)
    };
    if found.is_empty() {
        let problem = format!("has no split `{split}`");
        let data: Vec<&RemoteFile> = files.iter().filter(|file| ending(file).is_some()).collect();
        return error(problem, names(&data));
    }
    let read: Vec<RemoteFile> = found
        .iter()
        .copied()
        .filter(|file| ending(file).is_some_and(|end| READ.contains(&end.as_str())))
        .cloned()
        .collect();
    if read.is_empty() {
        let kind = found.first().and_then(|file| ending(file)).unwrap_or_default();
        let problem = match kind.as_str() {
            "py" => "is made by a Python script, which is not run: convert it to .jsonl with the `datasets` library".into(),
            kind => format!(
                "is stored as .{kind}, which is not read yet: convert it to .jsonl or .parquet and name the file with \
                 `file_name`"
            ),
        };
        return error(problem, names(&found));
    }
    Ok(read)
}

/// The ending of a file of data.
fn ending(file: &RemoteFile) -> Option<String> {
    let name = file.path.rsplit('/').next()?.to_lowercase();
    let end = name.rsplit_once('.')?.1.to_owned();
    let is_data = READ.contains(&end.as_str()) || NOT_READ.contains(&end.as_str());
    (is_data && !ABOUT.contains(&name.as_str()) && !name.starts_with('.')).then_some(end)
}

/// What the card of a data set says in its YAML head; a head that cannot be read says nothing.
fn configurations(card: Option<&str>) -> Vec<Configuration> {
    let head = card.and_then(|text| text.trim_start_matches('\u{feff}').strip_prefix("---"));
    let head = head.and_then(|text| text.split("\n---").next());
    let card: Option<Card> = head.and_then(|text| serde_saphyr::from_str(text).ok());
    card.map_or_else(Vec::new, |card| card.configs)
}

fn of_configuration<'a>(
    files: &[&'a RemoteFile],
    chosen: &Configuration,
    split: &str,
) -> Vec<&'a RemoteFile> {
    let folder = chosen.data_dir.as_ref().map(|folder| format!("{}/", folder.trim_matches('/')));
    let within =
        |file: &&RemoteFile| folder.as_ref().is_none_or(|folder| file.path.starts_with(folder.as_str()));
    let files: Vec<&RemoteFile> = files.iter().copied().filter(|file| within(file)).collect();
    let matching = |patterns: &Patterns| {
        let relative = |file: &RemoteFile| {
            let start = folder.as_deref().unwrap_or_default();
            file.path.strip_prefix(start).unwrap_or(&file.path).to_owned()
        };
        files.iter().copied().filter(|file| patterns.match_file(&relative(file))).collect::<Vec<_>>()
    };
    match &chosen.data_files {
        None => of_split(&files, split),
        Some(DataFiles::Pattern(pattern)) => of_split(&matching(&Patterns::One(pattern.clone())), split),
        Some(DataFiles::Patterns(patterns)) => of_split(&matching(&Patterns::Many(patterns.clone())), split),
        Some(DataFiles::Splits(splits)) => {
            splits.iter().filter(|one| one.split == split).flat_map(|one| matching(&one.path)).collect()
        }
    }
}

/// Files whose path has a word for `split`; for `train` else those without a word for another.
fn of_split<'a>(files: &[&'a RemoteFile], split: &str) -> Vec<&'a RemoteFile> {
    let has_word = |file: &RemoteFile, words: &[&str]| {
        let path = file.path.to_lowercase();
        path.split(|letter: char| !letter.is_ascii_alphanumeric()).any(|word| words.contains(&word))
    };
    let known = SPLITS.iter().find(|(name, words)| *name == split || words.contains(&split));
    let named: Vec<&RemoteFile> = match known {
        Some((_, words)) => files.iter().copied().filter(|file| has_word(file, words)).collect(),
        None => files.iter().copied().filter(|file| file.path.contains(split)).collect(),
    };
    if !named.is_empty() || split != "train" {
        return named;
    }
    let is_other = |file: &RemoteFile| SPLITS[1..].iter().any(|(_, words)| has_word(file, words));
    files.iter().copied().filter(|file| !is_other(file)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Kind;

    fn choose(files: &[&str], card: Option<&str>, part: [Option<&str>; 3]) -> Result<Vec<String>, String> {
        let repository = Repository::parse(Kind::Dataset, "a/d").unwrap();
        let file = |name: &&str| RemoteFile { path: (*name).into(), size: 1, sha256: None, blob: "a".into() };
        let files: Vec<RemoteFile> = files.iter().map(file).collect();
        let [subset, folder, split] = part.map(|word| word.map(str::to_owned));
        let chosen = dataset_files(&repository, &files, card, &DatasetPart { subset, folder, split });
        chosen
            .map(|files| files.into_iter().map(|file| file.path).collect())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn words_in_names_are_splits() {
        let files = ["README.md", "data/train.jsonl", "data/test.jsonl", "dataset_infos.json", "LICENSE.txt"];
        assert_eq!(choose(&files, None, [None; 3]).unwrap(), ["data/train.jsonl"]);
        assert_eq!(choose(&files, None, [None, None, Some("test")]).unwrap(), ["data/test.jsonl"]);
        assert_eq!(
            choose(&files, None, [None, None, Some("validation")]).unwrap_err(),
            "`a/d` has no split `validation`; it holds `data/train.jsonl`, `data/test.jsonl`"
        );
        assert!(choose(&files, None, [None, None, Some("train[:9]")]).unwrap_err().contains("`num_samples`"));
        assert_eq!(choose(&["alpaca_data_zh.json"], None, [None; 3]).unwrap(), ["alpaca_data_zh.json"]);
    }

    #[test]
    fn subsets_are_folders_or_stand_in_the_card() {
        let files = ["zh/a.json", "en/a.json"];
        assert_eq!(choose(&files, None, [Some("zh"), None, None]).unwrap(), ["zh/a.json"]);
        assert_eq!(choose(&files, None, [None, Some("en"), None]).unwrap(), ["en/a.json"]);
        let card = "---\nlicense: mit\nconfigs:\n- config_name: c\n  default: true\n  data_files:\n  - split: train\n    \
                    path: zh/*.json\n- config_name: e\n  data_files: \"en/*\"\n- config_name: f\n  data_dir: en\n---\n# text";
        let of = |subset| choose(&files, Some(card), [subset, None, None]);
        assert_eq!(of(None).unwrap(), ["zh/a.json"]);
        assert_eq!(of(Some("e")).unwrap(), ["en/a.json"]);
        assert_eq!(of(Some("f")).unwrap(), ["en/a.json"]);
        assert!(of(Some("g")).unwrap_err().starts_with("`a/d` has no subset `g`: there are c, e, f"));
    }

    #[test]
    fn tables_and_packed_files_are_rows_too() {
        let files =
            ["data/train-00000-of-00001.parquet", "data/test-00000-of-00001.parquet", "x/train.json.gz"];
        assert_eq!(choose(&files, None, [None; 3]).unwrap(), [files[0], files[2]]);
    }

    #[test]
    fn what_is_not_read_is_refused_by_name() {
        let tar = choose(&["train-0.tar"], None, [None; 3]).unwrap_err();
        assert!(tar.starts_with("`a/d` is stored as .tar, which is not read yet"), "{tar}");
        assert!(choose(&["d.py"], None, [None; 3]).unwrap_err().contains("Python script, which is not run"));
        assert!(choose(&["README.md"], None, [None; 3]).unwrap_err().ends_with("it holds no file"));
    }
}
