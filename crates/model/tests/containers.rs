//! One model in every container: read, written, and refused where it is damaged.

use crate::common;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use common::*;
use danlu_formats::{Alias, Dtype, Gguf, SafetensorsFolder, TensorInfo, TensorPart, write_pth};
use danlu_model::{
    ConvertOptions, Converted, Error, Family, Form, Generator, Mixture, Model, Precision, Rest,
    check_vocabulary, convert, describe, modelfile, open,
};
use danlu_tokenizer::{GgufVocabulary, Tokenizer};

fn stories() -> Option<PathBuf> {
    let path =
        Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/data/checkpoints/stories260K"));
    if !path.is_dir() {
        println!("skipped: ../shared/data is not there");
        return None;
    }
    Some(path.into())
}

fn load_path(path: &Path) -> Model {
    open(path, Precision::F32, Rest::Frozen).unwrap().model
}

fn refused(path: &Path) -> String {
    let error = open(path, Precision::F32, Rest::Frozen).err().unwrap().to_string();
    assert!(!error.contains('\n'), "{error}");
    error
}

fn converted(input: &Path, output: &Path, form: Form, mixture: Option<Mixture>) -> Result<Converted, Error> {
    let options = ConvertOptions { form, mixture, tokenizer: None, importance: None };
    convert(input, output, options, &mut |_, _| ControlFlow::Continue(()))
}

/// The mean negative log-likelihood of the tokens after the first.
fn mean_nll(model: &Model, ids: &[u32]) -> f64 {
    let rows = log_probabilities(model, ids);
    let sum: f64 = (1..ids.len()).map(|next| f64::from(rows[next - 1][ids[next] as usize])).sum();
    -sum / (ids.len() - 1) as f64
}

#[test]
fn stories260k_is_the_same_model_in_every_container() {
    let Some(folder) = stories() else { return };
    let recorded = read_json(&folder.join("golden_llama2c.json"));
    let expected = ids(&recorded["greedy_ids_from_bos_200"]);
    let generate = |name: &str| {
        let model = load_path(&folder.join(name));
        let options = greedy(expected.len() - 1, Vec::new());
        let found =
            Generator::new(&model, 512).generate(&[1], &options, |_| ControlFlow::Continue(())).unwrap();
        (found.ids, mean_nll(&model, &expected))
    };
    let names =
        ["stories260K.bin", "checkpoint_v1.bin", "stories260K.gguf", "hf-derived-safetensors", "hf-derived"];
    let mut lossless = 0.0;
    for name in names {
        let (found, nll) = generate(name);
        assert_eq!(found, expected[1..], "{name}");
        lossless = nll;
    }
    let (found, nll) = generate("stories260K-q8.bin");
    assert_eq!(found[..70], expected[1..71]);
    assert!((nll - lossless).abs() < 0.02, "{nll} against {lossless}");
    let error = refused(&folder.join("tinystories_260k_v1.llama2ts.bin"));
    assert!(error.contains("it is a model of llama2.ts"), "{error}");
}

#[test]
fn a_model_goes_through_every_container_and_back_with_the_same_logits() {
    let prompt = [3, 17, 5, 22, 9, 9, 28, 1, 14, 2, 30, 11];
    let forms = [
        (Form::Safetensors, "st"),
        (Form::Bin, "bin"),
        (Form::Gguf, "m.gguf"),
        (Form::Pth, "meta"),
        (Form::Pth, "m.pth"),
        (Form::Llama2c, "m.bin"),
    ];
    for name in
        ["gqa-tied", "gqa-untied", "mha-tied", "families/qwen2", "families/qwen3", "families/llama-bias"]
    {
        let expected = log_probabilities(&load_path(&golden(name)), &prompt);
        let (mut written, mut refusals) = (0, 0);
        for (form, path) in forms {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join(path);
            if let Err(error) = converted(&golden(name), &path, form, None) {
                let error = error.to_string();
                assert!(matches!(form, Form::Pth | Form::Llama2c), "{name} {form:?}: {error}");
                assert!(error.contains("write"), "{error}");
                assert!(!path.exists());
                refusals += 1;
                continue;
            }
            written += 1;
            let model = load_path(&path);
            let found = log_probabilities(&model, &prompt);
            if model.config().family == Family::BabyLlama2 {
                // Its rows stay as they are, so that the elements of a head are summed in another order.
                assert_close(&found.concat(), &expected.concat(), 1e-5, name);
            } else {
                assert!(found == expected, "{name} {form:?}");
            }
            let back = folder.path().join("back");
            converted(&path, &back, Form::Safetensors, None).unwrap();
            assert!(log_probabilities(&load_path(&back), &prompt) == expected, "{name} {form:?} and back");
        }
        assert_eq!(written + refusals, forms.len());
        assert!(written >= 3 && (name != "mha-tied" || written == 6), "{name}: {written}");
    }
}

