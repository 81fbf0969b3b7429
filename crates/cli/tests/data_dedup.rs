//! `danlu data dedup` as users run it.

use crate::common;

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::{Ran, run, shared, with_own_mounts};
use serde_json::{Value, json};

fn dedup(folder: &Path, arguments: &[&str]) -> Ran {
    run(folder, &[&["data", "dedup"], arguments, &["--json", "--threads", "2"]].concat())
}

fn rows(path: &Path) -> Vec<Value> {
    std::fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

const TURNING: &str =
    "车削是在车床上加工回转表面的方法，工件旋转作主运动，车刀作进给运动，外圆、端面、螺纹都可以车出来";
const MILLING: &str = "铣刀是多刃刀具，每个刀齿只在一段弧上切削，所以切削力是断续的，要注意振动";

/// Texts of which the third repeats the first but for punctuation and one character.
fn write_rows(folder: &Path) {
    let near = TURNING.replace('，', "。").replace("出来", "出去");
    let lines = [TURNING, MILLING, &near, MILLING].map(|text| format!("{}\n", json!({"text": text})));
    std::fs::write(folder.join("rows.jsonl"), lines.concat()).unwrap();
}

#[test]
fn rows_that_repeat_others_are_left_out_and_listed() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write_rows(folder);
    let ran = dedup(folder, &["rows.jsonl", "--out", "out.jsonl", "--report", "left.jsonl"]);
    assert!(ran.stderr.contains("18 bands of 7 values"), "{}", ran.stderr);
    let result = ran.json();
    assert_eq!((&result["docs"], &result["kept"], &result["duplicates"]), (&4.into(), &2.into(), &2.into()));
    assert!(result["docs_per_s"].as_f64().unwrap() > 0.0 && result["peak_rss_mb"].as_u64().unwrap() > 0);
    assert_eq!(rows(&folder.join("out.jsonl")), [json!({"text": TURNING}), json!({"text": MILLING})]);
    let left = rows(&folder.join("left.jsonl"));
    assert_eq!((&left[0]["row"], &left[0]["of"]), (&"rows.jsonl:3".into(), &"rows.jsonl:1".into()));
    assert!(left[0]["similarity"].as_f64().unwrap() > 0.8);
    assert_eq!(
        left[1],
        json!({"row": "rows.jsonl:4", "reason": "duplicate", "of": "rows.jsonl:2", "similarity": 1.0})
    );
    for (method, kept) in [("exact", 3), ("simhash", 3), ("minhash", 2)] {
        let ran = dedup(folder, &["rows.jsonl", "--out", "m.csv", "--method", method]);
        assert_eq!(ran.json()["kept"], kept, "{method}");
    }
    let only = dedup(folder, &["rows.jsonl", "--report-only", "--threshold", "0.99"]).json();
    assert_eq!((&only["kept"], &only["path"]), (&3.into(), &Value::Null));
    let ran = run(folder, &["data", "dedup", "rows.jsonl", "--report-only"]);
    assert!(ran.stdout.starts_with("nothing written · 2 of 4 rows stay · 2 duplicates"), "{}", ran.stdout);
}

#[test]
fn questions_of_benchmarks_are_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write_rows(folder);
    std::fs::create_dir(folder.join("ceval")).unwrap();
    let csv =
        "id,question,A,B,C,D,answer\n0,铣刀是多刃刀具，每个刀齿只在一段弧上____。,车刀,铣刀,钻头,刨刀,B\n";
    std::fs::write(folder.join("ceval/val.csv"), csv).unwrap();
    let fixed = ["rows.jsonl", "--against", "ceval", "--method", "none"];
    let ran = dedup(folder, &[&fixed[..], &["--out", "out.jsonl", "--report", "left.jsonl"]].concat());
    assert!(ran.stderr.contains("1 questions are looked for; 0 are too short"), "{}", ran.stderr);
    let result = ran.json();
    assert_eq!((&result["kept"], &result["contaminated"]), (&2.into(), &2.into()));
    let left = rows(&folder.join("left.jsonl"));
    assert_eq!((&left[0]["row"], &left[0]["of"]), (&"rows.jsonl:2".into(), &"ceval/val.csv:2".into()));
    dedup(folder, &["rows.jsonl", "--method", "none", "--out", "o.jsonl"]).is_refused("give the questions");
    dedup(folder, &[&fixed[..3], &["--out", "o", "--part", "1/2"]].concat())
        .is_refused("cannot be used with");

    let Some(data) = shared() else { return };
    let benchmark = data.join("benchmarks/ceval/val").display().to_string();
    let own = data.join("benchmarks/ceval/val/civil_servant_val.csv").display().to_string();
    let fixed = ["--against", &*benchmark, "--method", "none", "--report-only"];
    let result = dedup(folder, &[&[&*own], &fixed[..]].concat()).json();
    let [docs, found] = ["docs", "contaminated"].map(|key| result[key].as_u64().unwrap());
    // Rows of numbers are too short to be looked for.
    assert!(found * 10 >= docs * 8, "{result}");
    let jokes = data.join("datasets/ruozhiba").display().to_string();
    let result = dedup(folder, &[&[&*jokes], &fixed[..]].concat()).json();
    assert!(result["contaminated"].as_u64().unwrap() < 5, "{result}");
}

