//! What users of the projects before this one rely on.

use crate::common;

use std::path::Path;

use common::{ids, run, shared, vocabulary, with_model, write_model, write_model_of};
use danlu_formats::SafetensorsFolder;
use danlu_model::Config;
use danlu_tokenizer::{SpecialTokens, Tokenizer};

#[test]
fn seed_000_generate() {
    let folder = with_model();
    let generate = |choice: &[&str]| {
        let more = ["generate", "--json", "--model", "model", "--prompt", "车削", "--max-new-tokens", "100"];
        run(folder.path(), &[&more[..], choice].concat()).json()
    };
    let greedy = generate(&["--temperature", "0"]);
    assert_eq!(generate(&["--top-k", "1"]), greedy, "temperature 0 equals top_k 1");

    // High temperature meets every token, the end token too.
    let random = generate(&["--temperature", "50", "--top-k", "0", "--top-p", "1", "--seed", "3"]);
    let found = ids(&random["ids"]);
    let stop = vocabulary(false).end_of_turn_ids();
    let stopped = found.iter().position(|id| stop.contains(id));
    match random["finish_reason"].as_str().unwrap() {
        "stop" => assert_eq!(stopped, Some(found.len() - 1), "stops after the end token, which is kept"),
        _ => assert_eq!((stopped, found.len()), (None, 100)),
    }
    let reasons: Vec<String> = (0..8)
        .map(|seed| {
            let seed = seed.to_string();
            let result = generate(&["--temperature", "50", "--top-k", "0", "--top-p", "1", "--seed", &seed]);
            assert!(!result["text"].as_str().unwrap().contains("<|im_end|>"), "{result}");
            result["finish_reason"].as_str().unwrap().to_owned()
        })
        .collect();
    assert!(reasons.contains(&"stop".to_owned()), "{reasons:?}");
}

/// A small recorded vocabulary of sentencepiece.
fn recorded(name: &str) -> String {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../tokenizer/tests/golden/sentencepiece").join(name);
    path.display().to_string()
}

#[test]
fn seed_001_vocab_merge() {
    let folder = tempfile::tempdir().unwrap();
    let extend = |base: &str, new: &str, out: &str, more: &[&str]| {
        let fixed = ["tokenizer", "extend", "--json", "--base", base, "--new", new, "--out", out];
        run(folder.path(), &[&fixed[..], more].concat()).json()
    };
    let read = |path: &str| std::fs::read(folder.path().join(path)).unwrap();
    let (base, new) = (recorded("bpe.model"), recorded("ties.model"));
    for more in [&["--sentencepiece-compat"][..], &[]] {
        let out = format!("out{}", more.len());
        let report = extend(&base, &new, &out, more);
        let count = |key: &str| report[key].as_u64().unwrap() as usize;
        let merged = Tokenizer::open(&folder.path().join(&out)).unwrap();
        let old = Tokenizer::open(Path::new(&base)).unwrap();
        assert_eq!(count("base_vocabulary_size"), old.vocabulary_size());
        let appended = count("appended") + count("intermediate");
        assert!(appended >= 9 && merged.vocabulary_size() == old.vocabulary_size() + appended);
        let texts: Vec<String> =
            (0..merged.vocabulary_size() as u32).map(|id| merged.token_text(id).unwrap()).collect();
        assert!((0..old.vocabulary_size()).all(|id| old.token_text(id as u32).unwrap() == texts[id]));
        let different: std::collections::HashSet<&String> = texts.iter().collect();
        assert_eq!(different.len(), texts.len(), "each new piece once");

        let (before, after) = (std::fs::read(&base).unwrap(), read(&format!("{out}/tokenizer.model")));
        let same = before.iter().zip(&after).take_while(|(before, after)| before == after).count();
        let last = before.windows(3).rposition(|bytes| bytes == "齿".as_bytes()).unwrap();
        assert!(same > last, "pieces and scores of the base stay");
        if !more.is_empty() {
            assert_eq!((count("appended") + count("known"), count("refused")), (489, 0));
            assert_eq!(merged.encode("aa", SpecialTokens::AsText).unwrap().len(), 1, "no space before texts");
        } else {
            assert_eq!(report["reached_inside"], report["appended"]);
        }
        let again = format!("{out}-again");
        assert_eq!(extend(&out, &new, &again, more)["appended"], 0);
        assert_eq!(read(&format!("{again}/tokenizer.model")), after, "merging again changes nothing");
    }
    let Some(data) = shared() else { return };
    let file = |name: &str| data.join("tokenizers").join(name).display().to_string();
    let (llama, chinese) = (file("llama2"), file("chinese-llama-1/chinese_sp.model"));
    extend(&llama, &chinese, "compat", &["--sentencepiece-compat"]);
    let expected = std::fs::read(file("tinyllm-zh-merge/merged/tokenizer.model")).unwrap();
    assert!(read("compat/tokenizer.model") == expected, "the file of the older projects, byte for byte");
    let report = extend(&llama, &chinese, "own", &[]);
    assert!(report["reached_share"].as_f64().unwrap() >= 0.99, "{report}");
    assert_eq!(report["reached_inside"], report["appended"]);
}

