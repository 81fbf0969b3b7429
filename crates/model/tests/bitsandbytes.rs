//! Folders that transformers serialised with bitsandbytes, and models that are quantized while they are loaded.

use crate::common;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use common::{check_logits, golden, greedy, ids, log_probabilities, numbers, read_json};
use danlu_formats::{TensorFolder, TensorInfo, WriteOptions, write_safetensors};
use danlu_kernels::blocks::BlockType;
use danlu_model::{
    ConvertOptions, Error, Form, Generator, Precision, Rest, convert, describe, open, open_shape,
};

fn folder(name: &str) -> PathBuf {
    golden("bitsandbytes").join(name)
}

fn recorded(name: &str) -> serde_json::Value {
    read_json(&folder("golden.json"))[name].clone()
}

/// Relative error 1e-4 of the logits of transformers with the dequantized weights, whichever way they rest.
#[test]
fn what_bitsandbytes_serialised_has_the_same_logits() {
    for name in ["nf4", "fp4", "int8"] {
        for rest in [Rest::Frozen, Rest::Stored, Rest::Trained] {
            let model = open(&folder(name), Precision::F32, rest).unwrap().model;
            let recorded = recorded(name);
            check_logits(&model, &serde_json::json!({ "sequences": [recorded] }));
            let greedy_of = &recorded["greedy"];
            let options = greedy(16, Vec::new());
            let generated = Generator::new(&model, 64)
                .generate(&ids(&greedy_of["prompt_ids"]), &options, |_| ControlFlow::Continue(()))
                .unwrap();
            assert_eq!(generated.ids, ids(&greedy_of["ids"]), "{name}");
        }
    }
}

/// bitsandbytes' own int8 layers round the activations to 8 bits too: their logits are near, not the same.
#[test]
fn int8_layers_of_bitsandbytes_itself_are_near() {
    let recorded = recorded("int8");
    let model = open(&folder("int8"), Precision::F32, Rest::Frozen).unwrap().model;
    let found = log_probabilities(&model, &ids(&recorded["ids"]));
    for (found, row) in found.iter().zip(recorded["computed_logits"].as_array().unwrap()) {
        let expected = common::log_softmax(&numbers(row));
        let difference = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(difference < 0.25, "{difference}");
    }
}

/// The same folder, from 16 bits: read as NF4 while loading, or written by danlu, it is what bitsandbytes makes of it.
#[test]
fn quantizing_here_gives_what_bitsandbytes_gives() {
    let theirs = open(&folder("nf4"), Precision::F32, Rest::Stored).unwrap().model;
    let tokens: Vec<u32> = (0..40).map(|i| i * 7 % 61).collect();
    let expected = log_probabilities(&theirs, &tokens);
    let ours = open(&folder("base"), Precision::F32, Rest::Quantized(BlockType::Nf4)).unwrap().model;
    assert!(log_probabilities(&ours, &tokens) == expected);
    assert_eq!(ours.weight_bytes(), theirs.weight_bytes());

    let out = tempfile::tempdir().unwrap();
    let written = out.path().join("nf4");
    let options = ConvertOptions { form: Form::Nf4, mixture: None, tokenizer: None, importance: None };
    let converted =
        convert(&folder("base"), &written, options, &mut |_, _| ControlFlow::Continue(())).unwrap();
    let types: Vec<_> = converted.types.iter().map(|share| (share.name, share.tensors)).collect();
    assert!(types.contains(&("NF4", 7)), "{types:?}");
    let again = open(&written, Precision::F32, Rest::Stored).unwrap().model;
    assert!(log_probabilities(&again, &tokens) == expected);
    let (ours, theirs) =
        (TensorFolder::open_model(&written).unwrap(), TensorFolder::open_model(folder("nf4")).unwrap());
    for info in
        theirs.tensors().filter(|info| info.name.contains("proj") && !info.name.contains("quant_state"))
    {
        let found = ours.tensor(&info.name).unwrap_or_else(|| panic!("{}", info.name));
        assert_eq!((&found.info.shape, found.info.dtype), (&info.shape, info.dtype), "{}", info.name);
        assert!(found.bytes == theirs.tensor(&info.name).unwrap().bytes, "{}", info.name);
    }
    let config = read_json(&written.join("config.json"));
    assert_eq!(config["quantization_config"]["bnb_4bit_quant_type"], "nf4");
    assert_eq!(config["dtype"].as_str().or(config["torch_dtype"].as_str()), Some("float16"));
}

