//! The way of somebody who comes from Luban or Baby-Llama2: `.pth` in, questions and answers as CSV, `epoch_0.pth` out.
//!
//! `tools/golden/luban.py check` compares the same way with PyTorch.

use crate::common;

use std::path::{Path, PathBuf};

use common::{Ran, ids, run, shared};
use danlu_formats::{Alias, PytorchFolder, TensorInfo, write_pth};
use danlu_model::{Config, Family, Model, Precision, RopeLayout, save_pth};
use serde_json::Value;

/// Luban's vocabulary has a row less than ChatGLM2's tokenizer has tokens.
const ROWS: usize = 64_793;
/// 问题是什么？ and `<bos>`.
const QUESTION: [u32; 5] = [30910, 31639, 32664, 31514, 1];

/// A folder with `Luban.pth`, a random model in Luban's layout, and the path of ChatGLM2's tokenizer.
fn luban() -> Option<(tempfile::TempDir, PathBuf)> {
    let tokenizer = shared()?.join("tokenizers/chatglm2-3/tokenizer.model");
    let folder = tempfile::tempdir().unwrap();
    let config = Config {
        family: Family::BabyLlama2,
        rope_layout: RopeLayout::Interleaved,
        vocab_size: ROWS,
        hidden_size: 64,
        intermediate_size: 192,
        num_hidden_layers: 2,
        num_attention_heads: 8,
        num_key_value_heads: 8,
        head_dim: 8,
        max_position_embeddings: 128,
        rms_norm_eps: 1e-5,
        tie_word_embeddings: true,
        initializer_range: 0.1,
        ..Config::default()
    };
    let model = Model::zeros(config, Precision::F32).initialize(7);
    save_pth(&model, None, &folder.path().join("Luban.pth")).unwrap();
    Some((folder, tokenizer))
}

fn generate(folder: &Path, model: &str, more: &[&str]) -> Ran {
    let fixed = ["generate", "--json", "--model", model, "--temperature", "0", "--max-new-tokens", "4"];
    run(folder, &[&fixed[..], &["--precision", "f32", "--top-logprobs", "3"], more].concat())
}

/// The same tensors as `torch.compile` names them.
fn compile(from: &Path, to: &Path) {
    const PREFIX: &str = "_orig_mod.";
    let file = PytorchFolder::open(from).unwrap();
    let named = |info: &TensorInfo| TensorInfo { name: format!("{PREFIX}{}", info.name), ..info.clone() };
    let own: Vec<&TensorInfo> = file.tensors().filter(|info| info.name != "output.weight").collect();
    let infos: Vec<TensorInfo> = own.iter().map(|info| named(info)).collect();
    let head = [Alias { name: format!("{PREFIX}output.weight"), of: 0 }];
    let written: danlu_formats::Result<()> =
        write_pth(to, &infos, &head, |place, sink| sink.write(file.tensor(&own[place].name).unwrap().bytes));
    written.unwrap();
}

fn keys(path: &Path) -> Vec<String> {
    let mut names: Vec<String> = PytorchFolder::open(path).unwrap().names().map(str::to_owned).collect();
    names.sort();
    names
}

#[test]
fn a_luban_checkpoint_generates_trains_and_comes_back_as_epoch_0() {
    let Some((folder, tokenizer)) = luban() else { return };
    let (folder, tokenizer) = (folder.path(), tokenizer.to_str().unwrap());
    compile(&folder.join("Luban.pth"), &folder.join("compiled.pth"));
    assert!(keys(&folder.join("compiled.pth")).iter().all(|name| name.starts_with("_orig_mod.")));
    generate(folder, "Luban.pth", &["--prompt", "a"]).is_refused("--tokenizer");
    let given = ["--tokenizer", tokenizer];
    let continued =
        |model| generate(folder, model, &[&given[..], &["--raw", "--prompt", "介绍一下数控加工："]].concat());
    let asked = |model| {
        let question = ["--template", "baby_llama2", "--prompt", "问题是什么？"];
        generate(folder, model, &[&given[..], &question].concat()).json()
    };
    let plain = continued("Luban.pth").json();
    assert_eq!(ids(&plain["prompt_ids"]), [30910, 48875, 47592, 33185, 31211]);
    assert_eq!(continued("compiled.pth").json(), plain);
    let before = asked("Luban.pth");
    assert_eq!(ids(&before["prompt_ids"]), QUESTION);
    assert_eq!(asked("compiled.pth"), before);

    let rows = (0..8).map(|row| format!("第{row}道工序是什么？,\"车床加工轴，公差{row}微米。\"\n"));
    let rows: String = std::iter::once("prompt,answer\n".to_owned()).chain(rows).collect();
    std::fs::write(folder.join("finetune_data.csv"), rows).unwrap();
    let train = |model: &str, output: &str| {
        let keys = [
            format!("model_name_or_path={model}"),
            format!("tokenizer_name_or_path={tokenizer}"),
            format!("output_dir={output}"),
            "finetuning_type=full template=baby_llama2 dataset=finetune_data.csv cutoff_len=64".into(),
            "val_size=0 num_train_epochs=2 warmup_ratio=0 learning_rate=0.01".into(),
        ];
        let keys: Vec<&str> = keys.iter().flat_map(|keys| keys.split(' ')).collect();
        run(folder, &[&["train", "sft-csv"], &keys[..], &["--json"]].concat())
    };
    let trained = train("compiled.pth", "out");
    trained.json();
    assert!(trained.stderr.contains("saved `out/epoch_0.pth`"), "{}", trained.stderr);
    for epoch in ["out/epoch_0.pth", "out/epoch_1.pth"] {
        assert_eq!(
            keys(&folder.join(epoch)),
            keys(&folder.join("Luban.pth")),
            "strict keys, both of the tied ones"
        );
    }
    let file = PytorchFolder::open(folder.join("out/epoch_1.pth")).unwrap();
    assert_eq!(file.alias_of("output.weight"), Some("tok_embeddings.weight"));
    // The tokenizer and its template lie beside it now.
    let after = generate(folder, "out/epoch_1.pth", &["--prompt", "问题是什么？"]).json();
    assert_eq!(ids(&after["prompt_ids"]), QUESTION);
    assert_ne!(after["top_logprobs"], before["top_logprobs"]);
    assert_eq!(
        generate(folder, "out", &["--prompt", "问题是什么？"]).json(),
        after,
        "the last epoch is the result"
    );
    // By its id of a hub it is the same file.
    let root = folder.join(".huggingface/hub/models--org--luban");
    let snapshot = root.join("snapshots/0123");
    for path in [&snapshot, &root.join("refs")] {
        std::fs::create_dir_all(path).unwrap();
    }
    std::fs::write(root.join("refs/main"), "0123").unwrap();
    std::fs::copy(folder.join("Luban.pth"), snapshot.join("Luban.pth")).unwrap();
    std::fs::copy(folder.join("config.json"), snapshot.join("Luban.json")).unwrap();
    let by_id = train("org/luban", "by_id");
    by_id.json();
    assert!(by_id.stderr.contains("saved `by_id/epoch_0.pth`"), "{}", by_id.stderr);
    let first = generate(folder, "out/epoch_0.pth", &["--prompt", "问题是什么？"]).json();
    assert_ne!(first["top_logprobs"], after["top_logprobs"]);
}

