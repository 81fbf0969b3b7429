//! Merged models against recordings of PEFT: the same logits without the adapter, in the base's container.

use crate::common;

use std::path::{Path, PathBuf};

use common::*;
use danlu_formats::{
    AdapterConfig, Dtype, PytorchFolder, SafetensorsFolder, TensorFolder, TensorInfo, WriteOptions,
    write_pytorch, write_safetensors,
};
use danlu_model::{
    Config, Error, MergeOptions, Merged, Model, Precision, Rest, apply_adapters, compare_merged, merge, open,
    save_adapter, save_folder,
};
use serde_json::Value;

const KEEP: MergeOptions = MergeOptions { dtype: None, max_shard_bytes: 5_000_000_000 };

fn kind(name: &str) -> PathBuf {
    golden("peft").join(name)
}

fn recording(name: &str) -> Value {
    read_json(&kind(name).join("golden.json"))
}

fn base(name: &str) -> PathBuf {
    golden(recording(name)["base"].as_str().unwrap())
}

fn merged(base: &Path, adapters: &[&Path], options: &MergeOptions) -> (tempfile::TempDir, Merged) {
    let folder = tempfile::tempdir().unwrap();
    let mut last = (0, 0);
    let merged = merge(base, adapters, folder.path(), options, &mut |written, all| {
        assert!(written > last.0 && written <= all);
        last = (written, all);
        true
    });
    assert_eq!(last.0, last.1);
    (folder, merged.unwrap())
}

#[test]
fn every_kind_of_adapter_merges_into_the_logits_of_peft() {
    let names = std::fs::read_dir(golden("peft")).unwrap().map(|entry| entry.unwrap().file_name());
    let names = names.map(|name| name.into_string().unwrap()).filter(|name| name != "sum.json");
    for name in names {
        println!("{name}");
        let is_rounded = name == "biases";
        let options = MergeOptions { dtype: is_rounded.then_some(Dtype::F32), ..KEEP };
        let (folder, merged) = merged(&base(&name), &[&kind(&name)], &options);
        check_logits(&open(folder.path(), Precision::F32, Rest::Frozen).unwrap().model, &recording(&name));
        let comparison = compare_merged(&base(&name), &[&kind(&name)], folder.path()).unwrap();
        assert_eq!(comparison.same_best, comparison.tokens);
        assert!(comparison.largest_difference <= 1e-4 * comparison.largest_logit, "{comparison:?}");
        let unties = ["embedding", "head", "saved-head", "saved-modules"].contains(&name.as_str());
        assert_eq!(merged.is_untied, unties, "{name}");
        let config = read_json(&folder.path().join("config.json"));
        let was_tied = read_json(&base(&name).join("config.json"))["tie_word_embeddings"].clone();
        assert_eq!(config["tie_word_embeddings"], if unties { false.into() } else { was_tied }, "{name}");
        let rows = if name.starts_with("grown") { 101 } else { merged.vocab_size[0] as u64 };
        assert_eq!(config["vocab_size"].as_u64(), Some(rows), "{name}");
    }
}

#[test]
fn several_adapters_merge_into_their_sum() {
    let recording = read_json(&kind("sum.json"));
    let adapters = [kind("dora"), kind("patterns")];
    let adapters = adapters.each_ref().map(PathBuf::as_path);
    let (folder, _) = merged(&golden("gqa-untied"), &adapters, &KEEP);
    check_logits(&open(folder.path(), Precision::F32, Rest::Frozen).unwrap().model, &recording);
}

