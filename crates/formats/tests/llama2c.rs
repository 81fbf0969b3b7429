//! llama2.c files: the three versions of a real model, round trips, refusals, damaged files.

use crate::common;

use std::path::Path;

use common::shared_data;
use danlu_formats::{
    Dtype, Error, Llama2c, Llama2cConfig, Llama2cVersion, SafetensorsFolder, TensorInfo, write_llama2c,
};
use fs_err as fs;
use proptest::prelude::*;

fn values(file: &Llama2c, info: &TensorInfo) -> Vec<f32> {
    let mut values = vec![0.0; info.elements().unwrap()];
    // In two reads, of which the second begins within a group.
    let (first, second) = values.split_at_mut(info.shape[0] / 2);
    file.read_f32(&info.name, 0, first).unwrap();
    file.read_f32(&info.name, first.len(), second).unwrap();
    values
}

fn rewrite(file: &Llama2c, version: Llama2cVersion, path: &Path) -> Vec<u8> {
    let config = Llama2cConfig { version, ..*file.config() };
    let written: Result<(), Error> = write_llama2c(path, &config, |info, sink| {
        values(file, info).chunks(100).try_for_each(|piece| sink.write(piece))
    });
    written.unwrap();
    fs::read(path).unwrap()
}

#[test]
fn the_versions_of_a_real_model_hold_the_same_and_are_written_as_llama2c_wrote_them() {
    let Some(folder) = shared_data("checkpoints/stories260K") else { return };
    let v0 = Llama2c::open(folder.join("stories260K.bin")).unwrap();
    let v1 = Llama2c::open(folder.join("checkpoint_v1.bin")).unwrap();
    let v2 = Llama2c::open(folder.join("stories260K-q8.bin")).unwrap();
    let config = Llama2cConfig {
        version: Llama2cVersion::V0,
        dim: 64,
        hidden_dim: 172,
        n_layers: 5,
        n_heads: 8,
        n_kv_heads: 4,
        vocab_size: 512,
        max_seq_len: 512,
        shared_classifier: true,
    };
    assert_eq!(*v0.config(), config);
    assert_eq!(*v1.config(), Llama2cConfig { version: Llama2cVersion::V1, ..config });
    let v2_version = Llama2cVersion::V2 { group_size: 8 };
    assert_eq!(*v2.config(), Llama2cConfig { version: v2_version, ..config });

    let twin = SafetensorsFolder::open(folder.join("hf-derived-safetensors")).unwrap();
    for (name, twin_name) in [
        ("tok_embeddings", "model.embed_tokens"),
        ("layers.4.attention.wv", "model.layers.4.self_attn.v_proj"),
        ("layers.3.attention.wo", "model.layers.3.self_attn.o_proj"),
        ("layers.0.feed_forward.w1", "model.layers.0.mlp.gate_proj"),
        ("layers.1.feed_forward.w2", "model.layers.1.mlp.down_proj"),
        ("layers.4.feed_forward.w3", "model.layers.4.mlp.up_proj"),
        ("layers.2.attention_norm", "model.layers.2.input_layernorm"),
        ("layers.4.ffn_norm", "model.layers.4.post_attention_layernorm"),
        ("norm", "model.norm"),
    ] {
        let twin = twin.tensor(&format!("{twin_name}.weight")).unwrap();
        for file in [&v0, &v1] {
            let tensor = file.tensor(&format!("{name}.weight")).unwrap();
            assert_eq!(tensor.info.shape, twin.info.shape, "{name}");
            assert_eq!(tensor.bytes, twin.bytes, "{name}");
        }
    }
    assert_eq!(v0.tensors().len(), 9 * 5 + 2);
    for info in v0.tensors() {
        assert_eq!(v1.tensor(&info.name).unwrap().bytes, v0.tensor(&info.name).unwrap().bytes);
        let (exact, quantized) = (values(&v0, info), values(&v2, info));
        let largest = exact.iter().fold(0f32, |largest, value| largest.max(value.abs()));
        for (exact, quantized) in exact.iter().zip(&quantized) {
            assert!((exact - quantized).abs() <= largest / 253.0, "{}", info.name);
        }
        v2.drop_pages(&info.name);
    }
    assert_eq!(v2.tensor("norm.weight").unwrap().info.dtype, Dtype::F32);
    assert_eq!(v2.tensor("layers.0.attention.wq.weight").unwrap().info.dtype, Dtype::I8);

    let out = tempfile::tempdir().unwrap();
    let path = out.path().join("model.bin");
    let same =
        |written: &[u8], name: &str| assert!(written == fs::read(folder.join(name)).unwrap(), "{name}");
    same(&rewrite(&v0, Llama2cVersion::V1, &path), "checkpoint_v1.bin");
    same(&rewrite(&v0, v2_version, &path), "stories260K-q8.bin");
    // The tables of rotations, which nobody reads, may differ in the last digit.
    let written = rewrite(&v1, Llama2cVersion::V0, &path);
    let real = fs::read(folder.join("stories260K.bin")).unwrap();
    let weights = real.len() - 2 * 512 * 4 * 4;
    assert_eq!(written.len(), real.len());
    assert!(written[..weights] == real[..weights]);
    for (written, real) in
        written[weights..].as_chunks::<4>().0.iter().zip(real[weights..].as_chunks::<4>().0)
    {
        assert!((f32::from_le_bytes(*written) - f32::from_le_bytes(*real)).abs() < 1e-4);
    }
}