#[test]
fn a_token_without_a_row_is_named_where_it_occurs_only() {
    let Some((folder, tokenizer)) = luban() else { return };
    let folder = folder.path();
    std::fs::copy(&tokenizer, folder.join("tokenizer.model")).unwrap();
    let found = generate(folder, "Luban.pth", &["--raw", "--prompt", "你好"]).json();
    assert_eq!(ids(&found["prompt_ids"]), [36474, 54591], "the tokenizer is found beside the file");
    let refused = generate(folder, "Luban.pth", &["--prompt-ids", "1,64793"]);
    refused.is_refused("token id 64793 has no row in the model's embedding, which ends at 64792");
    std::fs::write(
        folder.join("eop.jinja"),
        "{% for message in messages %}{{ message.content + 'eop' }}{% endfor %}",
    )
    .unwrap();
    let refused = generate(folder, "Luban.pth", &["--template", "eop.jinja", "--prompt", "你好"]);
    refused.is_refused("token id 64793");
    std::fs::write(folder.join("rows.csv"), "prompt,answer\n问,答\n").unwrap();
    let train = run(
        folder,
        &[
            "train",
            "sft-csv",
            "finetuning_type=full",
            "model_name_or_path=Luban.pth",
            "template=eop.jinja",
            "dataset=rows.csv",
            "cutoff_len=64",
            "val_size=0",
            "output_dir=out",
        ],
    );
    train.is_refused("token id 64793");
    let info = run(folder, &["info", "Luban.pth"]);
    assert!(info.stdout.contains("eop (64793): refused where it occurs"), "{}", info.stdout);
    let info: Value = run(folder, &["info", "Luban.pth", "--json"]).json();
    assert_eq!(info["tokens_without_row"], serde_json::json!(["eop (64793)"]));
}

#[test]
fn a_sentencepiece_model_opens_alone_and_beside_a_model() {
    let Some((folder, tokenizer)) = luban() else { return };
    let folder = folder.path();
    std::fs::create_dir(folder.join("vocabulary")).unwrap();
    std::fs::copy(&tokenizer, folder.join("vocabulary/tokenizer.model")).unwrap();
    for path in ["vocabulary", tokenizer.to_str().unwrap()] {
        let encode = ["tokenizer", "encode", "--tokenizer", path, "--text", "<s>你好</s>", "--json"];
        let plain = run(folder, &[&encode[..], &["--no-special-tokens"]].concat()).json();
        assert_eq!(ids(&plain["ids"]), [906, 30917, 30994, 39701, 1833, 30917, 30994]);
        assert_eq!(ids(&run(folder, &encode).json()["ids"]), [1, 36474, 54591, 2]);
        let info = run(folder, &["info", path, "--json"]).json();
        assert_eq!(info["tokenizer"]["vocabulary_size"], 64_794);
    }
    let decode = ["tokenizer", "decode", "--tokenizer", "vocabulary", "--ids", "1,36474,54591,2"];
    assert_eq!(run(folder, &[&decode[..], &["--skip-special-tokens"]].concat()).stdout, "你好\n");
    // From there into GGUF and back: the same ids, and a token for each row.
    let convert =
        ["convert", "Luban.pth", "luban.gguf", "--dtype", "f32", "--tokenizer", "vocabulary", "--json"];
    run(folder, &convert).json();
    let raw = |model: &str, more: &[&str]| {
        generate(folder, model, &[&["--raw", "--prompt", "数控  加工"], more].concat()).json()
    };
    let (gguf, pth) = (raw("luban.gguf", &[]), raw("Luban.pth", &["--tokenizer", "vocabulary"]));
    assert_eq!((&gguf["prompt_ids"], &gguf["ids"]), (&pth["prompt_ids"], &pth["ids"]));
    assert_eq!(run(folder, &["info", "luban.gguf", "--json"]).json()["tokenizer"]["vocabulary_size"], ROWS);
}
