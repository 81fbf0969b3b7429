//! Batches as users ask for them: what a row becomes, how rows are chosen, mixed and packed, and what is kept.

use crate::common;

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use common::{danlu, run, with_model};
use serde_json::Value;

fn rows(count: usize, name: &str) -> String {
    let row = |index: usize| {
        let answer = "车削。".repeat(1 + index % 7);
        format!("{{\"prompt\": \"{name}{index}\", \"answer\": \"{answer}\"}}\n")
    };
    (0..count).map(row).collect()
}

fn write(folder: &Path, name: &str, text: &str) {
    std::fs::write(folder.join(name), text).unwrap();
}

fn inspect(folder: &Path, files: &str, more: &[&str]) -> Value {
    let files: Vec<&str> = files.split(',').collect();
    let fixed = ["--json", "--model", "model", "--samples", "1000"];
    run(folder, &[&["data", "inspect"], &files[..], &fixed, more].concat()).json()
}

/// The trained parts of a sample's text.
fn trained(sample: &Value) -> Vec<String> {
    let text = sample["text"].as_str().unwrap();
    text.split('⟦').skip(1).map(|part| part.split('⟧').next().unwrap().to_owned()).collect()
}

#[test]
fn unsloth_2095_what_is_learned_is_what_was_asked_for() {
    let folder = with_model();
    let turns = r#"{"messages": [{"role": "user", "content": "一"}, {"role": "assistant", "content": "甲"},
        {"role": "user", "content": "二"}, {"role": "assistant", "content": "乙", "loss_weight": 0.5}]}"#;
    write(folder.path(), "rows.jsonl", &turns.replace('\n', ""));
    let sample = |more: &[&str]| inspect(folder.path(), "rows.jsonl", more)["samples"][0].clone();
    let plain = sample(&[]);
    assert_eq!(trained(&plain), ["甲<|im_end|>", "乙<|im_end|>"]);
    let weights: Vec<f64> =
        plain["loss_weights"].as_array().unwrap().iter().map(|weight| weight.as_f64().unwrap()).collect();
    let of = |weight: f64| weights.iter().filter(|&&one| one == weight).count();
    assert!(of(1.0) > 1 && of(0.5) == of(1.0), "{weights:?}");
    assert_eq!(trained(&sample(&["mask_history=true"])), ["乙<|im_end|>"]);
    let whole = sample(&["train_on_prompt=true"]);
    let untrained = whole["loss_weights"].as_array().unwrap().iter().filter(|weight| **weight == 0.0).count();
    assert_eq!(untrained, 1, "all but the first token");
    run(
        folder.path(),
        &["data", "inspect", "rows.jsonl", "--model", "model", "mask_history=true", "train_on_prompt=true"],
    )
    .is_refused("set one of them");
}

#[test]
fn lf_3995_long_rows_are_dropped_cut_or_refused_as_asked() {
    let folder = with_model();
    let long = format!("{{\"prompt\": \"问\", \"answer\": \"{}\"}}\n", "磨".repeat(120));
    write(folder.path(), "rows.jsonl", &(rows(4, "问") + &long));
    let report = |more: &[&str]| inspect(folder.path(), "rows.jsonl", more)["report"].clone();
    let dropped = report(&["cutoff_len=128"]);
    assert_eq!((&dropped["samples"], &dropped["dropped_overlong"]), (&4.into(), &1.into()));
    let cut = report(&["cutoff_len=128", "overlong=truncate"]);
    assert_eq!((&cut["samples"], &cut["truncated"]), (&5.into(), &1.into()));
    assert!(cut["cut_answer_tokens"].as_u64().unwrap() > 0);
    let stop = ["data", "inspect", "rows.jsonl", "--model", "model", "cutoff_len=128", "overlong=error"];
    run(folder.path(), &stop).is_refused("rows.jsonl:5: the row has ");
}

