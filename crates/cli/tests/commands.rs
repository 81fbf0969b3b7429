//! The other verbs as a whole, and the reference.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;

use common::{TEXT, golden, ids, run, shared, vocabulary, with_model, with_own_mounts};

/// The folder of the project.
fn project() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

fn verbs_of_help() -> Vec<String> {
    let help = run(project(), &["--help"]);
    assert_eq!(help.code, 0);
    let commands =
        help.stdout.split("Commands:\n").nth(1).unwrap().split("\n\nOptions:").next().unwrap().to_owned();
    let names = commands.lines().filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    names.map(|line| line.split_whitespace().next().unwrap().to_owned()).collect()
}

#[test]
fn the_verbs_of_the_help_are_those_of_the_reference() {
    let help = verbs_of_help();
    assert!(help.len() >= 6, "{help:?}");
    for language in ["en", "zh"] {
        let reference =
            std::fs::read_to_string(project().join("docs").join(language).join("reference.md")).unwrap();
        let headings = reference.lines().filter_map(|line| line.strip_prefix("### danlu "));
        let verbs: Vec<&str> = headings.filter(|name| !name.contains(' ')).collect();
        assert_eq!(verbs, help, "{language}");
    }
}

#[test]
fn both_languages_of_the_reference_have_the_same_code_and_keys() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(run(folder.path(), &["docs"]).code, 0);
    let read = |language: &str| {
        std::fs::read_to_string(folder.path().join("docs").join(language).join("reference.md")).unwrap()
    };
    let skeleton = |text: &str| -> Vec<String> {
        let lines = text.lines().filter(|line| !line.starts_with("| ---"));
        lines
            .filter_map(|line| {
                let first = line.split(" | ").next()?;
                let is_kept = ["```", "### ", "danlu ", "| `"].iter().any(|start| line.starts_with(start));
                is_kept.then(|| first.to_owned())
            })
            .collect()
    };
    let (english, chinese) = (read("en"), read("zh"));
    assert!(skeleton(&english).len() > 100);
    assert_eq!(skeleton(&english), skeleton(&chinese));
    let untranslated: Vec<&str> =
        chinese.lines().filter(|line| line.starts_with("| `") && line.is_ascii()).collect();
    assert!(untranslated.is_empty(), "{untranslated:?}");
}

#[test]
fn docs_check_names_the_stale_file() {
    let folder = tempfile::tempdir().unwrap();
    run(folder.path(), &["docs", "--check"]).is_refused("en/reference.md` is stale: run `danlu docs`");
    assert_eq!(run(folder.path(), &["docs"]).code, 0);
    assert_eq!(run(folder.path(), &["docs", "--check"]).code, 0);
    let schema = folder.path().join("docs/recipe.schema.json");
    std::fs::write(&schema, "{}").unwrap();
    run(folder.path(), &["docs", "--check"]).is_refused("recipe.schema.json` is stale");
}

#[test]
fn usage_errors_exit_with_2_and_help_with_0() {
    let folder = tempfile::tempdir().unwrap();
    for arguments in [&["serve"][..], &["generate", "--modle", "x"], &["recipes"], &["tokenizer", "encode"]] {
        let ran = run(folder.path(), arguments);
        assert_eq!((ran.code, ran.stdout.as_str()), (2, ""), "{}", ran.stderr);
    }
    let written = |key: &str| format!("keys of a recipe are written `{key}=VALUE`, without dashes");
    for (arguments, key) in [
        (&["train", "sft-lora", "--output_dir", "x"][..], "output_dir"),
        (&["train", "--learning-rate=1e-4", "sft-lora"], "learning_rate"),
        (&["plan", "sft-lora", "--dataset_placeholders.name", "x"], "dataset_placeholders.name"),
        (&["data", "inspect", "rows.json", "--cutoff_len", "5"], "cutoff_len"),
    ] {
        run(folder.path(), arguments).is_refused(&written(key));
    }
    let other = run(folder.path(), &["generate", "--output_dir", "x"]);
    assert!(other.code == 2 && !other.stderr.contains("keys of a recipe"), "{}", other.stderr);
    let version = run(folder.path(), &["--version"]);
    assert_eq!((version.code, version.stdout), (0, format!("danlu {}\n", env!("CARGO_PKG_VERSION"))));
    let short = run(folder.path(), &["generate", "-h"]);
    let long = run(folder.path(), &["generate", "--help"]);
    assert!(short.stdout.is_ascii(), "{}", short.stdout);
    assert!(long.stdout.contains("最多生成的词元数") && !long.stdout.contains("zh:"), "{}", long.stdout);
}

