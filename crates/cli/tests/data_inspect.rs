//! `danlu data inspect` and `stats`: what is in data, and what looks wrong in it.

use crate::common;

use common::{run, with_model};
use serde_json::{Value, json};

/// A row repeated, one of it in other punctuation, one with another answer, one without an answer, and one that is long.
fn rows() -> String {
    let long = "切削".repeat(100);
    format!(
        "prompt,answer\n铣削是什么？,切削\n铣削是什么？,切削\n铣削 是什么,切削！\n铣削是什么？,旋转\n空,\n长,{long}\n"
    )
}

#[test]
fn numbers_findings_and_places_of_each_data_set_are_shown() {
    let folder = with_model();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    write("rows.csv", &rows());
    write("more.json", r#"[{"instruction": "车床？", "output": "机床。"}]"#);
    write(
        "exam.csv",
        "id,question,A,B,C,D,answer\n0,铣削是什么？请从下列选项中选择,1,2,3,4,A\n1,铣削是什么方法加工零件的机床,1,2,3,4,A\n",
    );
    let fixed =
        ["rows.csv", "more.json", "--model", "model", "cutoff_len=128", "per_device_train_batch_size=2"];
    let at = |verb: &str, more: &[&str]| run(folder.path(), &[&["data", verb], &fixed[..], more].concat());
    let object = at("inspect", &["--json", "--samples", "1", "gradient_accumulation_steps=1"]).json();
    let datasets = object["datasets"].as_array().unwrap();
    assert_eq!(datasets.len(), 2);
    let first = &datasets[0];
    assert!(first["name"].as_str().unwrap().ends_with("rows.csv"), "{first}");
    assert_eq!((&first["rows"], &first["samples"]), (&6.into(), &4.into()));
    for (finding, line) in
        [("duplicate", 3), ("near_duplicate", 4), ("same_question", 5), ("empty", 6), ("overlong", 7)]
    {
        let found = &first["findings"][finding];
        assert_eq!(found["rows"], 1, "{finding}: {first}");
        let example = found["examples"][0].as_str().unwrap();
        assert!(example.contains(&format!("rows.csv:{line}")), "{finding}: {example}");
    }
    assert_eq!(datasets[1]["findings"], serde_json::json!({}));
    let share = first["trained_share"].as_f64().unwrap();
    assert!(share > 0.05 && share < 0.95, "{share}");
    let bins: u64 =
        first["length_histogram"].as_array().unwrap().iter().map(|bin| bin["rows"].as_u64().unwrap()).sum();
    assert_eq!(bins, 5);
    // Five samples in steps of two, three passes.
    assert_eq!(
        (&object["samples_per_step"], &object["steps_per_epoch"], &object["steps"]),
        (&2.into(), &3.into(), &9.into())
    );
    // The same numbers without samples.
    let mut stats = at("stats", &["--json", "gradient_accumulation_steps=1"]).json();
    assert_eq!(stats.get("samples"), None);
    stats["samples"] = object["samples"].clone();
    assert_eq!(stats, object);

    let shown = at("stats", &[]);
    for part in [
        "rows.csv",
        "more.json",
        "the same as an earlier row: 1 rows",
        "rows.csv:3: as line 2",
        "tokens        ",
    ] {
        assert!(shown.stdout.contains(part), "`{part}`: {}", shown.stdout);
    }
    assert!(!shown.stdout.contains('⟦'), "{}", shown.stdout);

    // A question that stands whole in no row is not found; a shorter one is.
    let contaminated = |object: Value| object["datasets"][0]["findings"].get("contaminated").cloned();
    let clean = at("stats", &["--json", "--against", "exam.csv"]);
    assert!(clean.stderr.contains("2 questions are looked for"), "{}", clean.stderr);
    assert_eq!(contaminated(clean.json()), None);
    write("rows.csv", &rows().replacen("长,", "请问：铣削是什么方法？加工零件的机床吗,", 1));
    let found =
        contaminated(at("stats", &["--json", "--against", "exam.csv", "cutoff_len=256"]).json()).unwrap();
    assert_eq!(found["rows"], 1);
    assert!(found["examples"][0].as_str().unwrap().ends_with("exam.csv:3"), "{found}");
    write("exam.csv", "id,answer\n0,A\n");
    at("stats", &["--against", "exam.csv"])
        .is_refused("`exam.csv` holds no question of 13 Chinese characters");
}

#[test]
fn unsloth_823_the_page_shows_what_is_learned() {
    let folder = with_model();
    std::fs::write(folder.path().join("rows.csv"), rows() + "三,个,字段\n").unwrap();
    let arguments = [
        "data",
        "inspect",
        "rows.csv",
        "--model",
        "model",
        "cutoff_len=128",
        "on_bad_row=skip",
        "--html",
        "page.html",
    ];
    let ran = run(folder.path(), &arguments);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(ran.stderr.contains("written: `page.html`"), "{}", ran.stderr);
    let page = std::fs::read_to_string(folder.path().join("page.html")).unwrap();
    assert!(page.contains("<mark>切削&lt;|im_end|&gt;</mark>"), "{page}");
    for part in [
        "训练数据检查",
        "Training data, inspected",
        "与前面的某行完全相同",
        "the same as an earlier row",
        "prefers-color-scheme",
        "<td>line 3: as line 2",
        "<td>行 3：参见行 2</td>",
        "<td>行 7：",
        "<td>已跳过：字段数不对</td>",
        "<td>行 8</td>",
        "<td>line 8: found 3 fields",
    ] {
        assert!(page.contains(part), "{part}");
    }
    for reference in ["http:", "https:", "src=", "href="] {
        assert!(!page.contains(reference), "{reference}");
    }
    // Of the Chinese tables every word is Chinese, but for names and options.
    for table in page.split("<div lang=\"zh\">").skip(1) {
        let table = table.split("</div>").next().unwrap();
        let words: Vec<&str> = [" tokens", "line ", "row ", "skipped", " as "]
            .into_iter()
            .filter(|word| table.contains(word))
            .collect();
        assert!(words.is_empty(), "{words:?}: {table}");
    }
}

/// Pairs of which nothing can be learned: the loss of DPO stays at 0.693 on them.
#[test]
fn trl_1627_identical_answers_of_a_pair_are_found() {
    let folder = with_model();
    let pair = |chosen: &str, rejected: &str| {
        serde_json::json!({"prompt": "铣削是什么？", "chosen": chosen, "rejected": rejected}).to_string()
            + "\n"
    };
    let rows =
        pair("切削", "旋转") + &pair("机床", "机床") + &pair("长", &"切削".repeat(100)) + &pair("切", " ");
    std::fs::write(folder.path().join("pairs.jsonl"), rows).unwrap();
    let fixed = ["data", "inspect", "pairs.jsonl", "--model", "model", "cutoff_len=128"];
    let object = run(folder.path(), &[&fixed[..], &["--json"]].concat()).json();
    let found = &object["datasets"][0];
    assert_eq!((&found["rows"], &found["samples"]), (&4.into(), &2.into()), "{found}");
    for (finding, line) in [("identical_pair", 2), ("overlong", 3), ("empty", 4)] {
        assert_eq!(found["findings"][finding]["rows"], 1, "{finding}: {found}");
        let example = found["findings"][finding]["examples"][0].as_str().unwrap();
        assert!(example.contains(&format!("pairs.jsonl:{line}")), "{finding}: {example}");
    }
    assert_eq!((&found["identical_pairs"], &object["steps_per_epoch"]), (&1.into(), &1.into()));
    // Of each pair both answers are shown, the wanted one first, and of both the answer alone is learned.
    let texts: Vec<&str> =
        object["samples"].as_array().unwrap().iter().map(|sample| sample["text"].as_str().unwrap()).collect();
    assert_eq!(texts.len(), 2);
    for (text, answer) in texts.iter().zip(["切削", "旋转"]) {
        assert!(text.contains(&format!("⟦{answer}<|im_end|>")) && text.matches('⟦').count() == 1, "{text}");
    }
    let shown = run(folder.path(), &fixed);
    assert!(
        shown.stdout.contains("no preference can be learned of them, left out: 1 rows"),
        "{}",
        shown.stdout
    );
    assert!(shown.stdout.contains("3 steps of 8 pairs, 1 a pass"), "{}", shown.stdout);
    // Fine-tuning would learn the unwanted answers too.
    let recipe = ["train", "sft-lora", "dataset=pairs.jsonl", "model_name_or_path=model", "cutoff_len=128"];
    run(folder.path(), &[&recipe[..], &["output_dir=out"]].concat()).is_refused("set `stage: dpo`");
}

/// An inverted label, or answers the wrong way round, can only be seen where it is said which answer is wanted.
#[test]
fn the_unwanted_answer_is_told_from_the_wanted_one() {
    let folder = with_model();
    let write = |name: &str, rows: [Value; 2]| {
        let rows: String = rows.iter().map(|row| format!("{row}\n")).collect();
        std::fs::write(folder.path().join(name), rows).unwrap();
    };
    let pair = json!({"prompt": "铣削是什么？", "chosen": "切削", "rejected": "旋转"});
    write("pairs.jsonl", [pair.clone(), pair]);
    let judged =
        |answer: &str, label: bool| json!({"prompt": "铣削是什么？", "completion": answer, "label": label});
    write("judged.jsonl", [judged("切削", true), judged("旋转", false)]);
    let inspect = |file: &str, more: &[&str]| {
        let fixed = ["data", "inspect", file, "--model", "model", "cutoff_len=128", "--samples", "2"];
        run(folder.path(), &[&fixed[..], more].concat())
    };
    for (file, lines) in [("pairs.jsonl", [1, 1]), ("judged.jsonl", [1, 2])] {
        let shown = inspect(file, &["--html", "page.html"]);
        let page = std::fs::read_to_string(folder.path().join("page.html")).unwrap();
        for (line, english) in lines.into_iter().zip(["wanted", "unwanted"]) {
            assert!(shown.stdout.contains(&format!("{file}:{line} · {english} · ")), "{}", shown.stdout);
            let chinese = if english == "wanted" { "合意" } else { "不合意" };
            for verdict in [english, chinese] {
                assert!(page.contains(&format!("{file}:{line} · {verdict} · ")), "{verdict}: {page}");
            }
        }
        assert!(page.contains("<mark>切削") && page.contains("<mark class=\"against\">旋转"), "{page}");
        let samples = inspect(file, &["--json"]).json()["samples"].take();
        assert_eq!((&samples[0]["wanted"], &samples[1]["wanted"]), (&true.into(), &false.into()));
    }
    std::fs::write(folder.path().join("rows.csv"), rows()).unwrap();
    let plain = inspect("rows.csv", &["--json"]);
    assert_eq!(plain.json()["samples"][0]["wanted"], Value::Null);
    assert!(!inspect("rows.csv", &[]).stdout.contains("wanted"));
    // Two samples for each pair of a count that no number holds.
    inspect("pairs.jsonl", &["val_size=1e30"]).is_refused("leaves nothing to train on");
}

#[test]
fn a_recipe_that_names_no_model_is_looked_at_with_a_vocabulary() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let row = json!({"instruction": "你好", "output": "你好，我在。"});
    std::fs::write(folder.join("rows.jsonl"), row.to_string()).unwrap();
    std::fs::write(
        folder.join("recipe.yaml"),
        "stage: sft\ndataset: rows.jsonl\ntemplate: chatml\noutput_dir: out\n",
    )
    .unwrap();
    let corpus: String = (0..40).map(|row| format!("第{row}句：你好，我在。\n")).collect();
    std::fs::write(folder.join("corpus.txt"), corpus).unwrap();
    run(
        folder,
        &["tokenizer", "train", "corpus.txt", "--out", "vocabulary", "--vocab-size", "280", "--json"],
    )
    .json();
    run(folder, &["data", "inspect", "recipe.yaml"]).is_refused("set `model_name_or_path`");
    let seen = run(folder, &["data", "inspect", "recipe.yaml", "--tokenizer", "vocabulary", "--json"]).json();
    assert_eq!(seen["report"]["rows"], 1);
}