#[test]
fn eight_bits_while_loading_are_near_the_model_itself() {
    let tokens: Vec<u32> = (0..40).map(|i| i * 7 % 61).collect();
    let at = |rest| open(&folder("base"), Precision::F32, rest).unwrap().model;
    let plain = at(Rest::Frozen);
    let quantized = at(Rest::of_bits(8).unwrap());
    assert!(quantized.weight_bytes() < plain.weight_bytes() / 2);
    let nll = |model| -> f32 {
        let rows = log_probabilities(model, &tokens);
        rows.iter().zip(&tokens[1..]).map(|(row, id)| -row[*id as usize]).sum::<f32>() / 39.0
    };
    assert!((nll(&quantized) / nll(&plain) - 1.0).abs() < 0.01);
    let shape = open_shape(&folder("base"), Precision::F32, Rest::of_bits(8).unwrap()).unwrap().model;
    assert_eq!(shape.weight_bytes(), quantized.weight_bytes());
    assert_eq!(Rest::of_bits(3), None);
}

#[test]
fn what_is_quantized_is_not_quantized_again() {
    for (name, expected) in [
        ("nf4", "bitsandbytes NF4, double quantization"),
        ("fp4", "bitsandbytes FP4"),
        ("int8", "bitsandbytes INT8"),
    ] {
        let error = refusal(&folder(name), Rest::of_bits(4).unwrap());
        assert!(error.contains(&format!("is quantized already ({expected})")), "{error}");
        let described = describe(&folder(name)).unwrap();
        assert!(described.container.ends_with(expected), "{}", described.container);
        let kind = expected.split([' ', ',']).nth(1).unwrap();
        let share = described.types.iter().find(|share| share.name == kind).unwrap();
        assert_eq!(share.tensors, 7);
    }
    let error = refusal(&golden("mha-untied"), Rest::of_bits(4).unwrap());
    assert!(error.contains("has rows that are whole blocks of 64, as NF4 needs them"), "{error}");
}

fn refusal(path: &Path, rest: Rest) -> String {
    match open(path, Precision::F32, rest) {
        Err(error) => error.to_string(),
        Ok(_) => panic!("`{}` was opened", path.display()),
    }
}

/// A tensor's name, type, shape and bytes, or nothing to leave it out.
type Change<'a> = dyn Fn(&TensorInfo, &[u8]) -> Option<(TensorInfo, Vec<u8>)> + 'a;

/// The folder with some tensors changed; what opening it says.
fn damaged(name: &str, change: &Change<'_>) -> String {
    let source = TensorFolder::open_model(folder(name)).unwrap();
    let tensors: Vec<(TensorInfo, Vec<u8>)> =
        source.tensors().filter_map(|info| change(info, source.tensor(&info.name).unwrap().bytes)).collect();
    let infos: Vec<TensorInfo> = tensors.iter().map(|(info, _)| info.clone()).collect();
    let out = tempfile::tempdir().unwrap();
    write_safetensors::<Error>(out.path(), &WriteOptions::default(), &infos, |place, sink| {
        Ok(sink.write(&tensors[place].1)?)
    })
    .unwrap();
    std::fs::copy(folder(name).join("config.json"), out.path().join("config.json")).unwrap();
    refusal(out.path(), Rest::Frozen)
}

const LAYER: &str = "model.layers.0.mlp.up_proj.weight";

