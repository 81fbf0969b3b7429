//! Which files of a repository are needed: one form of the weights with the configuration and the tokenizer, not the same
//! weights three times.

use std::path::{Path, PathBuf};

use fs_err as fs;

use crate::{Error, RemoteFile, Repository, Result};

/// What training leaves beside weights.
const NO_WEIGHTS: [&str; 4] = ["training_args.bin", "optimizer.bin", "scheduler.bin", "rng_state.pth"];
/// The vocabularies that are read.
const TOKENIZERS: [&str; 2] = ["tokenizer.json", "tokenizer.model"];

/// Whether a file of this name holds weights.
pub(crate) fn is_weights(name: &str) -> bool {
    let ends = [".safetensors", ".bin", ".pth", ".pt", ".gguf"];
    ends.iter().any(|end| name.ends_with(end)) && !NO_WEIGHTS.contains(&name)
}

/// Whether one of the names is that of a vocabulary.
pub(crate) fn holds_vocabulary(names: &[String]) -> bool {
    names.iter().any(|name| TOKENIZERS.contains(&name.as_str()) || name.ends_with(".gguf"))
}

/// Small files beside the weights: configuration, tokenizer, template.
fn is_beside(name: &str) -> bool {
    [".json", ".model", ".txt", ".jinja"].iter().any(|end| name.ends_with(end))
}

/// The files of a model or adapter: safetensors, else PyTorch's, else the only GGUF file, with what belongs to it.
///
/// # Errors
/// No weights, or several GGUF files of which one must be chosen.
pub fn model_files(repository: &Repository, files: &[RemoteFile]) -> Result<Vec<RemoteFile>> {
    let top: Vec<&RemoteFile> = files.iter().filter(|file| !file.path.contains('/')).collect();
    let weights: Vec<&RemoteFile> = top.iter().copied().filter(|file| is_weights(&file.path)).collect();
    let of = |end: &str| -> Vec<&RemoteFile> {
        weights.iter().copied().filter(|file| file.path.ends_with(end)).collect()
    };
    let problem = |text: String| Error::Files {
        id: repository.id.clone(),
        problem: text,
        files: files.iter().map(|file| file.path.clone()).collect(),
    };
    let has_model = top.iter().any(|file| file.path == "config.json");
    let adapter: Vec<&RemoteFile> =
        ["adapter_model.safetensors", "adapter_model.bin"].iter().flat_map(|name| of(name)).take(1).collect();
    let (chosen, index) = if !has_model && !adapter.is_empty() {
        (adapter, "")
    } else if let found @ [_, ..] = &of(".safetensors")[..] {
        (main_weights(found, "model"), "model.safetensors.index.json")
    } else if let found @ [_, ..] = &of(".bin")[..] {
        (main_weights(found, "pytorch_model"), "pytorch_model.bin.index.json")
    } else if let found @ [_, ..] = &[of(".pth"), of(".pt")].concat()[..] {
        (found.to_vec(), "")
    } else {
        match &of(".gguf")[..] {
            [one] => (vec![*one], ""),
            [] => {
                let text = "has no weights (safetensors, .bin, .pth, .gguf) at its top: choose files with `--include`";
                return Err(problem(text.into()));
            }
            several => {
                let example = &several[0].path;
                return Err(problem(format!(
                    "has {} GGUF files: choose one, as in `danlu download model {} --include {example}`, and give its \
                     path",
                    several.len(),
                    repository.id
                )));
            }
        }
    };
    let is_chosen = |file: &RemoteFile| chosen.iter().any(|one| one.path == file.path);
    let belongs = |file: &RemoteFile| {
        is_beside(&file.path) && (!file.path.ends_with(".index.json") || file.path == index)
    };
    Ok(top.into_iter().filter(|file| is_chosen(file) || belongs(file)).cloned().collect())
}

