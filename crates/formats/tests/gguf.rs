//! GGUF: real files, files by hand, damaged files.

use crate::common;

use common::{GgufBuilder, array, shared_data, small_gguf, string};
use danlu_formats::{Array, Dtype, Error, Gguf, SafetensorsFolder, Value};
use fs_err as fs;
use proptest::prelude::*;

fn open(bytes: &[u8]) -> Result<Gguf, Error> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    fs::write(&path, bytes).unwrap();
    Gguf::open(path)
}

fn message(bytes: &[u8]) -> String {
    let message = open(bytes).unwrap_err().to_string();
    assert!(message.contains("m.gguf"), "{message}");
    message
}

#[test]
fn a_file_by_hand() {
    let gguf = open(&small_gguf().build()).unwrap();
    assert_eq!(gguf.version(), 3);
    assert_eq!(gguf.get_str("general.architecture").unwrap(), Some("llama"));
    assert_eq!(gguf.get_usize("llama.block_count").unwrap(), Some(2));
    assert_eq!(gguf.get_f32("llama.rope.freq_base").unwrap(), Some(1e4));
    assert_eq!(gguf.get_bool("tokenizer.ggml.add_bos_token").unwrap(), Some(true));
    assert_eq!(gguf.get_f32s("tokenizer.ggml.scores").unwrap(), Some([1.0, 2.0].as_slice()));
    assert_eq!(gguf.get_i32s("tokenizer.ggml.token_type").unwrap(), Some([3].as_slice()));
    let tokens = gguf.get_strings("tokenizer.ggml.tokens").unwrap().unwrap();
    assert_eq!(tokens.iter().collect::<Vec<_>>(), [b"a".as_slice(), b"", "丹".as_bytes()]);
    assert_eq!((tokens.get(2), tokens.get(3)), (Some("丹".as_bytes()), None));
    assert_eq!(gguf.get_usize("absent").unwrap(), None);

    let error = gguf.get_usize("general.architecture").unwrap_err().to_string();
    assert!(
        error.ends_with("metadata `general.architecture` should be a whole number from 0, but is a string")
    );
    let error = gguf.get_str("tokenizer.ggml.tokens").unwrap_err().to_string();
    assert!(error.ends_with("should be a string, but is an array of 3 strings"), "{error}");

    let quantized = gguf.tensor("blk.0.weight").unwrap();
    assert_eq!((quantized.info.dtype, quantized.info.shape.as_slice()), (Dtype::Q8_0, [2, 32].as_slice()));
    assert_eq!(quantized.bytes, (0..68).collect::<Vec<u8>>());
    assert_eq!(gguf.tensor("norm").unwrap().bytes, (96..108).collect::<Vec<u8>>());
    gguf.drop_pages("norm");
    assert_eq!(gguf.tensor("norm").unwrap().bytes, (96..108).collect::<Vec<u8>>());
    assert!(gguf.tensor("other").is_none());
}

#[test]
fn what_is_not_read_says_why() {
    assert!(message(b"").contains("does not start with the letters `GGUF`"));
    assert!(message(b"ggjt\x03\0\0\0").contains("does not start with the letters `GGUF`"));
    let with_version = |version| message(&GgufBuilder { version, ..small_gguf() }.build());
    assert!(with_version(1).contains("version 1; convert the model again"));
    assert!(with_version(3u32.swap_bytes()).contains("big-endian"));
    assert!(with_version(4).contains("version 4; versions 2 and 3 are known"));
    assert!(open(&GgufBuilder { version: 2, ..small_gguf() }.build()).is_ok());

    let repeated = small_gguf().value("llama.block_count", 4, &[0; 4]).build();
    assert!(message(&repeated).contains("metadata `llama.block_count` is there twice"));
    let repeated = small_gguf().tensor("norm", &[0], 0, 128).data(&[0; 160]).build();
    assert!(message(&repeated).contains("tensor `norm` is there twice"));
    let nested = GgufBuilder::new().value("a", 9, &array(9, 1, &array(4, 0, &[]))).build();
    assert!(message(&nested).contains("array of arrays"));
    assert!(message(&GgufBuilder::new().value("a", 13, &[0; 8]).build()).contains("unknown type 13"));
    let latin = GgufBuilder::new().value("author", 8, &string(b"J\xfcrgen")).build();
    assert!(message(&latin).contains("the value of `author`"));
    let alignment = small_gguf().value("general.alignment", 4, &24u32.to_le_bytes()).build();
    assert!(message(&alignment).contains("`general.alignment` should be a power of two, but is 24"));

    let tensor = |dimensions: &[u64], id, offset| {
        message(&GgufBuilder::new().tensor("t", dimensions, id, offset).data(&[0; 64]).build())
    };
    assert!(tensor(&[17], 0, 0).contains("tensor `t` does not end before the file does"));
    assert!(tensor(&[16], 0, 32).contains("tensor `t` starts at 32, not at 0"));
    assert!(tensor(&[1; 5], 0, 0).contains("5 dimensions"));
    assert!(tensor(&[16, 2], 8, 0).contains("cannot be of type Q8_0 (blocks of 32)"));
    assert!(tensor(&[1 << 62, 4], 0, 0).contains("too large"));
    assert!(tensor(&[16], 20, 0).contains("ggml type 20"));
}

