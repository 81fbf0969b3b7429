//! Vocabularies inside real GGUF files give the ids that llama.cpp recorded.

use crate::common;

use common::{assert_random_strings, gguf_vocabulary, shared};
use danlu_tokenizer::{GgufVocabulary, SpecialTokens, Tokenizer, VocabularyTraining};

/// A text and its recorded ids.
type Case = (String, Vec<u32>);

fn recorded_cases(name: &str) -> Option<(GgufVocabulary, Vec<Case>)> {
    let path = shared(&format!("tokenizers/llama.cpp-vocabs/ggml-vocab-{name}.gguf"))?;
    let beside = |ending: &str| std::fs::read_to_string(format!("{}.{ending}", path.display())).unwrap();
    let (input, output) = (beside("inp"), beside("out"));
    let texts = input.split("\n__ggml_vocab_test__\n").map(str::to_owned);
    let ids = output.split('\n').map(|line| line.split_whitespace().map(|id| id.parse().unwrap()).collect());
    let cases: Vec<Case> = texts.zip(ids).collect();
    assert_eq!(cases.len(), 47);
    Some((gguf_vocabulary(&path), cases))
}

fn assert_recorded(name: &str) {
    let Some((vocabulary, cases)) = recorded_cases(name) else { return };
    let tokenizer = Tokenizer::from_gguf(vocabulary).unwrap();
    // The recorded ids begin with BOS or not, depending on the file's age; BOS is the caller's business here.
    let bos = tokenizer
        .bos_id()
        .filter(|_| cases.iter().all(|(_, ids)| ids.first().copied() == tokenizer.bos_id()));
    for (text, expected) in cases {
        let expected = if bos.is_some() { &expected[1..] } else { &expected[..] };
        let ids = tokenizer.encode(&text, SpecialTokens::AsText).unwrap();
        assert_eq!(ids, expected, "{name}: {text:?}");
        assert_eq!(tokenizer.decode(&ids, false).unwrap().trim_start(), text.trim_start(), "{name}");
    }
    assert_random_strings(&format!("llama.cpp-vocabs/ggml-vocab-{name}.gguf"), &tokenizer, false);
}

#[test]
fn llama_bpe_ids_are_llama_cpps() {
    assert_recorded("llama-bpe");
}

#[test]
fn qwen2_ids_are_llama_cpps() {
    assert_recorded("qwen2");
}

#[test]
fn llama_sentencepiece_ids_are_llama_cpps() {
    assert_recorded("llama-spm");
}

#[test]
fn phi_3_ids_are_llama_cpps() {
    assert_recorded("phi-3");
}

#[test]
fn sentencepiece_from_gguf_and_from_tokenizer_json_agree_on_a_novel() {
    let Some(gguf) = shared("tokenizers/llama.cpp-vocabs/ggml-vocab-llama-spm.gguf") else { return };
    let from_gguf = Tokenizer::from_gguf(gguf_vocabulary(&gguf)).unwrap();
    let from_json = Tokenizer::open(&shared("tokenizers/llama2").unwrap()).unwrap();
    let novel = std::fs::read_to_string(shared("corpus/novels/红楼梦.txt").unwrap()).unwrap();
    for line in novel.lines().step_by(7).chain(["a  b   c    d", "0000000", "-----===", "aaaaaaa\n\n\n"]) {
        let ids = |tokenizer: &Tokenizer| tokenizer.encode(line, SpecialTokens::AsText).unwrap();
        assert_eq!(ids(&from_gguf), ids(&from_json), "{line:?}");
    }
    assert!(from_gguf.adds_bos() && !from_gguf.adds_eos());
    assert_eq!((from_gguf.bos_id(), from_gguf.eos_id()), (Some(1), Some(2)));
}