#[test]
fn gguf_to_hugging_face_and_back_keeps_every_value() {
    let Some(stories) = stories() else { return };
    let folder = tempfile::tempdir().unwrap();
    let (hf, back) = (folder.path().join("hf"), folder.path().join("back.gguf"));
    for (mixture, dtype) in [(Mixture::F32, Dtype::F32), (Mixture::F16, Dtype::F16)] {
        let first = folder.path().join(format!("{}.gguf", mixture.name()));
        converted(&stories.join("stories260K.gguf"), &first, Form::Gguf, Some(mixture)).unwrap();
        converted(&first, &hf, Form::Safetensors, None).unwrap();
        // The file says -1, as one of 32 bits.
        assert_eq!(describe(&hf).unwrap().config.unwrap().pad_token_id, None);
        converted(&hf, &back, Form::Gguf, None).unwrap();
        let (first, back) = (Gguf::open(&first).unwrap(), Gguf::open(&back).unwrap());
        assert_eq!(first.tensors().len(), back.tensors().len());
        for info in first.tensors() {
            assert_eq!(
                first.tensor(&info.name).unwrap().bytes,
                back.tensor(&info.name).unwrap().bytes,
                "{}",
                info.name
            );
        }
        assert_eq!(first.tensor("token_embd.weight").unwrap().info.dtype, dtype);
        for key in [
            "llama.context_length",
            "llama.rope.freq_base",
            "tokenizer.ggml.tokens",
            "tokenizer.ggml.bos_token_id",
        ] {
            assert_eq!(first.metadata(key), back.metadata(key), "{key}");
            assert!(first.metadata(key).is_some(), "{key}");
        }
        std::fs::remove_dir_all(&hf).unwrap();
    }
}

#[test]
fn quantized_files_hold_what_their_mixture_says() {
    let Some(stories) = stories() else { return };
    let folder = tempfile::tempdir().unwrap();
    let expected = ids(&read_json(&stories.join("golden_llama2c.json"))["greedy_ids_from_bos_200"]);
    let full = mean_nll(&load_path(&stories.join("stories260K.gguf")), &expected);
    for (name, bound) in [("q8_0", 0.01), ("q5_1", 0.1), ("q4_0", 0.5), ("q4_k_m", 0.3), ("q6_k", 0.02)] {
        let path = folder.path().join(format!("{name}.gguf"));
        let mixture = Mixture::of_name(name);
        let written = converted(&stories.join("stories260K.gguf"), &path, Form::Gguf, mixture).unwrap();
        let found = describe(&path).unwrap();
        assert_eq!(found.types, written.types, "{name}");
        let nll = mean_nll(&load_path(&path), &expected);
        assert!((nll - full).abs() < bound, "{name}: {nll} against {full}");
    }
}

/// The tensors of a recorded model under Meta's names, rotated pairs side by side.
fn native(name: &str) -> (Vec<TensorInfo>, Vec<Vec<u8>>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.pth");
    converted(&golden(name), &path, Form::Pth, None).unwrap();
    let file = danlu_formats::PytorchFolder::open(&path).unwrap();
    let infos: Vec<TensorInfo> =
        file.tensors().filter(|info| file.alias_of(&info.name).is_none()).cloned().collect();
    let bytes = infos.iter().map(|info| file.tensor(&info.name).unwrap().bytes.to_vec()).collect();
    (infos, bytes)
}

