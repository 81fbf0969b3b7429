//! `danlu eval compare` on files as `danlu eval` leaves them.

use crate::common;

use std::path::Path;

use common::{Ran, run};
use serde_json::json;

/// Writes results of multiple choice: of each question its subject, and whether it was answered rightly.
fn questions(path: &Path, answers: &[(&str, bool)]) {
    let mut text = String::new();
    for (index, (subject, correct)) in answers.iter().enumerate() {
        let chosen = if *correct { "B" } else { "D" };
        let row = json!({
            "subject": subject, "index": index, "right": "B", "chosen": chosen, "most_likely": chosen, "correct": correct,
            "log_likelihoods": [-1.0, -2.0, -3.0, -4.0], "shortened": false,
        });
        text += &format!("{row}\n");
    }
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

/// 40 questions: 20 right in both, `only_a` in the first alone, `only_b` in the second alone, the rest wrong in both.
fn folders(only_a: usize, only_b: usize) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let answers = |own: std::ops::Range<usize>| -> Vec<(&str, bool)> {
        let subject = |index: usize| if index.is_multiple_of(2) { "law" } else { "physics" };
        (0..40).map(|index| (subject(index), index < 20 || own.contains(&index))).collect()
    };
    questions(&folder.path().join("one/take0/questions.jsonl"), &answers(20..20 + only_a));
    questions(&folder.path().join("two/take0/questions.jsonl"), &answers(20 + only_a..20 + only_a + only_b));
    folder
}

fn compare(folder: &Path, more: &[&str]) -> Ran {
    run(folder, &[&["eval", "compare", "one", "two", "--rounds", "400"], more].concat())
}

#[test]
fn accuracy_is_compared_question_by_question() {
    let folder = folders(2, 12);
    let found = compare(folder.path(), &["--json", "--list", "3"]).json();
    let metric = &found["metrics"][0];
    assert_eq!((&metric["metric"], found["metrics"].as_array().unwrap().len()), (&json!("accuracy"), 1));
    assert_eq!((metric["a"].as_f64(), metric["b"].as_f64()), (Some(0.55), Some(0.8)));
    assert!((metric["difference"].as_f64().unwrap() - 0.25).abs() < 1e-12);
    let (low, high) = (metric["low"].as_f64().unwrap(), metric["high"].as_f64().unwrap());
    // The standard error of the difference is √((14 − 10²/40)/40²) = 0.085.
    assert!((0.03..0.15).contains(&low) && (0.35..0.47).contains(&high), "{low} {high}");
    assert!(metric["p_value"].as_f64().unwrap() < 0.03, "{metric}");
    let test = &found["mc_nemar"];
    let counts = ["both", "only_a", "only_b", "neither"].map(|name| test[name].as_u64().unwrap());
    assert_eq!(counts, [20, 2, 12, 6]);
    // scipy.stats.binomtest(2, 14).pvalue
    assert!((test["p_value"].as_f64().unwrap() - 0.012939453125).abs() < 1e-12);
    assert_eq!(
        (&found["wins"].as_array().unwrap().len(), &found["losses"].as_array().unwrap().len()),
        (&3, &2)
    );
    assert_eq!(
        (&found["losses"][0]["question"], &found["losses"][0]["a"], &found["losses"][0]["b"]),
        (&json!("law 20"), &json!("B"), &json!("D"))
    );
    assert_eq!(found["subjects"][1]["name"], "physics");
    assert_eq!((&found["subjects"][0]["wins"], &found["subjects"][0]["losses"]), (&json!(6), &json!(1)));
    let told = compare(folder.path(), &[]).stdout;
    assert!(
        told.contains("in A alone 2, in B alone 12, in none 6: McNemar's exact test p = 0.0129"),
        "{told}"
    );
    let header = |line: &str| line.split_whitespace().eq(["B", "better", "right", "A", "B"]);
    assert!(told.lines().any(header), "no column for texts that are not known: {told}");
    assert_eq!(compare(folder.path(), &[]).stdout, told, "the seed decides");
    let apart = compare(folders(0, 20).path(), &[]).stdout;
    assert!(apart.contains("McNemar's exact test p < 0.0001"), "{apart}");
}

#[test]
fn a_report_has_the_differences_in_both_languages_and_for_a_paper() {
    let folder = folders(2, 12);
    let found = compare(folder.path(), &["--json", "--list", "1", "--output-dir", "out"]).json();
    let read = |name: &str| std::fs::read_to_string(folder.path().join("out").join(name)).unwrap();
    assert_eq!(serde_json::from_str::<serde_json::Value>(&read("comparison.json")).unwrap(), found);
    let markdown = read("report.md");
    for part in [
        "| accuracy | 0.5500 | 0.8000 | +0.2500 |",
        "## By subject",
        "## 各科目",
        "| 科目 | 题数 |",
        "| law 20 | B | B | D |",
    ] {
        assert!(markdown.contains(part), "{part}: {markdown}");
    }
    let latex = read("report.tex");
    assert!(latex.starts_with("% A: one/take0/questions.jsonl; B: ") && latex.contains("B $-$ A"), "{latex}");
    let html = read("report.html");
    assert!(html.contains("<svg") && html.contains("百分点") && html.contains("McNemar 精确检验"), "{html}");
}

