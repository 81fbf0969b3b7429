//! Vocabularies with the input that people really have: damaged files, odd texts, runs that were killed.

use crate::common;

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::{TEXT, ids, run, shared, vocabulary};
use danlu_tokenizer::{SpecialTokens, Tokenizer};
use serde_json::{Value, json};

/// A folder with the tiny vocabulary `v`.
fn with_vocabulary() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    vocabulary(false).save(&folder.path().join("v")).unwrap();
    folder
}

fn write(folder: &Path, name: &str, bytes: impl AsRef<[u8]>) {
    let path = folder.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
}

fn json_of(path: impl AsRef<Path>) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// A small recorded vocabulary of sentencepiece.
fn recorded(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tokenizer/tests/golden/sentencepiece");
    std::fs::read(path.join(name)).unwrap()
}

/// Encodes `corpus.jsonl` with `v` into `out`.
fn encode_corpus(folder: &Path, out: &str) -> common::Ran {
    run(
        folder,
        &["tokenizer", "encode", "--json", "--tokenizer", "v", "--input", "corpus.jsonl", "--out", out],
    )
}

fn ids_of(folder: &Path, tokenizer: &str, text: &str) -> Vec<u32> {
    let encode = ["tokenizer", "encode", "--json", "--tokenizer", tokenizer, "--text", text];
    ids(&run(folder, &encode).json()["ids"])
}