#[test]
fn shards_and_untouched_tensors_stay_as_they_were() {
    let base = base("layers");
    let options = MergeOptions { max_shard_bytes: 30_000, ..KEEP };
    let (folder, merged) = merged(&base, &[&kind("layers")], &options);
    assert!(folder.path().join("model.safetensors.index.json").is_file());
    let [before, after] = [&base, folder.path()].map(|folder| SafetensorsFolder::open(folder).unwrap());
    assert_eq!((before.names().count(), merged.changed), (after.names().count(), 2));
    for name in before.names() {
        let is_changed =
            name.contains("layers.1.self_attn.v_proj") || name.contains("layers.1.self_attn.o_proj");
        let [one, other] = [&before, &after].map(|file| file.tensor(name).unwrap().bytes);
        assert_eq!(one != other, is_changed, "{name}");
    }
    assert_eq!(read_json(&folder.path().join("config.json")), read_json(&base.join("config.json")));
}

#[test]
fn types_are_kept_or_chosen_and_values_rounded_once() {
    let (folder, merged) = merged(&base("biases"), &[&kind("biases")], &KEEP);
    assert_eq!(merged.dtype, Dtype::Bf16);
    let (exact, _) = in_f32();
    let [rounded, exact] =
        [folder.path(), exact.path()].map(|folder| SafetensorsFolder::open(folder).unwrap());
    for name in exact.names() {
        let (rounded, exact) = (rounded.tensor(name).unwrap(), exact.tensor(name).unwrap());
        assert_eq!((rounded.info.dtype, exact.info.dtype), (Dtype::Bf16, Dtype::F32));
        let [rounded, exact] = [(rounded.bytes, 2), (exact.bytes, 4)].map(|(bytes, size)| {
            let upper = bytes.chunks_exact(size).map(move |value| match size {
                2 => f32::from_bits(u32::from(u16::from_le_bytes([value[0], value[1]])) << 16),
                _ => f32::from_le_bytes([value[0], value[1], value[2], value[3]]),
            });
            upper.collect::<Vec<_>>()
        });
        for (rounded, exact) in rounded.iter().zip(&exact) {
            assert!((rounded - exact).abs() <= exact.abs() / 256.0, "{name}: {rounded} {exact}");
        }
    }
}

fn in_f32() -> (tempfile::TempDir, Merged) {
    merged(&base("biases"), &[&kind("biases")], &MergeOptions { dtype: Some(Dtype::F32), ..KEEP })
}

#[test]
fn a_folder_of_pytorch_files_becomes_one() {
    let folder = tempfile::tempdir().unwrap();
    let source = SafetensorsFolder::open(base("tokens")).unwrap();
    let infos: Vec<TensorInfo> = source.tensors().cloned().collect();
    let options = WriteOptions { base_name: "pytorch_model".into(), ..WriteOptions::default() };
    let alias = danlu_formats::Alias {
        name: "lm_head.weight".into(),
        of: infos.iter().position(|info| info.name == "model.embed_tokens.weight").unwrap(),
    };
    write_pytorch(folder.path(), &options, &infos, &[alias], |index, sink| {
        sink.write(source.tensor(&infos[index].name).unwrap().bytes)
    })
    .unwrap();
    std::fs::copy(base("tokens").join("config.json"), folder.path().join("config.json")).unwrap();
    for (name, is_tied) in [("tokens", true), ("saved-head", false)] {
        let (out, _) = merged(folder.path(), &[&kind(name)], &KEEP);
        assert!(out.path().join("pytorch_model.bin").is_file());
        let found = PytorchFolder::open(out.path()).unwrap();
        assert_eq!(
            found.alias_of("lm_head.weight").is_some()
                || found.alias_of("model.embed_tokens.weight").is_some(),
            is_tied
        );
        let (expected, _) = merged(&base(name), &[&kind(name)], &KEEP);
        let expected = TensorFolder::open_model(expected.path()).unwrap();
        for tensor in expected.names() {
            let [one, other] =
                [expected.tensor(tensor), found.tensor(tensor)].map(|tensor| tensor.unwrap().bytes);
            assert!(one == other, "{name}: {tensor}");
        }
    }
}

