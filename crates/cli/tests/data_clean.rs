//! Cleaning a corpus from the command line.

use crate::common;

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use common::{run, shared, with_own_mounts};

fn write(folder: &Path, name: &str, text: &str) {
    let path = folder.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

fn read(folder: &Path, name: &str) -> String {
    std::fs::read_to_string(folder.join(name)).unwrap()
}

#[test]
fn a_folder_becomes_one_clean_file_and_a_report() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    write(path, "in/a.jsonl", "{\"text\": \"车\\u200b床 \", \"id\": 1}\n{\"text\": \"\"}\n");
    write(path, "in/b/c.txt", "铣刀是多刃刀具。\r\n");
    let ran = run(path, &["data", "clean", "in", "--out", "out.jsonl"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert_eq!(read(path, "out.jsonl"), "{\"text\":\"车床\",\"id\":1}\n{\"text\":\"铣刀是多刃刀具。\"}\n");
    assert!(ran.stdout.contains("out.jsonl: 2 of 3 rows kept, 1 dropped, 0 unreadable"), "{}", ran.stdout);
    assert!(ran.stdout.contains("in/a.jsonl:1: ⟦车\\u{200b}床 ⟧ → ⟦车床 ⟧"), "{}", ran.stdout);
    assert!(read(path, "out.jsonl.report.md").contains("- empty: 1 rows"));

    run(path, &["data", "clean", "in", "--out", "out.jsonl"]).is_refused("`out.jsonl` is there already");
    let again = run(path, &["data", "clean", "in", "--out", "out.jsonl", "--overwrite", "--json"]).json();
    assert_eq!(
        (&again["kept"], &again["files"], &again["changes"][1]["times"]),
        (&2.into(), &2.into(), &1.into())
    );
}

#[test]
fn options_change_the_rules_of_a_preset() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    write(path, "rows.json", "[{\"问\": \"ＡＢ  １！！\", \"答\": \"电话13812345678，致电a@b.cn 未完\"}]");
    write(path, "rules.txt", "未完$\n");
    let more = ["--columns", "问,答", "--half-width", "all", "--rules", "rules.txt", "--mask", "phone,email"];
    let more = [&more[..], &["--placeholder", "email=<邮>", "--punctuation", "repeated"]].concat();
    let ran = run(path, &[&["data", "clean", "rows.json", "--out", "out.csv", "--json"], &more[..]].concat());
    assert_eq!(ran.json()["kept"], 1);
    assert_eq!(read(path, "out.csv"), "问,答\nAB  1!,\"电话[电话],致电<邮>\"\n");
    run(path, &["data", "clean", "rows.json", "--out", "b.csv"])
        .is_refused("rows.json:1: no column has the usual name of a text, found `问`, `答`");
    run(path, &["data", "clean", "rows.json", "--out", "b.csv", "--columns", "问题"])
        .is_refused("rows.json:1: there is no column `问题` but `问`, `答`");
}

#[test]
fn one_file_of_each_folder_is_sampled_and_files_are_joined() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    for (index, name) in ["甲/1.txt", "甲/2.txt", "甲/3.txt", "乙/1.txt", "乙/2.txt"].into_iter().enumerate()
    {
        write(path, &format!("books/{name}"), &format!("第{index}本"));
    }
    let clean = |out: &str, more: &[&str]| {
        let ran = run(path, &[&["data", "clean", "books", "--preset", "none", "--out", out], more].concat());
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        read(path, out)
    };
    assert_eq!(clean("all.txt", &[]), "第3本\n第4本\n第0本\n第1本\n第2本\n");
    let drawn = clean("one.txt", &["--files-per-folder", "1", "--seed", "3"]);
    assert_eq!(drawn.lines().count(), 2);
    assert_eq!(clean("again.txt", &["--files-per-folder", "1", "--seed", "3"]), drawn);
}

#[test]
fn literary_alpaca2_clear_deleted_the_sources() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "书.txt", "第①章abc—DEF_【注】；正文*重要*○完");
    let ran =
        run(folder.path(), &["data", "clean", "书.txt", "--preset", "literary-alpaca2", "--out", "净.txt"]);
    assert!(ran.stdout.contains("- semicolons: 1 times in 1 rows"), "{}{}", ran.stdout, ran.stderr);
    assert_eq!(read(folder.path(), "净.txt"), "第章DEF注\n正文重要完\n");
    assert_eq!(read(folder.path(), "书.txt"), "第①章abc—DEF_【注】；正文*重要*○完");
}

