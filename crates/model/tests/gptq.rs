//! Folders of GPTQ: read as recorded, kept quantized under adapters, written so that they are read again.

use crate::common;

use std::ops::ControlFlow;
use std::path::Path;

use common::{check_logits, golden, greedy, ids, log_probabilities, read_json};
use danlu_formats::{Dtype, SafetensorsFolder, TensorInfo, WriteOptions, write_safetensors};
use danlu_model::{
    ConvertOptions, Form, Generator, Gptq, GptqOptions, Mixture, Model, Precision, Rest, convert, describe,
    open, quantize_gptq,
};

const NAMES: [&str; 6] = [
    "4bit-32g",
    "4bit-64g-act-order",
    "4bit-v2",
    "8bit-32g-act-order",
    "8bit-128g-autogptq",
    "4bit-32g-act-order-qwen2",
];

fn load(path: &Path, rest: Rest) -> Model {
    open(path, Precision::F32, rest).unwrap().model
}

fn refusal(path: &Path) -> String {
    open(path, Precision::F32, Rest::Stored).err().unwrap().to_string()
}

fn go_on(_: u64, _: u64) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// Copies a recorded folder, with its tensors changed.
fn changed(
    name: &str,
    change: impl Fn(TensorInfo, Vec<u8>) -> Option<(TensorInfo, Vec<u8>)>,
) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let source = golden("gptq").join(name);
    let tensors = SafetensorsFolder::open(&source).unwrap();
    let kept: Vec<(TensorInfo, Vec<u8>)> = tensors
        .names()
        .filter_map(|name| {
            let tensor = tensors.tensor(name).unwrap();
            change(tensor.info.clone(), tensor.bytes.to_vec())
        })
        .collect();
    let infos: Vec<TensorInfo> = kept.iter().map(|(info, _)| info.clone()).collect();
    write_safetensors(folder.path(), &WriteOptions::default(), &infos, |place, sink| {
        sink.write(&kept[place].1)
    })
    .unwrap();
    std::fs::copy(source.join("config.json"), folder.path().join("config.json")).unwrap();
    folder
}

#[test]
fn logits_and_greedy_ids_are_the_recorded_ones() {
    for name in NAMES {
        let path = golden("gptq").join(name);
        let recording = read_json(&path.join("golden.json"));
        for rest in [Rest::Frozen, Rest::Stored, Rest::Trained] {
            let model = load(&path, rest);
            check_logits(&model, &recording);
            let prompt = ids(&recording["greedy"]["prompt"]);
            let found = Generator::new(&model, 64)
                .generate(&prompt, &greedy(32, vec![]), |_| ControlFlow::Continue(()));
            assert_eq!(found.unwrap().ids, ids(&recording["greedy"]["ids"]), "{name} {rest:?}");
        }
    }
}

#[test]
fn quantized_layers_rest_as_small_as_they_are() {
    let bytes = |name: &str, rest| load(&golden("gptq").join(name), rest).weight_bytes();
    for (name, share) in [("4bit-32g", 0.40), ("4bit-64g-act-order", 0.40), ("8bit-32g-act-order", 0.55)] {
        let (stored, plain) = (bytes(name, Rest::Stored), bytes(name, Rest::Frozen));
        assert!((stored as f64) < share * plain as f64, "{name}: {stored} of {plain}");
    }
}

#[test]
fn groups_out_of_order_count() {
    let name = "4bit-64g-act-order";
    let recording = read_json(&golden("gptq").join(name).join("golden.json"));
    let ordered = changed(name, |info, mut bytes| {
        if info.name.ends_with("g_idx") {
            bytes
                .as_chunks_mut::<4>()
                .0
                .iter_mut()
                .enumerate()
                .for_each(|(i, group)| *group = (i as i32 / 64).to_le_bytes());
        }
        Some((info, bytes))
    });
    let ids = ids(&recording["sequences"][1]["ids"]);
    let right = log_probabilities(&load(&golden("gptq").join(name), Rest::Stored), &ids);
    let wrong = log_probabilities(&load(ordered.path(), Rest::Stored), &ids);
    let most =
        right.iter().flatten().zip(wrong.iter().flatten()).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(most > 0.1, "act-order changes nothing: {most}");
}

