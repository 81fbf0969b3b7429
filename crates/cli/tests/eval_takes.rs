//! What `danlu eval` leaves of multiple choice: its folder, going on after a kill, questions found in training data.

use crate::common;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{Ran, run, vocabulary};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

const HEADER: &str = "id,question,A,B,C,D,answer\n";

fn write(path: PathBuf, text: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

fn read(path: impl AsRef<Path>) -> String {
    let path = path.as_ref();
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn read_json(path: impl AsRef<Path>) -> Value {
    serde_json::from_str(&read(path)).unwrap()
}

/// Three subjects of C-Eval, of which one takes two pieces; one question has quotes, a comma and a line break.
fn questions(folder: &Path) {
    for (split, key, count) in [
        ("val", "law", 70),
        ("val", "logic", 3),
        ("val", "college_physics", 4),
        ("test", "law", 3),
        ("dev", "law", 1),
        ("dev", "logic", 1),
        ("dev", "college_physics", 1),
    ] {
        let mut text = HEADER.to_owned();
        for row in 0..count {
            let asked = match (key, row) {
                ("logic", 1) => "\"所谓\"\"磨削\"\",\n是指____。\"".to_owned(),
                _ => format!("{key}第{row}问：铣刀的齿数是？"),
            };
            let answer = if split == "test" { "" } else { ["A", "B", "C", "D"][row % 4] };
            text += &format!("{row},{asked},{row},车削{row},NA,1.50,{answer}\n");
        }
        write(folder.join(format!("questions/{split}/{key}_{split}.csv")), &text);
    }
}

fn folder() -> tempfile::TempDir {
    let folder = common::with_model();
    questions(folder.path());
    folder
}

fn ceval<'a>(extra: &[&'a str]) -> Vec<&'a str> {
    let own = ["eval", "ceval", "--model", "model", "--data", "questions", "--shots", "1"];
    [&own[..], extra].concat()
}

fn succeeds(ran: Ran) -> Ran {
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    ran
}