#[test]
fn what_cannot_be_merged_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let adapter = kind("layers");
    let refused = |base: &Path, options: &MergeOptions| {
        merge(base, &[&adapter], folder.path(), options, &mut |_, _| true).unwrap_err().to_string()
    };
    let quantized = tempfile::tempdir().unwrap();
    let mut config = read_json(&base("layers").join("config.json"));
    config["quantization_config"] = serde_json::json!({ "quant_method": "gptq" });
    std::fs::write(quantized.path().join("config.json"), config.to_string()).unwrap();
    let error = refused(quantized.path(), &KEEP);
    assert!(
        error.contains("is quantized (gptq), and merging would round it again: give `--dtype bf16`"),
        "{error}"
    );
    let error = refused(&golden("gqa-tied"), &KEEP);
    assert!(error.contains("for this model, found"), "{error}");
    assert!(refused(Path::new("absent"), &KEEP).contains("absent"));
    let stopped = merge(&base("layers"), &[&adapter], folder.path(), &KEEP, &mut |_, _| false);
    assert!(matches!(stopped, Err(Error::Cancelled)));
}

/// SmolLM2 in a quantized file with the medical adapter: the recorded logits, applied and merged.
#[test]
fn smollm2_with_its_adapter_gives_the_recorded_logits() {
    let checkpoints = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/checkpoints");
    if !checkpoints.is_dir() {
        println!("skipped: ../shared/data is not there");
        return;
    }
    let folder = checkpoints.join("smollm2-135m-instruct");
    let base = folder.join("SmolLM2-135M-Instruct.Q4_1.gguf");
    let adapter = checkpoints.join("smollm-135m-lora-medical");
    let cases = read_json(&folder.join("golden_transformers_fp32.json"))["cases"].clone();
    let check = |model: &Model, prefix: &str| {
        let mut checked = 0;
        // One case tells how many ids it had, not which.
        let cases = cases.as_object().unwrap().iter().filter(|(_, case)| case["ids"].is_array());
        for (name, case) in cases.filter(|(name, _)| name.starts_with(prefix)) {
            let ids = ids(&case["ids"]);
            let logits = model.logits(&ids).unwrap();
            let last = &logits.host()[(ids.len() - 1) * model.config().vocab_size..];
            let expected = numbers(&case["last_top10_logits"]);
            let found: Vec<f32> =
                common::ids(&case["last_top10_ids"]).iter().map(|id| last[*id as usize]).collect();
            // The recording has five decimals.
            assert_close(&found, &expected, 1e-4, name);
            checked += 1;
        }
        assert_eq!(checked, 3, "{prefix}");
    };
    let mut model = open(&base, Precision::F32, Rest::Frozen).unwrap().model;
    apply_adapters(&mut model, &[&adapter]).unwrap();
    check(&model, "lora(");
    drop(model);
    let out = tempfile::tempdir().unwrap();
    let error = merge(&base, &[&adapter], out.path(), &KEEP, &mut |_, _| true).unwrap_err().to_string();
    assert!(error.contains("is quantized (Q4_1)") || error.contains("is quantized (Q8_0)"), "{error}");
    let options = MergeOptions { dtype: Some(Dtype::F32), ..KEEP };
    let (out, merged) = merged(&base, &[&adapter], &options);
    assert_eq!((merged.changed, merged.is_untied), (60, false));
    let opened = open(out.path(), Precision::F32, Rest::Frozen).unwrap();
    assert_eq!(opened.tokenizer().unwrap().vocabulary_size(), 49_152);
    check(&opened.model, "lora-merged");
}