#[test]
fn a_run_of_encode_that_was_killed_goes_on() {
    let folder = with_vocabulary();
    let folder = folder.path();
    let line = format!("{}\n", json!({ "text": TEXT.lines().next().unwrap() }));
    write(folder, "corpus.jsonl", line.repeat(60_000));
    for signal in ["-KILL", "-TERM", "-KILL"] {
        let encode =
            ["tokenizer", "encode", "--tokenizer", "v", "--input", "corpus.jsonl", "--out", "killed"];
        let mut child = Command::new(env!("CARGO_BIN_EXE_danlu"))
            .args(encode)
            .args(["--threads", "1"])
            .current_dir(folder)
            .stderr(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        // Until something of it is written.
        let start = Instant::now();
        let size = || std::fs::metadata(folder.join("killed/shard-00000.bin")).map_or(0, |file| file.len());
        let before = size();
        while size() <= before
            && start.elapsed() < Duration::from_secs(20)
            && child.try_wait().unwrap().is_none()
        {
            std::thread::sleep(Duration::from_millis(2));
        }
        let kill =
            Command::new("kill").args([signal, &child.id().to_string()]).stderr(Stdio::null()).status();
        _ = kill.unwrap();
        child.wait().unwrap();
        assert!(!folder.join("killed/index.json").exists(), "killed in time, so that there is work left");
    }
    let went_on = encode_corpus(folder, "killed").json();
    let at_once = encode_corpus(folder, "whole").json();
    assert_eq!((&went_on["is_new"], &went_on["documents"]), (&true.into(), &60_000.into()));
    assert_eq!(went_on["tokens"], at_once["tokens"]);
    for name in ["shard-00000.bin", "shard-00000.idx"] {
        let read = |run: &str| std::fs::read(folder.join(run).join(name)).unwrap();
        assert!(read("killed") == read("whole"), "{name}");
    }
}

#[test]
fn rows_that_many_threads_cut_stay_in_their_order() {
    let folder = with_vocabulary();
    let folder = folder.path();
    let mut rows: Vec<String> =
        (0..20_000).map(|row| format!("{}\n", json!({ "text": format!("{row}号工件") }))).collect();
    write(folder, "corpus.jsonl", rows.concat());
    let encode = |out: &str, threads: &str| {
        let corpus = ["--input", "corpus.jsonl", "--out", out, "--threads", threads];
        run(folder, &[&["tokenizer", "encode", "--json", "--tokenizer", "v"], &corpus[..]].concat())
    };
    assert_eq!(encode("one", "1").json()["documents"], 20_000);
    assert_eq!(encode("four", "4").json()["documents"], 20_000);
    for name in ["shard-00000.bin", "shard-00000.idx"] {
        let read = |run: &str| std::fs::read(folder.join(run).join(name)).unwrap();
        assert!(read("one") == read("four"), "{name}");
    }
    // The first bad row is named, and the mended corpus goes where it was to go.
    (rows[15_000], rows[19_000]) = ("{\n".into(), "[\n".into());
    write(folder, "corpus.jsonl", rows.concat());
    encode("mended", "4").is_refused("corpus.jsonl:15001: invalid JSON");
    (rows[15_000], rows[19_000]) = ("\n".into(), "\n".into());
    write(folder, "corpus.jsonl", rows.concat());
    assert_eq!(encode("mended", "4").json()["documents"], 19_998);
}

#[test]
fn a_line_of_10_mb_and_nul_bytes_are_encoded() {
    let folder = with_vocabulary();
    let folder = folder.path();
    let sentence = "磨削温度可以达到上千摄氏度。工件装夹 12.5 mm，";
    let text = sentence.repeat(10_000_000 / sentence.len() + 1);
    write(folder, "corpus.jsonl", format!("{}\n", json!({ "text": text })));
    let report = encode_corpus(folder, "long").json();
    let one = vocabulary(false).encode(sentence, SpecialTokens::AsText).unwrap().len();
    let tokens = report["tokens"].as_u64().unwrap() as usize;
    assert!(report["documents"] == 1 && tokens.abs_diff(one * text.len() / sentence.len()) < 100, "{report}");

    // As text in the program's own arguments no NUL can stand; in rows it can.
    write(folder, "corpus.jsonl", "{\"text\": \"车\\u0000削\"}\n");
    assert_eq!(encode_corpus(folder, "nul").json()["documents"], 1);
    let written = std::fs::read(folder.join("nul/shard-00000.bin")).unwrap();
    let found: Vec<u32> =
        written.chunks(2).map(|bytes| u32::from(u16::from_le_bytes([bytes[0], bytes[1]]))).collect();
    let list = found.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let decode =
        ["tokenizer", "decode", "--json", "--skip-special-tokens", "--tokenizer", "v", "--ids", &list];
    assert_eq!(run(folder, &decode).json()["text"], "车\0削");
    write(folder, "nul.txt", "车\0削\n".repeat(20));
    let train = ["tokenizer", "train", "nul.txt", "--out", "w", "--vocab-size", "265", "--allow-smaller"];
    assert_eq!(run(folder, &train).code, 0);
}

#[test]
fn rows_that_cannot_be_read_are_named_before_anything_is_trained() {
    let folder = with_vocabulary();
    let folder = folder.path();
    let train = |input: &str, more: &[&str]| {
        run(folder, &[&["tokenizer", "train", input, "--out", "w"], more].concat())
    };
    // Half a character, which JSON can spell and UTF-8 cannot.
    write(folder, "corpus.jsonl", "{\"text\": \"好\"}\n{\"text\": \"a\\ud800b\"}\n");
    for ran in [encode_corpus(folder, "surrogate"), train("corpus.jsonl", &[])] {
        ran.is_refused("corpus.jsonl:2: invalid JSON");
        assert!(!ran.stderr.contains("different words"), "nothing is trained: {}", ran.stderr);
    }
    write(folder, "corpus.jsonl", b"{\"text\": \"\xff\"}\n");
    encode_corpus(folder, "bytes").is_refused("corpus.jsonl:1: invalid UTF-8");
    write(folder, "latin.txt", b"caf\xe9\n");
    train("latin.txt", &[]).is_refused("latin.txt");
    write(folder, "corpus.jsonl", "");
    assert_eq!(encode_corpus(folder, "empty").json()["tokens"], 0);
    train("corpus.jsonl", &[]).is_refused("there is no text to train on");
    write(folder, "blank.txt", " \n\n \n");
    train("blank.txt", &[]).is_refused("too large for this text");
    write(folder, "good.txt", TEXT);
    for kind in ["byte-bpe", "bpe", "unigram"] {
        let refused = train("good.txt", &["--type", kind, "--vocab-size", "100000"]);
        refused.is_refused("tokens at most: ask for ");
        // What it says is what there is.
        let most = refused.stderr.split("ask for ").nth(1).unwrap().split(' ').next().unwrap().to_owned();
        let options = ["--type", kind, "--vocab-size", &most, "--json"];
        let trained =
            run(folder, &[&["tokenizer", "train", "good.txt", "--out", kind], &options[..]].concat());
        assert_eq!(trained.json()["vocabulary_size"].to_string(), most, "{kind}");
    }
    assert!(!folder.join("w").exists());
}

#[test]
fn damaged_vocabularies_are_named_with_what_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let info = |path: &str| run(folder, &["tokenizer", "info", "--tokenizer", path]);
    let model = recorded("bpe.model");
    for (name, length) in [("half.model", model.len() / 2), ("nearly.model", model.len() - 3)] {
        write(folder, name, &model[..length]);
        info(name).is_refused(name);
    }
    write(folder, "foreign.model", "Not a vocabulary at all, but a text of somebody.\n");
    info("foreign.model").is_refused("neither tokenizer.json nor a sentencepiece model");
    write(folder, "weights.model", [0x80, 2, b'}', b'q', 0]);
    info("weights.model").is_refused("weights.model");
    write(folder, "empty.model", "");
    info("empty.model").is_refused("empty.model");
    // The first piece, once more at the end.
    let first = 2 + usize::from(model[1]);
    write(folder, "twice.model", [&model[..], &model[..first]].concat());
    info("twice.model").is_refused("stands twice: 0 and ");
    let vocabulary = |content: &str| {
        json!({ "model": { "type": "BPE", "vocab": { "a": 0, content: 0 }, "merges": [] } }).to_string()
    };
    write(folder, "twice/tokenizer.json", vocabulary("b"));
    info("twice").is_refused("the same id 0");
    write(folder, "half/tokenizer.json", vocabulary("b").replace("\"b\"", "\"\\ud800\""));
    info("half").is_refused("a lone surrogate, which is half a character");
    let unigram =
        json!({ "model": { "type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["a", -1.0]] } });
    write(folder, "unigram/tokenizer.json", unigram.to_string());
    info("unigram").is_refused("`model.type` is `Unigram`; only BPE is read");
    vocabulary_of(folder);
    let decode = |ids: &str| run(folder, &["tokenizer", "decode", "--tokenizer", "v", "--ids", ids]);
    decode("3,300").is_refused("token id 300 is not in the vocabulary (its ids end at 285)");
    decode("4294967295").is_refused("token id 4294967295");
    decode("-1").is_refused("-1");
    decode("4294967296").is_refused("4294967296");
}

#[test]
fn options_of_a_corpus_are_refused_beside_one_text() {
    let folder = with_vocabulary();
    let text = ["tokenizer", "encode", "--tokenizer", "v", "--text", "车"];
    for option in [
        &["--out", "x"][..],
        &["--headerless"],
        &["--column", "text"],
        &["--encoding", "gbk"],
        &["--text-unit", "line"],
        &["--no-eos"],
        &["--shard-tokens", "2000"],
    ] {
        run(folder.path(), &[&text[..], option].concat()).is_refused("cannot be used with");
    }
    assert_eq!(run(folder.path(), &text).code, 0);
}

#[test]
fn ids_may_stand_behind_spaces() {
    let folder = with_vocabulary();
    let decode =
        |ids: &str| run(folder.path(), &["tokenizer", "decode", "--json", "--tokenizer", "v", "--ids", ids]);
    assert_eq!(decode(" 90, 91 ").json(), decode("90,91").json());
    decode("90, x").is_refused("invalid digit");
}

#[test]
fn a_folder_without_a_vocabulary_is_told() {
    let folder = with_vocabulary();
    std::fs::create_dir(folder.path().join("empty")).unwrap();
    run(folder.path(), &["tokenizer", "info", "--tokenizer", "empty"])
        .is_refused("`empty` holds no vocabulary: expected tokenizer.json, tokenizer.model");
}

#[test]
fn corpora_that_cannot_be_read_twice_or_hold_their_output_are_refused() {
    let folder = with_vocabulary();
    let folder = folder.path();
    write(folder, "texts/a.txt", TEXT);
    let encode = |input: &str, out: &str| {
        run(folder, &["tokenizer", "encode", "--tokenizer", "v", "--input", input, "--out", out])
    };
    encode("texts", "texts/shards").is_refused("`texts/shards` would be written into the input `texts`");
    assert_eq!(encode("texts", "new/shards").code, 0);
    assert!(Command::new("mkfifo").arg(folder.join("pipe.txt")).status().unwrap().success());
    encode("pipe.txt", "piped").is_refused("`pipe.txt` is a pipe or a device");
    // Half a character, and bytes that no encoding is recognised in.
    std::fs::write(folder.join("half.txt"), b"\xe9\x93\xa3\n\xe5\x88\x87\xe5\x88").unwrap();
    let told = "name the encoding of the file with `--encoding`";
    encode("half.txt", "half").is_refused(told);
    for verb in ["clean", "dedup"] {
        run(folder, &["data", verb, "half.txt", "--out", "half.jsonl"]).is_refused(told);
    }
    std::fs::write(folder.join("gbk.txt"), b"\xb3\xb5\xcf\xf7\xca\xc7\xd4\xda\xb3\xb5\xb4\xb2\xc9\xcf\n")
        .unwrap();
    let encoded = encode("gbk.txt", "gbk");
    assert!(encoded.stderr.contains("name another encoding with `--encoding`"), "{}", encoded.stderr);
}

fn vocabulary_of(folder: &Path) {
    vocabulary(false).save(&folder.join("v")).unwrap();
}

#[test]
fn what_lies_beside_texts_is_left_out_and_told() {
    let folder = with_vocabulary();
    let folder = folder.path();
    write(folder, "texts/a.txt", TEXT);
    for name in ["LICENSE", "README.rst", "a.py", "b.py", "c.py"] {
        write(folder, &format!("texts/{name}"), "All rights.\n");
    }
    let told =
        "not read because of their names: `texts/LICENSE`, `texts/README.rst`, `texts/a.py` and 2 more";
    let encode = ["tokenizer", "encode", "--json", "--tokenizer", "v", "--input", "texts", "--out", "shards"];
    let encoded = run(folder, &encode);
    assert_eq!((&encoded.json()["documents"], encoded.stderr.contains(told)), (&1.into(), true));
    let train = ["tokenizer", "train", "texts", "--out", "w", "--vocab-size", "280", "--held-out", "texts"];
    let trained = run(folder, &train);
    assert!(trained.code == 0 && trained.stderr.contains(told), "{}", trained.stderr);
}

#[test]
fn special_tokens_that_only_a_neighbour_names_are_special() {
    let folder = with_vocabulary();
    let folder = folder.path();
    let train =
        ["tokenizer", "train", "a.txt", "--out", "w", "--vocab-size", "280", "--user-defined", "<think>"];
    write(folder, "a.txt", TEXT);
    assert_eq!(run(folder, &train).code, 0);
    let info = || run(folder, &["tokenizer", "info", "--json", "--tokenizer", "w"]).json();
    let special = |info: &Value| info["special_tokens"].as_array().unwrap().len();
    assert_eq!(special(&info()), 3);
    let map = json!({ "additional_special_tokens": [{ "content": "<think>" }, "<absent>"] });
    write(folder, "w/special_tokens_map.json", map.to_string());
    let found = info();
    assert_eq!((special(&found), &found["vocabulary_size"]), (4, &280.into()));
    let encode = ["tokenizer", "encode", "--json", "--tokenizer", "w", "--text", "<think>"];
    assert_eq!(ids(&run(folder, &encode).json()["ids"]), [3]);
    let typed = run(folder, &[&encode[..], &["--no-special-tokens"]].concat()).json();
    assert!(ids(&typed["ids"]).len() > 1, "typed by somebody, it is text");
}

#[test]
fn an_extended_folder_keeps_what_its_tokenizer_json_said() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write(folder, "a.txt", TEXT.repeat(4));
    write(folder, "words.txt", "数控铣床\n挤出机组\n");
    let train = ["tokenizer", "train", "a.txt", "--type", "bpe", "--out", "v", "--vocab-size", "330"];
    let train = [&train[..], &["--allow-smaller", "--template", "llama2"]].concat();
    assert_eq!(run(folder, &train).code, 0);
    let config = json_of(folder.join("v/tokenizer_config.json"));
    assert_eq!(config["tokenizer_class"], "PreTrainedTokenizerFast", "which takes tokenizer.json as it is");
    let extend = |base: &str, out: &str| {
        run(folder, &["tokenizer", "extend", "--base", base, "--new", "words.txt", "--out", out])
    };
    // As many folders are: nothing says what stands before a text but the post-processor of tokenizer.json.
    let mut bare = config.clone();
    for key in ["add_bos_token", "add_eos_token", "legacy", "tokenizer_json_made_from"] {
        bare.as_object_mut().unwrap().remove(key);
    }
    write(folder, "v/tokenizer_config.json", bare.to_string());
    let mut json = json_of(folder.join("v/tokenizer.json"));
    let text = "车削<s>车削 12";
    assert_eq!(ids_of(folder, "v", text).first(), ids_of(folder, "v/tokenizer.json", text).first());
    assert_eq!(extend("v", "w").code, 0);
    assert_eq!(ids_of(folder, "w", text), ids_of(folder, "v", text));
    assert_ne!(ids_of(folder, "w", text)[0], 1, "no BOS, as before");
    let found = ids_of(folder, "w", "用数控铣床");
    assert!(found.len() < ids_of(folder, "v", "用数控铣床").len());
    assert_eq!(
        ids_of(folder, "w/tokenizer.json", "用数控铣床"),
        found,
        "for programs that read nothing else"
    );

    // Two vocabularies beside each other.
    let (text, id) =
        json["model"]["vocab"].as_object().unwrap().iter().max_by_key(|(_, id)| id.as_u64()).unwrap();
    let (text, id) = (text.clone(), id.clone());
    json["model"]["merges"].as_array_mut().unwrap().clear();
    json["model"]["vocab"].as_object_mut().unwrap().remove(&text);
    json["model"]["vocab"]["其"] = id;
    write(folder, "v/tokenizer.json", json.to_string());
    extend("v", "x").is_refused("are two vocabularies: the id ");
}

#[test]
fn refused_words_are_counted_by_reason() {
    let folder = with_vocabulary();
    let folder = folder.path();
    let long = "长".repeat(65);
    let cut = "车削，铣削\n磨削，刨削\n钻 孔\n铰 孔\n镗 孔\n拉 削";
    write(folder, "words.txt", format!("数控铣床\n{cut}\n{long}\n"));
    let extend = ["tokenizer", "extend", "--base", "v", "--new", "words.txt", "--out", "w"];
    let ran = run(folder, &extend);
    assert!(ran.stdout.contains("appended 1 · pieces on the way to them"), "{}", ran.stdout);
    assert!(
        ran.stdout.contains("reached inside of a text 1 · as a whole text 1 (100.00 %)"),
        "{}",
        ran.stdout
    );
    let refused: Vec<&str> = ran.stderr.lines().filter(|line| line.starts_with("refused ")).collect();
    assert_eq!(refused.len(), 2, "{}", ran.stderr);
    assert!(refused[0].starts_with("refused 6: the vocabulary cuts texts within it"), "{}", refused[0]);
    assert!(refused[0].contains("`车削，铣削`") && refused[0].ends_with(", …)"), "{}", refused[0]);
    assert!(refused[1].starts_with("refused 1: longer than 64 characters (`长"), "{}", refused[1]);
}

#[test]
fn pieces_that_the_space_before_a_text_hides_are_counted() {
    let Some(data) = shared() else { return };
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(data.join("tokenizers/llama2/tokenizer.model"), folder.path().join("llama.model")).unwrap();
    write(folder.path(), "words.txt", "armaceutical\n数控铣床\n");
    let extend =
        ["tokenizer", "extend", "--json", "--base", "llama.model", "--new", "words.txt", "--out", "w"];
    let report = run(folder.path(), &extend).json();
    let counts = ["appended", "reached", "reached_inside", "behind_space"].map(|key| report[key].as_u64());
    assert_eq!(counts, [Some(2), Some(1), Some(2), Some(1)], "{report}");
}

#[test]
fn what_llama_cpp_does_otherwise_is_told_when_a_vocabulary_goes_there() {
    let folder = with_vocabulary();
    let folder = folder.path();
    let notes = |input: &str, output: &str| {
        let report = run(folder, &["tokenizer", "convert", input, output, "--json"]).json();
        report["notes"]
            .as_array()
            .unwrap()
            .iter()
            .map(|note| note.as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert!(notes("v", "v.gguf").is_empty());
    let mut json = json_of(folder.join("v/tokenizer.json"));
    json["normalizer"] = json!({ "type": "NFC" });
    write(folder, "nfc/tokenizer.json", json.to_string());
    let found = notes("nfc", "nfc.gguf");
    assert!(found.len() == 1 && found[0].contains("llama.cpp normalizes no texts"), "{found:?}");
    assert!(notes("nfc", "folder").is_empty());
    let Some(data) = shared() else { return };
    let path = |name: &str| data.join("tokenizers").join(name).display().to_string();
    let found = notes(&path("baichuan-7b"), "baichuan.gguf");
    assert!(found.len() == 2 && found[1].contains("behind a user-defined piece"), "{found:?}");
    // Line ends and digits, which Baichuan defines as pieces, cause no space.
    let types =
        Tokenizer::open(&data.join("tokenizers/baichuan-7b")).unwrap().to_gguf(64000).unwrap().token_types;
    let ids = ids_of(folder, &path("baichuan-7b"), "\n7");
    assert!(ids[1..].iter().any(|&id| types[id as usize] == 1), "{ids:?}");
    let found = notes(&path("smollm"), "smollm.gguf");
    assert!(found.len() == 1 && found[0].contains("no token for some bytes"), "{found:?}");
    let found = notes(&path("literary-alpaca2"), "alpaca");
    assert!(found.len() == 1 && found[0].contains("only tokenizer.model is written"), "{found:?}");
}