#[test]
fn a_tensor_that_is_missing_beside_a_quantized_weight_is_named() {
    for (name, part) in [
        ("nf4", ".absmax"),
        ("nf4", ".quant_map"),
        ("nf4", ".nested_absmax"),
        ("nf4", ".nested_quant_map"),
        ("nf4", ".quant_state.bitsandbytes__nf4"),
        ("nf4", ""),
        ("fp4", ".absmax"),
        ("int8", ""),
    ] {
        let missing = format!("{LAYER}{part}");
        let error =
            damaged(name, &|info, bytes| (info.name != missing).then(|| (info.clone(), bytes.to_vec())));
        assert!(error.contains(&missing) && error.contains("missing"), "{error}");
    }
    let scales = LAYER.replace("weight", "SCB");
    let error = damaged("int8", &|info, bytes| (info.name != scales).then(|| (info.clone(), bytes.to_vec())));
    assert!(error.contains(&format!("`{scales}`: missing")), "{error}");
}

#[test]
fn a_tensor_of_the_wrong_size_beside_a_quantized_weight_is_named() {
    for (name, part, elements, expected) in [
        ("nf4", ".absmax", 127, "expected 128 bytes, found 127"),
        ("nf4", ".quant_map", 15, "expected 64 bytes, found 60"),
        ("nf4", ".nested_absmax", 0, "expected 4 bytes, found 0"),
        ("nf4", "", 4000, "expected 4096 bytes, found 4000"),
        ("fp4", ".absmax", 100, "expected 512 bytes, found 400"),
    ] {
        let changed = format!("{LAYER}{part}");
        let error = damaged(name, &|info, bytes| {
            if info.name != changed {
                return Some((info.clone(), bytes.to_vec()));
            }
            let shape = vec![elements];
            Some((
                TensorInfo { shape, ..info.clone() },
                bytes[..elements * info.dtype.block_bytes()].to_vec(),
            ))
        });
        assert!(error.contains(&format!("`{changed}`: {expected}")), "{error}");
    }
}

#[test]
fn a_damaged_quantization_state_is_an_error() {
    let state = format!("{LAYER}.quant_state.bitsandbytes__nf4");
    for (text, expected) in [
        ("{", "EOF"),
        (r#"{"quant_type":"af4","blocksize":64,"shape":[128,64]}"#, "expected nf4 or fp4"),
        (r#"{"quant_type":"nf4","blocksize":0,"shape":[128,64]}"#, "`blocksize`"),
        (r#"{"quant_type":"nf4","blocksize":64,"shape":[4611686018427387904,64]}"#, "`shape`"),
        (r#"{"quant_type":"nf4","blocksize":64,"shape":[128,64],"nested_blocksize":256}"#, "`nested_offset`"),
        (
            r#"{"quant_type":"nf4","blocksize":64,"shape":[64,128],"nested_blocksize":256,"nested_offset":0.5}"#,
            "expected shape [128, 64]",
        ),
    ] {
        let error = damaged("nf4", &|info, bytes| {
            Some(match info.name == state {
                true => (TensorInfo { shape: vec![text.len()], ..info.clone() }, text.as_bytes().to_vec()),
                false => (info.clone(), bytes.to_vec()),
            })
        });
        assert!(error.contains(expected), "{error}");
    }
    let error = damaged("nf4", &|info, bytes| {
        let mut bytes = bytes.to_vec();
        if info.name.ends_with("up_proj.weight.nested_absmax") {
            bytes[..4].copy_from_slice(&f32::NAN.to_le_bytes());
        }
        Some((info.clone(), bytes))
    });
    assert!(error.contains("holds NaN, which is no scale"), "{error}");
}

#[test]
fn a_config_that_tells_of_bitsandbytes_beside_plain_weights_is_refused() {
    let out = tempfile::tempdir().unwrap();
    std::fs::copy(folder("base").join("model.safetensors"), out.path().join("model.safetensors")).unwrap();
    std::fs::copy(folder("nf4").join("config.json"), out.path().join("config.json")).unwrap();
    let error = refusal(out.path(), Rest::Frozen);
    assert!(error.contains("`quantization_config`: tells of bitsandbytes, but no tensor"), "{error}");
}
