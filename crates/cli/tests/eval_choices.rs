//! `danlu eval ceval`, `cmmlu`, `mmlu` and `mcq` on a tiny model: which questions are asked, and what is told of them.

use crate::common;

use std::path::Path;

use common::{Ran, run, vocabulary, write_model};

const ROWS: &str = "id,question,A,B,C,D,answer,source\n\
                    0,工件装夹的第一条原则是____。,定位可靠,1.50,NA,以上都是,A,甲\n\
                    1,磨削温度可以达到____。,上千摄氏度,1.5,nan,零度,D,乙\n";

fn write(folder: &Path, name: &str, text: &str) {
    let path = folder.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

/// A model whose context holds a question with one example, and two subjects of each benchmark.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    write_model(&path.join("model"), Some(&vocabulary(false)), 384);
    let capitals = ROWS.replace("id,question", ",Question").replace("answer", "Answer");
    let bare =
        ROWS.lines().skip(1).map(|row| row.trim_start_matches(['0', '1', ',']).rsplit_once(',').unwrap().0);
    let bare: String = bare.map(|row| format!("{row}\n")).collect();
    for (ceval, cmmlu, mmlu) in [("law", "arts", "virology"), ("logic", "anatomy", "anatomy")] {
        for split in ["dev", "val"] {
            write(path, &format!("ceval/{split}/{ceval}_{split}.csv"), ROWS);
        }
        for split in ["dev", "test"] {
            write(path, &format!("cmmlu/{split}/{cmmlu}.csv"), &capitals);
            write(path, &format!("mmlu/{split}/{mmlu}_{split}.csv"), &bare);
        }
    }
    let withheld = ROWS.replace(",answer,source", "").replace(",A,甲", "").replace(",D,乙", "");
    write(path, "ceval/test/law_test.csv", &withheld);
    folder
}

fn eval(folder: &Path, benchmark: &str, extra: &[&str]) -> Ran {
    let data =
        if Path::new(extra.first().unwrap_or(&"")).extension().is_some() { extra[0] } else { benchmark };
    let rest = if data == benchmark { extra } else { &extra[1..] };
    run(folder, &[&["eval", benchmark, "--model", "model", "--data", data], rest].concat())
}

#[test]
fn seed_003_a_part_of_a_benchmark_is_scored_and_told() {
    let folder = folder();
    for (benchmark, missing) in
        [("ceval", "50 of C-Eval's 52 subjects"), ("cmmlu", "65 of CMMLU's 67"), ("mmlu", "55 of MMLU's 57")]
    {
        for scoring in ["lm-eval", "text", "seed"] {
            let ran = eval(folder.path(), benchmark, &["--shots", "1", "--scoring", scoring, "--json"]);
            assert!(ran.stderr.contains(missing), "{}", ran.stderr);
            let score = ran.json();
            assert_eq!((&score["questions"], &score["scoring"]), (&4.into(), &scoring.into()));
            assert_eq!(score["shortened"], 0, "{score}");
            assert!((0.0..=1.0).contains(&score["accuracy"].as_f64().unwrap()));
        }
    }
    let chosen =
        eval(folder.path(), "ceval", &["--shots", "0", "--subject", "逻辑学", "--limit", "1", "--json"]);
    assert!(!chosen.stderr.contains("warning"), "{}", chosen.stderr);
    assert_eq!(chosen.json()["questions"], 1);
}

#[test]
fn withheld_answers_are_no_error() {
    let folder = folder();
    let withheld = ["--shots", "1", "--split", "test"];
    let ran = eval(folder.path(), "ceval", &withheld);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(
        ran.stdout.contains("2 questions whose answers are withheld") && !ran.stdout.contains("accuracy 0")
    );
    let json = eval(folder.path(), "ceval", &[&withheld[..], &["--json"]].concat()).json();
    assert_eq!((&json["questions"], &json["withheld"]), (&0.into(), &2.into()));
}