#[test]
fn damaged_folders_are_refused_by_name() {
    let layer = "model.layers.0.self_attn.q_proj";
    let with = |end: &str, change: &dyn Fn(&mut TensorInfo, &mut Vec<u8>) -> bool| {
        let folder = changed("4bit-64g-act-order", |mut info, mut bytes| {
            let keep = info.name != format!("{layer}.{end}") || change(&mut info, &mut bytes);
            keep.then_some((info, bytes))
        });
        refusal(folder.path())
    };
    for end in ["qzeros", "scales", "g_idx"] {
        let error = with(end, &|_, _| false);
        assert!(error.contains(&format!("tensor `{layer}.{end}`: missing")), "{error}");
    }
    let error = with("qweight", &|_, _| false);
    assert!(
        error.contains(&format!("lacks a tensor that its configuration asks for: `{layer}.weight`")),
        "{error}"
    );
    let error = with("g_idx", &|_, bytes| {
        bytes[8..12].copy_from_slice(&(-1i32).to_le_bytes());
        true
    });
    assert!(
        error.contains(&format!("tensor `{layer}.g_idx`: input 2 is in group -1, but there are 1 groups")),
        "{error}"
    );
    let error = with("scales", &|_, bytes| {
        bytes[2..4].copy_from_slice(&[0, 0x7e]);
        true
    });
    assert!(
        error.contains(&format!("tensor `{layer}.scales`: the scale of group 0, output 1 is not finite")),
        "{error}"
    );
    let error = with("scales", &|info, bytes| {
        (info.shape[1], info.dtype) = (info.shape[1], Dtype::Bf16);
        bytes.len() == 128
    });
    assert!(error.contains("expected F16 [1, 64] from the settings, found BF16 [1, 64]"), "{error}");
    let error = with("qweight", &|info, _| {
        info.shape.swap(0, 1);
        true
    });
    assert!(error.contains(&format!("`{layer}.")) && error.contains("expected"), "{error}");
}

#[test]
fn settings_are_read_strictly() {
    let folder = changed("4bit-32g", |info, bytes| Some((info, bytes)));
    let path = folder.path().join("config.json");
    let text = std::fs::read_to_string(&path).unwrap();
    let with = |from: &str, to: &str| {
        assert!(text.contains(from), "{from}");
        std::fs::write(&path, text.replace(from, to)).unwrap();
        refusal(folder.path())
    };
    assert!(
        with("\"bits\": 4", "\"bits\": 3").contains("`quantization_config.bits`: expected 4 or 8, found 3")
    );
    assert!(
        with("\"group_size\": 32", "\"group_size\": 0").contains("expected -1 or a number above 0, found 0")
    );
    assert!(
        with("\"group_size\": 32", "\"group_size\": 64")
            .contains(".qzeros`: expected I32 [1, 8] from the settings")
    );
    assert!(with("\"bits\": 4", "\"bits\": 8").contains("expected I32"));
    assert!(
        with("\"sym\": true", "\"checkpoint_format\": \"marlin\"")
            .contains("expected `gptq` or `gptq_v2`, found `marlin`")
    );
    std::fs::write(&path, text.replace("\"gptq\"", "\"other\"")).unwrap();
    assert!(refusal(folder.path()).contains(".weight`"));
}

#[test]
fn other_containers_get_the_dequantized_values() {
    let path = golden("gptq").join("4bit-64g-act-order");
    let folder = tempfile::tempdir().unwrap();
    let recording = read_json(&path.join("golden.json"));
    for (name, form) in
        [("hf", Form::Safetensors), ("bin", Form::Bin), ("m.gguf", Form::Gguf), ("pth", Form::Pth)]
    {
        let out = folder.path().join(name);
        let options = ConvertOptions { form, mixture: Some(Mixture::F32), tokenizer: None, importance: None };
        convert(&path, &out, options, &mut go_on).unwrap();
        check_logits(&load(&out, Rest::Frozen), &recording);
        assert_eq!(describe(&out).unwrap().gptq, None);
    }
    let out = folder.path().join("f16.gguf");
    let written = convert(
        &path,
        &out,
        ConvertOptions { form: Form::Gguf, mixture: None, tokenizer: None, importance: None },
        &mut go_on,
    )
    .unwrap();
    assert!(written.types.iter().all(|share| ["F16", "F32"].contains(&share.name)), "{:?}", written.types);
    assert_eq!(describe(&path).unwrap().gptq.unwrap().group_size, Some(64));
}

