//! `danlu chat` through a pipe.

use crate::common;

use std::time::{Duration, SystemTime};

use common::{golden, run, run_with_input, shared, vocabulary, with_model, write_model};
use serde_json::Value;

const CHAT: [&str; 5] = ["chat", "--temperature", "0", "--max-new-tokens", "12"];

fn roles(result: &Value) -> Vec<&str> {
    result["messages"].as_array().unwrap().iter().map(|message| message["role"].as_str().unwrap()).collect()
}

#[test]
fn a_conversation_is_remembered_until_it_is_reset() {
    let folder = with_model();
    let chat = |input: &str, more: &[&str]| {
        run_with_input(folder.path(), &[&CHAT[..], &["--json", "--model", "model"], more].concat(), input)
            .json()
    };
    let two = chat("车床？\n铣刀？\n\n不再读\n", &["--system", "简短"]);
    assert_eq!(roles(&two), ["system", "user", "assistant", "user", "assistant"]);
    assert_eq!(
        (&two["messages"][1]["content"], &two["messages"][3]["content"]),
        (&"车床？".into(), &"铣刀？".into())
    );
    let reset = chat("车床？\n/reset\n铣刀？\n", &["--system", "简短"]);
    assert_eq!(roles(&reset), ["system", "user", "assistant"]);
    let system = chat("车床？\n/system 详细\n铣刀？\n/help\n/quit\n磨削？\n", &[]);
    assert_eq!(roles(&system), ["system", "user", "assistant"]);
    assert_eq!(system["messages"][0]["content"], "详细");
}

#[test]
fn answers_are_printed_one_below_the_other() {
    let folder = with_model();
    let arguments = [&CHAT[..], &["--model", "model"]].concat();
    let printed = run_with_input(folder.path(), &arguments, "车床？\n铣刀？\n");
    assert_eq!(printed.code, 0, "{}", printed.stderr);
    let result =
        run_with_input(folder.path(), &[&arguments[..], &["--json"]].concat(), "车床？\n铣刀？\n").json();
    let answers: Vec<&str> = [2, 4]
        .iter()
        .map(|&index: &usize| result["messages"][index - 1]["content"].as_str().unwrap())
        .collect();
    for answer in answers {
        assert!(printed.stdout.contains(answer), "{}", printed.stdout);
    }
    assert_eq!(printed.stderr.matches("tokens/s").count(), 4, "{}", printed.stderr);
}

#[test]
fn the_oldest_turns_go_when_the_context_is_full() {
    let folder = with_model();
    let question = format!("{}\n", "工件装夹".repeat(12));
    let arguments = [&CHAT[..], &["--json", "--model", "model", "--system", "简短"]].concat();
    let ran = run_with_input(folder.path(), &arguments, &question.repeat(6));
    let result = ran.json();
    assert!(ran.stderr.contains("the context is full: the 2 oldest messages are left out"), "{}", ran.stderr);
    let roles = roles(&result);
    assert_eq!(roles[..3], ["system", "user", "assistant"], "the system message and whole turns stay");
    assert!(roles.len() < 13);

    let long = format!("{}\n短\n", "切削".repeat(400));
    let ran = run_with_input(folder.path(), &arguments, &long);
    assert!(ran.stderr.contains("do not fit the context of 256 tokens"), "{}", ran.stderr);
    assert_eq!(ran.json()["messages"][1]["content"], "短", "the conversation goes on without it");
}

#[test]
fn a_model_without_a_chat_template_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let model = golden("gqa-tied");
    run(folder.path(), &[&CHAT[..], &["--model", model.to_str().unwrap()]].concat())
        .is_refused("has no tokenizer");
    let Some(shared) = shared() else { return };
    let model = shared.join("checkpoints/stories260K/stories260K.gguf");
    run(folder.path(), &[&CHAT[..], &["--model", model.to_str().unwrap()]].concat())
        .is_refused("the model has no chat template: choose one with `--template`");
}

#[test]
fn without_a_model_the_newest_result_is_used_and_named() {
    let folder = tempfile::tempdir().unwrap();
    run_with_input(folder.path(), &CHAT, "你好\n").is_refused("there is no model under the current folder");
    let tokenizer = vocabulary(false);
    for (name, age) in [("runs/old", 900), ("runs/quickstart/model", 10), ("runs/older/model", 1000)] {
        let model = folder.path().join(name);
        write_model(&model, Some(&tokenizer), 128);
        let weights = std::fs::File::options().append(true).open(model.join("model.safetensors")).unwrap();
        weights.set_modified(SystemTime::now() - Duration::from_secs(age)).unwrap();
    }
    let ran = run_with_input(folder.path(), &CHAT, "你好\n");
    assert_eq!(ran.code, 0);
    assert!(ran.stderr.starts_with("using the newest result, runs/quickstart/model\n"), "{}", ran.stderr);
}

#[test]
fn every_answer_keeps_to_the_grammar() {
    let folder = with_model();
    std::fs::write(folder.path().join("yes.gbnf"), "root ::= \"是\" | \"否\"").unwrap();
    let more = ["--json", "--model", "model", "--grammar", "yes.gbnf", "--min-p", "0.01"];
    let result = run_with_input(folder.path(), &[&CHAT[..], &more].concat(), "车床？\n铣刀？\n").json();
    let messages = result["messages"].as_array().unwrap();
    let answers: Vec<&Value> = messages.iter().filter(|one| one["role"] == "assistant").collect();
    assert_eq!(answers.len(), 2);
    assert!(
        answers.iter().all(|answer| answer["content"] == "是" || answer["content"] == "否"),
        "{answers:?}"
    );
}
