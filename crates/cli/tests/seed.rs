//! What users of the projects before this one rely on.

use crate::common;

use common::{ids, run, with_model};

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
    let stop = common::vocabulary(false).end_of_turn_ids();
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
