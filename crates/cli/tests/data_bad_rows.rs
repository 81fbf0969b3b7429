//! Rows as they should not be, through the program: each is told by file, line and field, with its text shortened, and
//! `on_bad_row=skip` leaves out that row alone. What only looks wrong is read as it stands.

use crate::common;

use std::io::Write;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use common::{danlu, run, with_model};
use serde_json::Value;

const GOOD: &str = r#"{"prompt": "铣？", "answer": "切削"}"#;

fn write(folder: &Path, name: &str, bytes: impl AsRef<[u8]>) {
    std::fs::write(folder.join(name), bytes).unwrap();
}

fn inspect(folder: &Path, name: &str, more: &[&str]) -> common::Ran {
    run(folder, &[&["data", "inspect", name, "--tokenizer", "model", "--json"], more].concat())
}

fn report(folder: &Path, name: &str, more: &[&str]) -> Value {
    inspect(folder, name, more).json()["report"].clone()
}

/// Expects the sentence, and that the row alone is left out on request.
fn is_told(folder: &Path, name: &str, sentence: &str, reason: &str) {
    inspect(folder, name, &[]).is_refused(sentence);
    let report = report(folder, name, &["on_bad_row=skip"]);
    let skipped = &report["skipped"][reason];
    assert_eq!((&report["samples"], &skipped["rows"]), (&1.into(), &1.into()), "{report}");
    assert!(skipped["first"].as_str().unwrap().starts_with(&sentence[..name.len() + 2]), "{skipped}");
}

#[test]
fn half_a_character_at_the_end_is_told_with_its_byte() {
    let folder = with_model();
    let lines = [GOOD.as_bytes(), b"\n{\"prompt\": \"\xe9\x93\xa3\", \"answer\": \"\xe5\x88"].concat();
    write(folder.path(), "half.jsonl", lines);
    let sentence =
        "half.jsonl:2: invalid UTF-8 at byte 30 of the line: correct the row, or name the encoding";
    is_told(folder.path(), "half.jsonl", sentence, "invalid UTF-8");
    write(folder.path(), "half.csv", b"prompt,answer\n\xe9\x93\xa3,\xe5\x88\x87\n\xe9\x93\xa3,\xe5\x88");
    let sentence = "half.csv:3: invalid UTF-8 at byte 1 of the field `answer`: correct the row, or name";
    is_told(folder.path(), "half.csv", sentence, "invalid UTF-8");
    // Of a text and of an array, nothing behind it can be told apart from it.
    write(folder.path(), "half.txt", b"\xe9\x93\xa3\n\xe5\x88\x87\xe5\x88");
    inspect(folder.path(), "half.txt", &[]).is_refused("half.txt:2: invalid UTF-8 at byte 4 of the line");
    write(folder.path(), "half.json", [b"[", GOOD.as_bytes(), b",\n{\"prompt\": \"\xe5\x88"].concat());
    inspect(folder.path(), "half.json", &["on_bad_row=skip"])
        .is_refused("half.json:2: invalid JSON at column 13: invalid UTF-8");
}

#[test]
fn long_fields_fields_of_several_lines_and_cells_such_as_na_are_text() {
    let folder = with_model();
    // Python's own reader of CSV stops at fields of 128 KiB.
    let long = "铣".repeat(50_000);
    let rows = format!("prompt,answer\n{long},NA\n\"一,\n\"\"二\"\"\",null\nnan,\"N/A\n\"\n问,\n");
    write(folder.path(), "rows.csv", rows);
    let inspected = inspect(folder.path(), "rows.csv", &["cutoff_len=200000"]).json();
    let report = &inspected["report"];
    assert_eq!((&report["rows"], &report["samples"], &report["empty"]), (&4.into(), &3.into(), &1.into()));
    let texts: Vec<&str> = inspected["samples"]
        .as_array()
        .unwrap()
        .iter()
        .map(|sample| sample["text"].as_str().unwrap())
        .collect();
    let expected = [(2, &long[..], "NA"), (3, "一,\n\"二\"", "null"), (5, "nan", "N/A\n")];
    for (text, (line, prompt, answer)) in texts.iter().zip(expected) {
        assert!(text.starts_with(&format!("── rows.csv:{line} ")), "line {line}");
        assert!(text.contains(&format!("user\n{prompt}<|im_end|>")), "line {line}");
        assert!(text.contains(&format!("⟦{answer}<|im_end|>⟧")), "line {line}");
    }
    write(folder.path(), "more.csv", "prompt,answer\n问,答\n\"问\n问\",答,再答\n");
    let sentence = "more.csv:3: found 3 fields: expected 2 as in the header, check the quotes and commas";
    inspect(folder.path(), "more.csv", &[]).is_refused(sentence);
}