#[test]
fn machines_share_the_work() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write_rows(folder);
    std::fs::copy(folder.join("rows.jsonl"), folder.join("more.jsonl")).unwrap();
    let inputs = ["rows.jsonl", "more.jsonl"];
    for part in ["1", "2"] {
        let ran = dedup(folder, &[&inputs[..], &["--part", &format!("{part}/2"), "--out", part]].concat());
        assert_eq!(ran.json()["docs"], 4);
    }
    let joined = dedup(folder, &[&inputs[..], &["--out", "joined", "--join", "1", "2"]].concat()).json();
    assert_eq!(joined["kept"], 2);
    dedup(folder, &[&inputs[..], &["--out", "whole"]].concat()).json();
    for name in inputs {
        let read = |out: &str| std::fs::read(folder.join(out).join(name)).unwrap();
        assert_eq!(read("joined"), read("whole"));
    }
    assert_eq!(std::fs::read(folder.join("whole/more.jsonl")).unwrap(), b"");
    dedup(folder, &[&inputs[..], &["--out", "o", "--part", "3/2"]].concat()).is_refused("expected I/N");
    dedup(folder, &[&inputs[..], &["--out", "o", "--part", "1/3"]].concat())
        .is_refused("of which there are 2");
    dedup(folder, &["rows.jsonl", "--out", "o", "--join", "1"]).is_refused("is part 1 of 2 of other inputs");
    dedup(folder, &["rows.jsonl", "--out", "o", "--join", "more.jsonl"])
        .is_refused("is no whole signature file");
}

#[test]
fn a_part_whose_file_changed_and_kept_its_length_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write_rows(folder);
    for method in ["minhash", "exact"] {
        write_rows(folder);
        let fixed = ["rows.jsonl", "--method", method];
        dedup(folder, &[&fixed[..], &["--part", "1/1", "--out", "part"]].concat()).json();
        let text = std::fs::read_to_string(folder.join("rows.jsonl")).unwrap();
        std::fs::write(folder.join("rows.jsonl"), text.replace("铣刀", "车刀")).unwrap();
        dedup(folder, &[&fixed[..], &["--join", "part", "--out", "o.jsonl"]].concat()).is_refused(
            "`rows.jsonl` is not what it was when its signatures were made: expected the same texts, make them again",
        );
        assert!(!folder.join("o.jsonl").exists());
    }
}

