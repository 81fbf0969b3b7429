//! Meta's names and rotation of neighbours, as Baby-Llama2 and Luban have them: against a Llama of the same weights, and
//! against recordings of PyTorch (`tools/golden/luban.py`).

use crate::common;

use common::families::*;
use common::*;
use danlu_model::{Config, Family, Model, Precision, Rest, open, save_folder};
use serde_json::Value;

#[test]
fn metas_names_with_neighbouring_pairs_are_a_llama_with_permuted_rows() {
    let llama = load("gqa-tied", Rest::Frozen);
    let mut tensors = metas(&read_tensors(&golden("gqa-tied")), 8, true);
    // Their files have the tied head as well.
    tensors.insert("output.weight".into(), tensors["tok_embeddings.weight"].clone());
    for (model_type, family) in [(None, Family::BabyLlama2), (Some("minimind"), Family::MiniMindV1)] {
        for prefix in ["", "_orig_mod."] {
            let mut config = model_args();
            if let Some(model_type) = model_type {
                config["model_type"] = model_type.into();
            }
            let prefixed = tensors.iter().map(|(name, tensor)| (format!("{prefix}{name}"), tensor.clone()));
            let folder = tempfile::tempdir().unwrap();
            write_model(folder.path(), &config, &prefixed.collect());
            for rest in [Rest::Frozen, Rest::Trained] {
                let model = open_f32(folder.path(), rest);
                assert_eq!(model.config().family, family);
                assert_same(&model, &llama);
                let again = tempfile::tempdir().unwrap();
                save_folder(&model, None, again.path(), 5_000_000_000).unwrap();
                let mut written = read_tensors(again.path());
                written.insert("output.weight".into(), written["tok_embeddings.weight"].clone());
                assert_eq!(written, tensors);
                assert_eq!(open_f32(again.path(), rest).config(), model.config());
            }
        }
    }
}

#[test]
fn the_two_rope_layouts_are_not_the_same() {
    let llama = load("gqa-tied", Rest::Frozen);
    let folder = tempfile::tempdir().unwrap();
    write_model(folder.path(), &model_args(), &metas(&read_tensors(&golden("gqa-tied")), 8, false));
    let swapped = distance(&open_f32(folder.path(), Rest::Frozen), &llama);
    assert!(swapped > 1e-2, "{swapped}");
}

#[test]
fn metas_names_without_a_configuration_need_the_shapes_of_a_known_model() {
    // A vocabulary of its own and the shapes of Llama2-Chinese-92M, all weights zero.
    let preset = Config { vocab_size: 12, ..Config::preset("llama2-chinese-92m").unwrap() };
    let folder = tempfile::tempdir().unwrap();
    save_folder(&Model::zeros(preset.clone(), Precision::F32), None, folder.path(), 5_000_000_000).unwrap();
    std::fs::remove_file(folder.path().join("config.json")).unwrap();
    assert_eq!(open_f32(folder.path(), Rest::Frozen).config(), &preset);

    let folder = tempfile::tempdir().unwrap();
    write_model(folder.path(), &Value::Null, &metas(&read_tensors(&golden("gqa-tied")), 8, true));
    std::fs::remove_file(folder.path().join("config.json")).unwrap();
    let error = open(folder.path(), Precision::F32, Rest::Frozen).err().unwrap().to_string();
    assert!(
        error.contains("possible are 2, 4; write `config.json` beside it: {\"dim\": 32, \"n_layers\": 2,"),
        "{error}"
    );
}

#[test]
fn metas_arguments_give_the_width_of_the_feed_forward() {
    let width = |arguments: Value| config_from(&arguments).intermediate_size;
    let mut arguments = model_args();
    arguments.as_object_mut().unwrap().remove("hidden_dim");
    arguments["dim"] = 2048.into();
    arguments["multiple_of"] = 32.into();
    assert_eq!(width(arguments.clone()), 5472, "Luban-1B");
    // Llama-2 70B.
    arguments["dim"] = 8192.into();
    arguments["multiple_of"] = 4096.into();
    arguments["ffn_dim_multiplier"] = 1.3.into();
    assert_eq!(width(arguments), 28_672);
}