#[test]
fn a_luban_checkpoint_needs_only_what_its_shapes_do_not_say() {
    let prompt = [3, 17, 5, 22, 9, 9, 28, 1];
    let expected = log_probabilities(&load_path(&golden("gqa-tied")), &prompt);
    let config = load_path(&golden("gqa-tied")).config().clone();
    let (infos, bytes) = native("gqa-tied");
    for prefix in ["", "_orig_mod."] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("epoch_0.pth");
        let mut named: Vec<TensorInfo> = infos.clone();
        let mask =
            TensorInfo { name: "layers.0.attention.mask".into(), dtype: Dtype::F32, shape: vec![1, 1] };
        named.push(mask);
        named.iter_mut().for_each(|info| info.name = format!("{prefix}{}", info.name));
        let of = infos.iter().position(|info| info.name == "tok_embeddings.weight").unwrap();
        let alias = Alias { name: format!("{prefix}output.weight"), of };
        write_pth::<danlu_formats::Error>(&path, &named, &[alias], |place, sink| {
            sink.write(bytes.get(place).map_or(&[0; 4][..], Vec::as_slice))
        })
        .unwrap();
        let error = refused(&path);
        assert!(
            error.contains("says nothing of its number of heads") && error.contains("n_heads"),
            "{error}"
        );
        let sidecar = format!(
            "{{\"dim\": {}, \"n_layers\": {}, \"n_heads\": {}, \"n_kv_heads\": {}, \"vocab_size\": {}, \
             \"hidden_dim\": {}, \"max_seq_len\": 64, \"norm_eps\": {}, \"rope_theta\": {}}}",
            config.hidden_size,
            config.num_hidden_layers,
            config.num_attention_heads,
            config.num_key_value_heads,
            config.vocab_size,
            config.intermediate_size,
            config.rms_norm_eps,
            config.rope_theta,
        );
        for name in ["config.json", "epoch_0.json"] {
            std::fs::write(folder.path().join(name), &sidecar).unwrap();
            let model = load_path(&path);
            assert_eq!(model.config().family, Family::BabyLlama2);
            assert_close(&log_probabilities(&model, &prompt).concat(), &expected.concat(), 1e-5, prefix);
            std::fs::remove_file(folder.path().join(name)).unwrap();
        }
    }
}

#[test]
fn metas_checkpoints_are_joined_from_one_two_and_eight_files() {
    let prompt = [3, 17, 5, 22, 9, 9, 28, 1];
    for (name, counts) in [("mha-untied", &[1, 2, 4][..]), ("gqa-tied", &[1, 2])] {
        let expected = log_probabilities(&load_path(&golden(name)), &prompt);
        let (infos, bytes) = native(name);
        let source = tempfile::tempdir().unwrap();
        let whole = source.path().join("whole");
        converted(&golden(name), &whole, Form::Pth, None).unwrap();
        for &count in counts.iter().chain(&[8]) {
            let folder = tempfile::tempdir().unwrap();
            std::fs::copy(whole.join("params.json"), folder.path().join("params.json")).unwrap();
            for shard in 0..count {
                let tensors: Vec<danlu_formats::Tensor> = infos
                    .iter()
                    .zip(&bytes)
                    .map(|(info, bytes)| danlu_formats::Tensor { info, bytes })
                    .collect();
                let mut parts = Vec::new();
                for tensor in tensors {
                    let module = tensor.info.name.trim_end_matches(".weight").rsplit('.').next().unwrap();
                    let dimension = match module {
                        "wo" | "w2" | "tok_embeddings" => 1,
                        _ if tensor.info.shape.len() == 1 => {
                            parts.push(TensorPart::new(tensor, 0, 0..tensor.info.shape[0]).unwrap());
                            continue;
                        }
                        _ => 0,
                    };
                    let length = tensor.info.shape[dimension];
                    let rows = shard * length / count..(shard + 1) * length / count;
                    parts.push(TensorPart::new(tensor, dimension, rows).unwrap());
                }
                let infos: Vec<TensorInfo> = parts.iter().map(|part| part.info().clone()).collect();
                let path = folder.path().join(format!("consolidated.{shard:02}.pth"));
                write_pth::<danlu_formats::Error>(&path, &infos, &[], |place, sink| {
                    parts[place].write(|bytes| sink.write(bytes))
                })
                .unwrap();
            }
            let model = load_path(folder.path());
            assert_eq!(log_probabilities(&model, &prompt), expected, "{name} in {count}");
            if count == 2 {
                let back = folder.path().join("hf");
                converted(folder.path(), &back, Form::Safetensors, None).unwrap();
                let (found, original) =
                    (SafetensorsFolder::open(&back).unwrap(), SafetensorsFolder::open(golden(name)).unwrap());
                for info in original.tensors() {
                    let bytes = original.tensor(&info.name).unwrap().bytes;
                    assert_eq!(found.tensor(&info.name).unwrap().bytes, bytes, "{}", info.name);
                }
                std::fs::remove_file(folder.path().join("consolidated.01.pth")).unwrap();
                assert!(refused(folder.path()).contains("expected shape"));
            }
        }
    }
}