#[test]
fn numbers_come_out_as_they_were_written() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let row = |text: &str| {
        format!(
            "{{\"id\":18446744073709551616,\"text\":\"{text}\",\"price\":1.10,\"more\":[123456789012345678901,1e2,0.10,0.1,-0]}}\n"
        )
    };
    let kept = row(TURNING) + &row(MILLING);
    std::fs::write(folder.join("rows.jsonl"), format!("{kept}{}", row(MILLING))).unwrap();
    assert_eq!(dedup(folder, &["rows.jsonl", "--out", "out.jsonl"]).json()["kept"], 2);
    assert_eq!(std::fs::read_to_string(folder.join("out.jsonl")).unwrap(), kept);
    dedup(folder, &["rows.jsonl", "--out", "out.parquet"])
        .is_refused("the number `18446744073709551616` is beyond the 64 bits of Parquet's integers");
    let clean = |out: &str| run(folder, &["data", "clean", "rows.jsonl", "--out", out]);
    assert_eq!(clean("clean.jsonl").code, 0);
    assert_eq!(std::fs::read_to_string(folder.join("clean.jsonl")).unwrap(), kept + &row(MILLING));
    assert_eq!(clean("clean.json").code, 0);
    assert_eq!(
        std::fs::read_to_string(folder.join("clean.json")).unwrap().matches("18446744073709551616").count(),
        3
    );
    std::fs::write(
        folder.join("flat.jsonl"),
        "{\"id\":18446744073709551616,\"text\":\"甲\",\"price\":1.10}\n",
    )
    .unwrap();
    dedup(folder, &["flat.jsonl", "--out", "flat.csv"]).json();
    assert_eq!(
        std::fs::read_to_string(folder.join("flat.csv")).unwrap(),
        "id,text,price\n18446744073709551616,甲,1.10\n"
    );
    // As `json.dump(indent=0)` writes it: a nested object begins its line as a row does.
    let pretty = |text: &str| {
        format!(
            "{{\n\"id\":12345678901234567890123,\n\"m\":{{\n\"b\":[\n{{\n\"c\":1.10\n}}\n]\n}},\n\"text\":\"{text}\"\n}}"
        )
    };
    let rows = format!("[\n{},\n{}\n]\n", pretty("甲"), pretty("乙"));
    std::fs::write(folder.join("pretty.json"), &rows).unwrap();
    dedup(folder, &["pretty.json", "--out", "pretty.jsonl"]).json();
    let kept = std::fs::read_to_string(folder.join("pretty.jsonl")).unwrap();
    assert_eq!(
        kept.replace('\n', ""),
        rows.replace('\n', "")[1..].replace("},{\"id", "}{\"id").trim_end_matches(']')
    );
}

#[test]
fn what_cannot_be_done_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write_rows(folder);
    std::fs::write(folder.join("bad.jsonl"), "{\"text\": \"一\"}\n{\"text\": 二}\n").unwrap();
    dedup(folder, &["rows.jsonl", "--out", "rows.jsonl"]).is_refused("would be written into the input");
    dedup(folder, &[".", "--out", "new/o.jsonl"])
        .is_refused("`new/o.jsonl` would be written into the input `.`");
    dedup(folder, &["absent.jsonl", "--out", "o.jsonl"])
        .is_refused("`absent.jsonl` does not exist: expected a file or folder of rows or texts");
    dedup(folder, &["rows.jsonl", "--out", "o.docx"]).is_refused("expected a name ending in");
    dedup(folder, &["rows.jsonl", "--out", "no/o.jsonl"])
        .is_refused("the folder `no` does not exist, create it");
    dedup(folder, &["bad.jsonl", "--out", "o.jsonl", "--report", "no/r.jsonl"])
        .is_refused("the folder `no` does not exist, create it");
    dedup(folder, &["rows.jsonl"]).is_refused("--out");
    dedup(folder, &["rows.jsonl", "--out", "o.jsonl", "--threshold", "80"])
        .is_refused("`--threshold`: found 80");
    dedup(folder, &["rows.jsonl", "--out", "o.jsonl", "--columns", "txt"])
        .is_refused("rows.jsonl:1: there is no column `txt` but `text`: name others with `--columns`");
    dedup(folder, &["bad.jsonl", "--out", "o.jsonl"]).is_refused("bad.jsonl:2: invalid JSON at column 10");
    let ran = dedup(folder, &["bad.jsonl", "--out", "o.jsonl", "--on-bad-row", "skip"]);
    assert!(ran.stderr.contains("1 rows were skipped: invalid JSON"), "{}", ran.stderr);
    assert_eq!((&ran.json()["kept"], &ran.json()["skipped"]), (&1.into(), &1.into()));
    std::fs::write(folder.join("none.jsonl"), "").unwrap();
    dedup(folder, &["none.jsonl", "--out", "o2.jsonl"])
        .is_refused("`none.jsonl` is empty: expected at least one row");
    assert!(!folder.join("o2.jsonl").exists());
}