#[test]
fn lf_3143_the_template_and_the_question_are_never_cut() {
    let folder = with_model();
    let row = |question: usize, answer: usize| {
        format!("{{\"prompt\": \"{}\", \"answer\": \"{}\"}}\n", "铣".repeat(question), "磨".repeat(answer))
    };
    write(folder.path(), "rows.jsonl", &(row(8, 200) + &row(200, 8)));
    let cut = inspect(folder.path(), "rows.jsonl", &["cutoff_len=64", "overlong=truncate"]);
    let report = &cut["report"];
    assert_eq!((&report["truncated"], &report["dropped_prompt_too_long"]), (&1.into(), &1.into()));
    assert_eq!(report["samples"], 1);
    let text = cut["samples"][0]["text"].as_str().unwrap();
    assert!(
        text.contains(&format!("user\n{}<|im_end|>\n<|im_start|>assistant\n⟦磨", "铣".repeat(8))),
        "{text}"
    );
}

#[test]
fn lf_8584_lf_5308_one_core_cuts_the_same_samples_as_many() {
    let folder = with_model();
    write(folder.path(), "rows.jsonl", &rows(300, "问"));
    let fixed = ["data", "inspect", "rows.jsonl", "--json", "--model", "model", "--samples", "300"];
    // A key of the older tools, which started so many processes.
    let many = run(folder.path(), &[&fixed[..], &["preprocessing_num_workers=16"]].concat()).json();
    let one = danlu(folder.path()).args(fixed).env("RAYON_NUM_THREADS", "1").output().unwrap();
    let one: Value = serde_json::from_slice(&one.stdout).unwrap_or_default();
    assert_eq!(one["samples"], many["samples"]);
    assert_eq!(one["report"]["samples"], 300);
}

#[test]
fn lf_1136_long_conversations_are_split_between_exchanges() {
    let folder = with_model();
    let turn = |role: &str, content: &str| format!("{{\"role\": \"{role}\", \"content\": \"{content}\"}}");
    let mut turns = vec![turn("system", "你是助手")];
    // The fourth exchange is too long alone.
    for (question, length) in [("一", 8), ("二", 8), ("三", 8), ("四", 200), ("五", 8), ("六", 8)] {
        turns.extend([turn("user", question), turn("assistant", &question.repeat(length))]);
    }
    let conversation = |turns: &[String]| format!("{{\"messages\": [{}]}}\n", turns.join(", "));
    write(folder.path(), "long.jsonl", &conversation(&turns));
    let split = inspect(folder.path(), "long.jsonl", &["cutoff_len=128", "overlong=split"]);
    let report = &split["report"];
    assert_eq!((&report["split"], &report["dropped_exchanges"]), (&1.into(), &1.into()), "{report}");
    assert_eq!((&report["rows"], &report["samples"]), (&1.into(), &3.into()), "{report}");
    let example = &split["datasets"][0]["findings"]["split"]["examples"][0];
    assert!(example.as_str().unwrap().ends_with("3 samples, 1 exchanges left out"), "{example}");
    // Each is a conversation of its own: the same ids as of a row with these turns.
    let parts = [&[0, 1, 2, 3, 4][..], &[0, 5, 6], &[0, 9, 10, 11, 12]];
    let rows = parts.map(|part| conversation(&part.iter().map(|&at| turns[at].clone()).collect::<Vec<_>>()));
    write(folder.path(), "short.jsonl", &rows.concat());
    let short = inspect(folder.path(), "short.jsonl", &[]);
    for (part, own) in split["samples"].as_array().unwrap().iter().zip(short["samples"].as_array().unwrap()) {
        assert_eq!(part["ids"], own["ids"]);
        assert_eq!(part["loss_weights"], own["loss_weights"]);
        assert!(part["ids"].as_array().unwrap().len() <= 128);
    }

    // Where every exchange is too long there is nothing to split.
    write(folder.path(), "one.jsonl", &(rows[1].clone() + &conversation(&turns[7..9])));
    let one = inspect(folder.path(), "one.jsonl", &["cutoff_len=128", "overlong=split"])["report"].clone();
    assert_eq!((&one["samples"], &one["split"], &one["dropped_overlong"]), (&1.into(), &0.into(), &1.into()));
    let both = ["overlong=split", "mask_history=true"];
    run(folder.path(), &[&["data", "inspect", "one.jsonl", "--model", "model"], &both[..]].concat())
        .is_refused("`mask_history`: learns only the last answer, `overlong: split` all: set one of them");
}

