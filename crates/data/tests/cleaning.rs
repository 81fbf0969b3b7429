//! Cleaning of whole corpora: what is written, what is reported, and that a run which ended early goes on.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use danlu_data::cleaning::{
    Cleaner, CleaningJob, CleaningOptions, CleaningReport, PersonalData, Preset, Progress, Whitespace,
    clean_files, list_files, parts_folder,
};
use danlu_data::{Content, DataError, OnBadRow, ReadOptions, Records};
use fs_err as fs;

use crate::common::Folder;

fn job<'a>(files: &[&str], output: &'a Path, options: CleaningOptions) -> CleaningJob<'a> {
    CleaningJob {
        files: files.iter().map(PathBuf::from).collect(),
        reading: ReadOptions::default(),
        output,
        cleaner: Cleaner::new(options).unwrap(),
        on_bad_row: OnBadRow::Error,
        samples: 2,
        threads: 2,
    }
}

fn clean(files: &[&str], output: &Path, options: CleaningOptions) -> Result<CleaningReport, DataError> {
    clean_files(job(files, output, options), &mut |_| ControlFlow::Continue(()))
}

#[test]
fn safe_cleaning_leaves_everything_but_the_texts() {
    let folder = Folder::new();
    let rows = folder.write(
        "rows.jsonl",
        "{\"id\": 7, \"text\": \"车\\u200b床 \\r\\nＡ！！\", \"tags\": [\" a \"]}\n{\"text\": \" \", \"id\": 8}\n\
         {\"messages\": [{\"role\": \"user \", \"content\": \"铣 \"}, {\"role\": \"assistant\", \"content\": \"好\"}]}\n",
    );
    let output = folder.path("out.jsonl");
    let report = clean(&[&rows], &output, Preset::Safe.options()).unwrap();
    assert_eq!(
        fs::read_to_string(&output).unwrap(),
        "{\"id\":7,\"text\":\"车床\\nＡ！！\",\"tags\":[\" a \"]}\n\
         {\"messages\":[{\"role\":\"user \",\"content\":\"铣\"},{\"role\":\"assistant\",\"content\":\"好\"}]}\n"
    );
    assert_eq!((report.rows, report.kept, report.dropped), (3, 2, 1));
    let counted: Vec<_> = report
        .changes
        .iter()
        .map(|rule| (&*rule.rule, rule.rows, rule.times, rule.characters_removed))
        .collect();
    assert_eq!(counted, [("line ends", 1, 1, 1), ("invisible characters", 1, 1, 1), ("space", 3, 3, 3)]);
    assert_eq!(report.changes[1].samples[0].before, r"车\u{200b}床 \nＡ！！");
    assert_eq!(report.changes[1].samples[0].after, r"车床 \nＡ！！");
    assert!(report.changes[1].samples[0].source.ends_with("rows.jsonl:1"));
    assert_eq!((&*report.drops[0].rule, report.drops[0].rows), ("empty", 1));
    let told = fs::read_to_string(folder.path("out.jsonl.report.md")).unwrap();
    assert!(told.contains("2 of 3 rows kept") && told.contains("rows.jsonl:1: ⟦车"), "{told}");
    assert!(!parts_folder(&output).exists());
}

#[test]
fn without_rules_texts_are_brought_together_as_they_are() {
    let folder = Folder::new();
    fs::create_dir_all(folder.path("books/下")).unwrap();
    folder.write("books/一.txt", "第一行 \n第二行");
    folder.write("books/下/二.txt", "又一本\n");
    let files = list_files(&[folder.path("books")], None).unwrap().files;
    let files: Vec<&str> = files.iter().map(|file| file.to_str().unwrap()).collect();
    let output = folder.path("all.txt");
    let report = clean(&files, &output, Preset::None.options()).unwrap();
    assert_eq!(fs::read_to_string(&output).unwrap(), "第一行 \n第二行\n又一本\n\n");
    assert!(report.changes.is_empty() && report.drops.is_empty());
    // The same as rows.
    let output = folder.path("all.json");
    clean(&files, &output, Preset::None.options()).unwrap();
    let rows: serde_json::Value = serde_json::from_slice(&fs::read(&output).unwrap()).unwrap();
    assert_eq!(rows, serde_json::json!([{"text": "第一行 \n第二行"}, {"text": "又一本\n"}]));
}

