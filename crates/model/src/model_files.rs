//! Which files decide what a model says, so that what it said once can be told from what another would. It reads none of them.

use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use fs_err as fs;

use crate::Result;

/// How names of files with weights end, and names of those that say what they mean.
const WEIGHTS: [&str; 5] = ["safetensors", "gguf", "bin", "pth", "pt"];
const CONFIGURATIONS: [&str; 4] =
    ["config.json", "adapter_config.json", "params.json", "quantize_config.json"];

/// Name, bytes and time of change of a model's file, or of those of its folder that decide what it says.
///
/// # Errors
/// A folder or file that cannot be read.
pub fn model_files(path: &Path) -> Result<Vec<(String, u64, String)>> {
    // The index of a model's parts stands for its folder.
    let folder = match path.to_string_lossy().ends_with(".index.json") {
        true => path.parent().filter(|parent| parent.is_dir()),
        false => Some(path).filter(|path| path.is_dir()),
    };
    let mut paths = vec![path.to_owned()];
    if let Some(folder) = folder {
        paths = fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
        paths.retain(|path| {
            let is_weights = path.extension().is_some_and(|end| WEIGHTS.iter().any(|known| end == *known));
            path.is_file() && (is_weights || CONFIGURATIONS.iter().any(|name| path.ends_with(name)))
        });
    }
    paths.sort();
    let file = |path: PathBuf| {
        let metadata = fs::metadata(&path)?;
        let changed = metadata.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok((name, metadata.len(), format!("{changed:?}")))
    };
    paths.into_iter().map(file).collect()
}
