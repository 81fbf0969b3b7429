//! PyTorch files: agreement with `torch.save`, refusal of code, round trips, shards, real files.

use crate::common;

use std::path::{Path, PathBuf};

use common::shared_data;
use danlu_formats::{
    Alias, Container, Dtype, Error, PytorchFolder, SafetensorsFolder, Scalar, TensorFolder, TensorInfo,
    WriteOptions, write_pth, write_pytorch,
};
use fs_err as fs;
use proptest::prelude::*;

fn golden(name: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/pytorch")).join(name)
}

fn info(name: &str, dtype: Dtype, shape: &[usize]) -> TensorInfo {
    TensorInfo { name: name.to_string(), dtype, shape: shape.to_vec() }
}

fn bytes_of(info: &TensorInfo) -> Vec<u8> {
    let seed: usize = info.name.bytes().map(usize::from).sum();
    (0..info.byte_length().unwrap()).map(|index| (index * 7 + seed) as u8).collect()
}

fn small_model() -> Vec<TensorInfo> {
    vec![
        info("tok_embeddings.weight", Dtype::F32, &[5, 4]),
        info("layers.0.attention.wq.weight", Dtype::Bf16, &[3, 3]),
        info("layers.0.ids", Dtype::U16, &[2]),
        info("norm.weight", Dtype::F16, &[4]),
        info("scalar", Dtype::F32, &[]),
        info("empty", Dtype::F32, &[0, 4]),
    ]
}

fn tied() -> [Alias; 1] {
    [Alias { name: "output.weight".to_string(), of: 0 }]
}

fn same(left: &TensorFolder, right: &TensorFolder) {
    let sorted = |folder: &TensorFolder| {
        let mut names: Vec<String> = folder.names().map(str::to_string).collect();
        names.sort();
        names
    };
    assert_eq!(sorted(left), sorted(right));
    for name in left.names() {
        let (left, right) = (left.tensor(name).unwrap(), right.tensor(name).unwrap());
        assert_eq!(left.info, right.info);
        assert_eq!(left.bytes, right.bytes, "{name}");
    }
}

#[test]
fn both_forms_and_newer_protocols_hold_what_torch_saved() {
    let expected = TensorFolder::open_model(golden("expected.safetensors")).unwrap();
    assert!(matches!(expected, TensorFolder::Safetensors(_)));
    for name in ["zip.pth", "legacy.pth", "protocol4.pth"] {
        let file = TensorFolder::open_model(golden(name)).unwrap();
        same(&file, &expected);
        let aliases: Vec<_> = file.names().filter_map(|name| Some((name, file.alias_of(name)?))).collect();
        assert_eq!(aliases, [("output.weight", "tok_embeddings.weight")], "{name}");
        for name in file.names() {
            file.drop_pages(name);
        }
        same(&file, &expected);
    }
    assert_eq!(expected.alias_of("output.weight"), None);
}

#[test]
fn the_state_dict_of_a_module_and_of_a_training_script() {
    let module = PytorchFolder::open(golden("module.pth")).unwrap();
    assert_eq!(module.names().collect::<Vec<_>>(), ["0.weight", "0.bias", "1.weight", "1.bias"]);
    assert_eq!(module.tensor("0.weight").unwrap().info.shape, [2, 3]);
    assert_eq!(module.wrapper(), None);
    assert!(module.metadata().is_empty());

    let training = PytorchFolder::open(golden("training.pth")).unwrap();
    assert_eq!(training.wrapper(), Some("model"));
    assert_eq!(
        training.names().collect::<Vec<_>>(),
        ["0.weight", "0.bias", "1.weight", "1.bias", "attributed"]
    );
    let metadata = training.metadata();
    assert_eq!(metadata["model_args.dim"], Scalar::Int(64));
    assert_eq!(metadata["model_args.norm_eps"], Scalar::Float(1e-5));
    assert_eq!(metadata["model_args.tied"], Scalar::Bool(true));
    assert_eq!(metadata["model_args.name"], Scalar::Text("丹炉".to_string()));
    assert_eq!(metadata["iter_num"], Scalar::Int(1 << 40));
    assert_eq!(metadata["loss"], Scalar::Float(f64::INFINITY));
    assert!(!metadata.contains_key("seed"), "it does not fit into 64 bits with a sign");

    let nested = PytorchFolder::open(golden("nested.pth")).unwrap();
    assert_eq!(nested.names().collect::<Vec<_>>(), ["encoder.weight", "encoder.0", "layers.0", "layers.1.0"]);
    assert_eq!(nested.tensor("layers.1.0").unwrap().bytes[..4], 3f32.to_le_bytes());
}