#[test]
fn extended_vocabularies_use_their_new_pieces() {
    let folder = tempfile::tempdir().unwrap();
    vocabulary(false).save(&folder.path().join("bytes")).unwrap();
    // A piece without its halves, one that is there already, one twice, and one that no text becomes: byte-level BPE cuts
    // it, the others normalize its comma.
    let words = "数控铣床\n车削\n挤出机组\n挤出机组\n 数控\n车削，铣削\n";
    std::fs::write(folder.path().join("words.txt"), words).unwrap();
    let (bpe, unigram) = (recorded("bpe.model"), recorded("unigram.model"));
    for (base, refused) in [("bytes", 1), (&bpe, 1), (&unigram, 1)] {
        let out = format!("out-{}", base.rsplit('/').next().unwrap());
        let extend = ["tokenizer", "extend", "--json", "--base", base, "--new", "words.txt", "--out", &out];
        let report = run(folder.path(), &extend).json();
        assert_eq!(report["refused"], refused, "{report}");
        assert_eq!(report["reached_inside"], report["appended"], "{report}");
        let (old, new) =
            (Tokenizer::open(&folder.path().join(base)), Tokenizer::open(&folder.path().join(&out)));
        let (old, new) = (old.unwrap(), new.unwrap());
        for text in ["磨削温度可以达到", "12.5 mm <|im_end|>"] {
            let ids = |tokenizer: &Tokenizer| tokenizer.encode(text, SpecialTokens::Parse).unwrap();
            assert_eq!(ids(&new), ids(&old), "text without new pieces: {base}");
        }
        let text = "用数控铣床和挤出机组加工";
        let ids = |tokenizer: &Tokenizer| tokenizer.encode(text, SpecialTokens::AsText).unwrap();
        assert!(ids(&new).len() + 3 < ids(&old).len(), "{base}");
        assert!(new.decode(&ids(&new), false).unwrap().ends_with("挤出机组加工"), "{base}");
    }
    let extend = |base: &str, new: &str, more: &[&str]| {
        let fixed = ["tokenizer", "extend", "--base", base, "--new", new, "--out", "refused"];
        run(folder.path(), &[&fixed[..], more].concat())
    };
    extend("bytes", &bpe, &["--sentencepiece-compat"]).is_refused("the base is no sentencepiece");
    extend(&bpe, "words.txt", &["--sentencepiece-compat"]).is_refused("is a list of words");
    std::fs::write(folder.path().join("empty.txt"), "\n \n").unwrap();
    extend("bytes", "empty.txt", &[]).is_refused("`--new` holds no words");
    let damaged = std::fs::read(&bpe).unwrap();
    std::fs::write(folder.path().join("cut.model"), &damaged[..damaged.len() / 2]).unwrap();
    extend("cut.model", "words.txt", &[]).is_refused("cut.model");
    assert!(!folder.path().join("refused").exists());
}

