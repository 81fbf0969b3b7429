//! Sentencepiece `.model` files give the ids that sentencepiece itself records.

use crate::common;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use common::{assert_random_strings, shared};
use danlu_tokenizer::{Message, SpecialTokens, Tokenizer};
use proptest::prelude::*;
use serde_json::Value;

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/sentencepiece");

fn read(path: impl AsRef<Path>) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn as_text(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
    tokenizer.encode(text, SpecialTokens::AsText).unwrap()
}

fn parsed(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
    tokenizer.encode(text, SpecialTokens::Parse).unwrap()
}

/// A file of `tokenizers` copied alone, so that nothing beside it counts.
fn alone(path: &str) -> Option<(tempfile::TempDir, PathBuf)> {
    let path = shared(&format!("tokenizers/{path}"))?;
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("tokenizer.model");
    std::fs::copy(path, &copy).unwrap();
    Some((folder, copy))
}

/// `<s>` and the like stay text in what somebody typed.
#[test]
fn every_kind_of_model_gives_the_recorded_ids() {
    let recorded = read(format!("{GOLDEN}/ids.json"));
    let texts = recorded["texts"].as_array().unwrap();
    for (name, rows) in recorded["ids"].as_object().unwrap() {
        let tokenizer = Tokenizer::open(Path::new(&format!("{GOLDEN}/{name}.model"))).unwrap();
        assert_eq!(texts.len(), rows.as_array().unwrap().len());
        for (text, expected) in texts.iter().zip(rows.as_array().unwrap()) {
            let expected: Vec<u32> = serde_json::from_value(expected.clone()).unwrap();
            let text = text.as_str().unwrap();
            assert_eq!(as_text(&tokenizer, text), expected, "{name}: {text:?}");
        }
    }
}

#[test]
fn a_model_is_known_by_its_content_however_long_its_first_piece_is() {
    let bytes = std::fs::read(format!("{GOLDEN}/unigram.model")).unwrap();
    let rest = &bytes[2 + usize::from(bytes[1])..];
    let whole = Tokenizer::open(Path::new(&format!("{GOLDEN}/unigram.model"))).unwrap();
    let folder = tempfile::tempdir().unwrap();
    // Lengths are numbers of one byte to 127, then of two.
    for length in [5, 119, 120, 122, 127, 128, 200, 3000_usize] {
        let number = |length: usize| match length {
            0..128 => vec![length as u8],
            _ => vec![length as u8 | 0x80, (length >> 7) as u8],
        };
        let text = [&[0x0a][..], &number(length), &vec![b'u'; length]].concat();
        // Its score, and that it stands for what is unknown.
        let piece = [&text[..], &[0x15, 0, 0, 0, 0, 0x18, 2]].concat();
        let path = folder.path().join("long.model");
        std::fs::write(&path, [&[0x0a][..], &number(piece.len()), &piece, rest].concat()).unwrap();
        let tokenizer = Tokenizer::open(&path).unwrap();
        assert_eq!(tokenizer.vocabulary_size(), whole.vocabulary_size());
        assert_eq!(tokenizer.token_text(0).unwrap().len(), length);
    }
}

fn chatglm() -> Option<(tempfile::TempDir, Tokenizer)> {
    let (folder, path) = alone("chatglm2-3/tokenizer.model")?;
    Some((folder, Tokenizer::open(&path).unwrap()))
}

