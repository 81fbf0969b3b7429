//! The quickstart's folder: what stands where, whose it is, and the recipes in it.
//!
//! Nothing is removed that the quickstart does not write itself.

use std::path::{Path, PathBuf};

use anyhow::Result;
use danlu_formats::write_file_atomically;
use fs_err as fs;
use serde_json::{Value, json};

use super::Settings;
use crate::failure::wrong_input;

/// Says that the folder is a quickstart's; holds its settings and, at the end, its figures.
const MARKER: &str = "quickstart.json";
const FOLDERS: [&str; 4] = ["data", "tokenizer", "pretrained", "model"];
const FILES: [&str; 3] = ["pretrain.yaml", "sft.yaml", "report.html"];

const PRETRAIN: &str = include_str!("pretrain.yaml");
const SFT: &str = include_str!("sft.yaml");
/// Passes that take [`FULL_MINUTES`] together, with everything around them.
const PRETRAIN_EPOCHS: f64 = 1.0;
const SFT_EPOCHS: f64 = 3.0;
/// Minutes of the whole work at its full size.
pub const FULL_MINUTES: f64 = 4.0;

/// Paths below the folder, as text, for recipes and for messages.
pub struct Folder {
    root: String,
}

impl Folder {
    /// Creates the folder, or empties the one of an earlier quickstart; writes the recipes into it.
    ///
    /// # Errors
    /// A folder with something else in it, or one that cannot be written.
    pub fn create(settings: &Settings) -> Result<Self> {
        let root = settings.dir.to_str().ok_or_else(|| {
            wrong_input(format!("`{}` is not valid UTF-8: choose another `--dir`", settings.dir.display()))
        })?;
        let folder = Self { root: root.to_owned() };
        fs::create_dir_all(root)?;
        if folder.path(MARKER).is_file() {
            folder.clear()?;
        } else if fs::read_dir(root)?.next().is_some() {
            return Err(wrong_input(format!(
                "`{root}` is not empty and was not made by `danlu quickstart`: choose another folder with `--dir`"
            )));
        }
        folder.mark(settings, &json!({}))?;
        folder.write_recipes(settings)?;
        Ok(folder)
    }

    /// A file or folder in it.
    pub fn path(&self, name: &str) -> PathBuf {
        Path::new(&self.root).join(name)
    }

    /// [`path`](Self::path) as text.
    pub fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// Writes settings and `figures` into the marker.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn mark(&self, settings: &Settings, figures: &Value) -> Result<()> {
        let mut value = json!({
            "danlu": env!("CARGO_PKG_VERSION"),
            "seed": settings.seed,
            "minutes": settings.minutes,
        });
        if let (Some(value), Some(figures)) = (value.as_object_mut(), figures.as_object()) {
            value.extend(figures.clone());
        }
        Ok(write_file_atomically(self.path(MARKER), format!("{value:#}\n").as_bytes())?)
    }

    fn clear(&self) -> Result<()> {
        for name in FOLDERS.map(|name| self.path(name)).iter().filter(|path| path.is_dir()) {
            fs::remove_dir_all(name)?;
        }
        for name in FILES.map(|name| self.path(name)).iter().filter(|path| path.is_file()) {
            fs::remove_file(name)?;
        }
        Ok(())
    }

    fn write_recipes(&self, settings: &Settings) -> Result<()> {
        // A JSON string is a YAML string, whatever characters the path has.
        let quoted = |name: &str| Value::from(self.text(name)).to_string();
        let scale = settings.minutes / FULL_MINUTES;
        for (name, text, epochs, output) in [
            ("pretrain.yaml", PRETRAIN, PRETRAIN_EPOCHS, "pretrained"),
            ("sft.yaml", SFT, SFT_EPOCHS, "model"),
        ] {
            let text = text
                .replace("{dir}", &self.root.replace('\n', " "))
                .replace("{tokenizer}", &quoted("tokenizer"))
                .replace("{corpus}", &quoted("data/corpus/corpus.jsonl"))
                .replace("{dataset}", &quoted("data/sft.jsonl"))
                .replace("{pretrained}", &quoted("pretrained"))
                .replace("{epochs}", &(epochs * scale).to_string())
                .replace("{seed}", &settings.seed.to_string())
                .replace("{output}", &quoted(output));
            write_file_atomically(self.path(name), text.as_bytes())?;
        }
        Ok(())
    }
}