#[test]
fn seed_003_a_folder_holds_fractions_lines_tables_and_a_report() {
    let folder = folder();
    let keep = ["--output-dir", "out", "--n-times", "2", "--save-csv", "--log-samples"];
    let told = succeeds(run(folder.path(), &ceval(&keep)));
    assert!(told.stderr.contains("the takes are equal"), "{}", told.stderr);
    let rows: Vec<&str> = told.stdout.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(rows[2..5], ["STEM", "Humanities", "All"], "{}", told.stdout);
    let out = folder.path().join("out");
    let summary = read_json(out.join("take0/summary.json"));
    // What is kept is not asked again, and programs get what the file holds.
    let again = run(folder.path(), &ceval(&[&keep[..], &["--json"]].concat()));
    assert!(
        again.stderr.contains("77 of 77 questions are answered in `out/take0` already"),
        "{}",
        again.stderr
    );
    assert_eq!(again.json(), summary);

    assert_eq!((&summary["unit"], &summary["All"]["num"]), (&json!("fraction"), &json!(77)));
    let share = |entry: &Value| entry["correct"].as_f64().unwrap() / entry["num"].as_f64().unwrap();
    for entry in [&summary["All"], &summary["grouped"]["Humanities"], &summary["subjects"]["law"]] {
        let score = entry["score"].as_f64().unwrap();
        let error = (score * (1.0 - score) / entry["num"].as_f64().unwrap()).sqrt();
        assert_eq!((score, entry["standard_error"].as_f64().unwrap()), (share(entry), error));
    }
    assert_eq!(summary["accuracy"], summary["All"]["score"]);
    assert_eq!(
        summary["grouped"]["Humanities"]["correct"].as_u64().unwrap(),
        ["law", "logic"].map(|key| summary["subjects"][key]["correct"].as_u64().unwrap()).iter().sum::<u64>()
    );
    let asked = &summary["evaluation"];
    for key in ["danlu", "model", "data", "scoring", "shots", "template", "questions_sha256", "precision"] {
        assert!(asked.get(key).is_some(), "{key}: {asked}");
    }

    let lines: Vec<Value> = read(out.join("take0/questions.jsonl"))
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 77);
    let right = lines.iter().filter(|line| line["correct"] == true).count();
    assert_eq!(summary["correct"], right);
    let line = lines.iter().find(|line| line["subject"] == "logic" && line["index"] == 1).unwrap();
    assert!(line["prompt"].as_str().unwrap().ends_with("D. 1.50\n答案："), "{line}");
    assert!(
        line["prompt_tokens"].as_u64().unwrap() > 10 && line["right"] == "B" && line["id"] == "1",
        "{line}"
    );
    let of_options = line["log_likelihoods"].as_array().unwrap();
    let highest = of_options.iter().map(|value| value.as_f64().unwrap()).fold(f64::MIN, f64::max);
    let chosen = "ABCD".find(line["chosen"].as_str().unwrap()).unwrap();
    assert!(of_options.len() == 4 && of_options[chosen].as_f64() == Some(highest));

    let mut table = csv::Reader::from_path(out.join("take0/logic_val.csv")).unwrap();
    let header = ["id", "question", "A", "B", "C", "D", "answer", "model_output", "correctness"];
    assert_eq!(table.headers().unwrap(), &header[..]);
    let row = table.records().nth(1).unwrap().unwrap();
    assert_eq!((&row[1], &row[4], &row[6]), ("所谓\"磨削\",\n是指____。", "NA", "B"));
    assert_eq!(row[7], *line["chosen"].as_str().unwrap());
    assert_eq!(&row[8], if line["correct"] == true { "1" } else { "0" });

    for name in ["summary.json", "questions.jsonl", "law_val.csv"] {
        assert_eq!(read(out.join("take0").join(name)), read(out.join("take1").join(name)), "{name}");
    }
    assert!(!out.join("take0/submission.json").exists() && !out.join("take2").exists());
    let html = read(out.join("report.html"));
    assert!(html.contains("理工") && html.contains("STEM") && html.contains("<svg"), "{html}");
    assert!(!html.contains("href=") && !html.contains("src=") && !html.contains("https:"));
    let (markdown, latex) = (read(out.join("report.md")), read(out.join("report.tex")));
    assert!(markdown.contains("| Humanities | 73 |") && markdown.contains("| 人文学科 | 73 |"), "{markdown}");
    assert!(latex.contains("\\begin{tabular}") && latex.contains("Humanities & 73 & "), "{latex}");
}

#[test]
fn seed_003_withheld_answers_become_a_submission() {
    let folder = folder();
    let keep = ["--split", "test", "--output-dir", "out", "--save-csv", "--no-report"];
    succeeds(run(folder.path(), &ceval(&keep)));
    let take = folder.path().join("out/take0");
    let text = read(take.join("submission.json"));
    assert!(text.starts_with("{\n    \"law\": {\n        \"0\": \""), "{text}");
    let answers: Value = serde_json::from_str(&text).unwrap();
    let answers: Vec<&str> =
        answers["law"].as_object().unwrap().values().map(|value| value.as_str().unwrap()).collect();
    assert!(answers.len() == 3 && answers.iter().all(|letter| ["A", "B", "C", "D"].contains(letter)));
    let summary = read_json(take.join("summary.json"));
    assert_eq!((&summary["All"]["score"], &summary["withheld"]), (&Value::Null, &json!(3)));
    let table = read(take.join("law_test.csv"));
    assert!(table.lines().nth(1).unwrap().ends_with(&format!(",1.50,\"\",{},\"\"", answers[0])), "{table}");
    assert!(!folder.path().join("out/report.html").exists());
}

/// Files of a take that must be the same however often it was stopped.
fn result(folder: &Path) -> [String; 2] {
    ["summary.json", "questions.jsonl"].map(|name| read(folder.join("take0").join(name)))
}

