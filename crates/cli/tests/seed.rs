//! What users of the projects before this one rely on.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;

use common::{ids, run, shared, vocabulary, with_model};
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
