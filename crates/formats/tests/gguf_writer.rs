//! Writing GGUF: byte for byte as gguf-py does, round trips through the reader, refusals, damage.

use crate::common;

use std::path::Path;

use common::shared_data;
use danlu_formats::{Array, Dtype, Error, Gguf, Strings, TensorInfo, Value, write_gguf};
use fs_err as fs;
use proptest::prelude::*;

fn info(name: &str, dtype: Dtype, shape: &[usize]) -> TensorInfo {
    TensorInfo { name: name.to_string(), dtype, shape: shape.to_vec() }
}

fn entry(key: &str, value: Value) -> (String, Value) {
    (key.to_string(), value)
}

fn write(
    path: &Path,
    metadata: &[(String, Value)],
    tensors: &[TensorInfo],
    bytes: &[Vec<u8>],
) -> Result<(), Error> {
    write_gguf(path, metadata, tensors, |place, sink| {
        bytes[place].chunks(7).try_for_each(|piece| sink.write(piece))
    })
}

fn strings(items: &[&str]) -> Value {
    Value::Array(Array::Strings(items.iter().collect::<Strings>()))
}

#[test]
fn a_file_is_byte_for_byte_that_of_gguf_py() {
    let metadata = [
        entry("general.architecture", Value::String("llama".into())),
        entry("test.u8", Value::U8(200)),
        entry("test.i8", Value::I8(-100)),
        entry("test.u16", Value::U16(60_000)),
        entry("test.i16", Value::I16(-30_000)),
        entry("test.u32", Value::U32(4_000_000_000)),
        entry("test.i32", Value::I32(-2_000_000_000)),
        entry("test.u64", Value::U64(1 << 63)),
        entry("test.i64", Value::I64(-(1 << 62))),
        entry("test.f32", Value::F32(0.1)),
        entry("test.f64", Value::F64(0.1)),
        entry("test.bool", Value::Bool(true)),
        entry("test.string", Value::String("丹炉".into())),
        entry("test.i32s", Value::Array(Array::I32(vec![1, -2, 3]))),
        entry("test.f32s", Value::Array(Array::F32(vec![0.5, -1.5]))),
        entry("test.bools", Value::Array(Array::Bool(vec![true, false]))),
        entry("test.u64s", Value::Array(Array::U64(vec![1, 1 << 40]))),
        entry("test.strings", strings(&["<s>", "", "炉"])),
        entry("general.alignment", Value::U32(64)),
    ];
    let tensors = [
        info("f32", Dtype::F32, &[2, 3]),
        info("f16", Dtype::F16, &[5]),
        info("q8_0", Dtype::Q8_0, &[2, 32]),
        info("last", Dtype::F32, &[1]),
    ];
    let bytes = [
        (0..6u8).flat_map(|i| f32::from(i).to_le_bytes()).collect(),
        [0u16, 0x3c00, 0x4000, 0x4200, 0x4400].iter().flat_map(|half| half.to_le_bytes()).collect(),
        (0..68).collect(),
        7f32.to_le_bytes().to_vec(),
    ];
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    write(&path, &metadata, &tensors, &bytes).unwrap();
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/gguf-py.gguf");
    assert_eq!(fs::read(&path).unwrap(), fs::read(golden).unwrap());
}

#[test]
fn real_files_come_back_with_the_same_content() {
    for name in
        ["checkpoints/stories260K/stories260K.gguf", "tokenizers/llama.cpp-vocabs/ggml-vocab-llama-bpe.gguf"]
    {
        let Some(original) = shared_data(name) else { return };
        let original = Gguf::open(original).unwrap();
        let metadata: Vec<_> =
            original.metadata_entries().map(|(key, value)| (key.to_string(), value.clone())).collect();
        let tensors: Vec<_> = original.tensors().cloned().collect();
        let bytes: Vec<_> =
            tensors.iter().map(|info| original.tensor(&info.name).unwrap().bytes.to_vec()).collect();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.gguf");
        write(&path, &metadata, &tensors, &bytes).unwrap();
        assert_holds(&path, &metadata, &tensors, &bytes);
    }
}

fn assert_holds(path: &Path, metadata: &[(String, Value)], tensors: &[TensorInfo], bytes: &[Vec<u8>]) {
    let gguf = Gguf::open(path).unwrap();
    assert_eq!(gguf.version(), 3);
    assert_eq!(gguf.metadata_entries().len(), metadata.len());
    for (key, value) in metadata {
        assert_eq!(gguf.metadata(key), Some(value), "{key}");
    }
    assert!(gguf.tensors().eq(tensors));
    for (info, bytes) in tensors.iter().zip(bytes) {
        assert!(gguf.tensor(&info.name).unwrap().bytes == bytes, "{}", info.name);
    }
}