/// A random model, quantized here: what is written is read again, and comes nearer than rounding.
#[test]
fn quantized_here_it_is_read_again_and_better_than_rounded() {
    let source = golden("gptq").join("4bit-64g-act-order");
    let folder = tempfile::tempdir().unwrap();
    let plain = folder.path().join("plain");
    let form = Form::Safetensors;
    convert(
        &source,
        &plain,
        ConvertOptions { form, mixture: Some(Mixture::F32), tokenizer: None, importance: None },
        &mut go_on,
    )
    .unwrap();
    let original = load(&plain, Rest::Frozen);
    let sequence = |seed: u32, length: u32| -> Vec<u32> {
        (0..length).map(|i| (i * i + seed * 7 + i * seed) % 31).collect()
    };
    let calibration: Vec<Vec<u32>> = (0..40).map(|seed| sequence(seed, 30 + seed % 20)).collect();
    let held_out: Vec<Vec<u32>> = (50..54).map(|seed| sequence(seed, 24)).collect();
    let distance = |model: &Model| -> f64 {
        let of = |ids: &Vec<u32>| {
            let (found, right) = (log_probabilities(model, ids), log_probabilities(&original, ids));
            let pairs = found.into_iter().flatten().zip(right.into_iter().flatten());
            pairs.map(|(a, b)| f64::from(b).exp() * f64::from(b - a)).sum::<f64>()
        };
        held_out.iter().map(of).sum()
    };
    let quantize = |name: &str, settings: Gptq, calibration: &[Vec<u32>], precision| {
        let out = folder.path().join(name);
        let options =
            GptqOptions { settings, damp_percent: 0.01, calibration: calibration.to_vec(), precision };
        quantize_gptq(&plain, &out, &options, None, &mut go_on).unwrap();
        out
    };
    for (bits, desc_act, sym) in [(4, false, true), (4, true, true), (4, true, false), (8, false, true)] {
        let settings = Gptq::new(bits, Some(32), desc_act, sym).unwrap();
        let name = format!("{bits}-{desc_act}-{sym}");
        let solved = quantize(&name, settings, &calibration, Precision::F32);
        let rounded = quantize(&format!("{name}-rounded"), settings, &[], Precision::F32);
        assert_eq!(describe(&solved).unwrap().gptq, Some(settings));
        let [solved_distance, rounded_distance] =
            [&solved, &rounded].map(|path| distance(&load(path, Rest::Stored)));
        println!("{name}: {solved_distance} against {rounded_distance}");
        assert!(
            solved_distance < 0.9 * rounded_distance,
            "{name}: {solved_distance} against {rounded_distance}"
        );
        let again = quantize(&format!("{name}-again"), settings, &calibration, Precision::F32);
        let bytes = |path: &Path| std::fs::read(path.join("model.safetensors")).unwrap();
        assert!(bytes(&solved) == bytes(&again), "the same bytes twice");
        let frozen = load(&solved, Rest::Frozen);
        let ids = &held_out[0];
        assert_eq!(log_probabilities(&frozen, ids), log_probabilities(&load(&solved, Rest::Stored), ids));
    }
    quantize("bf16", Gptq::new(4, Some(32), false, true).unwrap(), &calibration, Precision::Bf16);
    let settings = Gptq::new(4, Some(128), false, true).unwrap();
    let options =
        GptqOptions { settings, damp_percent: 0.01, calibration: vec![], precision: Precision::F32 };
    let error = quantize_gptq(&plain, &folder.path().join("no"), &options, None, &mut go_on)
        .err()
        .unwrap()
        .to_string();
    assert!(
        error.contains("64 inputs are not whole groups of 128") && error.contains("of 64, 32, 16, 8"),
        "{error}"
    );
    assert!(!folder.path().join("no").exists());
    assert!(Gptq::new(3, None, false, true).is_err() && Gptq::new(4, Some(20), false, true).is_err());
}