#[test]
fn the_end_of_turn_of_a_gguf_file_is_saved() {
    let options = VocabularyTraining { vocabulary_size: 300, ..VocabularyTraining::default() };
    let text = "turning turns a turning part ".repeat(20);
    let trained = Tokenizer::train([text].into_iter(), &options).unwrap();
    let mut vocabulary = trained.to_gguf(trained.vocabulary_size()).unwrap();
    let marker = 70;
    assert!(!trained.end_of_turn_ids().contains(&marker));
    vocabulary.eot_id = Some(marker);
    let from_gguf = Tokenizer::from_gguf(vocabulary).unwrap();
    let folder = tempfile::tempdir().unwrap();
    from_gguf.save(folder.path()).unwrap();
    let saved = Tokenizer::open(folder.path()).unwrap();
    assert!(saved.end_of_turn_ids().contains(&marker));
    assert_eq!(saved.end_of_turn_ids(), from_gguf.end_of_turn_ids());
    assert_eq!(saved.to_gguf(saved.vocabulary_size()).unwrap().eot_id, Some(marker));
}

#[test]
fn smollm2_from_gguf_agrees_with_its_tokenizer_json() {
    let Some(gguf) = shared("checkpoints/smollm2-135m-instruct/SmolLM2-135M-Instruct.Q4_1.gguf") else {
        return;
    };
    let from_gguf = Tokenizer::from_gguf(gguf_vocabulary(&gguf)).unwrap();
    assert_eq!(from_gguf.vocabulary_size(), 49152);
    assert!(!from_gguf.adds_bos());
    assert_eq!(from_gguf.end_of_turn_ids().first(), from_gguf.token_id("<|im_end|>").as_ref());
    let france = from_gguf.encode("The capital of France is", SpecialTokens::AsText).unwrap();
    assert_eq!(france, [504, 3575, 282, 4649, 314], "recorded with transformers");
    let from_json = Tokenizer::open(&shared("tokenizers/smollm").unwrap()).unwrap();
    for text in ["It's 2024, 12345 tokens", "你好，世界 🦙\n\n  x", "\t\n a", "don't  stop<|im_end|>\n"]
    {
        let ids = |tokenizer: &Tokenizer| tokenizer.encode(text, SpecialTokens::Parse).unwrap();
        assert_eq!(ids(&from_gguf), ids(&from_json), "{text:?}");
    }
}

#[test]
fn stories_260k_decodes_its_recorded_story() {
    let Some(gguf) = shared("checkpoints/stories260K/stories260K.gguf") else { return };
    let tokenizer = Tokenizer::from_gguf(gguf_vocabulary(&gguf)).unwrap();
    assert_eq!(tokenizer.vocabulary_size(), 512);
    let golden = std::fs::read(shared("checkpoints/stories260K/golden_llama2c.json").unwrap()).unwrap();
    let golden: serde_json::Value = serde_json::from_slice(&golden).unwrap();
    let ids = golden.as_object().unwrap().values().find_map(|value| {
        let ids: Option<Vec<u32>> =
            value.as_array()?.iter().map(|id| id.as_u64().map(|id| id as u32)).collect();
        ids.filter(|ids| ids.len() >= 100)
    });
    let text = tokenizer.decode(&ids.unwrap(), true).unwrap();
    assert!(text.starts_with("Once upon a time"), "{text}");
    assert_eq!(
        tokenizer.decode(&tokenizer.encode(&text, SpecialTokens::AsText).unwrap(), true).unwrap(),
        text
    );
}

#[test]
fn a_saved_gguf_vocabulary_gives_the_same_ids() {
    for name in ["llama-bpe", "llama-spm", "qwen2", "phi-3"] {
        let Some((vocabulary, cases)) = recorded_cases(name) else { return };
        let tokenizer = Tokenizer::from_gguf(vocabulary).unwrap();
        let folder = tempfile::tempdir().unwrap();
        tokenizer.save(folder.path()).unwrap();
        let opened = Tokenizer::open(folder.path()).unwrap();
        for (text, _) in cases {
            for special in [SpecialTokens::Parse, SpecialTokens::AsText] {
                let ids = |tokenizer: &Tokenizer| tokenizer.encode(&text, special).unwrap();
                assert_eq!(ids(&opened), ids(&tokenizer), "{name}: {text:?}");
            }
        }
        assert_eq!(opened.adds_bos(), tokenizer.adds_bos());
        assert_eq!(opened.bos_id(), tokenizer.bos_id());
        assert_eq!(opened.eos_id(), tokenizer.eos_id());
        assert_eq!(opened.vocabulary_size(), tokenizer.vocabulary_size());
    }
}