#[test]
fn streaming_recipes_of_llama_factory_run_and_are_told_why_it_is_not_needed() {
    let folder = with_model();
    write(folder.path(), "rows.jsonl", &rows(4, "问"));
    let recipe = "model_name_or_path: model\nstage: sft\nfinetuning_type: full\ndataset: rows.jsonl\n\
                  streaming: true\nbuffer_size: 16384\nmax_steps: 2\nval_size: 1\ncutoff_len: 256\n\
                  output_dir: out\n";
    write(folder.path(), "streaming.yaml", recipe);
    let stats = run(folder.path(), &["data", "stats", "streaming.yaml", "--json"]);
    let told = &stats.stderr;
    assert!(told.contains("`streaming.yaml` line 5: `streaming` is not needed: "), "{told}");
    assert!(told.contains("have no effect here: `buffer_size`"), "{told}");
    let stats = stats.json();
    assert_eq!((&stats["training_samples"], &stats["validation_samples"]), (&3.into(), &1.into()));
    assert_eq!(stats["steps"], 2);
}

#[test]
fn rows_are_chosen_by_length_seed_and_content() {
    let folder = with_model();
    write(folder.path(), "rows.jsonl", &rows(70, "问"));
    let limits = ["min_answer_chars=4", "max_answer_chars=18", "max_samples=30"];
    let chosen = inspect(folder.path(), "rows.jsonl", &limits);
    assert_eq!(chosen["report"]["samples"], 30);
    let filtered = &chosen["report"]["filtered"];
    assert!(filtered["min_answer_chars"].as_u64() >= Some(4), "{filtered}");
    let wrong =
        ["data", "inspect", "rows.jsonl", "--model", "model", "min_answer_chars=9", "max_answer_chars=5"];
    run(folder.path(), &wrong).is_refused("`max_answer_chars`: found 5: expected at least the minimum, 9");

    // The rows that are kept for validation stay there when others are added.
    let validation = |name: &str| {
        let inspected = inspect(folder.path(), name, &["val_size=0.2", "val_split=hash"]);
        let training = inspected["training_samples"].as_u64().unwrap() as usize;
        let samples = inspected["samples"].as_array().unwrap();
        assert_eq!(inspected["validation_samples"], samples.len() - training);
        samples[training..].iter().map(|sample| sample["ids"].to_string()).collect::<Vec<_>>()
    };
    write(folder.path(), "more.jsonl", &(rows(30, "新") + &rows(70, "问")));
    let (before, after) = (validation("rows.jsonl"), validation("more.jsonl"));
    assert!(!before.is_empty() && before.iter().all(|ids| after.contains(ids)));
    run(
        folder.path(),
        &["data", "inspect", "rows.jsonl", "--model", "model", "val_size=5", "val_split=hash"],
    )
    .is_refused("`val_split`: chooses a share of the rows");
}

#[test]
fn several_datasets_are_mixed_as_in_llama_factory() {
    let folder = with_model();
    write(folder.path(), "a.jsonl", &rows(10, "甲"));
    write(folder.path(), "b.jsonl", &rows(40, "乙"));
    let counts = |more: &[&str]| {
        let inspected = inspect(folder.path(), "a.jsonl,b.jsonl", more);
        let of = |name: &str| {
            let samples = inspected["samples"].as_array().unwrap().iter();
            samples.filter(|sample| sample["source"].as_str().unwrap().contains(name)).count()
        };
        (of("a.jsonl"), of("b.jsonl"))
    };
    assert_eq!(counts(&[]), (10, 40));
    assert_eq!(counts(&["mix_strategy=interleave_under"]), (10, 10));
    assert_eq!(counts(&["mix_strategy=interleave_over"]), (40, 40));
    let (few, many) = counts(&["mix_strategy=interleave_over", "interleave_probs=0.2,0.8"]);
    assert!(few >= 10 && many >= 40 && many > 2 * few, "{few} {many}");
    let fixed = ["data", "inspect", "a.jsonl", "b.jsonl", "--model", "model"];
    run(folder.path(), &[&fixed[..], &["interleave_probs=0.2,0.8"]].concat())
        .is_refused("`interleave_probs`: needs `mix_strategy: interleave_under`");
    run(folder.path(), &[&fixed[..], &["interleave_probs=1", "mix_strategy=interleave_over"]].concat())
        .is_refused("found 1 of them for 2 datasets");
}