#[test]
fn a_kill_and_a_second_run_give_what_one_run_gives() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let text = |row: u32| -> String {
        (0..60)
            .map(|at| char::from_u32(0x4e00 + (row * 7919 + at * at * (row % 13 + 1)) % 5000).unwrap())
            .collect()
    };
    let lines = (0..20_000).map(|row: u32| format!("{}\n", json!({"text": text(row % 15_000)})));
    std::fs::write(folder.join("rows.jsonl"), lines.collect::<String>()).unwrap();
    for (signal, ending) in [("-KILL", "parquet"), ("-INT", "jsonl")] {
        let [whole, out] = ["whole", "out"].map(|name| format!("{name}.{ending}"));
        let arguments = ["data", "dedup", "rows.jsonl", "--out", &out, "--max-memory", "1MB"];
        let before = std::fs::read_dir(folder).unwrap().count();
        let mut child = Command::new(env!("CARGO_BIN_EXE_danlu"))
            .args(arguments)
            .current_dir(folder)
            .stderr(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let start = Instant::now();
        let working = format!(".{out}.working.tmp-{}-", child.id());
        let is_working = || {
            let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
            names.into_iter().any(|name| name.to_string_lossy().starts_with(&working))
        };
        while !is_working() && start.elapsed() < Duration::from_secs(60) {
            std::thread::sleep(Duration::from_millis(2));
        }
        Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap();
        let status = child.wait().unwrap();
        assert!(!folder.join(&out).exists());
        if signal == "-INT" {
            assert_eq!(status.code(), Some(130));
            assert_eq!(std::fs::read_dir(folder).unwrap().count(), before, "nothing is left");
        }
        let again = dedup(folder, &arguments[2..]).json();
        assert_eq!((&again["kept"], &again["spilled"]), (&15_000.into(), &true.into()));
        let uninterrupted = dedup(folder, &["rows.jsonl", "--out", &whole]).json();
        assert_eq!(uninterrupted["spilled"], false);
        let read = |name: &str| std::fs::read(folder.join(name)).unwrap();
        assert!(read(&out) == read(&whole), "{ending}");
        assert_eq!(std::fs::read_dir(folder).unwrap().count(), before + 2);
    }
}

#[test]
fn files_of_other_encodings_and_forms_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write_rows(folder);
    dedup(folder, &["rows.jsonl", "--out", "all.parquet", "--method", "exact"]).json();
    dedup(folder, &["all.parquet", "--out", "out.parquet"]).json();
    dedup(folder, &["out.parquet", "--out", "out.jsonl"]).json();
    assert_eq!(rows(&folder.join("out.jsonl")), [json!({"text": TURNING}), json!({"text": MILLING})]);
    // 车床, 车床, 铣刀 in GBK.
    let gbk = b"text\n\xb3\xb5\xb4\xb2\n\xb3\xb5\xb4\xb2\n\xcf\xb3\xb5\xb6\n";
    std::fs::write(folder.join("gbk.csv"), gbk).unwrap();
    let ran = dedup(folder, &["gbk.csv", "--out", "gbk.jsonl"]);
    assert!(ran.stderr.contains("`gbk.csv` is not UTF-8: read as gb18030"), "{}", ran.stderr);
    assert_eq!(ran.json()["kept"], 2);
    assert_eq!(rows(&folder.join("gbk.jsonl")), [json!({"text": "车床"}), json!({"text": "铣刀"})]);
    let ran = dedup(folder, &["gbk.csv", "--out", "named.jsonl", "--encoding", "gbk"]);
    assert!(!ran.stderr.contains("UTF-8"), "{}", ran.stderr);
    dedup(folder, &["gbk.csv", "--out", "o.jsonl", "--encoding", "gb"])
        .is_refused("`--encoding`: found `gb`");
}

#[test]
fn a_full_disk_is_told_by_the_name_of_the_output() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let rows: String =
        (0..2000).map(|row| format!("{}\n", json!({"text": format!("{row} {TURNING}")}))).collect();
    std::fs::write(folder.join("rows.jsonl"), rows).unwrap();
    std::fs::create_dir(folder.join("small")).unwrap();
    let script = format!(
        "mount -t tmpfs -o size=64k none small || exit 77\n\
         '{}' data dedup rows.jsonl --out small/out.jsonl --max-memory 1kB; echo $?; ls -A small | wc -l",
        env!("CARGO_BIN_EXE_danlu")
    );
    let Some(output) = with_own_mounts(folder, &script) else { return };
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "1\n0\n", "{stderr}");
    assert!(stderr.contains("small/out.jsonl`: the disk is full"), "{stderr}");
}