#[test]
fn lines_that_were_cut_off_anywhere_are_asked_again() {
    let folder = folder();
    succeeds(run(folder.path(), &ceval(&["--output-dir", "whole"])));
    let whole = result(&folder.path().join("whole"));
    let first_piece: usize = whole[1].split_inclusive('\n').take(4).map(str::len).sum();
    for (number, (length, kept)) in
        [(0, 0), (first_piece - 1, 0), (first_piece, 4), (first_piece + 700, 4), (whole[1].len() - 2, 74)]
            .into_iter()
            .enumerate()
    {
        let out = folder.path().join(format!("cut{number}"));
        write(out.join("evaluation.json"), &read(folder.path().join("whole/evaluation.json")));
        std::fs::create_dir(out.join("take0")).unwrap();
        std::fs::write(out.join("take0/questions.jsonl"), &whole[1].as_bytes()[..length]).unwrap();
        let ran = succeeds(run(folder.path(), &ceval(&["--output-dir", &format!("cut{number}")])));
        let told = ran.stderr.contains(&format!("{kept} of 77 questions are answered"));
        assert_eq!(told, kept > 0, "{length}: {}", ran.stderr);
        assert_eq!(result(&out), whole, "{length}");
    }
}

/// Five pieces of questions.
fn long_folder() -> tempfile::TempDir {
    let folder = common::with_model();
    let row = |row: u64| format!("{row},第{row}问：车削是什么？,{row},铣,磨,钻,A\n");
    write(folder.path().join("questions.csv"), &format!("{HEADER}{}", (0..320).map(row).collect::<String>()));
    folder
}

const LONG: [&str; 8] = ["eval", "mcq", "--model", "model", "--data", "questions.csv", "--output-dir", "out"];

/// Starts it, and waits until `lines` lines are kept.
fn start(folder: &Path, lines: usize) -> Child {
    let program = common::danlu(folder).get_program().to_owned();
    let mut command = Command::new(program);
    command.current_dir(folder).env("HF_HUB_OFFLINE", "1").args(LONG);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    let kept = || std::fs::read_to_string(folder.join("out/take0/questions.jsonl")).unwrap_or_default();
    while kept().lines().count() < lines && child.try_wait().unwrap().is_none() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(1));
    }
    child
}

#[test]
fn a_killed_run_goes_on_and_ends_with_the_same_bytes() {
    let folder = long_folder();
    let whole = [&LONG[..7], &["whole"]].concat();
    succeeds(run(folder.path(), &whole));
    for lines in [1, 65, 129] {
        let mut child = start(folder.path(), lines);
        assert!(child.try_wait().unwrap().is_none(), "ended before it was killed");
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!folder.path().join("out/take0/summary.json").exists());
    }
    let ran = succeeds(run(folder.path(), &LONG));
    assert!(ran.stderr.contains("of 320 questions are answered in `out/take0` already"), "{}", ran.stderr);
    assert_eq!(result(&folder.path().join("out")), result(&folder.path().join("whole")));
}

#[cfg(unix)]
#[test]
fn ctrl_c_says_where_it_goes_on() {
    let folder = long_folder();
    let child = start(folder.path(), 1);
    Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(130), "{text}");
    let told = "stopped; what is answered stands in `out`, and the same command goes on from there";
    assert!(text.contains(told), "{text}");
}

#[test]
fn a_folder_of_another_evaluation_is_refused_and_says_what_differs() {
    let folder = folder();
    let out = ["--output-dir", "out", "--subject", "logic"];
    succeeds(run(folder.path(), &ceval(&out)));
    let before = result(&folder.path().join("out"));
    let refused = |extra: &[&str], part: &str| {
        run(folder.path(), &ceval(&[&out[..], extra].concat())).is_refused(part);
    };
    refused(
        &["--limit", "2"],
        "`out`: holds another evaluation (`questions` is 3 there and 2 here, `questions_sha256` differs): choose another folder",
    );
    refused(&["--log-samples"], "(`log_samples` is false there and true here)");
    refused(&["--chat"], "`template` differs");
    common::write_model(&folder.path().join("model"), Some(&vocabulary(false)), 200);
    refused(&[], "`model` differs");
    assert_eq!(result(&folder.path().join("out")), before);

    // Two runs at once would mix their lines.
    let lines = folder.path().join("busy/take0/questions.jsonl");
    succeeds(run(folder.path(), &ceval(&["--output-dir", "busy", "--subject", "logic"])));
    let other = std::fs::File::open(lines).unwrap();
    other.lock().unwrap();
    run(folder.path(), &ceval(&["--output-dir", "busy", "--subject", "logic"]))
        .is_refused("`busy/take0/questions.jsonl`: is being written by another run");
    drop(other);

    write(folder.path().join("mine/take0/notes.txt"), "");
    run(folder.path(), &ceval(&["--output-dir", "mine"]))
        .is_refused("`mine`: has a folder `take0` but no `evaluation.json`");
    write(folder.path().join("file"), "");
    run(folder.path(), &ceval(&["--output-dir", "file"])).is_refused("`file`: is a file: expected a folder");
    for alone in [&["--save-csv"][..], &["--n-times", "2"], &["--log-samples"], &["--no-report"]] {
        let ran = run(folder.path(), &ceval(alone));
        assert!(ran.code == 2 && ran.stderr.contains("--output-dir"), "{}", ran.stderr);
    }
}