#[test]
fn rows_of_another_schema_are_named_with_their_columns() {
    let folder = with_model();
    write(
        folder.path(),
        "mixed.jsonl",
        format!("{GOOD}\n{{\"instruction\": \"铣？\", \"output\": \"切削\"}}\n"),
    );
    let sentence =
        "mixed.jsonl:2: missing column `prompt`: the row has `instruction`, `output`; correct the file or";
    is_told(folder.path(), "mixed.jsonl", sentence, "missing column `prompt`");
}

#[test]
fn angelslim_7_from_serves_as_role_and_a_message_without_either_is_named() {
    let folder = with_model();
    let row = |name: &str| {
        format!(
            r#"{{"conversations": [{{"from": "human", "value": "铣？"}}, {{"{name}": "gpt", "value": "切削"}}]}}"#
        )
    };
    // Both spellings may stand in one row.
    write(folder.path(), "both.jsonl", format!("{}\n{}\n", row("from"), row("role")));
    assert_eq!(report(folder.path(), "both.jsonl", &[])["samples"], 2);
    write(folder.path(), "neither.jsonl", format!("{}\n{}\n", row("from"), row("speaker")));
    let sentence =
        "neither.jsonl:2: field `conversations[1]`: expected `role`, found `speaker`, `value`; name the keys";
    is_told(folder.path(), "neither.jsonl", sentence, "missing `role`");
}

#[test]
fn lf_2381_axolotl_325_wrong_roles_are_named_with_the_nearest() {
    let folder = with_model();
    let row = |role: &str| {
        format!(
            r#"{{"messages": [{{"role": "user", "content": "铣？"}}, {{"role": "{role}", "content": "切削"}}]}}"#
        )
    };
    write(folder.path(), "roles.jsonl", format!("{}\n{}\n", row("assistant"), row("asistant")));
    let sentence = "roles.jsonl:2: field `messages[1].role`: unknown role `asistant`, expected `system`, `user` (`human`), \
                    `assistant` (`gpt`) or `tool`; did you mean `assistant`?";
    is_told(folder.path(), "roles.jsonl", sentence, "unknown role `asistant`");
}

#[test]
fn values_that_are_no_text_are_shown_shortened() {
    let folder = with_model();
    let long = "很".repeat(100);
    write(
        folder.path(),
        "values.jsonl",
        format!("{GOOD}\n{{\"prompt\": [\"{long}\"], \"answer\": \"切\"}}\n"),
    );
    let sentence =
        format!("values.jsonl:2: field `prompt`: expected text, found a list `[\"{}…`", "很".repeat(38));
    inspect(folder.path(), "values.jsonl", &[]).is_refused(&sentence);
    let skipped = report(folder.path(), "values.jsonl", &["on_bad_row=skip"]);
    assert_eq!(skipped["samples"], 1);
    // A number is text too; nothing is not.
    write(
        folder.path(),
        "numbers.jsonl",
        "{\"prompt\": \"几？\", \"answer\": 7}\n{\"prompt\": \"几？\", \"answer\": null}\n",
    );
    let sentence = "numbers.jsonl:2: field `answer`: expected text, found null";
    is_told(folder.path(), "numbers.jsonl", sentence, "wrong kind of value");
    let numbers = inspect(folder.path(), "numbers.jsonl", &["on_bad_row=skip"]).json();
    assert!(numbers["samples"][0]["text"].as_str().unwrap().contains("⟦7<|im_end|>⟧"), "{numbers}");
}

#[test]
fn a_file_that_grows_while_it_is_read_is_told() {
    let folder = with_model();
    let path = folder.path().join("rows.jsonl");
    std::fs::write(&path, format!("{GOOD}\n").repeat(50_000)).unwrap();
    let mut command = std::process::Command::new(danlu(folder.path()).get_program());
    command.current_dir(folder.path()).args(["data", "inspect", "rows.jsonl", "--tokenizer", "model"]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut file = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
    while child.try_wait().unwrap().is_none() {
        writeln!(file, "{GOOD}").unwrap();
        std::thread::sleep(Duration::from_millis(1));
    }
    let ended = child.wait_with_output().unwrap();
    let told = String::from_utf8(ended.stderr).unwrap();
    assert_eq!(ended.status.code(), Some(2), "{told}");
    assert!(told.contains("rows.jsonl") && told.contains("changed while it was read"), "{told}");
}