#[test]
fn the_hash_of_the_questions_decides_and_takes_are_told() {
    let folder = folders(2, 12);
    for (name, hash) in [("one", "a"), ("two", "b")] {
        let asked = json!({ "questions_sha256": hash, "examples_sha256": name });
        std::fs::write(folder.path().join(name).join("evaluation.json"), asked.to_string()).unwrap();
    }
    compare(folder.path(), &[])
        .is_refused("`two/take0/questions.jsonl`: is of other questions (`questions_sha256` in `evaluation.json` differs)");
    // Other examples before the same questions are another way to ask them.
    let asked = json!({ "questions_sha256": "a", "examples_sha256": "two" });
    std::fs::write(folder.path().join("two/evaluation.json"), asked.to_string()).unwrap();
    std::fs::write(folder.path().join("two/summary.json"), json!({ "takes": 3 }).to_string()).unwrap();
    let ran = compare(folder.path(), &[]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(ran.stderr.contains("`two/take0/questions.jsonl` is one of 3 takes"), "{}", ran.stderr);
}

#[test]
fn groups_are_those_of_the_summary() {
    let folder = folders(2, 12);
    let summary = json!({ "subjects": { "law": { "group": "Humanities" }, "physics": { "group": "STEM" } } });
    std::fs::write(folder.path().join("one/take0/summary.json"), summary.to_string()).unwrap();
    let found = compare(folder.path(), &["--json"]).json();
    assert_eq!(
        (&found["groups"][0]["name"], &found["groups"][1]["questions"]),
        (&json!("Humanities"), &json!(20))
    );
    let told = compare(folder.path(), &[]).stdout;
    assert!(told.contains("Humanities") && !told.contains("physics  "), "{told}");
}

#[test]
fn scores_of_generated_texts_are_compared() {
    let folder = tempfile::tempdir().unwrap();
    for (name, shift) in [("one", 0.0), ("two", 0.1)] {
        let row = |index: usize| {
            let scores = json!({ "rouge_l": 0.5 + shift, "exact_match": 0.0, "own": 1 });
            let category = if index < 4 { "写作" } else { "常识" };
            json!({ "index": index, "category": category, "prompt": format!("问题{}", index / 2), "reference": "答",
                    "prediction": name, "scores": scores })
        };
        let rows: String = (0..6).map(|index| format!("{}\n", row(index))).collect();
        // Without a reference there is no score, and nothing to compare.
        let open = json!({ "index": 6, "prompt": "写一首诗", "reference": null, "prediction": name, "scores": null });
        std::fs::write(folder.path().join(format!("{name}.jsonl")), format!("{open}\n{rows}")).unwrap();
    }
    let arguments = ["eval", "compare", "one.jsonl", "two.jsonl", "--rounds", "50", "--json"];
    let found = run(folder.path(), &arguments).json();
    let names: Vec<&str> = found["metrics"]
        .as_array()
        .unwrap()
        .iter()
        .map(|metric| metric["metric"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["exact_match", "own", "rouge_l"]);
    let metric = &found["metrics"][2];
    assert!((metric["difference"].as_f64().unwrap() - 0.1).abs() < 1e-12 && metric["wins"] == 6, "{metric}");
    assert!((metric["low"].as_f64().unwrap() - 0.1).abs() < 1e-12);
    assert_eq!((&found["questions"], &found["subjects"][1]["name"]), (&json!(6), &json!("常识")));
    let other = std::fs::read_to_string(folder.path().join("two.jsonl")).unwrap().replace("问题1", "问题8");
    std::fs::write(folder.path().join("two.jsonl"), other).unwrap();
    run(folder.path(), &arguments).is_refused("lacks 2 of the 6 questions, the first of them `row 4`");
    assert_eq!((found["metrics"][0]["p_value"].as_f64(), found.get("mc_nemar")), (Some(1.0), None));
}

#[test]
fn results_of_other_questions_are_refused() {
    let folder = folders(1, 1);
    let path = folder.path();
    let two = path.join("two/take0/questions.jsonl");
    let with = |answers: &[(&str, bool)]| {
        questions(&two, answers);
        compare(path, &[])
    };
    with(&[("law", true); 3]).is_refused("lacks 38 of the 40 questions, the first of them `physics 1`, of");
    let mut more = vec![("law", true); 41];
    for (index, answer) in more.iter_mut().enumerate() {
        answer.0 = if index % 2 == 0 { "law" } else { "physics" };
    }
    with(&more).is_refused("has 1 questions more than");
    let other = std::fs::read_to_string(path.join("one/take0/questions.jsonl")).unwrap();
    std::fs::write(&two, other.replacen("\"right\":\"B\"", "\"right\":\"C\"", 1)).unwrap();
    compare(path, &[]).is_refused("has the right answer `C` to `law 0`, which is `B` in");
    std::fs::write(&two, other.replacen("\"correct\":true", "\"correct\":null", 1)).unwrap();
    compare(path, &[]).is_refused("questions.jsonl:1: the right answer is withheld");
    std::fs::write(&two, "{\"subject\": \"law\"}\n").unwrap();
    compare(path, &[]).is_refused("questions.jsonl:1: has no score: expected `correct`");
    std::fs::write(&two, "").unwrap();
    compare(path, &[]).is_refused("has no questions with a score");
    std::fs::remove_file(&two).unwrap();
    compare(path, &[]).is_refused("`two`: has no results: expected one of `questions.jsonl`");
    run(path, &["eval", "compare", "one", "two", "--rounds", "0"]).is_refused("expected 1 to 1000000");
    let rows = |names: &str| format!("{{\"prompt\": \"x\", \"scores\": {{{names}}}}}\n");
    std::fs::write(path.join("a.jsonl"), rows("\"bleu\": 1")).unwrap();
    std::fs::write(path.join("b.jsonl"), rows("\"chrf\": 1")).unwrap();
    run(path, &["eval", "compare", "a.jsonl", "b.jsonl"]).is_refused("`b.jsonl`: has no metric of `a.jsonl`");
}