#[test]
fn files_that_would_run_code_are_refused_by_name() {
    for (name, refused) in [
        ("os_system.pth", "its pickle refers to `os.system`: loading it would run code from the file"),
        ("eval.pth", "its pickle refers to `builtins.eval`: loading it would run code"),
        ("eval_legacy.pth", "its pickle refers to `builtins.eval`: loading it would run code"),
        ("module.pth", "its pickle refers to `torch.nn.modules.linear.Linear`: loading it would run code"),
        ("expanded.pth", "tensor `weight` repeats its elements (strides [0, 0] for shape [1000, 1000])"),
        ("complex.pth", "it holds tensors of type `torch.ComplexFloatStorage`, which danlu does not know"),
        ("two.pth", "it holds tensors under `model` and under `module`; save the one that is meant alone"),
        ("script.pth", "it is a TorchScript program; save its tensors"),
        ("single.pth", "it holds no dictionary of tensors"),
    ] {
        let error = PytorchFolder::open(golden("refused").join(name)).unwrap_err();
        assert!(matches!(error, Error::Unsupported { .. }), "{error}");
        let error = error.to_string();
        assert!(error.contains(refused) && error.contains(name), "{error}");
    }
}

#[test]
fn files_are_told_apart_by_their_content() {
    for (name, container) in [
        ("zip.pth", Some(Container::Pytorch)),
        ("legacy.pth", Some(Container::Pytorch)),
        ("expected.safetensors", Some(Container::Safetensors)),
        ("../../pytorch.rs", None),
    ] {
        assert_eq!(Container::of(golden(name)).unwrap(), container, "{name}");
    }
    let Some(folder) = shared_data("checkpoints/stories260K") else { return };
    for (name, container) in [
        ("stories260K.bin", Some(Container::Llama2c)),
        ("checkpoint_v1.bin", Some(Container::Llama2c)),
        ("stories260K-q8.bin", Some(Container::Llama2c)),
        ("tinystories_260k_v1.llama2ts.bin", Some(Container::Llama2c)),
        ("stories260K.gguf", Some(Container::Gguf)),
        ("hf-derived/pytorch_model.bin", Some(Container::Pytorch)),
        ("tok512.bin", None),
        ("golden_llama2c.json", None),
    ] {
        assert_eq!(Container::of(folder.join(name)).unwrap(), container, "{name}");
    }
}

#[test]
fn other_files_say_what_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pytorch_model.bin");
    let message = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        PytorchFolder::open(folder.path()).unwrap_err().to_string()
    };
    assert!(message(b"version https://git-lfs.github.com/spec/v1\n").contains("`git lfs pull`"));
    let mut tar = vec![0; 512];
    tar[257..262].copy_from_slice(b"ustar");
    assert!(message(&tar).contains("PyTorch before 0.1.10"));
    assert!(
        message(b"<html>").contains("it is neither a zip archive nor begins with PyTorch's magic number")
    );
    assert!(message(b"").contains("neither"));
    fs::remove_file(&path).unwrap();
    let error = PytorchFolder::open(folder.path()).unwrap_err().to_string();
    assert!(error.ends_with("holds no `pytorch_model.bin` and no `pytorch_model.bin.index.json`"), "{error}");
    let error = TensorFolder::open_model(folder.path()).unwrap_err().to_string();
    assert!(error.ends_with("`pytorch_model.bin` and no `.index.json` of either"), "{error}");
}

fn assert_holds(folder: &PytorchFolder, tensors: &[TensorInfo]) {
    for info in tensors {
        let tensor = folder.tensor(&info.name).unwrap();
        assert_eq!(tensor.info, info);
        assert_eq!(tensor.bytes, bytes_of(info));
    }
}