#[test]
fn prompts_beyond_the_context_lose_examples_and_questions_beyond_it_are_not_asked() {
    let folder = folder();
    write_model(&folder.path().join("model"), Some(&vocabulary(false)), 192);
    let ran = eval(folder.path(), "ceval", &["--shots", "2", "--chat", "--json"]);
    assert!(
        ran.stderr.contains("4 prompts did not fit the model's context and lost examples"),
        "{}",
        ran.stderr
    );
    assert_eq!(ran.json()["shortened"], 4);
    write_model(&folder.path().join("model"), Some(&vocabulary(false)), 48);
    let ran = eval(folder.path(), "ceval", &["--shots", "0", "--json"]);
    assert!(ran.stderr.contains("4 questions alone do not fit"), "{}", ran.stderr);
    let score = ran.json();
    assert_eq!((&score["unasked"], &score["correct"]), (&4.into(), &0.into()));
}

#[test]
fn own_questions_are_a_file_of_json_lines() {
    let folder = folder();
    let rows = "{\"question\": \"工件装夹的第一条原则是？\", \"options\": [\"定位可靠\", \"快\", \"省\", \"美\"], \"answer\": \"A\"}\n\
                {\"question\": \"磨削温度可以达到？\", \"options\": [\"上千摄氏度\", \"零度\", \"1.50\", \"NA\"], \"answer\": 0}\n";
    write(folder.path(), "own.jsonl", rows);
    let score = eval(folder.path(), "mcq", &["own.jsonl", "--json"]).json();
    assert_eq!(
        (&score["questions"], &score["scoring"], &score["chat"]),
        (&2.into(), &"text".into(), &true.into())
    );
    write(folder.path(), "own.jsonl", &rows.replace("\"A\"", "\"E\""));
    eval(folder.path(), "mcq", &["own.jsonl"])
        .is_refused("own.jsonl:1: column `answer`: expected A, B, C or D, or 0 to 3, found `E`");
    write(folder.path(), "own.jsonl", &rows.replace(", \"美\"", ""));
    eval(folder.path(), "mcq", &["own.jsonl"]).is_refused("column `options` has 3 texts");
}

#[test]
fn reasons_are_written_and_what_they_state_decides() {
    let folder = folder();
    let cot =
        ["--cot", "--max-new-tokens", "8", "--output-dir", "out", "--n-times", "3", "--temperature", "1"];
    let ran = eval(folder.path(), "ceval", &[&cot[..], &["--json"]].concat());
    assert!(ran.stderr.contains("answers state no letter"), "{}", ran.stderr);
    let score = ran.json();
    assert_eq!(
        (&score["reasoned"], &score["unasked"], &score["shots"]),
        (&true.into(), &0.into(), &0.into())
    );
    let responses = |take: &str| -> Vec<String> {
        let lines =
            std::fs::read_to_string(folder.path().join("out").join(take).join("questions.jsonl")).unwrap();
        let response =
            |line| serde_json::from_str::<serde_json::Value>(line).unwrap()["response"].to_string();
        lines.lines().map(response).collect()
    };
    // Each take is drawn anew.
    assert!(responses("take0").len() == 4 && responses("take0") != responses("take1"));
    // What decides is not lm-eval's log-likelihoods.
    let read = |name: &str| std::fs::read_to_string(folder.path().join("out").join(name)).unwrap();
    assert_eq!(score["scoring"], "reasons");
    assert!(!read("evaluation.json").contains("lm-eval") && !read("take0/summary.json").contains("lm-eval"));
    assert!(read("report.tex").contains("scoring reasons"), "{}", read("report.tex"));
    let again = eval(folder.path(), "ceval", &[&cot[..], &["--json"]].concat());
    assert!(again.stderr.contains("4 of 4 questions are answered"), "{}", again.stderr);
    assert_eq!(again.json(), score);
    // Examples show their reasons.
    eval(folder.path(), "ceval", &["--cot", "--shots", "1"])
        .is_refused("the example has no `explanation` to show");
    let dev = ROWS.replace("source", "explanation").replace(",甲", ",先定位。").replace(",乙", ",磨削热。");
    for subject in ["law", "logic"] {
        write(folder.path(), &format!("ceval/dev/{subject}_dev.csv"), &dev);
    }
    let shown = ["--cot", "--shots", "1", "--max-new-tokens", "8", "--output-dir", "shown", "--log-samples"];
    assert_eq!(eval(folder.path(), "ceval", &shown).code, 0);
    let lines = std::fs::read_to_string(folder.path().join("shown/take0/questions.jsonl")).unwrap();
    assert!(
        lines.contains("\\n答案：让我们一步一步思考，\\n先定位。\\n所以答案是A。\\n\\n")
            && lines.contains("思考，\\n\""),
        "{lines}"
    );
}