#[test]
fn what_cannot_work_is_said_before_anything_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    write(path, "in/a.jsonl", "{\"text\": \"一\"}\n{\"text\": \n");
    write(path, "rules.txt", "a\n[b\n");
    let clean = |more: &[&str]| run(path, &[&["data", "clean"], more].concat());
    clean(&["in", "--out", "out.jsonl"]).is_refused("in/a.jsonl:2: invalid JSON");
    clean(&["in", "--out", "out.jsonl", "--rules", "rules.txt"])
        .is_refused("rules.txt:2: `[b` is no regular expression");
    clean(&["in/a.jsonl", "--out", "in/a.jsonl"]).is_refused("choose a place outside of it");
    clean(&["in", "--out", "in/out.jsonl", "--overwrite"]).is_refused("choose a place outside of it");
    clean(&["absent", "--out", "out.jsonl"]).is_refused("`absent` does not exist");
    clean(&["in", "--out", "absent/out.jsonl"]).is_refused("the folder `absent` does not exist, create it");
    clean(&["in", "--out", "out.pdf"]).is_refused("`out.pdf`: expected a name ending in");
    clean(&["in", "--out", "out.jsonl", "--min-cjk-share", "30"])
        .is_refused("expected a share from 0 to 1, found 30");
    clean(&["in", "--out", "out.jsonl", "--min-chars", "9", "--max-chars", "3"])
        .is_refused("no row could stay");
    let mut names: Vec<_> =
        std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["in", "rules.txt"]);
    let skipped = clean(&["in", "--out", "out.jsonl", "--on-bad-row", "skip"]);
    assert!(skipped.stdout.contains("- invalid JSON: 1 rows\n  - in/a.jsonl:2"), "{}", skipped.stdout);
}

/// However early or late the kill comes, the next run ends with what one run would have written.
#[cfg(unix)]
#[test]
fn a_killed_run_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let row = |number| format!("{{\"text\": \"第{number}行　磨削温度可以达到上千摄氏度！！\"}}\n");
    write(path, "rows.jsonl", &(0..10_000).map(row).collect::<String>());
    let arguments = ["data", "clean", "rows.jsonl", "--preset", "web", "--min-chars", "1", "--out"];
    for (ending, signal) in [("jsonl", "-INT"), ("parquet", "-KILL")] {
        let [whole, out] = ["whole", "out"].map(|name| format!("{name}.{ending}"));
        let ran = run(path, &[&arguments[..], &[&*whole]].concat());
        assert_eq!(ran.code, 0, "{}", ran.stderr);

        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_danlu"));
        command.current_dir(path).args(arguments).arg(&out).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let parts = path.join(format!("{out}.parts"));
        while !parts.exists() && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(2));
        }
        std::process::Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap();
        let status = child.wait().unwrap();
        assert_eq!(status.code(), (signal == "-INT").then_some(130), "{status:?}");
        assert!(!path.join(&out).exists());
        let ran = run(path, &[&arguments[..], &[&*out]].concat());
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        let bytes = |name: &str| std::fs::read(path.join(name)).unwrap();
        assert!(bytes(&out) == bytes(&whole), "{ending}");
        assert!(!parts.exists());
    }
}

#[test]
fn files_of_other_encodings_and_forms_are_cleaned() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    write(path, "rows.jsonl", "{\"text\": \"车\\u200b床 \", \"id\": 1}\n{\"text\": \"铣刀\", \"id\": 2}\n");
    let clean = |more: &[&str]| {
        let ran = run(path, &[&["data", "clean"], more].concat());
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        ran
    };
    // Into Parquet, and out of it.
    clean(&["rows.jsonl", "--out", "rows.parquet", "--preset", "none"]);
    clean(&["rows.parquet", "--out", "out.jsonl"]);
    let lines = "{\"text\":\"车床\",\"id\":1}\n{\"text\":\"铣刀\",\"id\":2}\n";
    assert_eq!(read(path, "out.jsonl"), lines);
    // 车床 in GBK.
    std::fs::write(path.join("gbk.csv"), b"text\n\xb3\xb5\xb4\xb2 \n").unwrap();
    let ran = clean(&["gbk.csv", "--out", "gbk.jsonl"]);
    assert_eq!(read(path, "gbk.jsonl"), "{\"text\":\"车床\"}\n");
    let notice = "`gbk.csv` is not UTF-8: read as gb18030";
    assert!(ran.stderr.to_lowercase().contains(&notice.to_lowercase()), "{}", ran.stderr);
    let ran = clean(&["gbk.csv", "--out", "named.jsonl", "--encoding", "gbk"]);
    assert_eq!((read(path, "named.jsonl"), ran.stderr.contains("UTF-8")), (read(path, "gbk.jsonl"), false));
    run(path, &["data", "clean", "gbk.csv", "--out", "no.jsonl", "--encoding", "gb"])
        .is_refused("found `gb`: expected the name of an encoding");
}

#[test]
fn a_full_disk_is_said_and_nothing_is_half_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let text = "磨削温度可以达到上千摄氏度。".repeat(60_000);
    write(path, "in/long.txt", &text);
    let program = env!("CARGO_BIN_EXE_danlu");
    let script = format!(
        "mkdir small && mount -t tmpfs -o size=1m none small || exit 77
         {program} data clean in --out small/out.jsonl; code=$?; ls -A small; exit $code"
    );
    let Some(output) = with_own_mounts(path, &script) else { return };
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(1), "{stdout}{stderr}");
    assert!(stderr.contains("the disk is full") && stderr.contains("out.jsonl"), "{stderr}");
    assert_eq!(stdout, "");
}

#[test]
fn real_rows_are_cleaned() {
    let Some(data) = shared() else { return };
    let folder = tempfile::tempdir().unwrap();
    let source = data.join("datasets/llama-factory").join("alpaca_zh_demo.json").display().to_string();
    let ran = run(folder.path(), &["data", "clean", &source, "--out", "out.jsonl", "--json"]);
    let report = ran.json();
    assert_eq!(report["rows"], report["kept"].as_u64().unwrap() + report["dropped"].as_u64().unwrap());
    assert!(report["kept"].as_u64().unwrap() > 900, "{report}");
}