#[test]
fn presets_do_what_the_older_projects_did() {
    let folder = Folder::new();
    let book = folder.write("book.txt", "第①章abc—DEF_【注】；正文*重要*○完");
    let output = folder.path("book.clean.txt");
    let report = clean(&[&book], &output, Preset::LiteraryAlpaca2.options()).unwrap();
    assert_eq!(fs::read_to_string(&output).unwrap(), "第章DEF注\n正文重要完\n");
    assert_eq!(fs::read_to_string(&book).unwrap(), "第①章abc—DEF_【注】；正文*重要*○完");
    assert_eq!((&*report.changes[0].rule, report.changes[0].times), ("literary-alpaca2:1 `[a-z]`", 3));

    let rows = folder.write(
        "wiki.jsonl",
        "{\"completion\": \"classes  你好！！！世界，一共十五个字还多\", \"id\": 1}\n{\"completion\": \"太短\"}\n",
    );
    let output = folder.path("wiki.csv");
    let report = clean(&[&rows], &output, Preset::BabyLlama2.options()).unwrap();
    assert_eq!(
        fs::read_to_string(&output).unwrap(),
        "response\n\"classes，你好！世界，一共十五个字还多\"\n".replace('"', "")
    );
    assert_eq!((report.kept, report.drops[0].samples[0].found.as_str()), (1, "2 characters"));
}

#[test]
fn seed_000_parquet_in_and_out() {
    let folder = Folder::new();
    // 15 characters stay, 14 go, and what is counted is what is left of a text.
    let rows: String =
        [15, 14, 16].map(|count| format!("{{\"completion\": \"{}\"}}\n", "车".repeat(count))).concat();
    let rows = folder.write("wiki.jsonl", rows + "{\"completion\": \"！！！！！！！！！！！！！！！！\"}\n");
    let output = folder.path("wiki.parquet");
    let report = clean(&[&rows], &output, Preset::BabyLlama2.options()).unwrap();
    assert_eq!((report.rows, report.kept), (4, 2));
    let written = |path: &Path| -> Vec<serde_json::Value> {
        let rows = Records::open(path).unwrap();
        rows.map(|row| match row.unwrap().content {
            Content::Fields(fields) => fields.into(),
            Content::Text(text) => text.into(),
        })
        .collect()
    };
    let expected = [15, 16].map(|count| serde_json::json!({"response": "车".repeat(count)}));
    assert_eq!(written(&output), expected);
    // Parquet in, parquet out.
    let again = folder.path("again.parquet");
    clean(&[output.to_str().unwrap()], &again, Preset::BabyLlama2.options()).unwrap();
    assert_eq!(written(&again), expected);
}

#[test]
fn lines_of_many_rows_and_personal_data_go() {
    let folder = Folder::new();
    let rows: String = (0..30)
        .map(|number| {
            format!(
                "{{\"text\": \"首页 | 登录\\n正文第{number}篇，电话13812345678，邮箱a@b.cn\\n版权所有\"}}\n"
            )
        })
        .collect();
    let rows = folder.write("pages.jsonl", rows);
    let output = folder.path("out.jsonl");
    let options = CleaningOptions {
        max_line_rows: Some(29),
        mask: vec![PersonalData::Email, PersonalData::Phone],
        placeholders: [(PersonalData::Email, "<mail>".to_owned())].into(),
        ..CleaningOptions::default()
    };
    let report = clean(&[&rows], &output, options).unwrap();
    let first = fs::read_to_string(&output).unwrap().lines().next().unwrap().to_owned();
    assert_eq!(first, "{\"text\":\"正文第0篇，电话[电话]，邮箱<mail>\"}");
    let times: Vec<_> = report.changes.iter().map(|rule| (&*rule.rule, rule.times)).collect();
    assert_eq!(times, [("boilerplate lines", 60), ("phone", 30), ("email", 30)]);
}

#[test]
fn rows_are_dropped_by_what_is_measured() {
    let folder = Folder::new();
    let words = folder.write("words.txt", "赌博\n");
    let repeated = "点击这里".repeat(30);
    let texts = [
        "english only, no Chinese at all here",
        "短",
        &repeated,
        "上赌博网站看看这里有什么好玩的东西",
        "工件装夹的第一条原则是定位可靠。",
    ];
    let rows: String = texts.iter().map(|text| format!("{{\"text\": \"{text}\"}}\n")).collect();
    let rows = folder.write("rows.jsonl", rows);
    let options = CleaningOptions {
        min_chars: Some(5),
        max_chars: Some(200),
        min_cjk_share: Some(0.5),
        max_top_ngram_share: Some(0.3),
        blocklist: Some(words.into()),
        ..CleaningOptions::default()
    };
    let report = clean(&[&rows], &folder.path("out.jsonl"), options).unwrap();
    let drops: Vec<_> = report.drops.iter().map(|rule| (&*rule.rule, rule.rows)).collect();
    assert_eq!(
        drops,
        [
            ("blocklist", 1),
            ("min-chars", 1),
            ("max-chars", 0),
            ("min-cjk-share", 1),
            ("max-top-ngram-share", 1)
        ]
    );
    assert_eq!(report.kept, 1);
}