#[test]
fn takes_that_are_drawn_tell_their_mean_and_spread() {
    let folder = folder();
    let take = ["--cot", "--max-new-tokens", "8", "--output-dir", "out", "--temperature", "1", "--n-times"];
    assert_eq!(eval(folder.path(), "ceval", &[&take[..], &["3"]].concat()).code, 0);
    // Answers that state a letter more or less often: 1, 3 and 2 of 4 are right.
    let place = |number: usize| folder.path().join(format!("out/take{number}/questions.jsonl"));
    for (number, right) in [1, 3, 2].into_iter().enumerate() {
        let lines = std::fs::read_to_string(place(number)).unwrap();
        let answered = lines.lines().enumerate().map(|(index, line)| {
            let mut line: serde_json::Value = serde_json::from_str(line).unwrap();
            line["chosen"] = if index < right { line["right"].clone() } else { serde_json::Value::Null };
            format!("{line}\n")
        });
        std::fs::write(place(number), answered.collect::<String>()).unwrap();
    }
    let ran = eval(folder.path(), "ceval", &[&take[..], &["3"]].concat());
    let told = "accuracy 50.0 % in the mean of 3 takes, standard deviation 25.0 %, 95 % interval of the mean 0.0 % – 100.0 % \
                (4 questions, chance 25.0 %)";
    assert!(ran.stdout.contains(told) && ran.stdout.contains("± standard deviation"), "{}", ran.stdout);
    assert!(ran.stderr.contains("6 answers state no letter"), "{}", ran.stderr);
    let read = |name: &str| std::fs::read_to_string(folder.path().join("out").join(name)).unwrap();
    let whole: serde_json::Value = serde_json::from_str(&read("summary.json")).unwrap();
    assert_eq!(
        (&whole["All"]["takes"], &whole["accuracy"], &whole["standard_deviation"]),
        (&serde_json::json!([0.25, 0.75, 0.5]), &0.5.into(), &0.25.into())
    );
    assert!(whole["subjects"]["law"]["standard_deviation"].is_f64() && whole["evaluation"].is_object());
    let markdown = read("report.md");
    assert!(
        markdown.contains("asked 3 times") && markdown.contains("各次正确率的均值与标准差"),
        "{markdown}"
    );
    assert!(markdown.contains("| All | 4 | 50.0 % | 25.0 % | 0.0 % – 100.0 % |"), "{markdown}");
    assert!(read("report.tex").contains("50.0 \\% & 25.0 \\% & 0.0 \\% -- 100.0 \\%"));
    assert!(markdown.contains("temperature 1.0, seed ") && !markdown.contains("  它只"), "{markdown}");
    // Takes that are there count.
    let ran = eval(folder.path(), "ceval", &[&take[..], &["2"]].concat());
    assert!(ran.stdout.contains("in the mean of 3 takes"), "{}", ran.stdout);
    std::fs::remove_dir_all(folder.path().join("out/take2")).unwrap();
    // Of two takes an interval would say nothing.
    let ran = eval(folder.path(), "ceval", &[&take[..], &["2"]].concat());
    assert!(
        ran.stdout.contains("in the mean of 2 takes, standard deviation 35.4 % (4 questions"),
        "{}",
        ran.stdout
    );
}

#[test]
fn what_does_not_go_together_is_refused() {
    let folder = folder();
    eval(folder.path(), "ceval", &["--shots", "1", "--one-turn"])
        .is_refused("`--one-turn` goes with `--scoring lm-eval` in a chat");
    eval(folder.path(), "mmlu", &["--shots", "1", "--chat", "--scoring", "seed"])
        .is_refused("MMLU is not asked in a chat by `seed`");
    eval(folder.path(), "ceval", &["--cot", "--temperature", "-1"])
        .is_refused("`temperature`: expected a number 0 or more");
    eval(folder.path(), "ceval", &["--subject", "laws"]).is_refused("did you mean `law`?");
    eval(folder.path(), "cmmlu", &["--split", "val"]).is_refused("found the splits `dev`, `test`");
    let turns = eval(folder.path(), "ceval", &["--shots", "1", "--chat", "--json"]).json();
    let one_turn = eval(folder.path(), "ceval", &["--shots", "1", "--chat", "--one-turn", "--json"]).json();
    assert_ne!(turns["mean_log_probability"], one_turn["mean_log_probability"]);
}
