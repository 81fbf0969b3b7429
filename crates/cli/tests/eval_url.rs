//! `danlu eval … --url`: a model behind a server on the loopback interface, whose tokens are bytes and whose log-probabilities follow
//! a rule.

use crate::{common, server};

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use common::{Ran, danlu, vocabulary, write_model};
use serde_json::{Value, json};
use server::{Reply, Request, Server, chat, ok};

const HEADER: &str = "id,question,A,B,C,D,answer\n";
const KEY: &str = "secret-key";

/// Of the byte at `place` of a text.
fn log_probability(place: usize, byte: u8) -> f64 {
    -(((usize::from(byte) * 31 + place * 7) % 97) as f64) / 16.0 - 0.125
}

fn log_likelihood(prompt: &str, text: &str) -> f64 {
    let whole = format!("{prompt}{text}");
    let scored = whole.bytes().enumerate().skip(prompt.len());
    scored.map(|(place, byte)| log_probability(place, byte)).sum()
}

/// Of a text, or of ids as if each were the byte that it ends in.
fn bytes_of(prompt: &Value) -> Vec<u8> {
    match prompt {
        Value::String(text) => text.bytes().collect(),
        ids => ids.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u8).collect(),
    }
}

/// Log-probabilities of the prompt with `echo`, else the words that go on.
fn completion(request: &Request, text: &str) -> Reply {
    if request.body["echo"] != true {
        return ok(&json!({ "choices": [{ "text": text, "finish_reason": "stop" }] }));
    }
    let prompt = bytes_of(&request.body["prompt"]);
    let known =
        prompt.iter().copied().enumerate().skip(1).map(|(place, byte)| json!(log_probability(place, byte)));
    let tokens: Vec<Value> = [Value::Null].into_iter().chain(known).chain([json!(-0.5)]).collect();
    ok(&json!({ "choices": [{ "text": "", "logprobs": { "token_logprobs": tokens } }],
                "usage": { "prompt_tokens": prompt.len(), "completion_tokens": 1 } }))
}

/// A conversation is answered with `answer`, and a text goes on with it.
fn serve(answer: impl Fn(&str) -> String + Send + Sync + 'static) -> Server {
    Server::start(move |request| match request.body["messages"].as_array() {
        Some(messages) => chat(&answer(messages.last().unwrap()["content"].as_str().unwrap())),
        None => completion(request, &answer(request.body["prompt"].as_str().unwrap_or_default())),
    })
}

/// A server that fails from the request `last` on until it is mended.
fn failing(last: usize) -> (Server, Arc<AtomicUsize>) {
    let left = Arc::new(AtomicUsize::new(last));
    let seen = left.clone();
    let server = Server::start(move |request| {
        if seen.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_err() {
            return (502, vec![("retry-after", "0".into())], "gone".into());
        }
        match request.body["messages"].as_array() {
            Some(messages) => chat(&format!("答：{}", messages.last().unwrap()["content"].as_str().unwrap())),
            None => completion(request, "x"),
        }
    });
    (server, left)
}