#[test]
fn seed_000_chatglm2_encode() {
    let Some((folder, tokenizer)) = chatglm() else { return };
    let vectors: [(&str, &[u32]); 9] = [
        (
            "用挤出机挤塑生产塑料制品是",
            &[44266, 57027, 54557, 54651, 57027, 56064, 31752, 35916, 35390, 54532],
        ),
        ("介绍一下数控加工：", &[30910, 48875, 47592, 33185, 31211]),
        ("Hello world", &[13755, 993]),
        ("a  b\nc", &[260, 265, 30931, 13, 30922]),
        ("<s>你好</s>", &[906, 30917, 30994, 39701, 1833, 30917, 30994]),
        (" 你好", &[265, 39701]),
        ("\n", &[30910, 13]),
        ("问题是什么？", &[30910, 31639, 32664, 31514]),
        ("答案", &[30910, 33161]),
    ];
    for (text, ids) in vectors {
        assert_eq!(as_text(&tokenizer, text), ids, "{text:?}");
        assert_eq!(tokenizer.decode(ids, true).unwrap(), text);
    }
    assert!(as_text(&tokenizer, "").is_empty());
    assert!(as_text(&tokenizer, "[gMASK]sop").iter().all(|&id| id < 64789), "typed, so it is text");
    assert_eq!(parsed(&tokenizer, "[gMASK]sop你好"), [64790, 64792, 36474, 54591]);
    assert_eq!(tokenizer.vocabulary_size(), 64794);
    assert!(!tokenizer.adds_bos() && !tokenizer.adds_eos());
    let ids = (tokenizer.bos_id(), tokenizer.eos_id(), tokenizer.pad_id(), tokenizer.unk_id());
    assert_eq!(ids, (Some(1), Some(2), Some(0), Some(0)));
    // What was added to the model survives being saved, for other programs too.
    let copy = folder.path().join("copy");
    tokenizer.save(&copy).unwrap();
    let again = Tokenizer::open(&copy).unwrap();
    assert_eq!(parsed(&again, "[gMASK]sop你好<s>"), [64790, 64792, 36474, 54591, 1]);
    assert_eq!((again.adds_bos(), again.pad_id(), again.vocabulary_size()), (false, Some(0), 64794));
    let fixed = read(copy.join("tokenizer_config.json"));
    let said = (&fixed["tokenizer_class"], &fixed["tokenizer_json_made_from"]);
    assert_eq!(said, (&"PreTrainedTokenizerFast".into(), &"tokenizer.model".into()));
    let json = Tokenizer::open(&copy.join("tokenizer.json")).unwrap();
    assert_eq!(parsed(&json, "[gMASK]sop你好<s>"), parsed(&again, "[gMASK]sop你好<s>"));
}

#[test]
fn seed_000_chatglm2_decode_specials() {
    let Some((_folder, tokenizer)) = chatglm() else { return };
    assert_eq!(tokenizer.decode(&[1, 36474, 54591, 2], true).unwrap(), "你好");
    let specials = [0, 1, 2, 64789, 64790, 64791, 64792, 64793];
    assert_eq!(tokenizer.decode(&specials, true).unwrap(), "");
    let answered = [&[30910, 31639, 32664, 31514, 1, 30910, 33161, 2][..], &specials].concat();
    assert_eq!(tokenizer.decode(&answered, true).unwrap(), "问题是什么？ 答案");
    let error = tokenizer.decode(&[64794], true).unwrap_err().to_string();
    assert!(error.contains("64794"), "{error}");
}

#[test]
fn a_question_and_its_answer_have_the_ids_that_baby_llama2_trains_on() {
    let Some((_folder, tokenizer)) = chatglm() else { return };
    let template = danlu_tokenizer::ChatTemplate::builtin("baby_llama2").unwrap();
    let messages = [Message::new("user", "问题是什么？"), Message::new("assistant", "答案")];
    let tokens = tokenizer.template_tokens();
    let ids = |text: &str| parsed(&tokenizer, text);
    let text = template.render(&messages, false, &tokens).unwrap();
    assert_eq!(ids(&text), [30910, 31639, 32664, 31514, 1, 30910, 33161, 2]);
    let prompt = template.render(&messages[..1], true, &tokens).unwrap();
    assert_eq!(ids(&prompt), [30910, 31639, 32664, 31514, 1]);
    let segments = template.segments(&messages, &tokens).unwrap();
    let trained: Vec<&str> =
        segments.iter().filter(|part| part.trained).map(|part| part.text.as_str()).collect();
    assert_eq!(trained, ["答案</s>"]);
    let system = template.render(&[Message::new("system", "x")], true, &tokens).unwrap_err().to_string();
    assert!(system.contains("take turns"), "{system}");
}

#[test]
fn seed_001_llama2_prompts_with_and_without_legacy() {
    let Some(path) = shared("tokenizers/llama2") else { return };
    let folder = tempfile::tempdir().unwrap();
    for name in ["tokenizer.model", "tokenizer_config.json", "special_tokens_map.json"] {
        std::fs::copy(path.join(name), folder.path().join(name)).unwrap();
    }
    let prompt = "<s>Human: 介绍一下中国\n</s><s>Assistant: ";
    let current = Tokenizer::open(folder.path()).unwrap();
    let ids = parsed(&current, prompt);
    assert_eq!((ids.len(), &ids[..6]), (20, &[1, 29950, 7889, 29901, 29871, 31633][..]));
    assert!(current.adds_bos() && !current.adds_eos());
    assert_eq!(parsed(&current, "Hello world"), [15043, 3186]);
    // A folder with nothing but the model, as Meta's own.
    let (_folder, model) = alone("llama2/tokenizer.model").unwrap();
    let legacy = Tokenizer::open(model.parent().unwrap()).unwrap();
    assert!(legacy.adds_bos());
    assert_eq!(parsed(&legacy, prompt)[..3], [1, 12968, 29901]);
    assert_ne!(legacy.fingerprint(), current.fingerprint());
    let alpaca = Tokenizer::open(&shared("tokenizers/chinese-alpaca-2").unwrap()).unwrap();
    let ids = [1, 12968, 29901, 29871, 42002, 32006, 13, 2, 1, 4007, 22137, 29901, 29871];
    assert_eq!(parsed(&alpaca, prompt), ids);
}