#[test]
fn foreign_and_damaged_files_are_refused_in_one_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    for (form, name) in
        [(Form::Gguf, "m.gguf"), (Form::Pth, "m.pth"), (Form::Llama2c, "m.bin"), (Form::Safetensors, "m")]
    {
        converted(&golden("mha-tied"), &path(name), form, None).unwrap();
        let file = if form == Form::Safetensors { path(name).join("model.safetensors") } else { path(name) };
        let whole = std::fs::read(&file).unwrap();
        for length in [0, 3, 40, whole.len() / 2, whole.len() - 1] {
            std::fs::write(&file, &whole[..length]).unwrap();
            let sentence = refused(&path(name));
            assert!(sentence.contains(name), "{sentence}");
            assert!(converted(&path(name), &path("out"), Form::Gguf, None).is_err());
            assert!(!path("out").exists());
        }
    }
    std::fs::write(path("text"), "Once upon a time there was a file of text.").unwrap();
    assert!(refused(&path("text")).contains("is no model"));
    std::fs::create_dir(path("empty")).unwrap();
    assert!(refused(&path("empty")).contains("holds no model"));
    std::fs::write(path("empty").join("x.pth"), "x").unwrap();
    assert!(refused(&path("empty")).contains("give the file itself"));
    assert!(refused(&path("absent")).contains("does not exist"));
}

#[test]
fn work_that_is_stopped_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    for (form, name) in [
        (Form::Safetensors, "st"),
        (Form::Bin, "bin"),
        (Form::Gguf, "m.gguf"),
        (Form::Pth, "m.pth"),
        (Form::Pth, "meta"),
        (Form::Llama2c, "m.bin"),
    ] {
        let options = ConvertOptions { form, mixture: None, tokenizer: None, importance: None };
        let mut steps = 0;
        let stopped = convert(&golden("mha-tied"), &folder.path().join(name), options, &mut |_, _| {
            steps += 1;
            if steps > 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        assert!(matches!(stopped, Err(Error::Cancelled)), "{form:?}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "{form:?}");
    }
}

#[test]
fn values_that_a_type_cannot_hold_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let model = Model::zeros(load_path(&golden("gqa-tied")).config().clone(), Precision::F32);
    let mut model = model;
    model.parameters_mut().values_mut().host_mut()[5] = 1e9;
    danlu_model::save_folder(&model, None, &folder.path().join("."), 5_000_000_000).unwrap();
    let error = converted(folder.path(), &folder.path().join("x.gguf"), Form::Gguf, Some(Mixture::F16));
    let error = error.err().unwrap().to_string();
    assert!(error.contains("embed_tokens") && error.contains("element 5 of row 0"), "{error}");
    assert!(!folder.path().join("x.gguf").exists());
}

#[test]
fn ollamas_file_names_the_model() {
    let text = modelfile(Path::new("out/tiny.gguf"), None);
    assert_eq!(text, "FROM ./tiny.gguf\n");
}

#[test]
fn a_vocabulary_that_does_not_fit_is_refused_by_its_highest_ordinary_token() {
    let tokenizer = Tokenizer::from_gguf(GgufVocabulary {
        model: "gpt2".into(),
        pre: Some("gpt-2".into()),
        tokens: ["a", "b", "ab", "<eos>"].map(str::to_owned).to_vec(),
        token_types: vec![1, 1, 1, 3],
        merges: vec!["a b".into()],
        ..GgufVocabulary::default()
    })
    .unwrap();
    let check = |rows| check_vocabulary(&tokenizer, rows, Path::new("m"));
    // The special token behind the rows is allowed, and is not the one that is told.
    check(3).unwrap();
    let refused = check(2).unwrap_err().to_string();
    assert!(refused.contains("gives text ids up to 2, but the model's embedding has 2 rows"), "{refused}");
}