#[test]
fn what_cannot_be_written_is_refused_and_leaves_what_was_there() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    fs::write(&path, "old").unwrap();
    let refused = |metadata: &[(String, Value)], tensors: &[TensorInfo], bytes: &[Vec<u8>]| {
        let message = write(&path, metadata, tensors, bytes).unwrap_err().to_string();
        assert!(message.contains("m.gguf"), "{message}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        message
    };
    let tensor = |info: TensorInfo| refused(&[], &[info], &[vec![]]);
    assert!(tensor(info("t", Dtype::F64, &[2])).contains("takes 16 bytes, but 0 were given"));
    assert!(tensor(info("t", Dtype::Bool, &[2])).contains("BOOL, which GGUF does not have"));
    assert!(tensor(info("t", Dtype::F32, &[1; 5])).contains("has 5 dimensions; GGUF has at most 4"));
    assert!(
        tensor(info("t", Dtype::Q4K, &[4, 64])).contains("rows of 64 elements, which are not whole Q4_K")
    );
    assert!(tensor(info("t", Dtype::F32, &[1 << 62, 4])).contains("has too large a shape"));
    assert!(tensor(info(&"t".repeat(64), Dtype::F32, &[1])).contains("a name of 64 bytes; llama.cpp reads"));
    let twice = [info("t", Dtype::F32, &[0]), info("t", Dtype::F32, &[0])];
    assert!(refused(&[], &twice, &[vec![], vec![]]).contains("tensor `t` is listed twice"));
    let huge = [info("a", Dtype::I8, &[usize::MAX]), info("b", Dtype::I8, &[usize::MAX])];
    assert!(refused(&[], &huge, &[vec![], vec![]]).contains("makes the file too large"));
    assert!(refused(&[], &[info("t", Dtype::I8, &[3])], &[vec![0; 4]]).contains("but 4 were given"));

    let metadata = |key: &str, value| refused(&[entry(key, value)], &[], &[]);
    assert!(metadata("general.alignment", Value::U32(24)).contains("a power of two up to 65536, but is 24"));
    assert!(metadata("general.alignment", Value::U32(0)).contains("but is 0"));
    assert!(metadata("general.alignment", Value::U32(1 << 31)).contains("but is 2147483648"));
    assert!(metadata("general.alignment", Value::U64(32)).contains("should be a u32, but is 32"));
    let twice = [entry("a", Value::U8(1)), entry("a", Value::Bool(true))];
    assert!(refused(&twice, &[], &[]).contains("metadata `a` is listed twice"));

    let result: Result<(), Error> = write_gguf(&path, &[], &[info("t", Dtype::I8, &[2])], |_, sink| {
        sink.write(&[1])?;
        Err(Error::Unsupported { path: "elsewhere".into(), reason: "it broke off".into() })
    });
    assert!(result.unwrap_err().to_string().contains("it broke off"));
    assert_eq!(fs::read_to_string(&path).unwrap(), "old");
}

fn number() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<u8>().prop_map(Value::U8),
        any::<i8>().prop_map(Value::I8),
        any::<u16>().prop_map(Value::U16),
        any::<i16>().prop_map(Value::I16),
        any::<u32>().prop_map(Value::U32),
        any::<i32>().prop_map(Value::I32),
        any::<u64>().prop_map(Value::U64),
        any::<i64>().prop_map(Value::I64),
        any::<f32>().prop_map(Value::F32),
        any::<f64>().prop_map(Value::F64),
        any::<bool>().prop_map(Value::Bool),
        ".{0,12}".prop_map(Value::String),
    ]
}

fn array() -> impl Strategy<Value = Array> {
    use prop::collection::vec;
    prop_oneof![
        vec(any::<u8>(), 0..5).prop_map(Array::U8),
        vec(any::<i8>(), 0..5).prop_map(Array::I8),
        vec(any::<u16>(), 0..5).prop_map(Array::U16),
        vec(any::<i16>(), 0..5).prop_map(Array::I16),
        vec(any::<u32>(), 0..5).prop_map(Array::U32),
        vec(any::<i32>(), 0..5).prop_map(Array::I32),
        vec(any::<u64>(), 0..5).prop_map(Array::U64),
        vec(any::<i64>(), 0..5).prop_map(Array::I64),
        vec(any::<f32>(), 0..5).prop_map(Array::F32),
        vec(any::<f64>(), 0..5).prop_map(Array::F64),
        vec(any::<bool>(), 0..5).prop_map(Array::Bool),
        vec(vec(any::<u8>(), 0..5), 0..5).prop_map(|items| Array::Strings(items.iter().collect())),
    ]
}