#[test]
fn a_template_with_the_date_keeps_the_day_it_began_on() {
    let folder = folder();
    write(
        folder.path().join("dated.jinja"),
        "{{ strftime_now('%Y') }}{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}\
         {% if add_generation_prompt %}<assistant>{% endif %}",
    );
    let out = ["--output-dir", "out", "--subject", "logic", "--template", "dated.jinja", "--log-samples"];
    succeeds(run(folder.path(), &ceval(&out)));
    let place = folder.path().join("out/evaluation.json");
    let mut settings = read_json(&place);
    settings["template"]["day"] = json!(20_010_203);
    write(place, &settings.to_string());
    std::fs::remove_file(folder.path().join("out/take0/questions.jsonl")).unwrap();
    succeeds(run(folder.path(), &ceval(&out)));
    let line = read(folder.path().join("out/take0/questions.jsonl"));
    assert!(line.contains("\"prompt\":\"2001<system>"), "{line}");
}

const OWN: &str = "id,question,A,B,C,D,answer\n0,立式铣床加工铝合金薄壁零件时应当怎样装夹,夹,压,吸,粘,A\n\
                   1,深孔钻削时切屑不易排出应当采用什么办法,快,慢,退刀,停,C\n2,磨削烧伤怎样从工件表面的颜色看出来呢,红,蓝,黄,黑,B\n";

#[test]
fn questions_in_the_training_data_of_a_run_are_told() {
    let folder = common::with_model();
    write(folder.path().join("own.csv"), OWN);
    write(
        folder.path().join("rows.jsonl"),
        "{\"instruction\": \"车削是什么？\", \"output\": \"加工。\"}\n\
         {\"instruction\": \"题：深孔钻削时，切屑不易排出，应当采用什么办法？\", \"output\": \"退刀\"}\n",
    );
    let recipe = "model_name_or_path: model\nstage: sft\nfinetuning_type: lora\ndataset: rows.jsonl\ncutoff_len: 128\nmax_steps: 1\n\
                  plot_loss: false\noutput_dir: run\nsave_strategy: no\n";
    write(folder.path().join("recipe.yaml"), recipe);
    succeeds(run(folder.path(), &["train", "recipe.yaml"]));
    let own = ["eval", "mcq", "--data", "own.csv", "--output-dir"];
    // The adapter lies in the folder of its run.
    let ran = succeeds(run(folder.path(), &[&own[..], &["out", "--model", "run"]].concat()));
    let told = "1 of 3 questions stand in 1 of 1 files of training data of `run`, so that the score may be learned by heart; \
                `out/contamination.json` lists them";
    assert!(ran.stderr.contains(told), "{}", ran.stderr);
    let found = read_json(folder.path().join("out/contamination.json"));
    assert_eq!((&found["overlapping"], &found["overlaps"][0]["index"]), (&json!(1), &json!(1)), "{found}");
    assert!(found["overlaps"][0]["found_at"].as_str().unwrap().ends_with("rows.jsonl:2"), "{found}");
    assert!(
        read(folder.path().join("out/report.md")).contains("1 of 3 questions stand in the training data")
    );

    // The model has no run of its own; another one can be named, and its data may be gone.
    let ran = succeeds(run(folder.path(), &[&own[..], &["base", "--model", "model"]].concat()));
    assert!(!ran.stderr.contains("training data") && !folder.path().join("base/contamination.json").exists());
    let hash: String = Sha256::digest(OWN).iter().map(|byte| format!("{byte:02x}")).collect();
    let files = json!([{"path": "gone.csv", "bytes": OWN.len(), "sha256": hash}, {"path": "away.csv", "bytes": 1, "sha256": null}]);
    write(
        folder.path().join("other/run.json"),
        &json!({"model": null, "data": {"files": files}}).to_string(),
    );
    let named = [&own[..], &["other-out", "--model", "model", "--train-run", "other"]].concat();
    let ran = succeeds(run(folder.path(), &named));
    assert!(ran.stderr.contains("3 of 3 questions stand in 0 of 2 files"), "{}", ran.stderr);
    let told = "not all of the training data was searched: `gone.csv` (is a file of the questions), `away.csv` (is not there any more)";
    assert!(ran.stderr.contains(told), "{}", ran.stderr);
    assert!(read(folder.path().join("other-out/report.md")).contains("训练数据没有全部查找：`gone.csv`"));
    let found = read_json(folder.path().join("other-out/contamination.json"));
    let remarks = [&found["files"][0]["remark"], &found["files"][1]["remark"]];
    assert_eq!(remarks, [&json!("is a file of the questions"), &json!("is not there any more")]);
    run(folder.path(), &[&own[..], &["x", "--model", "model", "--train-run", "model"]].concat())
        .is_refused("run.json");
    // A run is followed to the one that its model comes from.
    let model = json!({"files": [{"path": "run/adapter_model.safetensors"}]});
    write(folder.path().join("later/run.json"), &json!({"model": model, "data": {"files": []}}).to_string());
    let ran = succeeds(run(
        folder.path(),
        &[&own[..], &["z", "--model", "model", "--train-run", "later"]].concat(),
    ));
    assert!(ran.stderr.contains("1 of 3 questions stand in 1 of 1 files"), "{}", ran.stderr);
    assert_eq!(read_json(folder.path().join("z/contamination.json"))["runs"], json!(["later", "run"]));
    // A record that cannot be read hinders no evaluation that did not ask for it.
    write(folder.path().join("run/run.json"), "{}");
    let ran = succeeds(run(folder.path(), &[&own[..], &["y", "--model", "run"]].concat()));
    assert!(
        ran.stderr.contains("the training data is not searched for the questions: `run/run.json`"),
        "{}",
        ran.stderr
    );
}