#[test]
fn written_files_are_read_back_and_data_is_aligned() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("epoch_0.pth");
    let tensors = small_model();
    let write = || -> Result<(), Error> {
        write_pth(&path, &tensors, &tied(), |place, sink| {
            bytes_of(&tensors[place]).chunks(10).try_for_each(|piece| sink.write(piece))
        })
    };
    write().unwrap();
    let file = PytorchFolder::open(&path).unwrap();
    assert_holds(&file, &tensors);
    assert_eq!(file.names().len(), tensors.len() + 1);
    assert_eq!(file.alias_of("output.weight"), Some("tok_embeddings.weight"));
    let bytes = fs::read(&path).unwrap();
    let data = bytes_of(&tensors[0]);
    let start = bytes.windows(data.len()).position(|window| window == data).unwrap();
    assert_eq!(start % 64, 0);
    write().unwrap();
    assert_eq!(fs::read(&path).unwrap(), bytes, "the same tensors give the same bytes");
}

/// Every element type that PyTorch has, and a tied head.
fn write_recording(path: &Path) {
    let tensors = [
        info("tok_embeddings.weight", Dtype::F32, &[5, 4]),
        info("wq", Dtype::Bf16, &[3, 3]),
        info("norm", Dtype::F16, &[4]),
        info("f64", Dtype::F64, &[2, 1]),
        info("u8", Dtype::U8, &[7]),
        info("i8", Dtype::I8, &[7]),
        info("i16", Dtype::I16, &[3]),
        info("i32", Dtype::I32, &[3]),
        info("i64", Dtype::I64, &[3]),
        info("u16", Dtype::U16, &[3]),
        info("u32", Dtype::U32, &[3]),
        info("u64", Dtype::U64, &[3]),
        info("f8e4m3", Dtype::F8E4M3, &[3]),
        info("f8e5m2", Dtype::F8E5M2, &[3]),
        info("scalar", Dtype::F32, &[]),
        info("empty", Dtype::F32, &[0, 4]),
    ];
    let written: Result<(), Error> =
        write_pth(path, &tensors, &tied(), |place, sink| sink.write(&bytes_of(&tensors[place])));
    written.unwrap();
}

/// `tools/golden/check_pickles.py` reads the recording with PyTorch, and takes a new one where it is as it should be.
#[test]
fn files_are_written_as_pytorch_was_seen_to_read_them() {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("written.pth");
    write_recording(&path);
    let is_recorded = fs::read(&path).unwrap() == fs::read(golden("written.pth")).unwrap();
    assert!(is_recorded, "if PyTorch reads it too: python tools/golden/check_pickles.py {}", path.display());
}

#[test]
fn shards_and_index_agree() {
    let folder = tempfile::tempdir().unwrap();
    let tensors = small_model();
    let options = WriteOptions { base_name: "pytorch_model".to_string(), max_shard_bytes: 81 };
    write_pytorch(folder.path(), &options, &tensors, &tied(), |place, sink| {
        sink.write(&bytes_of(&tensors[place]))
    })
    .map_err(|error: Error| error)
    .unwrap();
    let index = fs::read_to_string(folder.path().join("pytorch_model.bin.index.json")).unwrap();
    assert!(index.contains("\"total_size\": 114"), "{index}");
    assert!(index.contains("\"output.weight\": \"pytorch_model-00001-of-00002.bin\""), "{index}");
    let model = TensorFolder::open_model(folder.path()).unwrap();
    let TensorFolder::Pytorch(model) = model else { panic!("not PyTorch") };
    assert_holds(&model, &tensors);
    assert_eq!(model.files().len(), 2);
    assert_eq!(model.alias_of("output.weight"), Some("tok_embeddings.weight"));

    fs::write(
        folder.path().join("pytorch_model.bin.index.json"),
        index.replace("\"norm.weight\"", "\"norm.bias\""),
    )
    .unwrap();
    let error = PytorchFolder::open(folder.path()).unwrap_err().to_string();
    assert!(error.contains("lists tensor `norm.bias` in `pytorch_model-00002-of-00002.bin`"), "{error}");
}

