//! Running the program, and models that are small enough for it.

use std::path::{Path, PathBuf};

use assert_cmd::Command;
use danlu_model::{Config, Model, Precision, save_folder};
use danlu_tokenizer::{Tokenizer, VocabularyTraining};
use serde_json::Value;

/// Text for tiny vocabularies.
pub const TEXT: &str = "车削是在车床上加工回转表面的方法。铣刀是多刃刀具，每个刀齿只在一段弧上切削。\n\
                        磨削温度可以达到上千摄氏度。工件装夹的第一条原则是定位可靠。\n";

/// The program, run in `folder`.
pub fn danlu(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_danlu"));
    // No test may depend on the network, or on what its user downloaded.
    command.current_dir(folder).env("HF_HUB_OFFLINE", "1").env("HF_HOME", folder.join(".huggingface"));
    command
}

/// What a run left: exit code, standard output, standard error.
pub struct Ran {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    /// The JSON object on the last line.
    pub fn json(&self) -> Value {
        assert_eq!(self.code, 0, "{}", self.stderr);
        serde_json::from_str(self.stdout.lines().last().unwrap()).unwrap()
    }

    /// Expects exit code 2, one sentence that contains `part`, and nothing else.
    pub fn is_refused(&self, part: &str) {
        let Self { code, stdout, stderr } = self;
        assert_eq!((*code, stdout.as_str()), (2, ""), "{stderr}");
        let errors: Vec<&str> = stderr.lines().filter(|line| line.starts_with("error: ")).collect();
        assert!(errors.len() == 1 && stderr.contains(part), "expected `{part}` in: {stderr}");
        assert!(!stderr.contains("panicked"), "{stderr}");
    }
}

/// Runs the program with nothing on standard input.
pub fn run<S: AsRef<std::ffi::OsStr>>(folder: &Path, arguments: &[S]) -> Ran {
    run_with_input(folder, arguments, "")
}

/// Runs the program.
pub fn run_with_input<S: AsRef<std::ffi::OsStr>>(folder: &Path, arguments: &[S], input: &str) -> Ran {
    let output = danlu(folder).args(arguments).write_stdin(input).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Ran { code: output.status.code().unwrap(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// A recorded model of the model crate, which has no tokenizer.
pub fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../model/tests/golden").join(name)
}

/// Copies the files of a folder.
pub fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// A tiny vocabulary with the special tokens of ChatML, that puts BOS before raw texts if asked to.
pub fn vocabulary(add_bos: bool) -> Tokenizer {
    let options = VocabularyTraining { vocabulary_size: 300, add_bos, ..VocabularyTraining::default() };
    Tokenizer::train([TEXT.to_owned()].into_iter(), &options).unwrap()
}

/// Writes a model with random weights for `tokenizer` into `folder`, which is created.
pub fn write_model(folder: &Path, tokenizer: Option<&Tokenizer>, context: usize) {
    let config = Config {
        hidden_size: 32,
        intermediate_size: 64,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        head_dim: 8,
        max_position_embeddings: context,
        rms_norm_eps: 1e-5,
        tie_word_embeddings: true,
        // Wide, so that the model has opinions.
        initializer_range: 0.3,
        ..Config::default()
    };
    write_model_of(folder, tokenizer, config);
}

/// Writes a model of this shape with random weights for `tokenizer` into `folder`, which is created.
pub fn write_model_of(folder: &Path, tokenizer: Option<&Tokenizer>, shape: Config) {
    let config = Config {
        vocab_size: tokenizer.map_or(97, Tokenizer::vocabulary_size),
        bos_token_id: tokenizer.and_then(Tokenizer::bos_id),
        eos_token_ids: tokenizer.and_then(Tokenizer::eos_id).into_iter().collect(),
        ..shape
    };
    std::fs::create_dir_all(folder).unwrap();
    let model = Model::zeros(config, Precision::F32).initialize(7);
    save_folder(&model, tokenizer, folder, 5_000_000_000).unwrap();
}

/// A folder with the model `model` that has a tokenizer and a chat template.
pub fn with_model() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    write_model(&folder.path().join("model"), Some(&vocabulary(false)), 256);
    folder
}

/// The ids of a JSON list.
pub fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

/// The folder with real models and data, if it stands beside the project.
pub fn shared() -> Option<PathBuf> {
    let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/data"));
    if !path.exists() {
        println!("skipped: ../shared/data is not there");
    }
    path.exists().then(|| path.to_owned())
}

/// Runs a shell script that may mount file systems of its own and exits with 77 where it cannot.
pub fn with_own_mounts(folder: &Path, script: &str) -> Option<std::process::Output> {
    let output =
        std::process::Command::new("unshare").args(["-rm", "sh", "-c", script]).current_dir(folder).output();
    let could = output.ok().filter(|output| {
        output.status.code() != Some(77) && !String::from_utf8_lossy(&output.stderr).contains("unshare:")
    });
    if could.is_none() {
        println!("skipped: a small file system cannot be mounted here");
    }
    could
}
