//! safetensors: round trips, agreement with the reference, shards, damaged files.

use crate::common;

use std::collections::HashMap;
use std::path::Path;

use common::shared_data;
use danlu_formats::{
    AtomicFolder, Dtype, Error, SafetensorsFolder, TensorInfo, WriteOptions, write_safetensors,
};
use fs_err as fs;
use proptest::prelude::*;
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;

fn info(name: &str, dtype: Dtype, shape: &[usize]) -> TensorInfo {
    TensorInfo { name: name.to_string(), dtype, shape: shape.to_vec() }
}

/// Bytes that differ from tensor to tensor.
fn bytes_of(info: &TensorInfo) -> Vec<u8> {
    let seed: usize = info.name.bytes().map(usize::from).sum();
    (0..info.byte_length().unwrap()).map(|index| (index * 7 + seed) as u8).collect()
}

fn write(folder: &Path, max_shard_bytes: usize, tensors: &[TensorInfo]) -> Result<(), Error> {
    let options = WriteOptions { max_shard_bytes, ..WriteOptions::default() };
    write_safetensors(folder, &options, tensors, |place, sink| {
        // In pieces, as a converting writer gives them.
        bytes_of(&tensors[place]).chunks(10).try_for_each(|piece| sink.write(piece))
    })
}

fn small_model() -> Vec<TensorInfo> {
    vec![
        info("model.embed_tokens.weight", Dtype::Bf16, &[5, 4]),
        info("model.layers.0.self_attn.q_proj.weight", Dtype::F32, &[3, 3]),
        info("model.layers.0.input_layernorm.weight", Dtype::F32, &[3]),
        info("model.layers.0.odd", Dtype::U8, &[7]),
        info("model.layers.0.ids", Dtype::I64, &[2]),
        info("model.scalar", Dtype::F16, &[]),
        info("model.empty", Dtype::F32, &[0, 4]),
    ]
}