#[test]
fn recipes_are_listed_shown_and_copied() {
    let folder = tempfile::tempdir().unwrap();
    let list = run(folder.path(), &["recipes", "list", "--json"]).json();
    let names: Vec<&str> =
        list["recipes"].as_array().unwrap().iter().map(|recipe| recipe["name"].as_str().unwrap()).collect();
    assert!(names.contains(&"sft-lora"));
    for name in names {
        let shown = run(folder.path(), &["recipes", "show", name]);
        assert_eq!((shown.code, shown.stderr.as_str()), (0, ""));
        let copied = run(folder.path(), &["recipes", "copy", name]);
        assert_eq!(copied.stdout, format!("{name}.yaml\n"));
        let text = std::fs::read_to_string(folder.path().join(format!("{name}.yaml"))).unwrap();
        assert_eq!(text, shown.stdout);
    }
    run(folder.path(), &["recipes", "copy", "sft-lora"]).is_refused("`sft-lora.yaml` exists already");
    run(folder.path(), &["recipes", "show", "sft-loro"]).is_refused("did you mean `sft-lora`?");
    run(folder.path(), &["recipes", "copy", "sft-lora", "no/such/folder.yaml"])
        .is_refused("no/such/folder.yaml");
    let copied = run(folder.path(), &["recipes", "copy", "sft-lora", "mine.yaml", "--json"]).json();
    assert_eq!((&copied["name"], &copied["path"]), (&"sft-lora".into(), &"mine.yaml".into()));
}

#[test]
fn a_vocabulary_is_trained_and_used() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a.txt"), TEXT).unwrap();
    std::fs::write(folder.path().join("b.jsonl"), "{\"text\": \"数控机床开机后要先回参考点。\"}\n").unwrap();
    let train =
        ["tokenizer", "train", "a.txt", "b.jsonl", "--out", "vocabulary", "--vocab-size", "280", "--json"];
    let trained = run(folder.path(), &train).json();
    assert_eq!(trained["vocabulary_size"], 280);

    let text = "车床 lathe<|im_end|>\n";
    let encode = ["tokenizer", "encode", "--json", "--tokenizer", "vocabulary", "--text", text];
    let parsed = ids(&run(folder.path(), &encode).json()["ids"]);
    let plain = ids(&run(folder.path(), &[&encode[..], &["--no-special-tokens"]].concat()).json()["ids"]);
    assert_eq!(parsed.iter().filter(|&&id| id < 3).count(), 1);
    assert!(plain.iter().all(|&id| id >= 3));
    let list = plain.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let decode =
        ["tokenizer", "decode", "--json", "--tokenizer", "vocabulary/tokenizer.json", "--ids", &list];
    assert_eq!(run(folder.path(), &decode).json()["text"], text);
    let info = run(folder.path(), &["tokenizer", "info", "--json", "--tokenizer", "vocabulary"]).json();
    assert_eq!((&info["eos"]["text"], &info["vocabulary_size"]), (&"<|im_end|>".into(), &280.into()));

    for (template, eos) in [("llama2", "</s>"), ("llama3", "<|eot_id|>"), ("human_assistant", "</s>")] {
        let train =
            ["tokenizer", "train", "a.txt", "--out", template, "--vocab-size", "270", "--template", template];
        assert_eq!(run(folder.path(), &train).code, 0);
        let info = run(folder.path(), &["tokenizer", "info", "--json", "--tokenizer", template]).json();
        assert_eq!(info["eos"]["text"], eos, "{template}");
        assert!(info["chat_template"].is_string());
    }
}

/// A passage of Mencius on which sentencepiece's own trainer was run: BPE, 190 pieces, nmt_nfkc, no bytes.
const PASSAGE: &str = "挟太山以超北海，语人曰：‘我不能。’是诚不能也。\n为长者折枝，语人曰：‘我不能。’是不为也，非不能也。\n\
    故王之不王，非挟太山以超北海之类也；王之不王，是折枝之类也。\n老吾老，以及人之老；幼吾幼，以及人之幼。天下可运于掌。\n\
    《诗》云：‘刑于寡妻，至于兄弟，以御于家邦。’\n";