#[test]
fn questions_of_one_line_are_told_apart_and_what_was_not_searched_is_told() {
    let folder = common::with_model();
    let question = |text: &str, right: &str| json!({"question": text, "options": ["夹", "压", "吸", "粘"], "answer": right});
    let questions = json!([
        question("立式铣床加工铝合金薄壁零件时应当怎样装夹", "A"),
        question("短", "B"),
        question("深孔钻削时切屑不易排出应当采用什么办法", "C"),
    ]);
    write(folder.path().join("own.json"), &questions.to_string());
    let rows = "{broken\n{\"text\": \"深孔钻削时切屑不易排出应当采用什么办法？\"}\n";
    write(folder.path().join("rows.jsonl"), rows);
    write(folder.path().join("table.parquet"), "no table");
    let files = ["rows.jsonl", "table.parquet"]
        .map(|path| json!({"path": path, "bytes": rows.len(), "sha256": null}));
    write(folder.path().join("run/run.json"), &json!({"data": {"files": files}}).to_string());
    let own = [
        "eval",
        "mcq",
        "--data",
        "own.json",
        "--model",
        "model",
        "--train-run",
        "run",
        "--output-dir",
        "out",
    ];
    let ran = succeeds(run(folder.path(), &own));
    for told in [
        "1 of 3 questions stand in 1 of 2 files",
        "1 questions are too short to be told from harmless texts and were not looked for",
        "not all of the training data was searched: `rows.jsonl` (1 rows cannot be read), `table.parquet` (not searched: ",
    ] {
        assert!(ran.stderr.contains(told), "{told}: {}", ran.stderr);
    }
    let found = read_json(folder.path().join("out/contamination.json"));
    assert_eq!((&found["overlaps"][0]["index"], &found["too_short"]), (&json!(2), &json!(1)), "{found}");
    let report = read(folder.path().join("out/report.md"));
    assert!(
        report.contains("1 questions are too short") && report.contains("有 1 题出现在训练数据中"),
        "{report}"
    );
}