fn assert_holds(folder: &SafetensorsFolder, tensors: &[TensorInfo]) {
    assert_eq!(folder.names().len(), tensors.len());
    for info in tensors {
        let tensor = folder.tensor(&info.name).unwrap();
        assert_eq!(tensor.info, info);
        assert_eq!(tensor.bytes, bytes_of(info));
        folder.drop_pages(&info.name);
        assert_eq!(tensor.bytes, bytes_of(info), "dropped pages come back");
    }
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn one_file_is_byte_for_byte_that_of_the_reference() {
    let folder = tempfile::tempdir().unwrap();
    let tensors = small_model();
    write(folder.path(), 1000, &tensors).unwrap();
    assert_eq!(names(folder.path()), ["model.safetensors"]);

    let written = fs::read(folder.path().join("model.safetensors")).unwrap();
    let contents: Vec<Vec<u8>> = tensors.iter().map(bytes_of).collect();
    let views = tensors.iter().zip(&contents).map(|(info, bytes)| {
        let dtype = match info.dtype {
            Dtype::Bf16 => safetensors::Dtype::BF16,
            Dtype::F16 => safetensors::Dtype::F16,
            Dtype::F32 => safetensors::Dtype::F32,
            Dtype::I64 => safetensors::Dtype::I64,
            _ => safetensors::Dtype::U8,
        };
        (info.name.clone(), TensorView::new(dtype, info.shape.clone(), bytes).unwrap())
    });
    let metadata = HashMap::from([("format".to_string(), "pt".to_string())]);
    assert_eq!(written, safetensors::serialize(views, Some(metadata)).unwrap());
    assert_holds(&SafetensorsFolder::open(folder.path()).unwrap(), &tensors);
    assert_holds(&SafetensorsFolder::open(folder.path().join("model.safetensors")).unwrap(), &tensors);
}

#[test]
fn shards_and_index_agree() {
    let folder = tempfile::tempdir().unwrap();
    let tensors = small_model();
    write(folder.path(), 50, &tensors).unwrap();
    assert_eq!(
        names(folder.path()),
        [
            "model-00001-of-00003.safetensors",
            "model-00002-of-00003.safetensors",
            "model-00003-of-00003.safetensors",
            "model.safetensors.index.json"
        ]
    );
    let index = fs::read_to_string(folder.path().join("model.safetensors.index.json")).unwrap();
    assert!(
        index.starts_with("{\n  \"metadata\": {\n    \"total_size\": 113\n  },\n  \"weight_map\": {\n"),
        "{index}"
    );
    assert!(index.contains("\"model.layers.0.odd\": \"model-00003-of-00003.safetensors\""), "{index}");
    for name in names(folder.path()).iter().filter(|name| name.ends_with(".safetensors")) {
        SafeTensors::deserialize(&fs::read(folder.path().join(name)).unwrap()).unwrap();
    }
    assert_holds(&SafetensorsFolder::open(folder.path()).unwrap(), &tensors);
    assert_holds(
        &SafetensorsFolder::open(folder.path().join("model.safetensors.index.json")).unwrap(),
        &tensors,
    );
}

#[test]
fn adapters_have_another_base_name() {
    let folder = tempfile::tempdir().unwrap();
    let tensors = [info("a.lora_A.weight", Dtype::F32, &[2, 3])];
    let options = WriteOptions { base_name: "adapter_model".to_string(), ..WriteOptions::default() };
    write_safetensors(folder.path(), &options, &tensors, |place, sink| {
        sink.write(&bytes_of(&tensors[place]))
    })
    .unwrap();
    assert_holds(&SafetensorsFolder::open_named(folder.path(), "adapter_model").unwrap(), &tensors);
    let error = SafetensorsFolder::open(folder.path()).unwrap_err().to_string();
    assert!(error.ends_with("holds no `model.safetensors` and no `model.safetensors.index.json`"), "{error}");
}

#[test]
fn a_real_adapter_opens() {
    let Some(folder) = shared_data("checkpoints/smollm-135m-lora-medical") else { return };
    let adapter = SafetensorsFolder::open_named(folder, "adapter_model").unwrap();
    // Queries and values of 30 layers, two matrices each.
    assert_eq!(adapter.names().len(), 120);
    let matrix = adapter.tensor("base_model.model.model.layers.0.self_attn.v_proj.lora_B.weight").unwrap();
    assert_eq!((matrix.info.dtype, matrix.info.shape.as_slice()), (Dtype::F32, [192, 16].as_slice()));
}

#[test]
fn an_index_that_disagrees_with_its_shards_names_the_tensor() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let index = path.join("model.safetensors.index.json");
    write(path, 50, &small_model()).unwrap();
    let good = fs::read_to_string(&index).unwrap();
    let error_with = |text: &str| {
        fs::write(&index, text).unwrap();
        SafetensorsFolder::open(path).unwrap_err().to_string()
    };

    let error = error_with(&good.replace("model.scalar", "model.other"));
    assert!(error.contains(
        "lists tensor `model.other` in `model-00003-of-00003.safetensors`, which does not hold it"
    ));
    let error = error_with(&good.replacen("00001-of-00003", "00002-of-00003", 1).replacen(
        "\"model.layers.0.self_attn.q_proj.weight\": \"model-00002",
        "\"model.layers.0.self_attn.q_proj.weight\": \"model-00001",
        1,
    ));
    assert!(error.contains("lists tensor `model.embed_tokens.weight` in `model-00002"), "{error}");
    let mut left_out: serde_json::Value = serde_json::from_str(&good).unwrap();
    left_out["weight_map"].as_object_mut().unwrap().remove("model.layers.0.odd");
    let error = error_with(&left_out.to_string());
    assert!(error.contains("tensor `model.layers.0.odd` is in a shard, but not in the index"), "{error}");
    let error = error_with(&good.replace("model-00003-of", "../model-00003-of"));
    assert!(
        error.contains("shard `../model-00003-of-00003.safetensors` is not a plain file name"),
        "{error}"
    );
    let error = error_with("{\"weight_map\": 3}");
    assert!(error.contains("model.safetensors.index.json") && error.contains("line 1"), "{error}");

    fs::write(&index, &good).unwrap();
    fs::copy(path.join("model-00003-of-00003.safetensors"), path.join("model-00001-of-00003.safetensors"))
        .unwrap();
    let error = SafetensorsFolder::open(path).unwrap_err().to_string();
    assert!(error.contains("is also in another shard"), "{error}");
    fs::remove_file(path.join("model-00001-of-00003.safetensors")).unwrap();
    let error = SafetensorsFolder::open(path).unwrap_err().to_string();
    assert!(
        error.contains("lists shard `model-00001-of-00003.safetensors`, which is not in the folder"),
        "{error}"
    );
}