/// Where files have queries, keys and values as one tensor, in either order of its rows: merged, applied, and as DoRA
/// with the magnitudes that plain LoRA has.
#[test]
fn layers_that_are_one_tensor_are_merged_and_decomposed_as_one() {
    for (source, kind, targets) in
        [("gqa-tied", "internlm2", ["wqkv", "w2"]), ("mha-untied", "baichuan", ["W_pack", "down_proj"])]
    {
        let mut fields = read_json(&golden(source).join("config.json"));
        fields["model_type"] = kind.into();
        fields["bias"] = false.into();
        let path = tempfile::tempdir().unwrap();
        std::fs::write(path.path().join("config.json"), fields.to_string()).unwrap();
        let config = Config::read(&path.path().join("config.json")).unwrap();
        let base = tempfile::tempdir().unwrap();
        let random = Config { initializer_range: 0.3, ..config.clone() };
        let random = Model::zeros(random, Precision::F32).initialize(3);
        save_folder(&random, None, base.path(), 5_000_000_000).unwrap();

        let mut model = open(base.path(), Precision::F32, Rest::Frozen).unwrap().model;
        let target_modules = config.family.target_modules(&targets.map(String::from)).ok();
        let adapter_config =
            AdapterConfig { r: 2, lora_alpha: 3.0, target_modules, ..AdapterConfig::default() };
        model.add_adapter(&adapter_config, Some(5)).unwrap();
        let mut parameters = model.parameters_mut();
        let values = parameters.values_mut().host_mut();
        values.iter_mut().enumerate().for_each(|(index, value)| *value += 0.1 * (index as f32).cos());
        drop(parameters);
        let adapter = tempfile::tempdir().unwrap();
        save_adapter(&model, &adapter_config, "base", adapter.path()).unwrap();
        let expected = model.logits(&[1, 5, 9, 30]).unwrap();
        let (folder, _) = merged(base.path(), &[adapter.path()], &KEEP);
        let found = open(folder.path(), Precision::F32, Rest::Frozen).unwrap().model;
        assert_close(found.logits(&[1, 5, 9, 30]).unwrap().host(), expected.host(), 1e-5, kind);

        // The lengths of the merged rows are the magnitudes with which DoRA is LoRA.
        let (source, rows) = (
            SafetensorsFolder::open_named(adapter.path(), "adapter_model").unwrap(),
            SafetensorsFolder::open(folder.path()).unwrap(),
        );
        let mut tensors: Vec<(TensorInfo, Vec<u8>)> = Vec::new();
        for info in source.tensors() {
            tensors.push((info.clone(), source.tensor(&info.name).unwrap().bytes.to_vec()));
            let Some(module) = info.name.strip_suffix(".lora_A.weight") else { continue };
            let weight = module.strip_prefix("base_model.model.").unwrap();
            let weight = rows.tensor(&format!("{weight}.weight")).unwrap();
            let length = |row: &[u8]| {
                let values = row.as_chunks().0.iter().map(|bytes| f64::from(f32::from_le_bytes(*bytes)));
                values.map(|value| value * value).sum::<f64>().sqrt() as f32
            };
            let lengths = weight.bytes.chunks_exact(weight.info.shape[1] * 4).map(length);
            let name = format!("{module}.lora_magnitude_vector");
            let info = TensorInfo { name, dtype: Dtype::F32, shape: vec![weight.info.shape[0]] };
            tensors.push((info, lengths.flat_map(f32::to_le_bytes).collect()));
        }
        let dora = tempfile::tempdir().unwrap();
        AdapterConfig { use_dora: true, ..adapter_config }.write(dora.path()).unwrap();
        let infos: Vec<TensorInfo> = tensors.iter().map(|(info, _)| info.clone()).collect();
        let options = WriteOptions { base_name: "adapter_model".into(), ..WriteOptions::default() };
        write_safetensors(dora.path(), &options, &infos, |index, sink| sink.write(&tensors[index].1))
            .unwrap();
        let mut model = open(base.path(), Precision::F32, Rest::Frozen).unwrap().model;
        apply_adapters(&mut model, &[dora.path()]).unwrap();
        assert!(model.parameters().is_empty());
        assert_close(model.logits(&[1, 5, 9, 30]).unwrap().host(), expected.host(), 1e-5, kind);
    }
}