/// Of `NAME.EXT`, `NAME-00001-of-00002.EXT` and others the first kind that is there: authors put variants beside them.
fn main_weights<'a>(files: &[&'a RemoteFile], name: &str) -> Vec<&'a RemoteFile> {
    let stem = |file: &RemoteFile| file.path.rsplit_once('.').map_or("", |(stem, _)| stem).to_owned();
    let single: Vec<_> = files.iter().copied().filter(|file| stem(file) == name).collect();
    let is_part = |file: &&RemoteFile| {
        let stem = stem(file);
        let numbers = stem.strip_prefix(name).and_then(|rest| rest.strip_prefix('-'));
        numbers.is_some_and(|rest| {
            rest.starts_with(|letter: char| letter.is_ascii_digit()) && rest.contains("-of-")
        })
    };
    let parts: Vec<_> = files.iter().copied().filter(is_part).collect();
    match (single.is_empty(), parts.is_empty()) {
        (_, false) => parts,
        (false, true) => single,
        (true, true) => files.to_vec(),
    }
}

/// The files of a vocabulary.
///
/// # Errors
/// None is there.
pub fn tokenizer_files(repository: &Repository, files: &[RemoteFile]) -> Result<Vec<RemoteFile>> {
    let is_beside = |file: &&RemoteFile| {
        !file.path.contains('/') && is_beside(&file.path) && !file.path.ends_with(".index.json")
    };
    let found: Vec<RemoteFile> = files.iter().filter(is_beside).cloned().collect();
    if found.iter().any(|file| TOKENIZERS.contains(&file.path.as_str())) {
        return Ok(found);
    }
    let names = files.iter().map(|file| file.path.clone()).collect();
    Err(Error::Files {
        id: repository.id.clone(),
        problem: "has no `tokenizer.json` or `tokenizer.model`".into(),
        files: names,
    })
}

/// The files that match one of `include` (all, if there is none) and none of `exclude`; `*` stands for any letters,
/// slashes too, `?` for one.
///
/// # Errors
/// Nothing is left.
pub fn chosen_files(
    repository: &Repository,
    files: &[RemoteFile],
    include: &[String],
    exclude: &[String],
) -> Result<Vec<RemoteFile>> {
    let matches = |patterns: &[String], file: &RemoteFile| {
        patterns.iter().any(|pattern| matches(pattern.as_bytes(), file.path.as_bytes()))
    };
    let is_chosen =
        |file: &&RemoteFile| (include.is_empty() || matches(include, file)) && !matches(exclude, file);
    let chosen: Vec<RemoteFile> = files.iter().filter(is_chosen).cloned().collect();
    if chosen.is_empty() {
        let names = files.iter().map(|file| file.path.clone()).collect();
        let problem = "has no file that matches `--include` and `--exclude`".into();
        return Err(Error::Files { id: repository.id.clone(), problem, files: names });
    }
    Ok(chosen)
}

/// Whether `text` matches `pattern`, in time of at most their product.
pub(crate) fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut at, mut place) = (0, 0);
    let mut star = None;
    while place < text.len() {
        match pattern.get(at) {
            Some(b'*') => {
                star = Some((at, place));
                at += 1;
            }
            Some(&letter) if letter == b'?' || letter == text[place] => {
                at += 1;
                place += 1;
            }
            _ => match star {
                // The last star takes one letter more.
                Some((star_at, star_place)) => {
                    star = Some((star_at, star_place + 1));
                    (at, place) = (star_at + 1, star_place + 1);
                }
                None => return false,
            },
        }
    }
    pattern[at..].iter().all(|letter| *letter == b'*')
}