/// The RealTapeL kit dropped the remainder of every batch of lines and let documents see each other.
#[test]
fn realtapel_group_texts_documents_fill_blocks_and_nothing_is_lost() {
    let folder = with_model();
    let lines: String =
        (0..60).map(|line| format!("{{\"text\": \"{}\"}}\n", "铣削。".repeat(1 + line % 9))).collect();
    write(folder.path(), "corpus.jsonl", &lines);
    let inspect = |more: &[&str]| inspect(folder.path(), "corpus.jsonl", more)["report"].clone();
    let apart = inspect(&["packing=false"]);
    assert_eq!((&apart["packing"], &apart["samples"]), (&Value::Null, &60.into()));
    // Packing is the default of pretraining, as in LLaMA-Factory; documents keep their boundaries.
    let packed = inspect(&[]);
    assert_eq!(packed["packing"]["tokens"], apart["tokens"]);
    assert!(packed["packing"]["efficiency"].as_f64().unwrap() > 0.9, "{packed}");
    // One stream: each block but the last is full, and begins with the token that the one before ends with.
    let stream = inspect(&["neat_packing=false", "cutoff_len=64"]);
    let tokens = stream["tokens"].as_u64().unwrap() - stream["samples"].as_u64().unwrap() + 1;
    assert_eq!(tokens, apart["tokens"].as_u64().unwrap());
    assert_eq!(stream["samples"], (tokens - 1).div_ceil(63));
    assert_eq!(stream["trained_tokens"], tokens - 1);
}

#[test]
fn packed_and_sorted_batches_train() {
    let folder = with_model();
    write(folder.path(), "rows.jsonl", &rows(40, "问"));
    let train = |output: &str, more: &[&str]| {
        let output = format!("output_dir={output}");
        let fixed = [
            "train",
            "sft-lora",
            "--json",
            "model_name_or_path=model",
            "dataset=rows.jsonl",
            "cutoff_len=256",
            "max_steps=3",
            "val_size=0",
            "lora_rank=2",
            "precision=f32",
            "per_device_train_batch_size=2",
            &output,
        ];
        run(folder.path(), &[&fixed[..], more].concat())
    };
    let packed = train("packed", &["packing=true"]);
    assert!(
        packed.stdout.contains("packed into") || packed.stderr.contains("packed into"),
        "{}",
        packed.stderr
    );
    packed.json();
    train("sorted", &["group_by_length=true"]).json();
    train("both", &["group_by_length=true", "packing=true"]).is_refused("`group_by_length`: sorts samples");
}

#[test]
fn minicpm_v_914_lf_2656_tokenized_samples_are_kept_and_a_killed_run_is_gone_on_with() {
    let folder = with_model();
    write(folder.path(), "rows.jsonl", &rows(1500, "问"));
    let fixed = ["data", "inspect", "rows.jsonl", "--json", "--model", "model", "--samples", "1500"];
    let kept = [&fixed[..], &["tokenized_path=kept"]].concat();
    let mut killed = std::process::Command::new(danlu(folder.path()).get_program())
        .current_dir(folder.path())
        .args(&kept)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    while !folder.path().join("kept").is_dir() && killed.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_millis(2));
    }
    killed.kill().unwrap();
    killed.wait().unwrap();

    let whole = run(folder.path(), &fixed).json();
    let after_kill = run(folder.path(), &kept).json();
    assert_eq!(after_kill["samples"], whole["samples"]);
    assert_eq!(after_kill["report"]["cache"]["reused"], false);
    let again = run(folder.path(), &kept).json();
    assert_eq!(again["samples"], whole["samples"]);
    assert_eq!(again["report"]["cache"]["reused"], true);
    assert!(again["report"]["cache"]["bytes"].as_u64().unwrap() > 1000);
    // The file of the same name with other content is another data set.
    write(folder.path(), "rows.jsonl", &rows(1501, "问"));
    let other = run(folder.path(), &kept).json();
    assert_eq!(
        (&other["report"]["cache"]["reused"], &other["report"]["samples"]),
        (&false.into(), &1501.into())
    );
    let anew = run(folder.path(), &[&kept[..], &["overwrite_cache=true"]].concat()).json();
    assert_eq!(anew["report"]["cache"]["reused"], false);
}