#[test]
fn sentencepiece_vocabularies_are_trained_and_compared() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    std::fs::write(folder.join("a.txt"), PASSAGE).unwrap();
    std::fs::write(folder.join("held.txt"), "王之不王，非不能也。\n").unwrap();
    let train = |out: &str, more: &[&str]| {
        let train = ["tokenizer", "train", "a.txt", "--out", out, "--template", "llama2", "--json"];
        run(folder, &[&train[..], more].concat())
    };
    let as_sentencepiece = ["--type", "bpe", "--byte-fallback", "false", "--normalization", "nmt_nfkc"];
    let sized = |size: &'static str| [&as_sentencepiece[..], &["--vocab-size", size]].concat();
    train("big", &sized("191")).is_refused("which gives 190 tokens at most: ask for 190 or fewer");
    assert!(!folder.join("big").exists());
    assert_eq!(train("v", &sized("190")).json()["vocabulary_size"], 190);
    assert!(folder.join("v/tokenizer.model").is_file() && folder.join("v/tokenizer_config.json").is_file());
    let encode = ["tokenizer", "encode", "--json", "--no-special-tokens", "--tokenizer", "v", "--text"];
    let found = ids(&run(folder, &[&encode[..], &["王之不王，非不能也"]].concat()).json()["ids"]);
    assert_eq!(found, [138, 23, 134, 53], "as sentencepiece's own vocabulary cuts it");

    let more = [
        "--type",
        "unigram",
        "--vocab-size",
        "400",
        "--allow-smaller",
        "--special",
        "<think>",
        "--reserved",
        "2",
    ];
    let more = [&more[..], &["--user-defined", "太山", "--held-out", "held.txt", "--compare", "v"]].concat();
    let trained = train("u", &more).json();
    let fertility = trained["fertility"].as_array().unwrap();
    assert_eq!((fertility.len(), &fertility[1]["tokenizer"]), (2, &"v".into()));
    assert_eq!(fertility[1]["characters"], 11);
    let info =
        run(folder, &["tokenizer", "encode", "--json", "--tokenizer", "u", "--text", "<|reserved_1|>太山龘"]);
    let found = ids(&info.json()["ids"]);
    assert!(found.contains(&5) && found.contains(&6), "{found:?}");
    let list = found[1..].iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let text = run(folder, &["tokenizer", "decode", "--json", "--tokenizer", "u", "--ids", &list]);
    assert!(text.json()["text"].as_str().unwrap().ends_with("太山龘"));
    train("w", &["--normalization", "identity"])
        .is_refused("`--normalization` means nothing to `--type byte-bpe`");
}

#[test]
fn a_gguf_file_that_holds_only_a_vocabulary_is_used() {
    let Some(data) = shared() else { return };
    let vocabularies = data.join("tokenizers/llama.cpp-vocabs");
    let folder = tempfile::tempdir().unwrap();
    for name in ["llama-bpe", "llama-spm", "qwen2", "phi-3"] {
        let path = vocabularies.join(format!("ggml-vocab-{name}.gguf")).display().to_string();
        let recorded = |ending: &str| std::fs::read_to_string(format!("{path}.{ending}")).unwrap();
        let (texts, recorded) = (recorded("inp"), recorded("out"));
        let (text, expected) = texts
            .split("\n__ggml_vocab_test__\n")
            .zip(recorded.lines())
            .max_by_key(|(text, _)| text.len())
            .unwrap();
        let arguments =
            ["tokenizer", "encode", "--json", "--tokenizer", &path, "--text", text, "--no-special-tokens"];
        let expected: Vec<u32> = expected.split_whitespace().map(|id| id.parse().unwrap()).collect();
        let found = ids(&run(folder.path(), &arguments).json()["ids"]);
        // Some of the records begin with BOS.
        assert!(
            expected.ends_with(&found) && expected.len() <= found.len() + 1,
            "{name}: {found:?} {expected:?}"
        );
    }
    let baichuan = vocabularies.join("ggml-vocab-baichuan.gguf").display().to_string();
    let info = run(folder.path(), &["tokenizer", "info", "--json", "--tokenizer", &baichuan]).json();
    assert_eq!(info["vocabulary_size"], 64000);
}

#[test]
fn encoding_shows_readable_pieces() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a.txt"), "的 lathe\n".repeat(9)).unwrap();
    let train = ["tokenizer", "train", "a.txt", "--out", "v", "--vocab-size", "300", "--allow-smaller"];
    assert_eq!(run(folder.path(), &train).code, 0);
    let pieces = |text: &str| -> Vec<String> {
        let shown = run(folder.path(), &["tokenizer", "encode", "--tokenizer", "v", "--text", text]).stdout;
        let piece = |line: &str| line.split_once("  `").unwrap().1.strip_suffix('`').unwrap().to_owned();
        shown.lines().map(piece).collect()
    };
    assert_eq!(pieces("的 lathe\n<|im_end|>"), ["的", " lathe", "\\n", "<|im_end|>"]);
    assert_eq!(pieces("龘的"), ["<0xE9>", "<0xBE>", "<0x98>", "的"]);
}