#[test]
fn seed_001_merged_tokenizer_use() {
    let Some(folder) = shared("tokenizers/literary-alpaca2") else { return };
    let merged = Tokenizer::open(&folder).unwrap();
    let prompt = "<s>Human: 介绍一下中国\n</s><s>Assistant: ";
    let ids = [1, 29950, 7889, 29901, 29871, 74564, 32036, 13, 2, 1, 7900, 22137, 29901, 29871];
    assert_eq!(parsed(&merged, prompt), ids);
    assert_eq!(parsed(&merged, "<s>abc</s>"), [1, 10736, 2]);
    assert_eq!(parsed(&merged, "你好，世界"), [43008, 30214, 32250]);
    assert_eq!(parsed(&merged, "Hello world"), [10994, 3186], "its own file adds no space before a text");
    assert_eq!(merged.vocabulary_size(), 74674);
    // As a GGUF file has it, and read from there.
    let vocabulary = merged.to_gguf(74674).unwrap();
    assert_eq!((vocabulary.model.as_str(), vocabulary.scores[259]), ("llama", -1e9));
    let gguf = Tokenizer::from_gguf(vocabulary).unwrap();
    let novel = std::fs::read_to_string(shared("corpus/novels/红楼梦.txt").unwrap()).unwrap();
    for line in novel.lines().step_by(50) {
        assert_eq!(as_text(&gguf, line), as_text(&merged, line));
    }
}

#[test]
fn tokens_beside_the_model_have_their_ids() {
    let Some(folder) = shared("tokenizers/tinyllm-zh-merge/merged") else { return };
    let tokenizer = Tokenizer::open(&folder).unwrap();
    assert_eq!(tokenizer.vocabulary_size(), 49958);
    assert_eq!(parsed(&tokenizer, "<|user|><s>")[..], [49954, 1]);
    let copy = tempfile::tempdir().unwrap();
    for name in ["tokenizer.model", "added_tokens.json"] {
        std::fs::copy(folder.join(name), copy.path().join(name)).unwrap();
    }
    let tokenizer = Tokenizer::open(copy.path()).unwrap();
    assert_eq!(parsed(&tokenizer, "<|im_end|>"), [49957]);
    std::fs::write(copy.path().join("added_tokens.json"), r#"{"<|x|>": 50000}"#).unwrap();
    let error = Tokenizer::open(copy.path()).unwrap_err().to_string();
    assert!(error.contains("tokenizer.model") && error.contains("50000"), "{error}");
}

#[test]
fn a_plain_model_is_written_as_tokenizer_json() {
    let Some((_folder, legacy)) = alone("llama2/tokenizer.model") else { return };
    let (_other, chatglm) = alone("chatglm2-3/tokenizer.model").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tokenizer.json");
    for (name, path) in
        [("llama2/tokenizer.model", legacy.as_path()), ("chatglm2-3/tokenizer.model", &chatglm)]
    {
        let model = Tokenizer::open(path).unwrap();
        std::fs::write(&file, model.to_tokenizer_json().unwrap()).unwrap();
        let json = Tokenizer::open(&file).unwrap();
        assert_random_strings(name, &json, false);
        assert_eq!((json.vocabulary_size(), json.adds_bos()), (model.vocabulary_size(), model.adds_bos()));
        for text in ["<s>Human: 介绍</s><s> x", "[gMASK]sop 你好", "<s>", " a<unk>b"] {
            let ids = parsed(&model, text);
            assert_eq!(parsed(&json, text), ids, "{name}: {text:?}");
            assert_eq!(json.decode(&ids, false).unwrap(), model.decode(&ids, false).unwrap());
        }
    }
    for (name, expected) in [
        ("literary-alpaca2", "have one score"),
        ("llama2/tokenizer.model", "`legacy` is false"),
        ("baichuan-7b", "of its own"),
        ("tinyllm-zh-merge/chinese_spm_20000.model", "of its own"),
    ] {
        let model = Tokenizer::open(&shared(&format!("tokenizers/{name}")).unwrap()).unwrap();
        let refused = model.to_tokenizer_json().unwrap_err().to_string();
        assert!(refused.contains(expected), "{name}: {refused}");
    }
}

/// InternLM2's files do so: pieces were kept free for its markers.
#[test]
fn a_token_takes_the_place_of_a_free_piece() {
    let Some((folder, model)) = alone("llama2/tokenizer.model") else { return };
    let config = r#"{"tokenizer_class": "InternLM2Tokenizer", "add_bos_token": true, "add_eos_token": true,
        "eos_token": "</s>", "added_tokens_decoder": {
        "31998": {"content": "<|im_end|>", "lstrip": false, "normalized": false, "rstrip": false, "single_word": false, "special": true},
        "31999": {"content": "<|im_start|>", "lstrip": false, "normalized": false, "rstrip": false, "single_word": false, "special": true}}}"#;
    std::fs::write(folder.path().join("tokenizer_config.json"), config).unwrap();
    let tokenizer = Tokenizer::open(&model).unwrap();
    assert_eq!(parsed(&tokenizer, "<|im_start|>Hello<|im_end|>"), [31999, 15043, 31998]);
    assert_eq!(tokenizer.decode(&[31999, 15043, 31998], false).unwrap(), "<|im_start|> Hello<|im_end|>");
    assert_eq!((tokenizer.vocabulary_size(), tokenizer.adds_eos()), (32000, true));
    assert!(tokenizer.is_special(31999) && tokenizer.end_of_turn_ids() == [2, 31998]);
    let gguf = Tokenizer::from_gguf(tokenizer.to_gguf(32000).unwrap()).unwrap();
    assert_eq!(parsed(&gguf, "<|im_start|>Hello<|im_end|>"), [31999, 15043, 31998]);
}