#[test]
fn what_cannot_be_written_is_refused_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.pth");
    let write = |tensors: &[TensorInfo], aliases: &[Alias], given: usize| {
        let result: Result<(), Error> =
            write_pth(&path, tensors, aliases, |_, sink| sink.write(&vec![0; given]));
        result.unwrap_err().to_string()
    };
    let one = [info("a", Dtype::F32, &[1])];
    let alias = |name: &str, of: usize| [Alias { name: name.to_string(), of }];
    assert!(write(&one, &[], 5).contains("takes 4 bytes, but 5 were given"));
    assert!(write(&one, &[], 3).contains("takes 4 bytes, but 3 were given"));
    assert!(write(&one, &alias("a", 0), 4).contains("tensor `a` is listed twice"));
    assert!(write(&one, &alias("b", 1), 4).contains("tensor `b` is an alias of no tensor"));
    assert!(write(&[info("a", Dtype::Q4_0, &[32])], &[], 18).contains("which PyTorch does not have"));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn a_real_model_holds_the_tensors_of_its_safetensors_twin() {
    let Some(folder) = shared_data("checkpoints/stories260K") else { return };
    let model = TensorFolder::open_model(folder.join("hf-derived")).unwrap();
    assert!(matches!(model, TensorFolder::Pytorch(_)));
    let twin = SafetensorsFolder::open(folder.join("hf-derived-safetensors")).unwrap();
    for info in twin.tensors() {
        assert_eq!(model.tensor(&info.name).unwrap().info, info);
        assert_eq!(model.tensor(&info.name).unwrap().bytes, twin.tensor(&info.name).unwrap().bytes);
    }
    // The older container lists the tied head too.
    let more: Vec<&str> = model.names().filter(|name| twin.tensor(name).is_none()).collect();
    assert_eq!(more, ["lm_head.weight"]);
    assert_eq!(model.alias_of("lm_head.weight"), Some("model.embed_tokens.weight"));
}

#[test]
fn the_state_files_of_a_real_trainer() {
    let Some(folder) = shared_data("checkpoints/smollm-135m-lora-medical") else { return };
    let scheduler = PytorchFolder::open(folder.join("checkpoint-1645.scheduler.pt")).unwrap();
    assert_eq!(scheduler.names().len(), 0);
    assert_eq!(scheduler.metadata()["last_epoch"], Scalar::Int(1645));
    for (name, refused) in [
        ("checkpoint-1645.rng_state.pth", "numpy._core.multiarray._reconstruct"),
        ("training_args.bin", "trl.trainer.sft_config.SFTConfig"),
    ] {
        let error = PytorchFolder::open(folder.join(name)).unwrap_err().to_string();
        assert!(error.contains(refused), "{error}");
    }
    let adapter = TensorFolder::open_adapter(&folder).unwrap();
    assert_eq!(adapter.names().len(), 120);
}

proptest! {
    #[test]
    fn every_round_trip_is_exact(
        shapes in prop::collection::vec((0usize..15, prop::collection::vec(0usize..6, 0..4)), 0..12),
        max_shard_bytes in 0usize..400,
    ) {
        let dtypes = [
            Dtype::Bool, Dtype::U8, Dtype::I8, Dtype::F8E4M3, Dtype::F8E5M2, Dtype::U16, Dtype::I16, Dtype::F16,
            Dtype::Bf16, Dtype::U32, Dtype::I32, Dtype::F32, Dtype::U64, Dtype::I64, Dtype::F64,
        ];
        let tensors: Vec<TensorInfo> = shapes
            .iter()
            .enumerate()
            .map(|(index, (dtype, shape))| info(&format!("层.{index}\"\\"), dtypes[*dtype], shape))
            .collect();
        let folder = tempfile::tempdir().unwrap();
        let options = WriteOptions { base_name: "pytorch_model".to_string(), max_shard_bytes };
        let written: Result<(), Error> =
            write_pytorch(folder.path(), &options, &tensors, &[], |place, sink| sink.write(&bytes_of(&tensors[place])));
        written.unwrap();
        assert_holds(&PytorchFolder::open(folder.path()).unwrap(), &tensors);
    }
}