#[test]
fn seed_000_bin_builder() {
    let folder = tempfile::tempdir().unwrap();
    vocabulary(false).save(&folder.path().join("v")).unwrap();
    let long = "磨削温度可以达到上千摄氏度。".repeat(200);
    let rows = ["车削加工", "短", "铣刀是多刃刀具，<|im_end|>也是文本", &long, &long];
    let lines: String = rows.iter().map(|text| format!("{{\"text\":\"{text}\"}}\n")).collect();
    std::fs::write(folder.path().join("rows.jsonl"), lines).unwrap();
    let encode = |more: &[&str]| {
        let fixed = ["tokenizer", "encode", "--json", "--tokenizer", "v", "--input", "rows.jsonl"];
        run(folder.path(), &[&fixed[..], more].concat())
    };
    let read = |name: &str| std::fs::read(folder.path().join(name)).unwrap();
    let tokenizer = vocabulary(false);
    let eos = tokenizer.eos_id().unwrap();
    let document = |text: &str| {
        let ids = tokenizer.encode(text, SpecialTokens::AsText).unwrap();
        ids.into_iter().chain([eos]).collect::<Vec<u32>>()
    };
    let documents: Vec<Vec<u32>> = rows.iter().map(|text| document(text)).collect();
    let bytes = |documents: &[&Vec<u32>]| -> Vec<u8> {
        documents.iter().flat_map(|ids| ids.iter()).flat_map(|&id| (id as u16).to_le_bytes()).collect()
    };

    let report = encode(&["--out", "all.bin", "--headerless"]).json();
    assert!(documents[1].len() <= 5 && documents[0].len() > 5);
    assert_eq!((&report["documents"], &report["records"]), (&4.into(), &5.into()));
    let kept = [&documents[0], &documents[2], &documents[3], &documents[4]];
    assert_eq!(read("all.bin"), bytes(&kept), "uint16, end tokens, over five ids");

    let report = encode(&["--out", "shards", "--shard-tokens", "1000"]).json();
    assert_eq!((&report["documents"], &report["is_new"]), (&5.into(), &true.into()));
    let shards = report["shards"].as_u64().unwrap();
    let files = |end: &str| -> Vec<u8> {
        (0..shards).flat_map(|shard| read(&format!("shards/shard-{shard:05}.{end}"))).collect()
    };
    assert!(shards > 1);
    assert_eq!(files("bin"), bytes(&documents.iter().collect::<Vec<_>>()));
    assert_eq!(files("idx").len(), 5 * 8);
    let again = encode(&["--out", "shards", "--shard-tokens", "1000", "--threads", "1"]).json();
    assert_eq!(again["is_new"], false, "a second run does nothing");

    std::fs::write(folder.path().join("rows.jsonl"), "{\"text\":\"another corpus\"}\n").unwrap();
    encode(&["--out", "shards", "--shard-tokens", "1000"]).is_refused("give another name");
    encode(&["--out", "more", "--shard-tokens", "8"]).is_refused("8 is not in 1000..");
    encode(&["--out", "v"]).is_refused("new or empty place");
    encode(&[]).is_refused("`--input` needs `--out`");
    std::fs::write(folder.path().join("rows.jsonl"), "{\"content\":\"x\"}\n").unwrap();
    encode(&["--out", "columns"]).is_refused("name one with `--column`");
    assert_eq!(encode(&["--out", "columns-too", "--column", "content"]).json()["documents"], 1);
    std::fs::write(folder.path().join("rows.jsonl"), "").unwrap();
    assert_eq!(encode(&["--out", "none"]).json()["tokens"], 0);
}