#[test]
fn mistakes_with_a_vocabulary_are_named() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a.jsonl"), "{\"text\": \"好\"}\n{\"txt\": \"好\"}\n").unwrap();
    std::fs::write(folder.path().join("bad.jsonl"), "{\"text\": \"好\"\n").unwrap();
    std::fs::write(folder.path().join("empty.txt"), "").unwrap();
    std::fs::write(folder.path().join("good.txt"), TEXT).unwrap();
    let train = |file: &str| run(folder.path(), &["tokenizer", "train", file, "--out", "out"]);
    train("a.jsonl").is_refused("a.jsonl:2: there is no column `text` but `txt`: name one with `--column`");
    train("bad.jsonl").is_refused("bad.jsonl:1: invalid JSON");
    train("empty.txt").is_refused("no text");
    train("absent.txt").is_refused("`absent.txt` does not exist");
    run(folder.path(), &["tokenizer", "train", "good.txt", "--out", "out", "--vocab-size", "100"])
        .is_refused("a vocabulary of 100 is too small");
    assert!(!folder.path().join("out").exists());
    run(folder.path(), &["tokenizer", "info", "--tokenizer", "absent"]).is_refused("`absent` does not exist");
    vocabulary(false).save(&folder.path().join("v")).unwrap();
    run(folder.path(), &["tokenizer", "decode", "--tokenizer", "v", "--ids", "1,5000"])
        .is_refused("token id 5000");
}

#[test]
fn a_new_vocabulary_replaces_neither_a_model_nor_a_vocabulary() {
    let folder = with_model();
    let folder = folder.path();
    std::fs::write(folder.join("a.txt"), TEXT).unwrap();
    std::fs::create_dir(folder.join("empty")).unwrap();
    let train =
        |out: &str| run(folder, &["tokenizer", "train", "a.txt", "--out", out, "--vocab-size", "280"]);
    let contents = |name: &str| -> Vec<(std::ffi::OsString, Vec<u8>)> {
        let entries = std::fs::read_dir(folder.join(name)).unwrap().map(Result::unwrap);
        let mut files: Vec<_> =
            entries.map(|entry| (entry.file_name(), std::fs::read(entry.path()).unwrap())).collect();
        files.sort();
        files
    };
    assert_eq!(train("vocabulary").code, 0);
    assert_eq!(train("empty").code, 0);
    for (name, held) in [("model", "a model"), ("vocabulary", "a vocabulary")] {
        let before = contents(name);
        train(name).is_refused(&format!("`{name}` holds {held}; choose another folder with `--out`"));
        assert!(contents(name) == before, "`{name}` was changed");
    }
    train(".").is_refused("`.` holds other files; choose another folder");
    train("a.txt").is_refused("a.txt");
}

#[test]
fn a_full_disk_leaves_neither_half_a_recipe_nor_half_a_vocabulary() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    std::fs::write(folder.join("a.txt"), TEXT).unwrap();
    std::fs::create_dir(folder.join("small")).unwrap();
    // No page is left for the recipe, and one for a vocabulary of several.
    let script = format!(
        "mount -t tmpfs -o size=64k none small || exit 77\n\
         head -c 64k /dev/zero > small/full\n\
         '{danlu}' recipes copy sft-lora small/r.yaml; echo $?\n\
         truncate -s 60k small/full\n\
         '{danlu}' tokenizer train a.txt --out small/v --vocab-size 300 --allow-smaller; echo $?\n\
         ls -A small",
        danlu = env!("CARGO_BIN_EXE_danlu")
    );
    let Some(output) = with_own_mounts(folder, &script) else { return };
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "1\n1\nfull\n", "{stderr}");
    for name in ["small/r.yaml", "small/v"] {
        let sentence = format!("{name}`: the disk is full");
        assert!(stderr.contains(&sentence), "{stderr}");
    }
}

#[test]
fn vocabularies_that_are_not_read_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let give = "which is not read: give a folder with tokenizer.json or tokenizer.model, one of these files, or a GGUF file";
    let refused = |tokenizer: &Path, file: &Path| {
        let tokenizer = tokenizer.display().to_string();
        for verb in [&["info"][..], &["encode", "--text", "车"]] {
            let fixed = ["tokenizer", verb[0], "--tokenizer", &tokenizer];
            run(folder.path(), &[&fixed[..], &verb[1..]].concat())
                .is_refused(&format!("`{}`: a tiktoken vocabulary, {give}", file.display()));
        }
    };
    for (index, name) in ["tokenizer.model", "x.tiktoken"].iter().enumerate() {
        let inside = folder.path().join(index.to_string());
        std::fs::create_dir(&inside).unwrap();
        std::fs::write(inside.join(name), "IQ== 0\nIg== 1\n").unwrap();
        refused(&inside.join(name), &inside.join(name));
        refused(&inside, &inside.join(name));
    }
    std::fs::write(folder.path().join("tokenizer.json"), "\n{\n").unwrap();
    run(folder.path(), &["tokenizer", "info", "--tokenizer", "."]).is_refused("not a BPE tokenizer.json");
    let Some(data) = shared() else { return };
    for name in ["llama3/tokenizer.model", "qwen/qwen.tiktoken"] {
        let file = data.join("tokenizers").join(name);
        refused(&file, &file);
    }
}