/// Rows that need several batches.
fn many_rows(folder: &Folder) -> Vec<String> {
    (0..2)
        .map(|file| {
            let row = |number| format!("{{\"text\": \"第{file}-{number}行！！ \"}}\n");
            folder.write(&format!("{file}.jsonl"), (0..9000).map(row).collect::<String>())
        })
        .collect()
}

#[test]
fn a_run_that_ended_early_goes_on_to_the_same_result() {
    let folder = Folder::new();
    let files = many_rows(&folder);
    let files: Vec<&str> = files.iter().map(String::as_str).collect();
    let options = || CleaningOptions { max_line_rows: Some(5), ..Preset::CorpusZh.options() };
    let options = || CleaningOptions { min_chars: Some(8), ..options() };
    let whole = folder.path("whole.jsonl");
    let report = clean(&files, &whole, options()).unwrap();
    assert_eq!(report.rows, 18000);

    let output = folder.path("out.jsonl");
    for stop_after in 1..3 {
        let mut batches = 0;
        let stopped = clean_files(job(&files, &output, options()), &mut |progress| match progress {
            Progress::Cleaning(_) => {
                batches += 1;
                if batches < stop_after { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            }
            _ => ControlFlow::Continue(()),
        });
        assert!(matches!(stopped, Err(DataError::Cancelled)), "{stopped:?}");
        assert!(!output.exists() && parts_folder(&output).exists());
    }
    let mut resumed = None;
    let again = clean_files(job(&files, &output, options()), &mut |progress| {
        if let Progress::Resumed { rows } = progress {
            resumed = Some(rows);
        }
        ControlFlow::Continue(())
    });
    assert_eq!(again.unwrap(), report);
    assert!(resumed > Some(8192), "{resumed:?}");
    assert_eq!(fs::read(&output).unwrap(), fs::read(&whole).unwrap());
    assert!(!parts_folder(&output).exists());
}

#[test]
fn what_a_former_run_left_of_other_sources_is_not_used() {
    let folder = Folder::new();
    let files = many_rows(&folder);
    let files: Vec<&str> = files.iter().map(String::as_str).collect();
    let output = folder.path("out.jsonl");
    let stop = &mut |progress| match progress {
        Progress::Cleaning(_) => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    };
    clean_files(job(&files, &output, Preset::Safe.options()), stop).unwrap_err();
    folder.write("0.jsonl", "{\"text\": \"changed\"}\n");
    let mut events = Vec::new();
    let report = clean_files(job(&files, &output, Preset::Safe.options()), &mut |progress| {
        events.push(progress);
        ControlFlow::Continue(())
    });
    assert_eq!((events[0], report.unwrap().rows), (Progress::StartedOver, 9001));
    assert!(fs::read_to_string(&output).unwrap().starts_with("{\"text\":\"changed\"}\n"));
}

#[test]
fn bad_rows_are_told_and_leave_nothing_half_written() {
    let folder = Folder::new();
    let rows = folder
        .write("rows.jsonl", "{\"text\": \"一\"}\n{\"text\": \n{\"body\": \"二\"}\n{\"text\": \"三\"}\n");
    let output = folder.path("out.jsonl");
    let message = clean(&[&rows], &output, Preset::Safe.options()).unwrap_err().to_string();
    assert!(message.contains("rows.jsonl:2: invalid JSON"), "{message}");
    assert!(!output.exists() && !parts_folder(&output).exists());

    let skipping =
        CleaningJob { on_bad_row: OnBadRow::Skip, ..job(&[&rows], &output, Preset::Safe.options()) };
    let report = clean_files(skipping, &mut |_| ControlFlow::Continue(())).unwrap();
    assert_eq!((report.rows, report.kept, report.bad_rows.values().sum::<u64>()), (4, 2, 2));
    assert!(report.bad_row_samples[1].contains("rows.jsonl:3: the row has the columns `body`"));
    assert!(report.to_string().contains("- invalid JSON: 1 rows"), "{report}");
}

#[test]
fn a_rule_that_never_ends_is_a_bad_row() {
    let folder = Folder::new();
    let rules = folder.write("rules.txt", "(a|a)*(?=b)c\n");
    let rows = folder.write("rows.jsonl", format!("{{\"text\": \"{}\"}}\n", "a".repeat(40)));
    let options = CleaningOptions {
        rules: Some(danlu_data::cleaning::RuleSource::File(rules.into())),
        whitespace: Whitespace::Keep,
        ..CleaningOptions::default()
    };
    let message = clean(&[&rows], &folder.path("out.jsonl"), options).unwrap_err().to_string();
    assert!(message.contains("rows.jsonl:1: the rule rules.txt:1 `(a|a)*(?=b)c`"), "{message}");
}