/// A vocabulary of `../shared/data` alone in a folder, and its ids for a text by the binary.
fn shared_ids(file: &str, text: &str) -> Option<(Vec<u32>, tempfile::TempDir)> {
    let path = shared()?.join("tokenizers").join(file);
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(path, folder.path().join("tokenizer.model")).unwrap();
    let encode = ["tokenizer", "encode", "--json", "--tokenizer", ".", "--text", text, "--no-special-tokens"];
    Some((ids(&run(folder.path(), &encode).json()["ids"]), folder))
}

#[test]
fn seed_000_chatglm2_encode() {
    let text = "Hello, 世界!";
    let Some((found, folder)) = shared_ids("chatglm2-3/tokenizer.model", text) else { return };
    assert_eq!(found, [13755, 30932, 49196, 30992]);
    let list = found.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let decode = ["tokenizer", "decode", "--json", "--tokenizer", ".", "--ids", &list];
    assert_eq!(run(folder.path(), &decode).json()["text"], text);
}

#[test]
fn seed_000_chatglm2_decode_specials() {
    let Some((_, folder)) = shared_ids("chatglm2-3/tokenizer.model", "你好") else { return };
    let decode = |ids: &str| {
        let decode =
            ["tokenizer", "decode", "--json", "--tokenizer", ".", "--skip-special-tokens", "--ids", ids];
        run(folder.path(), &decode)
    };
    assert_eq!(decode("1,36474,54591,2").json()["text"], "你好");
    assert_eq!(decode("0,1,2,64789,64790,64791,64792,64793").json()["text"], "");
    decode("36474,64794").is_refused("token id 64794 is not in the vocabulary (its ids end at 64793)");
}

#[test]
fn seed_001_merged_tokenizer_use() {
    let merged = "literary-alpaca2/tokenizer.model";
    let Some((found, _)) = shared_ids(merged, "你好，世界") else { return };
    assert_eq!(found, [43008, 30214, 32250]);
}

/// The rows of a matrix of a model folder.
fn rows(folder: &Path, name: &str) -> Vec<Vec<f32>> {
    let tensors = SafetensorsFolder::open(folder).unwrap();
    let tensor = tensors.tensor(name).unwrap();
    let values: Vec<f32> =
        tensor.bytes.chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect();
    values.chunks_exact(tensor.info.shape[1]).map(<[f32]>::to_vec).collect()
}

fn mean<'a>(rows: impl Iterator<Item = &'a Vec<f32>> + Clone) -> Vec<f32> {
    let count = rows.clone().count() as f32;
    let width = rows.clone().next().unwrap().len();
    (0..width).map(|column| rows.clone().map(|row| row[column]).sum::<f32>() / count).collect()
}

fn is_close(left: &[f32], right: &[f32]) -> bool {
    left.iter().zip(right).all(|(left, right)| (left - right).abs() < 1e-6)
}