#[test]
fn a_stated_length_larger_than_the_file_is_refused_before_allocating() {
    for power in 20..64 {
        let length = 1u64 << power;
        for item_type in [0, 5, 7, 8, 10] {
            let bytes = GgufBuilder::new().value("a", 9, &array(item_type, length, &[0; 40])).build();
            assert!(message(&bytes).contains("more than fit into it"));
        }
        let mut bytes = GgufBuilder::new().value("a", 8, &length.to_le_bytes()).build();
        assert!(message(&bytes).contains("but"), "a string");
        for count in [8, 16] {
            bytes[count..count + 8].copy_from_slice(&length.to_le_bytes());
            assert!(message(&bytes).contains("more than fit into it"));
        }
    }
}

#[test]
fn stories260k_holds_the_same_weights_as_its_hugging_face_folder() {
    let Some(folder) = shared_data("checkpoints/stories260K") else { return };
    let gguf = Gguf::open(folder.join("stories260K.gguf")).unwrap();
    let hf = SafetensorsFolder::open(folder.join("hf-derived-safetensors")).unwrap();
    assert_eq!(gguf.get_usize("llama.embedding_length").unwrap(), Some(64));
    assert_eq!(gguf.get_strings("tokenizer.ggml.tokens").unwrap().unwrap().len(), 512);

    let mut pairs = vec![
        ("token_embd.weight".to_string(), "model.embed_tokens.weight".to_string()),
        ("output_norm.weight".to_string(), "model.norm.weight".to_string()),
    ];
    for layer in 0..5 {
        // Not the queries and keys: llama.cpp stores their rows in another order.
        for (ours, theirs) in [
            ("attn_norm", "input_layernorm"),
            ("attn_v", "self_attn.v_proj"),
            ("attn_output", "self_attn.o_proj"),
            ("ffn_norm", "post_attention_layernorm"),
            ("ffn_gate", "mlp.gate_proj"),
            ("ffn_up", "mlp.up_proj"),
            ("ffn_down", "mlp.down_proj"),
        ] {
            pairs.push((
                format!("blk.{layer}.{ours}.weight"),
                format!("model.layers.{layer}.{theirs}.weight"),
            ));
        }
    }
    for (ours, theirs) in pairs {
        let (ours, theirs) = (gguf.tensor(&ours).unwrap(), hf.tensor(&theirs).unwrap());
        assert_eq!(ours.info.shape, theirs.info.shape, "{}", theirs.info.name);
        assert_eq!(ours.info.dtype, Dtype::F32);
        assert_eq!(theirs.info.dtype, Dtype::F32);
        assert!(ours.bytes == theirs.bytes, "{}", theirs.info.name);
    }
    assert_eq!(hf.metadata().get("format").map(String::as_str), Some("pt"));
}