#[test]
fn llama2c_files_are_written_as_they_are_read() {
    for (name, legacy) in [("llama2", false), ("baichuan-7b", true), ("chinese-alpaca-2", true)] {
        let Some(folder) = shared(&format!("tokenizers/{name}")) else { return };
        let recorded = std::fs::read(folder.join("tokenizer.bin")).unwrap();
        let model = Tokenizer::open(&folder.join("tokenizer.model")).unwrap();
        let alone = tempfile::tempdir().unwrap();
        std::fs::write(alone.path().join("tokenizer.bin"), &recorded).unwrap();
        assert!(Tokenizer::is_in(alone.path()));
        let opened = Tokenizer::open(alone.path()).unwrap();
        // The other two have their bytes in another way, and Baichuan's at other ids than llama2.c looks for.
        if name == "llama2" {
            assert!(model.to_llama2c(32000).unwrap() == recorded);
            assert!(opened.to_llama2c(32000).unwrap() == recorded);
        }
        assert_eq!((opened.bos_id(), opened.eos_id(), opened.adds_bos()), (Some(1), Some(2), true));
        let novel = std::fs::read_to_string(shared("corpus/novels/红楼梦.txt").unwrap()).unwrap();
        for line in novel.lines().step_by(100).chain(["Hello  world\t1 <s> 龘😀", ""]) {
            assert_eq!(as_text(&opened, line), as_text(&model, line), "{name}: {line:?}");
            if legacy {
                assert_eq!(parsed(&opened, line), parsed(&model, line), "{name}: {line:?}");
            }
        }
    }
    let baichuan = Tokenizer::open(&shared("tokenizers/baichuan-7b").unwrap()).unwrap();
    let refused = baichuan.to_llama2c(64000).unwrap_err().to_string();
    assert!(refused.contains("the bytes from 3"), "{refused}");
    let stories = shared("checkpoints/stories260K/tok512.bin").unwrap();
    let opened = Tokenizer::open(&stories).unwrap();
    assert_eq!(opened.vocabulary_size(), 512);
    assert!(opened.to_llama2c(512).unwrap() == std::fs::read(&stories).unwrap());
}