#[test]
fn seed_001_embedding_resize() {
    let folder = tempfile::tempdir().unwrap();
    let old = vocabulary(false);
    let shape = Config {
        hidden_size: 32,
        intermediate_size: 48,
        num_hidden_layers: 1,
        num_attention_heads: 2,
        num_key_value_heads: 2,
        head_dim: 16,
        max_position_embeddings: 64,
        tie_word_embeddings: false,
        ..Config::default()
    };
    write_model_of(&folder.path().join("model"), Some(&old), shape);
    let words = "数控铣床\n挤出机组\n车削\n光洁度\n卧式\n镗床\n钻床\n拉床\n滚齿\n插齿\n";
    std::fs::write(folder.path().join("words.txt"), words).unwrap();
    let grow = |out: &str, more: &[&str]| {
        let fixed = ["tokenizer", "extend", "--json", "--new", "words.txt", "--out", out];
        run(folder.path(), &[&fixed[..], more].concat())
    };
    let known = old.vocabulary_size();
    for init in ["pieces", "mean", "random"] {
        let more = ["--model", "model", "--init", init, "--pad-to-multiple-of", "64"];
        let report = grow(init, &more).json();
        let new = Tokenizer::open(&folder.path().join(init)).unwrap();
        assert!(report["appended"] == 10 && new.vocabulary_size() >= known + 10, "{report}");
        for name in ["model.embed_tokens.weight", "lm_head.weight"] {
            let before = rows(&folder.path().join("model"), name);
            let after = rows(&folder.path().join(init), name);
            assert_eq!(after[..known], before[..], "old rows are equal");
            assert!(after.len().is_multiple_of(64) && report["rows"] == after.len());
            let all = mean(before.iter());
            assert!(is_close(&after[new.vocabulary_size()], &all), "padding");
            let fresh = &after[known..new.vocabulary_size()];
            match init {
                "pieces" => {
                    for (id, row) in (known as u32..).zip(fresh).take(10) {
                        let text = String::from_utf8(new.token_bytes(id).unwrap()).unwrap();
                        let parts = old.encode(&text, SpecialTokens::AsText).unwrap();
                        assert!(is_close(row, &mean(parts.iter().map(|&id| &before[id as usize]))), "{text}");
                    }
                }
                "mean" => assert!(fresh.iter().all(|row| is_close(row, &all))),
                _ => {
                    let squares: f32 = fresh.iter().flatten().map(|value| value * value).sum();
                    let deviation = (squares / (fresh.len() * 32) as f32).sqrt();
                    assert!((deviation - 0.02).abs() < 0.004, "{deviation}");
                }
            }
        }
        let generate =
            ["generate", "--model", init, "--prompt", "数控铣床", "--max-new-tokens", "4", "--json"];
        assert!(ids(&run(folder.path(), &generate).json()["prompt_ids"]).contains(&(known as u32)));
    }

    // Training grows the model by itself; what is not asked for is an error, as before.
    std::fs::write(folder.path().join("corpus.txt"), "数控铣床与挤出机组。".repeat(8)).unwrap();
    let train = |more: &[&str]| {
        let fixed = ["train", "pretrain-zh-26m", "model_preset=null", "output_dir=out", "dataset=corpus.txt"];
        let rest = ["model_name_or_path=model", "tokenizer_name_or_path=pieces", "max_steps=1", "val_size=0"];
        run(folder.path(), &[&fixed[..], &rest, &["cutoff_len=32", "learning_rate=1e-9"], more].concat())
    };
    train(&[]).is_refused("the model's embedding has");
    train(&["resize_vocab=true", "finetuning_type=freeze"]).is_refused("`resize_vocab` needs");
    let trained = train(&["resize_vocab=true"]);
    assert_eq!(trained.code, 0, "{}", trained.stderr);
    let new = Tokenizer::open(&folder.path().join("out")).unwrap();
    let size = new.vocabulary_size();
    assert_eq!(rows(&folder.path().join("out"), "lm_head.weight").len(), size);
    // An adapter holds the grown tables, as those of the projects do.
    let adapted = train(&["resize_vocab=true", "finetuning_type=lora", "output_dir=adapter"]);
    assert!(adapted.stderr.contains("`additional_target` is `embed_tokens,lm_head`"), "{}", adapted.stderr);
    let merge = ["merge", "--base", "model", "--adapter", "adapter", "--out", "adapter-merged", "--json"];
    assert_eq!(run(folder.path(), &merge).json()["vocab_size"], size);
    let lora = ["resize_vocab=true", "finetuning_type=lora", "output_dir=again", "overwrite_output_dir=true"];
    let again = |more: &[&str]| train(&[&lora[..], more].concat());
    // It is continued with the same rows; one that lacks them cannot take them up, nor can one table alone.
    assert_eq!(again(&["adapter_name_or_path=adapter"]).code, 0);
    again(&["additional_target=lm_head"]).is_refused("`embed_tokens` has new rows by `resize_vocab`");
    let narrow = ["tokenizer_name_or_path=null", "finetuning_type=lora", "output_dir=narrow"];
    assert_eq!(train(&narrow).code, 0);
    again(&["adapter_name_or_path=narrow"]).is_refused("does not hold `embed_tokens` and `lm_head` whole");

    // Without the vocabulary that the model was trained with there are no pieces.
    write_model(&folder.path().join("bare"), None, 64);
    old.save(&folder.path().join("v")).unwrap();
    let bare = ["--base", "v", "--model", "bare"];
    grow("bare-grown", &bare).is_refused("has no tokenizer of its own");
    assert_eq!(grow("bare-grown", &[&bare[..], &["--init", "mean"]].concat()).code, 0);
    std::fs::create_dir(folder.path().join("other")).unwrap();
    std::fs::copy(recorded("bpe.model"), folder.path().join("other/tokenizer.model")).unwrap();
    grow("x", &["--base", "other", "--model", "model"]).is_refused("is no extension of the model's");
}