/// Saves a vocabulary and opens it again: the folder, and `tokenizer.json` alone where there is one.
fn saved(tokenizer: &Tokenizer) -> (Tokenizer, Option<Tokenizer>) {
    let folder = tempfile::tempdir().unwrap();
    tokenizer.save(folder.path()).unwrap();
    assert!(folder.path().join("tokenizer.model").is_file());
    let json = folder.path().join("tokenizer.json");
    let json = json.is_file().then(|| Tokenizer::open(&json).unwrap());
    (Tokenizer::open(folder.path()).unwrap(), json)
}

/// Ranked merges, which were saved before, join `ba` first: of equal scores only the place decides.
#[test]
fn a_saved_sentencepiece_vocabulary_of_equal_scores_cuts_the_same() {
    let pieces = [
        ("<unk>", 0.0, 2),
        ("<s>", 0.0, 3),
        ("</s>", 0.0, 3),
        ("▁", -9.0, 1),
        ("a", -9.0, 1),
        ("b", -9.0, 1),
        ("ba", -1.0, 1),
        ("ab", -1.0, 1),
        ("bab", -1.0, 5),
        ("<h2>", 0.0, 4),
        ("a  b", 0.0, 4),
        ("", 0.0, 1),
        ("<0x41>", 0.0, 6),
    ];
    for add_space_prefix in [None, Some(false)] {
        let tokenizer = Tokenizer::from_gguf(GgufVocabulary {
            model: "llama".into(),
            tokens: pieces.map(|(text, ..)| text.to_owned()).to_vec(),
            scores: pieces.map(|(_, score, _)| score).to_vec(),
            token_types: pieces.map(|(.., kind)| kind).to_vec(),
            add_bos: Some(false),
            add_space_prefix,
            chat_template: Some("{{ messages }}".into()),
            ..GgufVocabulary::default()
        })
        .unwrap();
        assert_eq!(tokenizer.encode("aba", SpecialTokens::AsText).unwrap().last_chunk(), Some(&[7, 4]));
        let (again, json) = saved(&tokenizer);
        assert!(json.is_none(), "which cannot say it");
        for text in ["aba", " babab", "ab  ab", "a  b <h2>x", "<s>a</s> b", "AB", "", "  "] {
            for special in [SpecialTokens::Parse, SpecialTokens::AsText] {
                let ids = tokenizer.encode(text, special).unwrap();
                assert_eq!(again.encode(text, special).unwrap(), ids, "{text:?}");
                assert_eq!(again.decode(&ids, true).unwrap(), tokenizer.decode(&ids, true).unwrap());
            }
        }
        let settings = |tokenizer: &Tokenizer| {
            let ids = [tokenizer.bos_id(), tokenizer.eos_id(), tokenizer.unk_id(), tokenizer.pad_id()];
            (
                ids,
                tokenizer.adds_bos(),
                tokenizer.vocabulary_size(),
                tokenizer.chat_template().map(str::to_owned),
            )
        };
        assert_eq!(settings(&again), settings(&tokenizer));
        let size = pieces.len();
        assert_eq!(again.to_gguf(size).unwrap(), tokenizer.to_gguf(size).unwrap());
    }
}