#[test]
fn unsloth_2095_inspection_marks_what_is_trained() {
    let folder = with_model();
    let rows = "[{\"instruction\": \"车床？\", \"output\": \"机床。\"}, {\"instruction\": \"铣\", \"output\": \"切削\"}]";
    std::fs::write(folder.path().join("rows.json"), rows).unwrap();
    std::fs::write(folder.path().join("corpus.txt"), TEXT).unwrap();
    let inspected = run(folder.path(), &["data", "inspect", "rows.json", "--samples", "1"]);
    assert_eq!(inspected.code, 0, "{}", inspected.stderr);
    assert!(inspected.stdout.contains("assistant\n⟦机床。<|im_end|>⟧"), "{}", inspected.stdout);
    assert!(inspected.stdout.contains("2 rows, 2 samples"), "{}", inspected.stdout);
    assert!(!inspected.stdout.contains('\x1b') && !inspected.stdout.contains("切削"));
    let result = run(folder.path(), &["data", "inspect", "rows.json", "cutoff_len=20", "--json"]);
    result.is_refused("no sample is left of 2 rows");
    let json =
        run(folder.path(), &["data", "inspect", "rows.json", "model_name_or_path=model", "--json"]).json();
    assert_eq!((&json["report"]["rows"], json["samples"].as_array().unwrap().len()), (&2.into(), 2));
    let corpus = run(folder.path(), &["data", "inspect", "corpus.txt"]);
    assert!(corpus.stdout.contains("1 rows, 1 samples"), "{}{}", corpus.stdout, corpus.stderr);

    std::fs::write(
        folder.path().join("r.yaml"),
        "model_name_or_path: model\ndataset: rows.json\noutput_dir: o\ncutoff_len: 64\n",
    )
    .unwrap();
    let recipe = run(folder.path(), &["data", "inspect", "r.yaml", "cutoff_len=128", "val_size=1"]);
    assert!(recipe.stdout.contains("1 samples to train on, 1 to validate with"), "{}", recipe.stderr);
    run(folder.path(), &["data", "inspect", "r.yaml", "cutof_len=128"])
        .is_refused("did you mean `cutoff_len`?");
    run(folder.path(), &["data", "inspect", "absent.json"]).is_refused("dataset `absent.json` was not found");
    run(folder.path(), &["data", "inspect", "rows.json", "stage=pt"]).is_refused("missing column `text`");
    let bare = tempfile::tempdir().unwrap();
    std::fs::write(bare.path().join("rows.json"), rows).unwrap();
    run(bare.path(), &["data", "inspect", "rows.json"]).is_refused("set `model_name_or_path=PATH`");
}

#[test]
fn an_adapter_folder_finds_its_model() {
    let folder = tempfile::tempdir().unwrap();
    common::copy_folder(&golden("gqa-untied"), &folder.path().join("base"));
    common::copy_folder(&golden("gqa-untied-lora"), &folder.path().join("adapter"));
    let config = folder.path().join("adapter/adapter_config.json");
    let mut value: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(&config).unwrap()).unwrap();
    value["base_model_name_or_path"] = "base".into();
    std::fs::write(&config, value.to_string()).unwrap();
    let generate = |more: &[&str]| {
        let fixed =
            ["generate", "--json", "--temperature", "0", "--prompt-ids", "5,6", "--max-new-tokens", "8"];
        run(folder.path(), &[&fixed[..], &["--top-logprobs", "1"], more].concat())
    };
    let both = generate(&["--model", "base", "--adapter", "adapter"]).json();
    assert_eq!(generate(&["--model", "adapter"]).json(), both);
    assert_ne!(generate(&["--model", "base"]).json()["top_logprobs"], both["top_logprobs"]);
    value["base_model_name_or_path"] = "gone".into();
    std::fs::write(&config, value.to_string()).unwrap();
    generate(&["--model", "adapter"]).is_refused("`adapter` is an adapter of `gone`, which is not here");
}
