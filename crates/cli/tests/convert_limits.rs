//! What `danlu convert`, `danlu merge` and loading take of the machine, and what a conversion leaves when it cannot end.

use crate::common;

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::{run, with_model, with_own_mounts};
use danlu_formats::{Dtype, Error, TensorInfo, WriteOptions, write_pytorch, write_safetensors};
use serde_json::{Map, Value, json};

const LAYERS: usize = 8;
const HIDDEN: usize = 1024;
const INTERMEDIATE: usize = 4096;
const VOCABULARY: usize = 16_384;

/// A model folder of 600 MB, all zeros: holes in the file, which take no disk. Its largest tensor has 64 MB.
fn write_large(folder: &Path) {
    let mut tensors = vec![("model.embed_tokens.weight".to_owned(), vec![VOCABULARY, HIDDEN])];
    for layer in 0..LAYERS {
        let mut one = |name: &str, shape: &[usize]| {
            tensors.push((format!("model.layers.{layer}.{name}.weight"), shape.to_vec()));
        };
        one("input_layernorm", &[HIDDEN]);
        one("post_attention_layernorm", &[HIDDEN]);
        for name in ["q_proj", "k_proj", "v_proj", "o_proj"] {
            one(&format!("self_attn.{name}"), &[HIDDEN, HIDDEN]);
        }
        one("mlp.gate_proj", &[INTERMEDIATE, HIDDEN]);
        one("mlp.up_proj", &[INTERMEDIATE, HIDDEN]);
        one("mlp.down_proj", &[HIDDEN, INTERMEDIATE]);
    }
    tensors.push(("model.norm.weight".to_owned(), vec![HIDDEN]));
    let mut header = Map::new();
    let mut end = 0;
    for (name, shape) in tensors {
        let start = end;
        end += shape.iter().product::<usize>() * 4;
        header.insert(name, json!({ "dtype": "F32", "shape": shape, "data_offsets": [start, end] }));
    }
    let header = Value::Object(header).to_string();
    let bytes = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat();
    std::fs::create_dir_all(folder).unwrap();
    let path = folder.join("model.safetensors");
    std::fs::write(&path, &bytes).unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    file.set_len((bytes.len() + end) as u64).unwrap();
    let config = json!({
        "model_type": "llama", "hidden_size": HIDDEN, "intermediate_size": INTERMEDIATE, "num_hidden_layers": LAYERS,
        "num_attention_heads": 16, "vocab_size": VOCABULARY, "max_position_embeddings": 64,
        "rms_norm_eps": 1e-5, "tie_word_embeddings": true, "hidden_act": "silu",
    });
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
}

/// Everything in a folder.
fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn the_peak_of_memory_is_below_two_tensors_and_200_mb() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write_large(&folder.join("model"));
    let limit = (2 * VOCABULARY * HIDDEN * 4 + 200_000_000) >> 20;
    for arguments in [["model", "m.gguf", "--quant", "q4_k_m"], ["m.gguf", "n.gguf", "--quant", "q4_0"]] {
        let written = run(folder, &[&["convert", "--json"][..], &arguments].concat()).json();
        let peak = written["peak_rss_mb"].as_u64().unwrap();
        println!("{arguments:?}: {peak} MB of {limit} allowed, {} bytes written", written["bytes"]);
        assert!(peak < limit as u64, "{arguments:?}: {peak} MB");
    }
}

#[test]
fn quantizing_while_loading_takes_little_more_than_what_rests() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write_large(&folder.join("model"));
    let blocks = LAYERS * (4 * HIDDEN * HIDDEN + 3 * HIDDEN * INTERMEDIATE);
    let embedding = VOCABULARY * HIDDEN * 4;
    // What the process may write to is limited; mapped files are in what it says of itself.
    let run = |megabytes: usize, more: &str| {
        let script = format!(
            "ulimit -d {}; exec '{}' generate --model model --prompt-ids 1,2 --max-new-tokens 1 --precision f32 {more}",
            megabytes << 10,
            env!("CARGO_BIN_EXE_danlu")
        );
        let ran = Command::new("sh").args(["-c", &script]).current_dir(folder).output().unwrap();
        (ran.status.success(), String::from_utf8(ran.stderr).unwrap())
    };
    for (bits, sixteenths) in [("8", 17), ("4", 9)] {
        let limit = (blocks * sixteenths / 16 + embedding + 200_000_000) >> 20;
        let (succeeded, told) = run(limit, &format!("--quantization-bit {bits}"));
        assert!(succeeded, "{bits} bits in {limit} MB: {told}");
        let words: Vec<&str> = told.split_whitespace().collect();
        let resident = words.iter().position(|word| *word == "resident").unwrap();
        println!("{bits} bits: {} MB of {limit} allowed", words[resident - 2]);
        assert!(words[resident - 2].parse::<usize>().unwrap() < limit, "{told}");
        assert!(!run(limit, "").0, "the limit would not even stop f32");
    }
}