#[test]
fn stories_260k_saved_gives_the_same_ids() {
    let Some(gguf) = shared("checkpoints/stories260K/stories260K.gguf") else { return };
    let tokenizer = Tokenizer::from_gguf(gguf_vocabulary(&gguf)).unwrap();
    let (again, json) = saved(&tokenizer);
    let json = json.unwrap();
    let novel = std::fs::read_to_string(shared("corpus/novels/红楼梦.txt").unwrap()).unwrap();
    let english = "Once upon a time, there was a little girl named Lily.  She loved\n\tto play!</s><s> x";
    for line in novel.lines().step_by(100).chain([english]) {
        for special in [SpecialTokens::Parse, SpecialTokens::AsText] {
            let ids = |tokenizer: &Tokenizer| tokenizer.encode(line, special).unwrap();
            assert_eq!(ids(&again), ids(&tokenizer), "{line:?}");
            assert_eq!(ids(&json), ids(&tokenizer), "{line:?}");
        }
    }
}

/// Three letters, their merge, and a control token.
fn small() -> GgufVocabulary {
    GgufVocabulary {
        model: "gpt2".into(),
        pre: Some("gpt-2".into()),
        tokens: ["a", "b", "ab", "<eos>"].map(str::to_owned).to_vec(),
        token_types: vec![1, 1, 1, 3],
        merges: vec!["a b".into()],
        eos_id: Some(3),
        ..GgufVocabulary::default()
    }
}

#[test]
fn damaged_metadata_is_named() {
    let message = |change: &dyn Fn(&mut GgufVocabulary)| {
        let mut vocabulary = small();
        change(&mut vocabulary);
        Tokenizer::from_gguf(vocabulary).unwrap_err().to_string()
    };
    assert!(Tokenizer::from_gguf(small()).is_ok());
    let unknown = message(&|vocabulary| vocabulary.pre = Some("mystery".into()));
    assert!(
        unknown.contains("`mystery`") && unknown.contains("llama-bpe") && unknown.contains("deepseek-llm")
    );
    assert!(message(&|vocabulary| vocabulary.model = "bert".into()).contains("`bert`"));
    assert!(message(&|vocabulary| vocabulary.merges.push("a c".into())).contains("merges[1]"));
    assert!(message(&|vocabulary| vocabulary.merges.push("ab".into())).contains("merges[1]"));
    assert!(message(&|vocabulary| vocabulary.merges.push("ab ab".into())).contains("merges[1]"));
    assert!(message(&|vocabulary| vocabulary.tokens.clear()).contains("tokens"));
    assert!(message(&|vocabulary| vocabulary.tokens[1] = "a".into()).contains("stands twice"));
    assert!(message(&|vocabulary| vocabulary.token_types.truncate(2)).contains("token_type"));
    assert!(message(&|vocabulary| vocabulary.eos_id = Some(9)).contains("eos_token_id"));
    assert!(message(&|vocabulary| vocabulary.model = "llama".into()).contains("scores"));
}

#[test]
fn every_known_pre_tokenization_keeps_the_text() {
    let bytes = (0..=255u32).map(|byte| match byte {
        0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF => byte,
        0..=0x20 => byte + 0x100,
        0x7F..=0xA0 => byte - 0x7F + 0x121,
        _ => 0x143,
    });
    let mut tokens: Vec<String> = bytes.map(|code| char::from_u32(code).unwrap().to_string()).collect();
    tokens.push("ab".into());
    for pre in ["default", "gpt-2", "llama-bpe", "llama3", "qwen2", "smollm", "deepseek-llm"] {
        let vocabulary = GgufVocabulary {
            pre: Some(pre.into()),
            tokens: tokens.clone(),
            token_types: vec![],
            eos_id: None,
            ..small()
        };
        let tokenizer = Tokenizer::from_gguf(vocabulary).unwrap();
        let text = "It's 2024年，ab abc\r\n\n  你好ひらがな한국어 ＡＢ, x²  \n";
        let ids = tokenizer.encode(text, SpecialTokens::AsText).unwrap();
        assert_eq!(tokenizer.decode(&ids, false).unwrap(), text, "{pre}");
    }
}