#[test]
fn smollm2_opens() {
    let Some(path) = shared_data("checkpoints/smollm2-135m-instruct/SmolLM2-135M-Instruct.Q4_1.gguf") else {
        return;
    };
    let gguf = Gguf::open(path).unwrap();
    let count = |dtype| gguf.tensors().filter(|info| info.dtype == dtype).count();
    // 30 layers of 2 norms and 7 matrices, the final norm, the embedding that is also the head.
    assert_eq!(gguf.tensors().len(), 30 * 9 + 2);
    assert_eq!((count(Dtype::F32), count(Dtype::Q8_0) + count(Dtype::Q4_1)), (61, 211));
    let embedding = gguf.tensor("token_embd.weight").unwrap();
    assert_eq!(embedding.info.shape, [49152, 576]);
    assert_eq!(Some(embedding.bytes.len()), embedding.info.byte_length());
    let elements: usize = gguf.tensors().map(|info| info.elements().unwrap()).sum();
    assert_eq!(elements, 134_515_008);
    assert_eq!(gguf.get_usize("llama.attention.head_count_kv").unwrap(), Some(3));
    assert_eq!(gguf.get_f32("llama.rope.freq_base").unwrap(), Some(100_000.0));
    assert_eq!(gguf.get_strings("tokenizer.ggml.tokens").unwrap().unwrap().len(), 49152);
    assert!(gguf.get_str("tokenizer.chat_template").unwrap().unwrap().contains("<|im_start|>"));
}

/// Kilobytes of mapped files that are in this process's memory now.
fn resident_file_kilobytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssFile:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn reading_with_dropped_pages_does_not_keep_the_file_in_memory() {
    let Some(path) = shared_data("checkpoints/smollm2-135m-instruct/SmolLM2-135M-Instruct.Q4_1.gguf") else {
        return;
    };
    let gguf = Gguf::open(path).unwrap();
    let before = resident_file_kilobytes();
    touch(&gguf);
    let grown = resident_file_kilobytes().saturating_sub(before);
    assert!(grown < 20_000, "{grown} kB of 98 MB stayed");
}

#[test]
fn vocabularies_of_llama_cpp_open() {
    for (name, model, tokens, merges) in [
        ("baichuan", "llama", 64000, 0),
        ("llama-bpe", "gpt2", 128256, 280147),
        ("llama-spm", "llama", 32000, 0),
        ("phi-3", "llama", 32064, 0),
        ("qwen2", "gpt2", 151936, 151387),
    ] {
        let Some(path) = shared_data(&format!("tokenizers/llama.cpp-vocabs/ggml-vocab-{name}.gguf")) else {
            return;
        };
        let gguf = Gguf::open(path).unwrap();
        let length = |key: &str| gguf.get_strings(key).unwrap().map_or(0, |strings| strings.len());
        assert_eq!(gguf.get_str("tokenizer.ggml.model").unwrap(), Some(model), "{name}");
        assert_eq!(
            (length("tokenizer.ggml.tokens"), length("tokenizer.ggml.merges")),
            (tokens, merges),
            "{name}"
        );
        let types = gguf.metadata("tokenizer.ggml.token_type");
        assert!(matches!(types, Some(Value::Array(Array::I32(types))) if types.len() == tokens), "{name}");
        assert_eq!(gguf.tensors().len(), 0);
    }
}

/// Everything that a reader of a file may touch.
fn touch(gguf: &Gguf) {
    for (key, _) in gguf.metadata_entries() {
        let _ = (gguf.get_usize(key), gguf.get_str(key), gguf.get_f32s(key));
        if let Ok(Some(strings)) = gguf.get_strings(key) {
            assert_eq!(strings.iter().count(), strings.len());
        }
    }
    for info in gguf.tensors() {
        let tensor = gguf.tensor(&info.name).unwrap();
        assert_eq!(Some(tensor.bytes.len()), info.byte_length());
        std::hint::black_box(tensor.bytes.iter().map(|byte| u64::from(*byte)).sum::<u64>());
        gguf.drop_pages(&info.name);
    }
}

proptest! {
    #[test]
    fn damaged_files_never_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        length in any::<prop::sample::Index>(),
        cut: bool,
    ) {
        let mut bytes = small_gguf().build();
        let header = bytes.len() - 108;
        for (index, byte) in changes {
            let index = index.index(header);
            bytes[index] = byte;
        }
        if cut {
            bytes.truncate(length.index(bytes.len()));
        }
        if let Ok(gguf) = open(&bytes) {
            touch(&gguf);
        }
    }

    #[test]
    fn cut_files_are_refused(length in any::<prop::sample::Index>()) {
        let bytes = small_gguf().build();
        prop_assert!(open(&bytes[..length.index(bytes.len())]).is_err());
    }
}