#[test]
fn merging_a_base_in_bin_shards_takes_less_than_two_of_them() {
    const SHARD: usize = 20 << 20;
    const REST: u64 = 32;
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let [base, adapter] = ["base", "adapter"].map(|name| folder.join(name));
    std::fs::create_dir(&base).unwrap();
    std::fs::create_dir(&adapter).unwrap();
    let (hidden, intermediate, layers) = (512, 2048, 8);
    let info = |name: String, shape: &[usize]| TensorInfo { name, dtype: Dtype::F32, shape: shape.to_vec() };
    let mut tensors = vec![info("model.embed_tokens.weight".into(), &[8192, hidden])];
    let mut lora = Vec::new();
    for layer in 0..layers {
        for name in ["input_layernorm", "post_attention_layernorm"] {
            tensors.push(info(format!("model.layers.{layer}.{name}.weight"), &[hidden]));
        }
        for (name, outputs, inputs) in [
            ("self_attn.q_proj", hidden, hidden),
            ("self_attn.k_proj", hidden, hidden),
            ("self_attn.v_proj", hidden, hidden),
            ("self_attn.o_proj", hidden, hidden),
            ("mlp.gate_proj", intermediate, hidden),
            ("mlp.up_proj", intermediate, hidden),
            ("mlp.down_proj", hidden, intermediate),
        ] {
            let name = format!("model.layers.{layer}.{name}");
            lora.push(info(format!("base_model.model.{name}.lora_A.weight"), &[4, inputs]));
            lora.push(info(format!("base_model.model.{name}.lora_B.weight"), &[outputs, 4]));
            tensors.push(info(format!("{name}.weight"), &[outputs, inputs]));
        }
    }
    tensors.push(info("model.norm.weight".into(), &[hidden]));
    let ones = |info: &TensorInfo| 1f32.to_le_bytes().repeat(info.elements().unwrap());
    let options = WriteOptions { base_name: "pytorch_model".into(), max_shard_bytes: SHARD };
    write_pytorch::<Error>(&base, &options, &tensors, &[], |place, sink| sink.write(&ones(&tensors[place])))
        .unwrap();
    let options = WriteOptions { base_name: "adapter_model".into(), ..WriteOptions::default() };
    write_safetensors::<Error>(&adapter, &options, &lora, |place, sink| sink.write(&ones(&lora[place])))
        .unwrap();
    let config = json!({
        "model_type": "llama", "hidden_size": hidden, "intermediate_size": intermediate, "num_hidden_layers": layers,
        "num_attention_heads": 8, "vocab_size": 8192, "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
        "tie_word_embeddings": true, "hidden_act": "silu",
    });
    std::fs::write(base.join("config.json"), config.to_string()).unwrap();
    let modules = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];
    let config = json!({ "peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": modules });
    std::fs::write(adapter.join("adapter_config.json"), config.to_string()).unwrap();
    let shards = names(&base).iter().filter(|name| name.ends_with(".bin")).count();
    let merged =
        run(folder, &["merge", "--base", "base", "--adapter", "adapter", "--out", "out", "--json"]).json();
    assert_eq!(merged["changed"], 7 * layers);
    let (peak, limit) = (merged["peak_rss_mb"].as_u64().unwrap(), 2 * (SHARD as u64 >> 20) + REST);
    println!("{shards} shards of at most {} MB: {peak} MB of {limit} allowed", SHARD >> 20);
    assert!(shards > 6 && peak < limit, "{peak} MB for {shards} shards");
}

#[test]
fn ctrl_c_and_a_kill_leave_what_was_there() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write_large(&folder.join("model"));
    let model = names(&folder.join("model"));
    for output in ["m.gguf", "out"] {
        // What the kill leaves is gone after the next attempt.
        for signal in ["-KILL", "-INT"] {
            let mut command = Command::new(env!("CARGO_BIN_EXE_danlu"));
            command.current_dir(folder).args(["convert", "model", output, "--dtype", "f32"]);
            let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
            let deadline = Instant::now() + Duration::from_secs(60);
            let own = format!(".{output}.tmp-{}-", child.id());
            let begun = || names(folder).iter().any(|name| name.starts_with(&own));
            while !begun() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(2));
            }
            Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap();
            let ended = child.wait_with_output().unwrap();
            let told = String::from_utf8_lossy(&ended.stderr);
            if signal == "-INT" {
                assert_eq!(ended.status.code(), Some(130), "{told}");
                assert_eq!(names(folder), ["model"], "{told}");
            }
            assert!(!folder.join(output).exists());
            assert_eq!(names(&folder.join("model")), model);
        }
    }
}

#[test]
fn a_full_disk_leaves_no_half_model() {
    let folder = with_model();
    let folder = folder.path();
    std::fs::create_dir(folder.join("small")).unwrap();
    let script = format!(
        "mount -t tmpfs -o size=16k none small || exit 77\n\
         for out in m.gguf folder m.pth; do '{danlu}' convert model small/$out --dtype f32; echo $?; done\n\
         ls -A small",
        danlu = env!("CARGO_BIN_EXE_danlu")
    );
    let Some(output) = with_own_mounts(folder, &script) else { return };
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "1\n1\n1\n", "{stderr}");
    assert_eq!(stderr.matches("the disk is full").count(), 3, "{stderr}");
}

#[test]
fn a_limit_on_the_size_of_files_leaves_no_half_model() {
    let folder = with_model();
    let folder = folder.path();
    let before = names(folder);
    for output in ["m.gguf", "folder", "m.pth"] {
        let script = format!(
            "trap '' XFSZ; ulimit -f 8; exec '{}' convert model {output} --dtype f32",
            env!("CARGO_BIN_EXE_danlu")
        );
        let ran = Command::new("sh").args(["-c", &script]).current_dir(folder).output().unwrap();
        let stderr = String::from_utf8_lossy(&ran.stderr);
        assert_eq!(ran.status.code(), Some(1), "{stderr}");
        assert!(stderr.contains(output) && !stderr.contains("panicked"), "{stderr}");
        assert_eq!(names(folder), before, "{stderr}");
    }
}
