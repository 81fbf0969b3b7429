//! Which files are cleaned: all of the inputs, or of each folder a few, drawn by a seed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::error::Result;
use crate::record_writer::{folder_is_there, refuse_output_in};
use crate::records::Records;

/// A few files of each folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SampleFiles {
    /// Files of a folder, without its subfolders.
    pub per_folder: usize,
    /// The same seed draws the same files, wherever the folder lies.
    pub seed: u64,
}

/// Files of the inputs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inputs {
    /// Those that are read, in order.
    pub files: Vec<PathBuf>,
    /// Those of folders that are not read because of their ending.
    pub ignored: Vec<PathBuf>,
}

/// Lists the files of `inputs`, files or folders.
///
/// # Errors
/// An input that is not there or holds nothing that is read.
pub fn list_files(inputs: &[PathBuf], sample: Option<SampleFiles>) -> Result<Inputs> {
    let mut all = Inputs::default();
    for input in inputs {
        let records = Records::open(input)?;
        all.ignored.extend_from_slice(records.ignored());
        let files: Vec<PathBuf> = records.files().map(Path::to_path_buf).collect();
        all.files.extend(match sample {
            Some(sample) if input.is_dir() => draw(files, input, sample),
            _ => files,
        });
    }
    Ok(all)
}

impl Inputs {
    /// Refuses an output that would be read: as one of the files, or in one of the folders at the next run.
    ///
    /// # Errors
    /// [`OutputInInput`](crate::DataError::OutputInInput); a folder of the output that is not there.
    pub fn refuse_output(inputs: &[PathBuf], output: &Path) -> Result<()> {
        folder_is_there(output)?;
        refuse_output_in(inputs, output)
    }
}

/// Those with the lowest hashes, so that a new file changes at most one choice.
fn draw(files: Vec<PathBuf>, input: &Path, sample: SampleFiles) -> Vec<PathBuf> {
    let mut folders: BTreeMap<PathBuf, Vec<([u8; 32], PathBuf)>> = BTreeMap::new();
    for file in files {
        let name = file.strip_prefix(input).unwrap_or(&file);
        let mut hash = Sha256::new();
        hash.update(sample.seed.to_le_bytes());
        hash.update(name.as_os_str().as_encoded_bytes());
        let folder = file.parent().map(Path::to_path_buf).unwrap_or_default();
        folders.entry(folder).or_default().push((hash.finalize().into(), file));
    }
    let mut drawn = Vec::new();
    for mut files in folders.into_values() {
        files.sort();
        let mut chosen: Vec<PathBuf> =
            files.into_iter().take(sample.per_folder).map(|(_, file)| file).collect();
        chosen.sort();
        drawn.extend(chosen);
    }
    drawn
}

#[cfg(test)]
mod tests {
    use fs_err as fs;

    use super::*;

    fn names(folder: &Path, seed: u64) -> Vec<String> {
        let sample = SampleFiles { per_folder: 1, seed };
        let files = list_files(&[folder.to_owned()], Some(sample)).unwrap().files;
        files.iter().map(|file| file.strip_prefix(folder).unwrap().display().to_string()).collect()
    }

    #[test]
    fn one_file_of_each_folder_is_drawn_by_the_seed() {
        let fill = |folder: &Path| {
            for name in ["诗", "小说/古", "小说/今"] {
                fs::create_dir_all(folder.join(name)).unwrap();
                (0..9).for_each(|number| {
                    fs::write(folder.join(name).join(format!("{number}.txt")), "x").unwrap()
                });
                fs::write(folder.join(name).join("cover.png"), "x").unwrap();
            }
        };
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fill(one.path());
        fill(other.path());
        let drawn = names(one.path(), 7);
        assert_eq!(drawn.len(), 3);
        assert_eq!(drawn, names(other.path(), 7));
        assert!((0..5).any(|seed| names(one.path(), seed) != drawn));
    }

    #[test]
    fn an_output_among_the_inputs_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.jsonl");
        fs::write(&file, "").unwrap();
        let refused = |inputs: &[PathBuf], output: &Path| Inputs::refuse_output(inputs, output).is_err();
        assert!(refused(std::slice::from_ref(&file), &folder.path().join("./a.jsonl")));
        assert!(refused(&[folder.path().to_owned()], &folder.path().join("new.jsonl")));
        assert!(!refused(std::slice::from_ref(&file), &folder.path().join("new.jsonl")));
        assert!(refused(&[file], &folder.path().join("absent/new.jsonl")));
    }
}
