//! `danlu eval arena`: ratings from votes, and a judge on the loopback interface that casts them.

use crate::{common, server};

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::{Ran, danlu, run};
use serde_json::{Value, json};
use server::{Request, Server, chat};

const VOTES: &str = "\
{\"model_a\": \"small\", \"model_b\": \"large\", \"winner\": \"model_b\"}
{\"model_a\": \"large\", \"model_b\": \"small\", \"winner\": \"model_a\"}
{\"model_a\": \"large\", \"model_b\": \"small\", \"winner\": \"model_b\"}
{\"model_a\": \"middle\", \"model_b\": \"small\", \"winner\": \"tie\"}
{\"model_a\": \"middle\", \"model_b\": \"large\", \"winner\": \"tie (bothbad)\"}
";

fn with_votes(votes: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("votes.jsonl"), votes).unwrap();
    folder
}

fn arena(folder: &Path, more: &[&str]) -> Ran {
    run(folder, &[&["eval", "arena", "votes.jsonl", "--rounds", "20"], more].concat())
}

#[test]
fn votes_become_ratings_tables_and_a_page() {
    let folder = with_votes(VOTES);
    let told = arena(folder.path(), &["--output-dir", "out"]);
    assert_eq!(told.code, 0, "{}", told.stderr);
    assert!(
        told.stdout.contains("5 votes, 2 ties · Bradley–Terry, 20 draws, seed 42 · mean 1000"),
        "{}",
        told.stdout
    );
    assert!(told.stdout.contains("row beats column") && told.stdout.contains("66.7 %"), "{}", told.stdout);
    let ratings = arena(folder.path(), &["--json"]).json();
    let models = ratings["models"].as_array().unwrap();
    assert_eq!(models.iter().map(|model| &model["model"]).collect::<Vec<_>>(), ["large", "middle", "small"]);
    let mean = models.iter().map(|model| model["rating"].as_f64().unwrap()).sum::<f64>() / 3.0;
    assert!((mean - 1000.0).abs() < 1e-9);
    let read = |name: &str| std::fs::read_to_string(folder.path().join("out").join(name)).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&read("arena.json")).unwrap(), ratings);
    let markdown = read("report.md");
    assert!(markdown.contains("| rank | model | rating |") && markdown.contains("| 名次 | 模型 | 评分 |"));
    assert!(
        read("report.html").contains("评分与 95 % 区间") && read("report.tex").contains("\\begin{tabular}")
    );
    let anchored = arena(folder.path(), &["--json", "--anchor", "middle", "--anchor-rating", "1200"]).json();
    assert!((anchored["models"][1]["rating"].as_f64().unwrap() - 1200.0).abs() < 1e-9);
}

#[test]
fn what_ratings_cannot_tell_is_said() {
    let only_wins = with_votes(&VOTES.lines().take(2).map(|line| format!("{line}\n")).collect::<String>());
    let told = arena(only_wins.path(), &[]);
    assert_eq!(told.code, 0);
    assert!(
        told.stderr.contains("`large` won every vote") && told.stderr.contains("by 1 ties"),
        "{}",
        told.stderr
    );
    let more = "{\"a\": \"third\", \"b\": \"fourth\", \"winner\": \"tie\"}\n";
    let apart = with_votes(&format!("{VOTES}{more}"));
    let told = arena(apart.path(), &[]);
    assert!(told.stderr.contains("fall into 2 groups that were never compared"), "{}", told.stderr);
    assert!(told.stdout.contains("group"), "{}", told.stdout);
    let twice = with_votes(&VOTES.replace("{\"model_a\"", "{\"vote_id\": 1, \"model_a\"").repeat(2));
    assert!(arena(twice.path(), &[]).stderr.contains("5 rows that repeat an earlier one do not count"));
    arena(with_votes("").path(), &[]).is_refused("`votes.jsonl`: holds no vote that counts");
    arena(with_votes(&VOTES.replace("\"tie\"", "\"draw\"")).path(), &[])
        .is_refused("votes.jsonl:4: `winner` is `draw`: expected `model_a`");
    arena(with_votes(VOTES).path(), &["--anchor", "larg"]).is_refused("did you mean `large`?");
    run(with_votes(VOTES).path(), &["eval", "arena"]).is_refused("VOTES");
}

/// Answers of two models to four questions.
fn with_answers() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (model, word) in [("plain", "短"), ("tuned", "长长")] {
        let row = |index: usize| json!({ "prompt": format!("问题{index}"), "prediction": format!("{word}{index}") });
        let rows: String = (0..4).map(|index| format!("{}\n", row(index))).collect();
        std::fs::create_dir_all(folder.path().join(model)).unwrap();
        std::fs::write(folder.path().join(model).join("generated.jsonl"), rows).unwrap();
    }
    folder
}