fn write(folder: &Path, name: &str, text: &str) {
    let path = folder.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

fn read(folder: &Path, name: &str) -> String {
    std::fs::read_to_string(folder.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn lines(folder: &Path, name: &str) -> Vec<Value> {
    read(folder, name).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Five questions of two subjects of C-Eval.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (split, key, count) in
        [("val", "law", 3), ("val", "logic", 2), ("dev", "law", 1), ("dev", "logic", 1)]
    {
        let row =
            |row: usize| format!("{row},第{row}问{key}：铣刀？,{row},车削,NA,1.5,{}\n", ["B", "C", "D"][row]);
        let rows: String = (0..count).map(row).collect();
        write(folder.path(), &format!("ceval/{split}/{key}_{split}.csv"), &format!("{HEADER}{rows}"));
    }
    folder
}

fn eval(folder: &Path, kind: &str, server: &Server, more: &[&str]) -> Ran {
    let own = ["eval", kind, "--url", &server.url, "--model-name", "tiny"];
    let output = danlu(folder).args([&own[..], more].concat()).env("SERVER_KEY", KEY).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Ran { code: output.status.code().unwrap(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

#[test]
fn a_benchmark_is_scored_behind_a_server_and_kept_without_the_key() {
    let folder = folder();
    let server = serve(|_| String::new());
    for (scoring, parallel) in [("lm-eval", "3"), ("text", "1")] {
        let keep = [
            "--data",
            "ceval",
            "--shots",
            "1",
            "--scoring",
            scoring,
            "--output-dir",
            scoring,
            "--log-samples",
            "--json",
        ];
        let more = [&keep[..], &["--api-key-env", "SERVER_KEY", "--parallel", parallel]].concat();
        let before = server.requests().len();
        let ran = eval(folder.path(), "ceval", &server, &more);
        let summary = ran.json();
        let answered = lines(folder.path(), &format!("{scoring}/take0/questions.jsonl"));
        assert_eq!((answered.len(), &summary["questions"], &summary["chat"]), (5, &json!(5), &json!(false)));
        for line in &answered {
            let prompt = line["prompt"].as_str().unwrap();
            let row = line["index"].to_string();
            let options = match scoring {
                "lm-eval" => [" A", " B", " C", " D"],
                _ => [row.as_str(), "车削", "NA", "1.5"],
            };
            let expected = options.map(|option| log_likelihood(prompt, option));
            assert_eq!(line["log_likelihoods"], json!(expected), "{line}");
            let each = |(score, option): (f64, &str)| match scoring {
                "lm-eval" => score,
                _ => score / option.chars().count() as f64,
            };
            let by_length: Vec<f64> = expected.into_iter().zip(options).map(each).collect();
            let chosen = "ABCD".find(line["chosen"].as_str().unwrap()).unwrap();
            assert!(by_length.iter().all(|score| *score <= by_length[chosen]), "{line}");
            assert!(line.get("prompt_tokens").is_none() && line["shortened"] == false, "{line}");
        }
        let right = answered.iter().filter(|line| line["correct"] == true).count();
        assert_eq!(summary["correct"], right);
        let settings: Value =
            serde_json::from_str(&read(folder.path(), &format!("{scoring}/evaluation.json"))).unwrap();
        let url = format!("{}/v1", server.url);
        assert_eq!((&settings["url"], &settings["model"]), (&json!(url), &json!("tiny")));
        assert!(
            read(folder.path(), &format!("{scoring}/report.md")).contains(&format!("| server | {url} |"))
        );
        // A length and four options for each question, and nothing when all is there.
        assert_eq!(server.requests().len() - before, 25);
        let again = eval(folder.path(), "ceval", &server, &more);
        assert!(again.stderr.contains("5 of 5 questions are answered"), "{}", again.stderr);
        assert_eq!((again.json(), server.requests().len() - before), (summary, 25));
        let files = ["evaluation.json", "take0/questions.jsonl", "take0/summary.json", "report.html"];
        let files: String = files.map(|name| read(folder.path(), &format!("{scoring}/{name}"))).concat();
        assert!(!format!("{files}{}{}", ran.stdout, ran.stderr).contains(KEY));
    }
    assert!(server.requests().iter().all(|request| request.headers["authorization"] == "Bearer secret-key"));
    assert!(server.requests().iter().all(|request| request.target == "/v1/completions"));
    let other =
        ["eval", "ceval", "--url", &server.url, "--model-name", "other", "--data", "ceval", "--shots", "1"];
    let other = [&other[..], &["--output-dir", "lm-eval", "--log-samples"]].concat();
    common::run(folder.path(), &other).is_refused("`model` is \"tiny\" there and \"other\" here");
    write(folder.path(), "own.csv", &format!("{HEADER}0,铣刀？,1,2,3,4,A\n"));
    let own = eval(folder.path(), "mcq", &server, &["--data", "own.csv"]);
    assert!(own.stderr.contains("asked without a chat template, as with `--raw`"), "{}", own.stderr);
    assert!(
        own.stdout.contains("option texts by character, 0 examples, without a chat template"),
        "{}",
        own.stdout
    );
}

#[test]
fn a_server_that_fails_midway_loses_no_answer_before_that() {
    let folder = folder();
    // Three lengths, and the options of two questions and a half of the three.
    let (server, left) = failing(13);
    let ask = |out: &str, parallel: &str| {
        let more = ["--data", "ceval", "--subject", "law", "--shots", "0", "--parallel", parallel];
        eval(folder.path(), "ceval", &server, &[&more[..], &["--output-dir", out]].concat())
    };
    let ran = ask("out", "1");
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    assert!(ran.stderr.contains("answers with HTTP status 502, `gone` (5 tries)"), "{}", ran.stderr);
    let told = "2 of 3 questions are answered in `out/take0`, and the same command goes on from there";
    assert!(ran.stderr.contains(told), "{}", ran.stderr);
    left.store(usize::MAX, Ordering::SeqCst);
    let before = server.requests().len();
    // However many are asked at a time, no answer is lost.
    let ran = ask("out", "4");
    assert!(ran.stderr.contains("2 of 3 questions are answered in `out/take0` already"), "{}", ran.stderr);
    assert_eq!((ran.code, server.requests().len() - before), (0, 5), "{}", ran.stderr);
    assert_eq!(ask("whole", "1").code, 0);
    let result = |out: &str| read(folder.path(), &format!("{out}/take0/questions.jsonl"));
    assert_eq!(result("out"), result("whole"));
}

#[test]
fn reasons_before_that_of_a_server_that_fails_are_kept_and_not_asked_again() {
    let folder = folder();
    let is_mended = Arc::new(AtomicBool::new(false));
    let seen = is_mended.clone();
    let server = Server::start(move |request| match request.body["messages"].to_string().contains("第2问") {
        true if !seen.load(Ordering::SeqCst) => (502, vec![("retry-after", "0".into())], "gone".into()),
        _ => chat("所以答案是B。"),
    });
    let ask = || {
        let more = ["--data", "ceval", "--subject", "law", "--cot", "--output-dir", "out"];
        eval(folder.path(), "ceval", &server, &more)
    };
    // All three are asked at a time.
    let ran = ask();
    let told = "2 of 3 questions are answered in `out/take0`, and the same command goes on from there";
    assert!(ran.code == 1 && ran.stderr.contains(told), "{}", ran.stderr);
    assert_eq!(lines(folder.path(), "out/take0/questions.jsonl").len(), 2);
    is_mended.store(true, Ordering::SeqCst);
    let before = server.requests().len();
    assert_eq!((ask().code, server.requests().len() - before), (0, 1));
    let kept = lines(folder.path(), "out/take0/questions.jsonl");
    assert_eq!(kept.iter().map(|line| &line["index"]).collect::<Vec<_>>(), [0, 1, 2]);
}

#[test]
fn what_a_server_cannot_do_is_refused_in_words() {
    let folder = folder();
    let server = serve(|_| String::new());
    let refused = |more: &[&str], part: &str| {
        eval(folder.path(), "ceval", &server, &[&["--data", "ceval", "--shots", "0"], more].concat())
            .is_refused(part);
    };
    refused(
        &["--scoring", "seed"],
        "`--scoring seed` looks at logits, which servers do not tell: choose `lm-eval` or `text`",
    );
    refused(
        &["--chat"],
        "servers score options only behind a text, not in a chat: leave out `--chat` and `--one-turn`, or let the model reason with `--cot`",
    );
    refused(&["--template", "chatml"], "cannot be used with '--template <NAME|FILE>'");
    refused(&["--precision", "f32"], "cannot be used with '--precision <PRECISION>'");
    refused(&["--api-key-env", "ABSENT_KEY"], "the environment variable `ABSENT_KEY` is not set");
    for key in ["secret-\nkey", "secret-key\u{200b}"] {
        let own = ["eval", "ceval", "--data", "ceval", "--url", &server.url, "--model-name", "tiny"];
        let ran =
            danlu(folder.path()).args(own).args(["--api-key-env", "BAD_KEY"]).env("BAD_KEY", key).output();
        let ran = ran.unwrap();
        let told = String::from_utf8(ran.stderr).unwrap();
        assert!(ran.status.code() == Some(2) && told.contains("`BAD_KEY` holds what is no key"), "{told}");
        assert!(!told.contains("secret"), "{told}");
    }
    let alone = ["eval", "ceval", "--data", "ceval"];
    common::run(folder.path(), &[&alone[..], &["--url", "http://x"]].concat()).is_refused("--model-name");
    common::run(folder.path(), &[&alone[..], &["--parallel", "2"]].concat()).is_refused("--url");
    let function = json!({ "name": "spindle_speed", "parameters": {} });
    let tools = json!([{ "type": "function", "function": function }]);
    let row = json!({ "messages": [{ "role": "user", "content": "车削" }], "tools": tools });
    write(folder.path(), "tools.jsonl", &format!("{row}\n"));
    eval(folder.path(), "generate", &server, &["--data", "tools.jsonl", "--output-dir", "a"])
        .is_refused("question 1 has tools, whose calls are no text where a server answers");
    assert!(server.requests().is_empty());
    let told = |message: &str| json!({ "error": { "message": message } }).to_string();
    for (reply, part) in [
        ((401, vec![], told("no key")), "wants a key (HTTP status 401, `no key`): name the variable"),
        (
            (400, vec![], told("This model's maximum context length is 64 tokens.")),
            "too long for the model's context (HTTP status 400, `This model's maximum context length is 64 tokens.`): lower `--shots`",
        ),
        (chat("x"), "answers without `choices[0].logprobs.token_logprobs`"),
    ] {
        let server = Server::start(move |_| reply.clone());
        let ran = eval(folder.path(), "ceval", &server, &["--data", "ceval", "--shots", "0"]);
        assert!(ran.code > 0 && ran.stderr.contains(part), "{}", ran.stderr);
        assert_eq!(ran.stderr.matches("error: ").count(), 1, "{}", ran.stderr);
    }
}

#[test]
fn reasons_come_by_a_conversation_or_go_on_behind_a_text() {
    let folder = folder();
    // The right letter to the first question, another to the second, and none to the third.
    let server = serve(|asked| {
        let row = asked.rsplit("第").next().unwrap().chars().next().unwrap();
        match row {
            '0' => "先看刀齿。所以答案是B。".into(),
            '1' => "所以答案是A。\n答案：让我们一步一步思考，\n所以答案是C。".into(),
            _ => "不知道。".into(),
        }
    });
    let cot = ["--data", "ceval", "--subject", "law", "--cot", "--output-dir"];
    let ran = eval(
        folder.path(),
        "ceval",
        &server,
        &[&cot[..], &["out", "--json", "--max-new-tokens", "9"]].concat(),
    );
    let summary = ran.json();
    assert_eq!(
        (&summary["correct"], &summary["unstated"], &summary["chat"]),
        (&json!(2), &json!(1), &json!(true))
    );
    let first =
        server.requests().into_iter().find(|request| request.body.to_string().contains("第0问")).unwrap();
    assert_eq!((first.target.as_str(), &first.body["max_tokens"]), ("/v1/chat/completions", &json!(9)));
    let messages = first.body["messages"].as_array().unwrap();
    assert_eq!(
        (messages.len(), &messages[0]["role"], &first.body["temperature"]),
        (2, &json!("system"), &json!(0))
    );
    assert!(
        messages[1]["content"].as_str().unwrap().ends_with("最后写出“所以答案是”和字母。"),
        "{messages:?}"
    );
    assert!(
        lines(folder.path(), "out/take0/questions.jsonl")[0]["response"]
            .as_str()
            .unwrap()
            .starts_with("先看")
    );

    // A text goes on up to where another answer begins.
    let before = server.requests().len();
    let ran = eval(folder.path(), "ceval", &server, &[&cot[..], &["raw", "--raw", "--json"]].concat());
    let summary = ran.json();
    assert_eq!((&summary["correct"], &summary["chat"]), (&json!(1), &json!(false)), "{summary}");
    let asked = &server.requests()[before];
    assert_eq!(
        (asked.target.as_str(), &asked.body["stop"]),
        ("/v1/completions", &json!(["\n答案：让我们一步一步思考，"]))
    );

    // Each take has its seed.
    let before = server.requests().len();
    let drawn = ["drawn", "--temperature", "0.5", "--seed", "5", "--n-times", "2", "--limit", "1"];
    assert_eq!(eval(folder.path(), "ceval", &server, &[&cot[..], &drawn].concat()).code, 0);
    let seeds: Vec<Value> =
        server.requests()[before..].iter().map(|request| request.body["seed"].clone()).collect();
    assert_eq!(
        (seeds, &server.requests()[before].body["temperature"]),
        (vec![json!(5), json!(6)], &json!(0.5))
    );
    assert!(folder.path().join("drawn/take1/summary.json").exists());
}

#[test]
fn answers_come_from_a_server_and_go_on_where_it_failed() {
    let folder = tempfile::tempdir().unwrap();
    let row = |row: usize| format!("{{\"instruct\": \"问{row}\", \"answer\": \"答：问{row}\"}}\n");
    write(folder.path(), "rows.jsonl", &(0..5).map(row).collect::<String>());
    let (server, left) = failing(3);
    let ask =
        ["--data", "rows.jsonl", "--output-dir", "out", "--parallel", "1", "--system", "简短", "--json"];
    let ran = eval(folder.path(), "generate", &server, &ask);
    assert!(ran.code == 1 && ran.stderr.contains("goes on with question"), "{}", ran.stderr);
    let kept = lines(folder.path(), "out/generated.jsonl").len();
    assert_eq!(kept, 3);
    left.store(usize::MAX, Ordering::SeqCst);
    let before = server.requests().len();
    let summary = eval(folder.path(), "generate", &server, &ask).json();
    assert_eq!((&summary["rows"], &summary["scores"]["exact_match"]), (&json!(5), &json!(100.0)));
    let asked = server.requests().split_off(before);
    assert_eq!(asked.len(), 5 - kept);
    let expected = json!([{"role": "system", "content": "简短"}, {"role": "user", "content": "问4"}]);
    assert!(asked.iter().any(|request| request.body["messages"] == expected), "{asked:?}");
    assert_eq!((&asked[0].body["temperature"], &asked[0].body["max_tokens"]), (&json!(0), &json!(256)));
    eval(folder.path(), "generate", &server, &[&ask[..], &["--top-p", "0.5"]].concat())
        .is_refused("the answers in `out` were given with another `sampling`");
    eval(folder.path(), "generate", &server, &[&ask[..], &["--top-k", "5"]].concat()).is_refused("--top-k");
    // What is no question is continued.
    eval(folder.path(), "generate", &server, &["--data", "seed", "--output-dir", "seed", "--json"]).json();
    let texts = server.requests().into_iter().filter(|request| request.target == "/v1/completions");
    assert_eq!(texts.count(), 5);
}

#[test]
fn longbench_is_predicted_by_a_server() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let row = |row: usize| {
        let context = format!("第{row}段：车削是在车床上加工回转表面的方法。").repeat(4);
        json!({"input": format!("第{row}问？"), "context": context, "answers": ["车床"], "length": 9, "all_classes": null})
    };
    let rows: String = (0..3).map(|index| format!("{}\n", row(index))).collect();
    write(path, "data/multifieldqa_zh.jsonl", &rows);
    write(path, "data/lcc.jsonl", &rows);
    let server = serve(|asked| if asked.contains("第2问") { "铣刀".into() } else { "车床".into() });
    let ask = |out: &str, more: &[&str]| {
        let own = ["--data", "data", "--predict-on", "zh,code", "--output-dir", out];
        eval(path, "longbench", &server, &[&own[..], more].concat())
    };
    let ran = ask("out", &["--json"]);
    assert!(ran.stderr.contains("prompts are sent whole"), "{}", ran.stderr);
    assert_eq!(ran.json()["multifieldqa_zh"], json!(66.67));
    let first = &server.requests()[0].body;
    assert_eq!(
        (&first["max_tokens"], &first["temperature"], &first["top_p"]),
        (&json!(64), &json!(0.2), &json!(0.95))
    );
    assert_eq!(first["messages"][0]["content"], "You are a helpful assistant. 你是一个乐于助人的助手。");
    // What is kept is not asked again, and the rest is.
    let text = read(path, "out/pred/lcc.jsonl");
    write(path, "out/pred/lcc.jsonl", &text[..text.find('\n').unwrap() + 5]);
    let before = server.requests().len();
    assert_eq!((ask("out", &[]).code, server.requests().len() - before), (0, 2));
    assert_eq!(read(path, "out/pred/lcc.jsonl"), text);
    // A tokenizer counts tokens; code is continued without a conversation.
    write_model(&path.join("model"), Some(&vocabulary(false)), 64);
    let before = server.requests().len();
    let cut = ask("cut", &["--tokenizer", "model", "--max-length", "24", "--with-inst", "auto"]);
    assert!(cut.stderr.contains("6 of 6 prompts lost their middle to `--max-length 24`"), "{}", cut.stderr);
    let asked = server.requests().split_off(before);
    let tokens = |text: &Value| vocabulary(false).prompt_ids(text.as_str().unwrap()).unwrap().len();
    assert!(asked.iter().take(3).all(|request| tokens(&request.body["messages"][1]["content"]) < 60));
    assert!(
        asked[3..]
            .iter()
            .all(|request| request.target == "/v1/completions" && tokens(&request.body["prompt"]) < 60)
    );
    let full =
        Server::start(|_| (400, vec![], "{\"error\": {\"code\": \"context_length_exceeded\"}}".into()));
    eval(path, "longbench", &full, &["--data", "data", "--output-dir", "full"])
        .is_refused("give the model's `--tokenizer`, so that `--max-length` can cut prompts");
}

#[test]
fn perplexity_is_that_of_the_ids_that_a_server_is_told() {
    let folder = tempfile::tempdir().unwrap();
    write_model(&folder.path().join("model"), Some(&vocabulary(false)), 64);
    write(folder.path(), "text.txt", &"车削与铣削，磨削。\n".repeat(9));
    let server = serve(|_| String::new());
    let told = ["--tokenizer", "model", "--text", "text.txt", "--parallel", "1", "--json"];
    let sizes = ["--window", "24", "--stride", "10"];
    let found = eval(folder.path(), "ppl", &server, &[&told[..], &sizes].concat()).json();
    let (mut sum, mut tokens) = (0.0, 0);
    let windows: Vec<Vec<u8>> = server.requests().iter().map(|one| bytes_of(&one.body["prompt"])).collect();
    for (number, window) in windows.iter().enumerate() {
        let rest = found["tokens"].as_u64().unwrap() as usize - tokens;
        let first = if number == 0 { 1 } else { window.len() - rest.min(10) };
        assert_eq!(window.len(), 24);
        tokens += window.len() - first;
        sum += (first..24).map(|place| log_probability(place, window[place])).sum::<f64>();
    }
    assert!(windows.len() > 3 && found["tokens"] == tokens, "{found}");
    let nll = found["nll"].as_f64().unwrap();
    assert!((nll + sum / tokens as f64).abs() < 1e-9, "{found} {sum}");
    let ran = eval(folder.path(), "ppl", &server, &["--text", "text.txt"]);
    assert!(ran.code == 2 && ran.stderr.contains("`--url` needs `--tokenizer` here"), "{}", ran.stderr);
}
