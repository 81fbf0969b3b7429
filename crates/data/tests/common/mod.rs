//! A small real tokenizer, and a folder for the files of a test.

use std::path::{Path, PathBuf};

use danlu_tokenizer::{TokenRole, Tokenizer, TrainedToken, VocabularyTraining};
use fs_err as fs;
use tempfile::TempDir;

/// Byte-level BPE with `<s>` before raw text, `</s>` after it, and the markers of ChatML.
pub fn tokenizer() -> Tokenizer {
    let token =
        |text: &str, roles: &[TokenRole]| TrainedToken { text: text.to_owned(), roles: roles.to_vec() };
    let options = VocabularyTraining {
        vocabulary_size: 320,
        special_tokens: vec![
            token("<s>", &[TokenRole::Bos]),
            token("</s>", &[TokenRole::Eos]),
            token("<|im_start|>", &[]),
            token("<|im_end|>", &[]),
        ],
        add_bos: true,
        chat_template: None,
        ..VocabularyTraining::default()
    };
    let texts =
        ["用挤出机挤塑生产塑料制品是一种常用的加工方法", "介绍一下数控加工：数控加工是用程序控制机床的加工"];
    let texts = texts.iter().cycle().take(20).map(|text| (*text).to_owned());
    Tokenizer::train(texts, &options).unwrap()
}

pub struct Folder(TempDir);

impl Folder {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes a file and returns its path as a dataset name.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        fs::write(self.path(name), content).unwrap();
        self.path(name).display().to_string()
    }
}

/// A file or folder of the shared data, if that is there.
pub fn shared(name: &str) -> Option<PathBuf> {
    let data = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/data"));
    if !data.is_dir() {
        eprintln!("skipped: ../shared/data is not there");
        return None;
    }
    Some(data.join(name))
}