#[test]
fn what_cannot_be_written_is_refused_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let twice = [info("a", Dtype::F32, &[1]), info("a", Dtype::F32, &[1])];
    assert!(write(path, 100, &twice).unwrap_err().to_string().contains("tensor `a` is listed twice"));
    let blocks = [info("a", Dtype::Q4_0, &[32])];
    assert!(write(path, 100, &blocks).unwrap_err().to_string().contains("which safetensors does not have"));
    let huge = [info("a", Dtype::F32, &[usize::MAX, 2])];
    assert!(write(path, 100, &huge).unwrap_err().to_string().contains("too large"));

    for given in [3, 5] {
        let one = [info("a", Dtype::F32, &[1])];
        let result: Result<(), Error> =
            write_safetensors(path, &WriteOptions::default(), &one, |_, sink| sink.write(&vec![0; given]));
        let error = result.unwrap_err().to_string();
        assert!(error.contains(&format!("takes 4 bytes, but {given} were given")), "{error}");
    }
    assert_eq!(names(path), Vec::<String>::new());
}

#[test]
fn a_failed_save_leaves_the_previous_model() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("checkpoint-10");
    let tensors = small_model();
    let first = AtomicFolder::create(&path).unwrap();
    write(first.path(), 50, &tensors).unwrap();
    first.commit().unwrap();

    let second = AtomicFolder::create(&path).unwrap();
    let result: Result<(), Error> =
        write_safetensors(second.path(), &WriteOptions::default(), &tensors, |_, _| {
            Err(Error::DiskFull { path: "disk".into() })
        });
    assert!(matches!(result, Err(Error::DiskFull { .. })));
    drop(second);
    assert_eq!(names(folder.path()), ["checkpoint-10"]);
    assert_holds(&SafetensorsFolder::open(&path).unwrap(), &tensors);
}

fn open_bytes(bytes: &[u8]) -> Result<SafetensorsFolder, Error> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.safetensors");
    fs::write(&path, bytes).unwrap();
    SafetensorsFolder::open(path)
}

fn small_file() -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), 1000, &small_model()).unwrap();
    fs::read(folder.path().join("model.safetensors")).unwrap()
}

#[test]
fn damaged_files_say_what_is_wrong() {
    let file = small_file();
    let message = |bytes: &[u8]| open_bytes(bytes).unwrap_err().to_string();
    assert!(message(b"").contains("m.safetensors` is not a valid safetensors file: it has 0 bytes"));
    assert!(message(&file[..file.len() - 1]).contains("it was not written or copied completely"));
    assert!(message(&file[..20]).contains("cut short"));
    for power in 10..64 {
        let mut long = file.clone();
        long[..8].copy_from_slice(&(1u64 << power).to_le_bytes());
        open_bytes(&long).unwrap_err();
    }
    // Sizes whose sum overflows: eight tensors of almost 2^61 bytes.
    let size = (1u64 << 61) - 1;
    let entries: Vec<String> = (0..8)
        .map(|i| {
            format!(
                "\"t{i}\":{{\"dtype\":\"U8\",\"shape\":[{size}],\"data_offsets\":[{},{}]}}",
                i * size,
                (i + 1) * size
            )
        })
        .collect();
    let header = format!("{{{}}}", entries.join(","));
    let mut overflowing = (header.len() as u64).to_le_bytes().to_vec();
    overflowing.extend(header.bytes());
    assert!(message(&overflowing).contains("its tensors take"));
    assert!(matches!(SafetensorsFolder::open("/dev/null"), Err(Error::WrongKind { .. })));
    assert!(SafetensorsFolder::open("/nowhere").unwrap_err().to_string().contains("/nowhere"));
}

proptest! {
    #[test]
    fn damaged_files_never_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        length in any::<prop::sample::Index>(),
        cut: bool,
    ) {
        let mut bytes = small_file();
        let header = bytes.len() - 113;
        for (index, byte) in changes {
            bytes[index.index(header)] = byte;
        }
        if cut {
            bytes.truncate(length.index(bytes.len()));
        }
        if let Ok(folder) = open_bytes(&bytes) {
            for info in folder.tensors() {
                prop_assert_eq!(Some(folder.tensor(&info.name).unwrap().bytes.len()), info.byte_length());
            }
        }
    }

    #[test]
    fn every_round_trip_is_exact(
        shapes in prop::collection::vec((0usize..5, prop::collection::vec(0usize..6, 0..4)), 0..12),
        max_shard_bytes in 0usize..400,
    ) {
        let dtypes = [Dtype::F32, Dtype::Bf16, Dtype::U8, Dtype::F16, Dtype::I64];
        let tensors: Vec<TensorInfo> = shapes
            .iter()
            .enumerate()
            .map(|(index, (dtype, shape))| info(&format!("层.{index}\"\\"), dtypes[*dtype], shape))
            .collect();
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), max_shard_bytes, &tensors).unwrap();
        assert_holds(&SafetensorsFolder::open(folder.path()).unwrap(), &tensors);
    }
}