/// Where the long answer stands in what the judge is asked, and which question it is.
fn seen(request: &Request) -> (&'static str, String) {
    let text = request.body["messages"][1]["content"].as_str().unwrap();
    let (long, short) = (text.find("长长").unwrap(), text.find("短").unwrap());
    let question = text.split("问题").nth(1).unwrap().chars().next().unwrap();
    (if long < short { "A" } else { "B" }, question.to_string())
}

fn judged(folder: &Path, server: &Server, more: &[&str]) -> Ran {
    let plain = ["eval", "arena", "--judge", &server.url, "--judge-model", "j", "--rounds", "5", "--json"];
    let answers = ["--answers", "plain/generated.jsonl", "tuned/generated.jsonl"];
    let output = danlu(folder)
        .args([&plain[..], more, &answers].concat())
        .env("JUDGE_KEY", "secret-key")
        .env("EMPTY_KEY", " ")
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Ran { code: output.status.code().unwrap(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

#[test]
fn a_winner_counts_where_both_orders_name_it() {
    let folder = with_answers();
    // Question 0: the long answer wins. 1: always the first one. 2: a tie, as JSON. 3: no verdict.
    let server = Server::start(|request| {
        let (place, question) = seen(request);
        chat(&match question.as_str() {
            "0" => format!("Reasons.\n[[{place}]]"),
            "1" => "[[A]]".into(),
            "2" => "{\"winner\": \"tie\"}".into(),
            _ => "Both have merits.".into(),
        })
    });
    let ran = judged(folder.path(), &server, &["--api-key-env", "JUDGE_KEY"]);
    let ratings = ran.json();
    assert_eq!((&ratings["votes"], &ratings["ties"]), (&json!(3), &json!(2)), "{ratings}");
    assert!(ran.stderr.contains("3 pairs judged in both orders, 1 of them ties"), "{}", ran.stderr);
    assert!(ran.stderr.contains("1 pairs have no vote"), "{}", ran.stderr);
    assert_eq!(server.requests().len(), 8);
    assert!(server.requests().iter().all(|request| request.target == "/v1/chat/completions"));
    assert!(server.requests().iter().all(|request| request.headers["authorization"] == "Bearer secret-key"));
    let votes = std::fs::read_to_string(folder.path().join("votes.jsonl")).unwrap();
    assert!(!format!("{votes}{}{}", ran.stdout, ran.stderr).contains("secret-key"));
    let first: Value = serde_json::from_str(votes.lines().next().unwrap()).unwrap();
    let told = ["question_id", "model_a", "model_b", "winner", "judge"].map(|name| &first[name]);
    assert_eq!(told, [&json!(1), &json!("plain"), &json!("tuned"), &json!("model_b"), &json!("j")]);
}

#[test]
fn a_pair_that_the_judge_does_not_take_is_skipped_and_counted() {
    let folder = with_answers();
    let too_long = |_: &Request| (400, vec![], "{\"error\": {\"message\": \"too many tokens\"}}".to_owned());
    let server = Server::start(move |request| match seen(request) {
        (_, question) if question == "1" => too_long(request),
        (place, _) => chat(&format!("[[{place}]]")),
    });
    let ran = judged(folder.path(), &server, &[]);
    assert_eq!(ran.json()["votes"], 3);
    let told = "1 pairs have no vote, because the server does not take them";
    assert!(
        ran.stderr.contains(told) && ran.stderr.contains("HTTP status 400, `too many tokens`"),
        "{}",
        ran.stderr
    );
    assert_eq!(server.requests().len(), 7, "the other order would be refused too");
    // Where it takes none, the pairs are not at fault.
    let folder = with_answers();
    judged(folder.path(), &Server::start(too_long), &[]).is_refused("refuses the request (HTTP status 400");
}

#[test]
fn a_judged_pair_is_not_asked_again() {
    let folder = with_answers();
    let server = Server::start(|request| chat(&format!("[[{}]]", seen(request).0)));
    let whole = judged(folder.path(), &server, &["--parallel", "1"]).json();
    let votes = std::fs::read_to_string(folder.path().join("votes.jsonl")).unwrap();
    assert_eq!((votes.lines().count(), server.requests().len()), (4, 8));
    // Killed within the third line.
    let cut = votes.find("\"question_id\":3").unwrap() + 9;
    std::fs::write(folder.path().join("votes.jsonl"), &votes[..cut]).unwrap();
    assert_eq!(judged(folder.path(), &server, &[]).json(), whole);
    assert_eq!(std::fs::read_to_string(folder.path().join("votes.jsonl")).unwrap(), votes);
    assert_eq!(server.requests().len(), 12);
    // Another judge is another vote; other answers are refused.
    judged(folder.path(), &server, &["--judge-model", "k"]).is_refused("--judge-model");
    let answers = folder.path().join("tuned/generated.jsonl");
    let text = std::fs::read_to_string(&answers).unwrap();
    std::fs::write(&answers, text.replace("长长2", "长长长2")).unwrap();
    judged(folder.path(), &server, &[])
        .is_refused("holds a vote on other answers of `plain` and `tuned` to question 3");
}

#[test]
fn the_first_ctrl_c_ends_a_judge_at_once_with_the_votes_that_were_cast() {
    let folder = with_answers();
    let server = Server::start(|request| {
        let (place, question) = seen(request);
        if question == "3" {
            std::thread::sleep(Duration::from_secs(60));
        }
        chat(&format!("[[{place}]]"))
    });
    let mut child = Command::new(env!("CARGO_BIN_EXE_danlu"))
        .current_dir(folder.path())
        .args(["eval", "arena", "--judge", &server.url, "--judge-model", "j", "--parallel", "2"])
        .args(["--answers", "plain/generated.jsonl", "tuned/generated.jsonl"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let votes = || std::fs::read_to_string(folder.path().join("votes.jsonl")).unwrap_or_default();
    let begin = Instant::now();
    while votes().lines().count() < 3 && begin.elapsed() < Duration::from_secs(20) {
        assert!(child.try_wait().unwrap().is_none());
        std::thread::sleep(Duration::from_millis(5));
    }
    let begin = Instant::now();
    Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    let ended = child.wait_with_output().unwrap();
    let told = String::from_utf8(ended.stderr).unwrap();
    assert_eq!((ended.status.code(), votes().lines().count()), (Some(130), 3), "{told}");
    assert!(begin.elapsed() < Duration::from_secs(20), "it waited for the judge");
    assert!(told.contains("stopped; the same command goes on from the votes in `votes.jsonl`"), "{told}");
}

#[test]
fn a_judge_that_cannot_be_asked_is_told() {
    let folder = with_answers();
    let path = folder.path();
    let server = Server::start(|request| match request.headers.get("authorization").map(String::as_str) {
        Some("Bearer secret-key") => (200, vec![], "<html>secret-key</html>".into()),
        _ => (401, vec![], "{\"error\": {\"message\": \"no key\"}}".into()),
    });
    judged(path, &server, &[]).is_refused("wants a key (HTTP status 401, `no key`): name the variable");
    judged(path, &server, &["--api-key-env", "EMPTY_KEY"]).is_refused("`EMPTY_KEY` is not set");
    let html = judged(path, &server, &["--api-key-env", "JUDGE_KEY"]);
    assert_eq!(html.code, 1);
    assert!(html.stderr.contains("something that is no JSON, beginning `<html>…</html>`"), "{}", html.stderr);
    let absent = ["eval", "arena", "--judge", "http://127.0.0.1:1", "--judge-model", "j", "--answers"];
    let answers = ["plain/generated.jsonl", "tuned/generated.jsonl"];
    let refused = run(path, &[&absent[..], &answers].concat());
    assert_eq!(refused.code, 1);
    assert!(
        refused.stderr.contains("`http://127.0.0.1:1/v1/chat/completions` cannot be reached"),
        "{}",
        refused.stderr
    );
    assert!(std::fs::read(path.join("votes.jsonl")).unwrap().is_empty(), "no vote was cast");
}

#[test]
fn answers_must_be_to_the_same_questions() {
    let folder = with_answers();
    let path = folder.path();
    let server = Server::start(|_| chat("[[C]]"));
    let tuned = path.join("tuned/generated.jsonl");
    let text = std::fs::read_to_string(&tuned).unwrap();
    std::fs::write(&tuned, text.replace("问题2", "问题9")).unwrap();
    judged(path, &server, &[]).is_refused("has another question in row 3 than `plain/generated.jsonl`");
    std::fs::write(&tuned, text.lines().next().unwrap()).unwrap();
    judged(path, &server, &[]).is_refused("has 1 answers, `plain/generated.jsonl` has 4");
    std::fs::write(&tuned, "{\"prompt\": \"x\"}\n").unwrap();
    judged(path, &server, &[]).is_refused("generated.jsonl:1: has no answer: expected one of `prediction`");
    std::fs::write(&tuned, &text).unwrap();
    judged(path, &server, &["votes.csv"]).is_refused("`votes.csv`: cannot take votes of a judge");
    let named = text.replace("{\"prompt\"", "{\"model\": \"plain\", \"prompt\"");
    std::fs::write(&tuned, named).unwrap();
    judged(path, &server, &[]).is_refused("is of a model `plain`, as `plain/generated.jsonl` is");
    assert!(server.requests().is_empty());
}