#[test]
fn the_file_of_llama2ts_is_refused_by_name() {
    let Some(folder) = shared_data("checkpoints/stories260K") else { return };
    let error = Llama2c::open(folder.join("tinystories_260k_v1.llama2ts.bin")).unwrap_err();
    assert!(matches!(error, Error::Unsupported { .. }));
    assert!(
        error.to_string().contains("it is a model of llama2.ts, another project's own format"),
        "{error}"
    );
    let error = Llama2c::open(folder.join("tok512.bin")).unwrap_err();
    assert!(matches!(error, Error::Invalid { .. }), "{error}");
}

fn tiny(version: Llama2cVersion, shared_classifier: bool) -> Llama2cConfig {
    Llama2cConfig {
        version,
        dim: 8,
        hidden_dim: 12,
        n_layers: 2,
        n_heads: 2,
        n_kv_heads: 1,
        vocab_size: 6,
        max_seq_len: 5,
        shared_classifier,
    }
}

fn value_of(name: &str, index: usize) -> f32 {
    let seed: usize = name.bytes().map(usize::from).sum();
    ((index * 37 + seed * 11) % 101) as f32 - 50.0
}

fn write_tiny(path: &Path, config: &Llama2cConfig) {
    let written: Result<(), Error> = write_llama2c(path, config, |info, sink| {
        (0..info.elements().unwrap()).try_for_each(|index| sink.write(&[value_of(&info.name, index)]))
    });
    written.unwrap();
}

const VERSIONS: [Llama2cVersion; 3] =
    [Llama2cVersion::V0, Llama2cVersion::V1, Llama2cVersion::V2 { group_size: 4 }];

#[test]
fn every_version_with_and_without_a_head_is_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.bin");
    for version in VERSIONS {
        for shared_classifier in [true, false] {
            let config = tiny(version, shared_classifier);
            write_tiny(&path, &config);
            let file = Llama2c::open(&path).unwrap();
            assert_eq!(*file.config(), config);
            assert_eq!(file.tensor("output.weight").is_none(), shared_classifier);
            assert_eq!(file.tensors().cloned().collect::<Vec<_>>(), config.tensors());
            for info in file.tensors() {
                for (index, value) in values(&file, info).iter().enumerate() {
                    let exact = value_of(&info.name, index);
                    // Half a step of the largest possible scale.
                    let tolerance = if info.dtype == Dtype::I8 { 50.0 / 254.0 + 1e-5 } else { 0.0 };
                    assert!((value - exact).abs() <= tolerance, "{} {index}: {value} {exact}", info.name);
                }
            }
        }
    }
}