/// What to open of a folder that was downloaded: the folder, or the only file in it that is a model by itself.
pub fn model_entry(folder: PathBuf) -> PathBuf {
    if ["config.json", "adapter_config.json", "params.json"].iter().any(|name| folder.join(name).is_file()) {
        return folder;
    }
    let files = |folder: &Path| -> Vec<PathBuf> {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
        entries
            .filter(|path| path.file_name().and_then(|name| name.to_str()).is_some_and(is_weights))
            .collect()
    };
    match &files(&folder)[..] {
        [one] => one.clone(),
        _ => folder,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Kind;

    fn files(names: &[&str]) -> Vec<RemoteFile> {
        let file = |name: &&str| RemoteFile { path: (*name).into(), size: 1, sha256: None, blob: "a".into() };
        names.iter().map(file).collect()
    }

    fn chosen(names: &[&str]) -> Result<Vec<String>> {
        let repository = Repository::parse(Kind::Model, "a/b").unwrap();
        let chosen = model_files(&repository, &files(names))?;
        Ok(chosen.into_iter().map(|file| file.path).collect())
    }

    #[test]
    fn weights_come_once() {
        let beside = ["config.json", "tokenizer.json", "README.md", ".gitattributes", "onnx/model.onnx"];
        fn expected<'a>(weights: &[&'a str]) -> Vec<&'a str> {
            [&["config.json", "tokenizer.json"], weights].concat()
        }
        let choose = |weights: &[&str]| chosen(&[&beside[..], weights].concat()).unwrap();
        assert_eq!(choose(&["model.safetensors", "pytorch_model.bin"]), expected(&["model.safetensors"]));
        let parts = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
        let index = "model.safetensors.index.json";
        let others =
            ["consolidated.safetensors", "pytorch_model.bin.index.json", "original/consolidated.00.pth"];
        assert_eq!(choose(&[&parts[..], &[index], &others].concat()), expected(&[parts[0], parts[1], index]));
        assert_eq!(
            choose(&["model.safetensors", "model.fp16.safetensors"]),
            expected(&["model.safetensors"])
        );
        assert_eq!(choose(&["pytorch_model.bin", "training_args.bin"]), expected(&["pytorch_model.bin"]));
        assert_eq!(
            choose(&["gptq_model-4bit-128g.safetensors"]),
            expected(&["gptq_model-4bit-128g.safetensors"])
        );
        assert_eq!(chosen(&["Luban-1B.pth", "README.md"]).unwrap(), ["Luban-1B.pth"]);
        assert_eq!(chosen(&["m-q4_0.gguf", "README.md"]).unwrap(), ["m-q4_0.gguf"]);
        assert_eq!(
            chosen(&["adapter_config.json", "adapter_model.bin", "adapter_model.safetensors"]).unwrap(),
            ["adapter_config.json", "adapter_model.safetensors"]
        );
    }

    #[test]
    fn what_must_be_chosen_is_said() {
        let message = chosen(&["m-q4_0.gguf", "m-q8_0.gguf"]).unwrap_err().to_string();
        assert_eq!(
            message,
            "`a/b` has 2 GGUF files: choose one, as in `danlu download model a/b --include m-q4_0.gguf`, and give its \
             path; it holds `m-q4_0.gguf`, `m-q8_0.gguf`"
        );
        assert!(chosen(&["README.md"]).unwrap_err().to_string().contains("has no weights"));
        assert!(chosen(&[]).unwrap_err().to_string().ends_with("it holds no file"));
    }

    #[test]
    fn patterns_are_those_of_a_shell() {
        let cases = [
            ("*.gguf", "sub/a.gguf", true),
            ("*.gguf", "a.gguf.txt", false),
            ("a?c*", "abcd", true),
            ("*q4_k_m*", "m-q4_k_m-00001.gguf", true),
            ("config.json", "config.json", true),
            ("config", "config.json", false),
            ("**", "", true),
        ];
        for (pattern, text, expected) in cases {
            assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn a_single_file_is_the_model() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        fs::write(path.join("m.gguf"), "").unwrap();
        assert_eq!(model_entry(path.into()), path.join("m.gguf"));
        fs::write(path.join("config.json"), "").unwrap();
        assert_eq!(model_entry(path.into()), path);
    }
}