/// Ctrl-C while rows are tokenized: one sentence, no run folder, and the next run goes on.
fn ctrl_c_stops_tokenizing_and_keeps_what_was_done(verb: &str) {
    let folder = with_model();
    write(folder.path(), "rows.jsonl", &rows(20_000, "问"));
    let mut command = std::process::Command::new(danlu(folder.path()).get_program());
    command.current_dir(folder.path()).args([verb, "sft-lora", "dataset=rows.jsonl", "output_dir=out"]);
    command.args(["model_name_or_path=model", "tokenized_path=kept", "cutoff_len=128"]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    while !folder.path().join("kept").is_dir() && child.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_millis(2));
    }
    std::thread::sleep(Duration::from_millis(300));
    std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(130), "{said}");
    // It did not go on to the end.
    let rows = said.split("stopped after ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap();
    assert!(rows.parse::<u32>().unwrap() < 20_000, "{said}");
    let sentence = "rows; what was tokenized is kept, and the same command goes on behind it";
    assert!(said.contains("stopped after ") && said.contains(sentence), "{said}");
    assert!(!said.contains("error") && !folder.path().join("out").exists(), "{said}");
    let kept = std::fs::read_dir(folder.path().join("kept")).unwrap().next().unwrap().unwrap().path();
    assert!(kept.join("account.json").is_file());
}

#[test]
fn ctrl_c_stops_the_tokenizing_of_train() {
    ctrl_c_stops_tokenizing_and_keeps_what_was_done("train");
}

#[test]
fn ctrl_c_stops_the_tokenizing_of_plan() {
    ctrl_c_stops_tokenizing_and_keeps_what_was_done("plan");
}

/// Two places of which no moment is the same day in both.
const DAYS: [&str; 2] = ["WEST12", "EAST-14"];

#[test]
fn a_template_that_writes_the_date_is_not_served_from_another_day_and_a_continued_run_keeps_its_day() {
    let folder = with_model();
    let folder = folder.path();
    write(folder, "rows.jsonl", &rows(20, "问"));
    let template = "{% for m in messages %}{{ strftime_now('%Y-%m-%d') }}<|im_start|>{{ m.role }}\n\
                    {% generation %}{{ m.content }}<|im_end|>{% endgeneration %}{% endfor %}";
    write(folder, "dated.jinja", template);
    let fixed = ["template=dated.jinja", "dataset=rows.jsonl", "cutoff_len=256", "tokenized_path=kept"];
    let at = |day: &str, arguments: &[&str]| {
        let output = danlu(folder).env("TZ", day).args([arguments, &fixed[..]].concat()).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    };
    let inspect = |day: &str| -> Value {
        let recipe = "stage: sft\noutput_dir: inspected\nmodel_name_or_path: model\nval_size: 0\n";
        write(folder, "recipe.yaml", recipe);
        let (code, stdout, stderr) = at(day, &["data", "inspect", "recipe.yaml", "--json"]);
        assert_eq!(code, 0, "{stderr}");
        serde_json::from_str(stdout.lines().last().unwrap()).unwrap()
    };
    let (west, east) = (inspect(DAYS[0]), inspect(DAYS[1]));
    let text = |seen: &Value| seen["samples"][0]["text"].as_str().unwrap().to_owned();
    assert_ne!(text(&west), text(&east));
    assert_eq!(east["report"]["cache"]["reused"], false);
    assert_eq!(inspect(DAYS[0])["report"]["cache"]["reused"], true);

    let train = |day: &str, more: &[&str]| {
        let run = [
            "train",
            "sft-lora",
            "--json",
            "model_name_or_path=model",
            "output_dir=out",
            "lora_rank=2",
            "precision=f32",
            "per_device_train_batch_size=2",
            "gradient_accumulation_steps=1",
            "val_size=0",
        ];
        at(day, &[&run[..], more].concat())
    };
    let (code, _, stderr) = train(DAYS[0], &["max_steps=2", "save_steps=2"]);
    assert!(code == 0 && stderr.contains("the chat template writes the date"), "{stderr}");
    let (code, _, stderr) = train(DAYS[1], &["max_steps=4", "save_steps=2", "resume_from_checkpoint=true"]);
    assert_eq!(code, 0, "{stderr}");
}
