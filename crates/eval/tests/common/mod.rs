//! A tiny model with a vocabulary trained here, and files of questions.

use std::path::{Path, PathBuf};

use danlu_model::{Config, Model, Opened, Precision};
use danlu_tokenizer::{TokenRole, Tokenizer, TrainedToken, VocabularyTraining};

pub const HEADER: &str = "id,question,A,B,C,D,answer\n";

/// Byte-level BPE with the markers of ChatML; with `add_bos`, `<s>` before raw text.
pub fn tokenizer(add_bos: bool) -> Tokenizer {
    let token = |text: &str, roles: &[TokenRole]| TrainedToken { text: text.into(), roles: roles.to_vec() };
    let special_tokens = vec![
        token("<s>", &[TokenRole::Bos]),
        token("<|im_start|>", &[]),
        token("<|im_end|>", &[TokenRole::Eos]),
    ];
    let options =
        VocabularyTraining { vocabulary_size: 330, special_tokens, add_bos, ..VocabularyTraining::default() };
    let texts = ["铝的密度是多少？答案：", "钢的熔点是多少？\nA. 1\nB. 2\n答案： B"];
    let texts = texts.iter().cycle().take(20).map(|text| (*text).to_owned());
    Tokenizer::train(texts, &options).unwrap()
}

/// A Llama of two blocks with random weights, wide enough apart that no two texts are equally likely.
pub fn opened(context: usize, add_bos: bool) -> Opened {
    let golden =
        Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../model/tests/golden/gqa-untied/config.json"));
    let config = Config {
        vocab_size: 330,
        max_position_embeddings: context,
        initializer_range: 0.3,
        ..Config::read(golden).unwrap()
    };
    let model = Model::zeros(config, Precision::F32).initialize(7);
    Opened { model, tokenizer: Some(tokenizer(add_bos)), path: "tiny".into() }
}

pub fn shared() -> Option<PathBuf> {
    let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/data"));
    if !path.exists() {
        eprintln!("skipped: ../shared/data is not there");
    }
    path.exists().then(|| path.to_owned())
}

/// Writes `text` to `folder/name`, with the folders in between.
pub fn write(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, text).unwrap();
    path
}

/// −log p of the ids from `start` on, each predicted from all before it.
pub fn negative_log_likelihood(model: &Model, ids: &[u32], start: usize) -> f64 {
    -log_probabilities(model, ids, start).iter().sum::<f64>()
}

/// log p of each of the ids from `start` on, predicted from all before it.
pub fn log_probabilities(model: &Model, ids: &[u32], start: usize) -> Vec<f64> {
    use danlu_model::{Activations, Keep, PackedTokens, Resident, Target};
    let tokens = PackedTokens::new([ids]);
    let targets: Vec<Target> =
        (start..ids.len()).map(|place| Target { position: place as u32 - 1, id: ids[place] }).collect();
    let mut activations = Activations::new(model, ids.len(), Keep::Nothing);
    model.forward(&tokens, &mut activations, &mut Resident).unwrap();
    let scores = model.score(&tokens, &targets, &mut activations);
    scores.iter().map(|score| f64::from(score.log_probability)).collect()
}