#[test]
fn groups_of_zeros_stay_zeros_and_ties_are_rounded_to_even() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.bin");
    let config = tiny(Llama2cVersion::V2 { group_size: 4 }, true);
    let written: Result<(), Error> = write_llama2c(&path, &config, |info, sink| {
        let values = [0.0, 0.0, 0.0, 0.0, 127.0, 0.5, 1.5, -2.5].iter().cycle();
        sink.write(&values.take(info.elements().unwrap()).copied().collect::<Vec<f32>>())
    });
    written.unwrap();
    let file = Llama2c::open(&path).unwrap();
    let name = "layers.1.attention.wq.weight";
    assert_eq!(file.tensor(name).unwrap().bytes[..8], [0, 0, 0, 0, 127, 0, 2, 254]);
    assert_eq!(file.scales(name).unwrap()[..8], [0, 0, 0, 0, 0, 0, 128, 63]);
    assert_eq!(file.scales("norm.weight"), None);
}

#[test]
fn what_cannot_be_written_is_refused_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.bin");
    let write = |config: &Llama2cConfig, value: f32, more: usize| {
        let written: Result<(), Error> = write_llama2c(&path, config, |info, sink| {
            sink.write(&vec![value; info.elements().unwrap() + more])
        });
        written.unwrap_err().to_string()
    };
    let config = tiny(Llama2cVersion::V2 { group_size: 4 }, true);
    assert!(write(&config, f32::NAN, 0).contains("has values that are not finite numbers"));
    assert!(write(&config, 1.0, 1).contains("of shape [8] was given 9 values"));
    let odd = Llama2cConfig { version: Llama2cVersion::V2 { group_size: 64 }, ..config };
    assert!(write(&odd, 1.0, 0).contains("its matrices are not whole groups of 64"));
    assert!(write(&Llama2cConfig { n_heads: 3, ..config }, 1.0, 0).contains("cannot have 3 heads"));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    assert_eq!(Llama2cConfig::group_size_for(64, 172), 4);
    assert_eq!(Llama2cConfig::group_size_for(4096, 11008), 64);
}

#[test]
fn a_scale_that_is_no_number_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.bin");
    write_tiny(&path, &tiny(Llama2cVersion::V2 { group_size: 4 }, true));
    let mut bytes = fs::read(&path).unwrap();
    let last = bytes.len() - 4;
    bytes[last..].copy_from_slice(&f32::NAN.to_le_bytes());
    fs::write(&path, &bytes).unwrap();
    let file = Llama2c::open(&path).unwrap();
    let name = "layers.1.feed_forward.w3.weight";
    file.read_f32(name, 0, &mut [0.0; 92]).unwrap();
    let error = file.read_f32(name, 0, &mut [0.0; 96]).unwrap_err().to_string();
    assert!(error.contains("scale 23 of tensor `layers.1.feed_forward.w3.weight` is NaN"), "{error}");
    file.read_f32(name, 90, &mut [0.0; 7]).unwrap_err();
    file.read_f32("output.weight", 0, &mut []).unwrap_err();
}

proptest! {
    #[test]
    fn damaged_files_never_panic(
        version in 0usize..3,
        changes in prop::collection::vec((0usize..48, any::<u8>()), 0..6),
        length in any::<prop::sample::Index>(),
        cut: bool,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.bin");
        write_tiny(&path, &tiny(VERSIONS[version], false));
        let mut bytes = fs::read(&path).unwrap();
        for (index, byte) in changes {
            bytes[index] = byte;
        }
        if cut {
            bytes.truncate(length.index(bytes.len()));
        }
        fs::write(&path, &bytes).unwrap();
        if let Ok(file) = Llama2c::open(&path) {
            for info in file.tensors() {
                prop_assert_eq!(Some(file.tensor(&info.name).unwrap().bytes.len()), info.byte_length());
                let _ = file.read_f32(&info.name, 0, &mut vec![0.0; info.elements().unwrap()]);
            }
        }
    }
}