type Content = (Vec<(String, Value)>, Vec<TensorInfo>, Vec<Vec<u8>>);

fn content() -> impl Strategy<Value = Content> {
    let value = prop_oneof![3 => number(), 2 => array().prop_map(Value::Array)];
    let metadata = prop::collection::hash_map("[a-z.]{0,8}", value, 0..8);
    let kind = prop::sample::select(vec![
        (Dtype::F32, 1),
        (Dtype::Bf16, 1),
        (Dtype::I8, 1),
        (Dtype::Q5_1, 32),
        (Dtype::Q6K, 256),
    ]);
    let shape = prop::collection::vec(0usize..4, 0..5);
    let tensors = prop::collection::hash_map("[a-z.]{0,8}", (kind, shape, any::<u8>()), 0..6);
    let alignment = prop::option::of((0u32..10).prop_map(|power| 1 << power));
    (metadata, tensors, alignment).prop_map(|(metadata, tensors, alignment)| {
        let mut metadata: Vec<_> = metadata.into_iter().collect();
        metadata.extend(alignment.map(|alignment| entry("general.alignment", Value::U32(alignment))));
        let mut infos = Vec::new();
        let mut bytes = Vec::new();
        for (name, ((dtype, block), mut shape, fill)) in tensors {
            match shape.last_mut() {
                Some(row) => *row *= block,
                None => shape.push(block),
            }
            let info = TensorInfo { name, dtype, shape };
            bytes.push(vec![fill; info.byte_length().unwrap()]);
            infos.push(info);
        }
        (metadata, infos, bytes)
    })
}

/// NaN is not equal to itself; its bits are.
fn comparable(metadata: Vec<(String, Value)>) -> Vec<(String, Value)> {
    let is_nan = |value: &Value| *value != value.clone();
    metadata.into_iter().filter(|(_, value)| !is_nan(value)).collect()
}

proptest! {
    #[test]
    fn every_round_trip_is_exact((metadata, tensors, bytes) in content()) {
        let metadata = comparable(metadata);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.gguf");
        write(&path, &metadata, &tensors, &bytes).unwrap();
        assert_holds(&path, &metadata, &tensors, &bytes);
    }

    /// Counts, lengths, dimensions and offsets are u64 or u32 at any place; these hit them with what hurts most.
    #[test]
    fn damaged_numbers_never_panic(
        (metadata, tensors, bytes) in content(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), 0usize..12, any::<bool>()), 1..4),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.gguf");
        write(&path, &metadata, &tensors, &bytes).unwrap();
        let mut file = fs::read(&path).unwrap();
        let length = file.len() as u64;
        for (place, choice, wide) in changes {
            let number = [
                0, 1, 5, 31, length - 1, length, length + 1, 1 << 31, 1 << 32, u64::MAX / 2, u64::MAX - 31, u64::MAX,
            ][choice];
            let place = place.index(file.len());
            for (byte, new) in file[place..].iter_mut().zip(&number.to_le_bytes()[..if wide { 8 } else { 4 }]) {
                *byte = *new;
            }
        }
        fs::write(&path, &file).unwrap();
        if let Ok(gguf) = Gguf::open(&path) {
            let total: usize = gguf.tensors().map(|info| gguf.tensor(&info.name).unwrap().bytes.len()).sum();
            // They do not overlap, so all of them together fit into the file.
            prop_assert!(total <= file.len());
        }
    }

    #[test]
    fn a_file_that_was_cut_short_is_refused((metadata, tensors, bytes) in content(), cut in any::<prop::sample::Index>()) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.gguf");
        write(&path, &metadata, &tensors, &bytes).unwrap();
        let file = fs::read(&path).unwrap();
        let cut = cut.index(file.len());
        fs::write(&path, &file[..cut]).unwrap();
        if let Ok(gguf) = Gguf::open(&path) {
            // Only padding is missing.
            prop_assert!(file[cut..].iter().all(|byte| *byte == 0));
            prop_assert!(gguf.tensors().eq(&tensors));
        }
    }
}