#[test]
fn damaged_llama2c_files_are_named() {
    let Some(stories) = shared("checkpoints/stories260K/tok512.bin") else { return };
    let good = std::fs::read(stories).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.bin");
    let message = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        Tokenizer::open(&path).unwrap_err().to_string()
    };
    let with = |at: usize, value: u32| {
        let mut bytes = good.clone();
        bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        bytes
    };
    for (bytes, expected) in [
        (good[..good.len() - 1].to_vec(), "in the middle of token 511"),
        (good[..1000].to_vec(), "in the middle of token"),
        (with(8, 4), "the longest of the file has 7"),
        (with(21, u32::MAX), "token 1 has 4294967295 bytes"),
        (with(17, f32::NAN.to_bits()), "the score of token 1"),
        (with(0, u32::MAX), "neither tokenizer.json"),
        ([&good[..], &good[4..]].concat(), "stands twice"),
    ] {
        let message = message(&bytes);
        assert!(message.contains("tokenizer.bin") && message.contains(expected), "{message}");
    }
}

#[test]
fn a_megabyte_of_text_takes_no_more_than_a_moment() {
    for (name, text) in [
        ("bpe", "车削是在车床上加工回转表面的方法，banana。"),
        ("bpe", "a"),
        ("unigram", "数控加工 the lathe "),
        ("ties", "aab "),
    ] {
        let tokenizer = Tokenizer::open(Path::new(&format!("{GOLDEN}/{name}.model"))).unwrap();
        let text = text.repeat((1 << 20) / text.len());
        let start = Instant::now();
        let ids = as_text(&tokenizer, &text);
        let taken = start.elapsed();
        println!("{name}: {} tokens in {taken:?}", ids.len());
        assert!(taken < Duration::from_secs(10), "{name}: {taken:?}");
    }
}

#[test]
fn damaged_models_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.model");
    let good = std::fs::read(format!("{GOLDEN}/bpe.model")).unwrap();
    let message = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        Tokenizer::open(&path).unwrap_err().to_string()
    };
    let cut = message(&good[..good.len() / 2]);
    assert!(cut.contains("tokenizer.model") && cut.contains("not a sentencepiece model"), "{cut}");
    let twice = message(&[&good[..], &good].concat());
    assert!(twice.contains("stands twice"), "{twice}");
    std::fs::remove_file(&path).unwrap();
    std::fs::write(folder.path().join("own.model"), &good).unwrap();
    let named = Tokenizer::open(folder.path()).unwrap_err().to_string();
    assert!(named.contains("own.model") && named.contains("by its own path"), "{named}");
    assert!(Tokenizer::open(&folder.path().join("own.model")).is_ok());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn seed_000_any_text_comes_back(text in "[\\PC\n\t\u{3000}]{0,40}") {
        if let Some(path) = shared("tokenizers/chatglm2-3/tokenizer.model") {
            static OPENED: std::sync::OnceLock<Tokenizer> = std::sync::OnceLock::new();
            let tokenizer = OPENED.get_or_init(|| Tokenizer::open(&path).unwrap());
            let back = tokenizer.decode(&as_text(tokenizer, &text), true).unwrap();
            prop_assert_eq!(back, text.replace('▁', " "));
        }
    }

    #[test]
    fn a_changed_byte_is_an_error_or_a_vocabulary(place in 0usize..8600, byte in any::<u8>(), text in any::<String>()) {
        let mut bytes = std::fs::read(format!("{GOLDEN}/bpe.model")).unwrap();
        let place = place % bytes.len();
        bytes[place] = byte;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokenizer.model");
        std::fs::write(&path, bytes).unwrap();
        if let Ok(tokenizer) = Tokenizer::open(&path) {
            let _ = tokenizer.encode(&text, SpecialTokens::Parse);
        }
    }
}

#[test]
fn an_extended_chatglm2_folder_opens_again_with_its_configuration() {
    let Some((folder, tokenizer)) = chatglm() else { return };
    let config = folder.path().join("tokenizer_config.json");
    std::fs::write(config, r#"{"tokenizer_class": "ChatGLMTokenizer"}"#).unwrap();
    let base = Tokenizer::open(folder.path()).unwrap();
    assert_eq!(base.fingerprint(), tokenizer.fingerprint());
    let extension = base.extend(&["数控铣床主轴".into()]).unwrap();
    let (_, id) = extension.appended[0];
    assert!(id > 64793);
    extension.save(folder.path()).unwrap();
    let extended = Tokenizer::open(folder.path()).unwrap();
    assert!(as_text(&extended, "数控铣床主轴").contains(&id));
    assert_eq!(parsed(&extended, "[gMASK]sop你好"), [64790, 64792, 36474, 54591]);
}
