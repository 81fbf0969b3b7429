//! Perplexity against transformers' recordings and against its definition.

use crate::common;

use std::path::Path;

use common::{negative_log_likelihood, opened, shared, tokenizer, write};
use danlu_eval::perplexity::{Perplexity, Windows, of_ids, read_ids};
use danlu_model::{Opened, Precision, Rest, open};
use danlu_tokenizer::SpecialTokens;
use serde_json::Value;

fn of_file(opened: &Opened, path: &Path, windows: Windows) -> danlu_eval::Result<Perplexity> {
    of_ids(&opened.model, &read_ids(opened.tokenizer()?, path)?, windows, |_, _| {})
}

#[test]
fn smollm2_gives_the_recorded_mean_nll() {
    let Some(data) = shared() else { return };
    let folder = data.join("checkpoints/smollm2-135m-instruct");
    let golden = std::fs::read_to_string(folder.join("golden_transformers_fp32.json")).unwrap();
    let golden: Value = serde_json::from_str(&golden).unwrap();
    let opened = open(&folder.join("SmolLM2-135M-Instruct.Q4_1.gguf"), Precision::F32, Rest::Frozen).unwrap();
    let tokenizer = opened.tokenizer().unwrap();
    let files = tempfile::tempdir().unwrap();
    for name in ["base/fr", "base/zh", "base/poem"] {
        let case = &golden["cases"][name];
        let ids: Vec<u32> = serde_json::from_value(case["ids"].clone()).unwrap();
        let path = write(files.path(), "text.txt", &tokenizer.decode(&ids, false).unwrap());
        assert_eq!(read_ids(tokenizer, &path).unwrap(), ids, "{name}");
        let found = of_file(&opened, &path, Windows::default()).unwrap();
        let expected = case["mean_nll_next_token"].as_f64().unwrap();
        assert!((found.nll - expected).abs() < 1e-3, "{name}: {} against {expected}", found.nll);
        assert_eq!(found.tokens, ids.len() - 1);
        assert!((found.perplexity - expected.exp()).abs() < 2e-3 * expected.exp());
    }
}

#[test]
fn a_long_text_is_predicted_from_at_least_half_a_window() {
    let opened = opened(16, false);
    let ids: Vec<u32> = (0..45).map(|place| (place * 37 + 11) % 330).collect();
    let mut calls = Vec::new();
    let found =
        of_ids(&opened.model, &ids, Windows::default(), |done, total| calls.push((done, total))).unwrap();
    assert_eq!((found.window, found.stride, found.tokens), (16, 8, 44));
    assert_eq!(calls, [(15, 44), (23, 44), (31, 44), (39, 44), (44, 44)]);
    // Seen and predicted, by the rule: full windows that go on by 8, the last one ends with the text.
    let windows = [(0..16, 1), (8..24, 8), (16..32, 8), (24..40, 8), (29..45, 11)];
    let sum: f64 = windows
        .into_iter()
        .map(|(seen, start)| negative_log_likelihood(&opened.model, &ids[seen], start))
        .sum();
    assert!((found.nll - sum / 44.0).abs() < 1e-6, "{} against {}", found.nll, sum / 44.0);
}

#[test]
fn bos_is_put_in_front_iff_the_vocabulary_says_so() {
    let files = tempfile::tempdir().unwrap();
    let path = write(files.path(), "a.txt", "\u{feff}铝的密度\r\n<s>");
    for add_bos in [false, true] {
        let tokenizer = tokenizer(add_bos);
        let mut expected = tokenizer.encode("铝的密度\n<s>", SpecialTokens::AsText).unwrap();
        if add_bos {
            expected.insert(0, tokenizer.bos_id().unwrap());
        }
        assert_eq!(read_ids(&tokenizer, &path).unwrap(), expected);
    }
}

#[test]
fn what_cannot_be_scored_is_refused_in_one_sentence() {
    let opened = opened(16, false);
    let files = tempfile::tempdir().unwrap();
    let message = |path: &Path, windows| of_file(&opened, path, windows).unwrap_err().to_string();
    let empty = write(files.path(), "empty.txt", "");
    assert!(
        message(&empty, Windows::default()).ends_with("empty.txt`: expected a text of at least two tokens")
    );
    let gbk = files.path().join("gbk.txt");
    std::fs::write(&gbk, b"one\ntwo \xd6\xd0").unwrap();
    assert!(message(&gbk, Windows::default()).contains("gbk.txt:2: invalid UTF-8"));
    assert!(message(&files.path().join("none.txt"), Windows::default()).contains("none.txt"));
    let text = write(files.path(), "text.txt", "铝的密度是多少？钢的熔点");
    let windows = |window, stride| Windows { window, stride };
    assert!(message(&text, windows(Some(17), None)).starts_with("`window`: expected 2 to 16"));
    assert!(message(&text, windows(None, Some(0))).starts_with("`stride`: expected 1 to 15"));
    assert!(message(&text, windows(None, Some(16))).contains("found 16"));
}