#[test]
fn growing_a_trained_model_keeps_its_loss_and_pieces_start_lower() {
    let Some(data) = shared() else { return };
    let folder = tempfile::tempdir().unwrap();
    let model = data.join("checkpoints/stories260K/stories260K.gguf").display().to_string();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    write("far.txt", "车削\n铣刀\n数控\n");
    write("near.txt", " garden\n dragon\n castle\n");
    write(
        "old",
        "Once upon a time, there was a little girl named Lily. She loved to play outside in the park.",
    );
    write(
        "new",
        "Once upon a time, there was a dragon in the garden of a castle. The dragon was sad. The castle had a big garden.",
    );
    let loss = |model: &str, text: &str| {
        let ppl = ["eval", "ppl", "--json", "--precision", "f32", "--model", model, "--text", text];
        run(folder.path(), &ppl).json()["nll"].as_f64().unwrap()
    };
    let mut grown = Vec::new();
    for (words, init) in [("far", "pieces"), ("near", "pieces"), ("near", "random")] {
        let (out, list) = (format!("{words}-{init}"), format!("{words}.txt"));
        let extend =
            ["tokenizer", "extend", "--model", &model, "--new", &list, "--out", &out, "--init", init];
        assert_eq!(run(folder.path(), &extend).code, 0);
        grown.push(out);
    }
    assert!((loss(&grown[0], "old") - loss(&model, "old")).abs() < 1e-6, "text without new tokens");
    let (pieces, random) = (loss(&grown[1], "new"), loss(&grown[2], "new"));
    assert!(pieces < random - 0.3, "text with new tokens: {pieces} with pieces, {random} with random rows");
}

#[test]
fn vocabularies_are_compared_on_a_text() {
    let folder = tempfile::tempdir().unwrap();
    vocabulary(false).save(&folder.path().join("v")).unwrap();
    std::fs::write(folder.path().join("words.txt"), "车削加工\n铣床\n").unwrap();
    std::fs::write(folder.path().join("text.txt"), "车削加工与铣床\n\n12 mm\n").unwrap();
    let extend = ["tokenizer", "extend", "--base", "v", "--new", "words.txt", "--out", "w"];
    assert_eq!(run(folder.path(), &extend).code, 0);
    let compare = |more: &[&str]| run(folder.path(), &[&["tokenizer", "compare", "v", "w"], more].concat());
    let report = compare(&["--text", "text.txt", "--json"]).json();
    assert_eq!(
        (&report["lines"], &report["different_lines"], &report["characters"]),
        (&2.into(), &1.into(), &12.into())
    );
    let fertility = |side: usize| report["vocabularies"][side]["tokens_per_character"].as_f64().unwrap();
    assert!(fertility(1) < fertility(0), "{report}");
    assert_eq!(report["shared_pieces"], vocabulary(false).texts().len());
    let shown = compare(&["--text", "text.txt"]).stdout;
    assert!(shown.contains("车削加工|<0xE4>"), "{shown}");
    std::fs::write(folder.path().join("empty.txt"), "\n").unwrap();
    compare(&["--text", "empty.txt"]).is_refused("holds no text");
}
