//! Benchmarks in the layouts that they are published in.

use crate::common;

use std::io::{Cursor, Write};
use std::path::Path;

use common::{HEADER, shared, write};
use danlu_data::RecordWriter;
use danlu_eval::multiple_choice::{Benchmark, Question, Questions, Selection};
use serde_json::{Value, json};
use zip::write::SimpleFileOptions;

fn selection(benchmark: Benchmark) -> Selection {
    Selection { benchmark, ..Selection::default() }
}

fn with_shots(benchmark: Benchmark, shots: usize) -> Selection {
    Selection { benchmark, shots, ..Selection::default() }
}

fn read(path: &Path, selection: &Selection) -> Questions {
    Questions::read(path, selection).unwrap()
}

fn problem(path: &Path, selection: &Selection) -> String {
    Questions::read(path, selection).unwrap_err().to_string()
}

fn parquet(folder: &Path, name: &str, rows: &[Value]) {
    let path = folder.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mut writer = RecordWriter::create(&path).unwrap();
    for row in rows {
        writer.write(row.as_object().unwrap()).unwrap();
    }
    writer.finish().unwrap();
}

fn only(questions: &Questions) -> &Question {
    let [subject] = questions.subjects.as_slice() else { panic!("{questions:?}") };
    let [question] = subject.questions.as_slice() else { panic!("{questions:?}") };
    question
}

#[test]
fn seed_003_cmmlu_has_an_index_without_a_name_and_capitals() {
    let folder = tempfile::tempdir().unwrap();
    let rows = ",Question,A,B,C,D,Answer\n7,小麦属于,豆科,禾本科,NA,1.50,B\n";
    write(folder.path(), "test/agronomy.csv", rows);
    write(folder.path(), "dev/agronomy.csv", rows);
    let questions = read(folder.path(), &with_shots(Benchmark::Cmmlu, 1));
    let question = only(&questions);
    assert_eq!(question.options, ["豆科", "禾本科", "NA", "1.50"]);
    assert_eq!((question.id.as_deref(), question.right), (Some("7"), Some(1)));
    assert_eq!((questions.subjects[0].name.as_str(), questions.split.as_str()), ("农学", "test"));
    assert_eq!(questions.subjects[0].examples.len(), 1);
    assert_eq!((questions.missing.len(), questions.missing.contains(&"anatomy")), (66, true));
}

#[test]
fn seed_003_mmlu_is_read_with_and_without_a_header() {
    let folder = tempfile::tempdir().unwrap();
    // Two equal cells in the first row are no two columns of one name.
    let bare = "\"2 + 2, as a number, is\",4,4,\"5, or so\",NA,A\n1 + 1 is,1,2,3,4,B\n";
    let numbered = "question,choice0,choice1,choice2,choice3,answer\n1 + 1 is,1,2,3,4,1\n";
    write(folder.path(), "bare/test/us_foreign_policy_test.csv", bare);
    write(folder.path(), "numbered/test/us_foreign_policy_test.csv", numbered);
    let bare = read(&folder.path().join("bare"), &selection(Benchmark::Mmlu));
    let subject = &bare.subjects[0];
    assert_eq!((subject.questions.len(), subject.name.as_str()), (2, "us foreign policy"));
    assert_eq!(subject.questions[0].options, ["4", "4", "5, or so", "NA"]);
    // A line break of a cell is its own, one of a file with such lines is the file's.
    for (end, own) in [("\n", "I.\r\nII."), ("\r\n", "I.\nII.")] {
        let text = format!("{}\"I.\r\nII.\",1,2,3,4,1\n", numbered.replace('\n', end));
        write(folder.path(), "breaks/test/us_foreign_policy_test.csv", &text);
        let breaks = read(&folder.path().join("breaks"), &selection(Benchmark::Mmlu));
        assert_eq!(breaks.subjects[0].questions[1].question, own);
    }
    let numbered = read(&folder.path().join("numbered"), &selection(Benchmark::Mmlu));
    assert_eq!((only(&numbered).right, &only(&numbered).options), (Some(1), &subject.questions[1].options));
}

#[test]
fn seed_003_the_published_archive_is_read_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let mut archive = zip::ZipWriter::new(Cursor::new(Vec::new()));
    let row = |text: &str| format!("{HEADER}0,{text},1.50,NA,3,4,C\n");
    let withheld = "id,question,A,B,C,D\n0,没有答案,1,2,3,4\n".to_owned();
    let members =
        [("dev/law_dev.csv", row("例")), ("val/law_val.csv", row("问")), ("test/law_test.csv", withheld)];
    for (name, text) in members {
        archive.start_file(name, SimpleFileOptions::default()).unwrap();
        archive.write_all(text.as_bytes()).unwrap();
    }
    let path = folder.path().join("ceval-exam.zip");
    std::fs::write(&path, archive.finish().unwrap().into_inner()).unwrap();
    for place in [&path, folder.path()] {
        let questions = read(place, &with_shots(Benchmark::Ceval, 1));
        assert_eq!((only(&questions).question.as_str(), only(&questions).right), ("问", Some(2)));
        assert_eq!(questions.subjects[0].examples[0].question, "例");
        let withheld = Selection { split: Some("test".into()), ..with_shots(Benchmark::Ceval, 1) };
        assert_eq!(only(&read(place, &withheld)).right, None);
    }
    // Unpacked beside it, the folders count.
    write(folder.path(), "val/law_val.csv", &row("新"));
    assert_eq!(only(&read(folder.path(), &selection(Benchmark::Ceval))).question, "新");
    let test = Selection { split: Some("test".into()), ..selection(Benchmark::Ceval) };
    assert!(problem(folder.path(), &test).contains("has no questions of the split `test`"));
}

#[test]
fn seed_003_parquet_is_read_as_on_the_hub() {
    let folder = tempfile::tempdir().unwrap();
    let ceval = folder.path().join("ceval");
    let row = |text: &str, answer: &str| json!({"id": 0, "question": text, "A": "1.50", "B": "NA", "C": "3", "D": "4", "answer": answer, "explanation": "x"});
    for (split, answer) in [("dev", "A"), ("val", "B"), ("test", "")] {
        parquet(&ceval, &format!("law/{split}-00000-of-00001.parquet"), &[row(split, answer)]);
    }
    let questions = read(&ceval, &with_shots(Benchmark::Ceval, 1));
    let question = only(&questions);
    assert_eq!(
        (question.question.as_str(), question.right, question.id.as_deref()),
        ("val", Some(1), Some("0"))
    );
    assert_eq!(questions.subjects[0].examples[0].question, "dev");
    let withheld = Selection { split: Some("test".into()), ..selection(Benchmark::Ceval) };
    assert_eq!(only(&read(&ceval, &withheld)).right, None);

    // As cais/mmlu: a list of choices, the class of the answer, and all subjects once more.
    let row = |subject: &str, answer: u64| json!({"question": subject, "subject": subject, "choices": ["a", "b", "c", "d"], "answer": answer});
    let all = folder.path().join("mmlu");
    parquet(
        &all,
        "all/test-00000-of-00001.parquet",
        &[row("virology", 3), row("anatomy", 0), row("virology", 2)],
    );
    parquet(&all, "all/dev-00000-of-00001.parquet", &[row("anatomy", 1), row("virology", 1)]);
    let questions = read(&all, &with_shots(Benchmark::Mmlu, 1));
    let counts: Vec<_> =
        questions.subjects.iter().map(|subject| (subject.key.as_str(), subject.questions.len())).collect();
    assert_eq!(counts, [("anatomy", 1), ("virology", 2)]);
    assert_eq!(questions.subjects[1].questions[1].right, Some(2));
    // A subject's own file counts; the others are taken from the file of all.
    parquet(&all, "virology/test-00000-of-00001.parquet", &[row("virology", 1)]);
    let questions = read(&all, &with_shots(Benchmark::Mmlu, 1));
    let rights: Vec<_> = questions.subjects.iter().map(|subject| subject.questions[0].right).collect();
    assert_eq!((rights, questions.len()), (vec![Some(0), Some(1)], 2));

    let flat = folder.path().join("flat");
    parquet(
        &flat,
        "law_val.parquet",
        &[json!({"question": "q", "A": "1", "B": "2", "C": "3", "D": "4", "answer": "D"})],
    );
    assert_eq!(only(&read(&flat, &selection(Benchmark::Ceval))).right, Some(3));
}

#[test]
fn parts_of_a_whole_are_joined_and_two_benchmarks_are_not() {
    let row = |text: &str| json!({"question": text, "A": "1", "B": "2", "C": "3", "D": "4", "answer": "A"});
    let folder = tempfile::tempdir().unwrap();
    for (part, text) in [(0, "first"), (1, "second")] {
        parquet(folder.path(), &format!("one/law/val-0000{part}-of-00002.parquet"), &[row(text)]);
    }
    let joined = read(&folder.path().join("one"), &selection(Benchmark::Ceval));
    let texts: Vec<_> = joined.subjects[0].questions.iter().map(|question| &question.question).collect();
    assert_eq!(texts, ["first", "second"]);
    parquet(folder.path(), "two/law/val-00000-of-00001.parquet", &[row("other")]);
    let twice = problem(folder.path(), &selection(Benchmark::Ceval));
    assert!(twice.contains("two/law/val-00000-of-00001.parquet` holds `law` too"), "{twice}");

    let of = |subject: &str| json!({"question": "q", "subject": subject, "choices": ["a", "b", "c", "d"], "answer": 0});
    let folder = tempfile::tempdir().unwrap();
    parquet(folder.path(), "mmlu/all/test-00000-of-00001.parquet", &[of("virology")]);
    parquet(folder.path(), "other/anatomy/test-00000-of-00001.parquet", &[of("anatomy")]);
    let mixed = problem(folder.path(), &selection(Benchmark::Mmlu));
    assert!(mixed.contains("holds all subjects, and") && mixed.contains("is of another folder"), "{mixed}");
    parquet(folder.path(), "other/all/test-00000-of-00001.parquet", &[row("no subject")]);
    let unnamed = problem(&folder.path().join("other"), &selection(Benchmark::Mmlu));
    assert!(unnamed.contains("has rows without a column `subject`, beside files of single"), "{unnamed}");
}

fn archive(path: &Path, members: &[(&str, &[u8])]) {
    let mut archive = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (name, bytes) in members {
        archive.start_file(*name, SimpleFileOptions::default()).unwrap();
        archive.write_all(bytes).unwrap();
    }
    std::fs::write(path, archive.finish().unwrap().into_inner()).unwrap();
}

#[test]
fn archives_are_read_with_and_without_headers_or_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data.zip");
    // MMLU's own files, in its folder `data`: two equal cells in the first row are no two columns of one name.
    let bare = |text: &str| format!("\"{text}\",4,4,5,NA,A\n1 + 1 is,1,2,3,4,B\n").into_bytes();
    let (dev, test) = (bare("dev, one"), bare("test, one"));
    let named = format!("{HEADER}0,问,1,2,3,4,C\n");
    let members: [(&str, &[u8]); 5] = [
        ("data/dev/anatomy_dev.csv", &dev),
        ("data/test/anatomy_test.csv", &test),
        ("data/test/virology_test.csv", named.as_bytes()),
        ("data/auxiliary_train/arc.csv", &dev),
        ("data/possibly_contaminated_urls.txt", b"a text"),
    ];
    archive(&path, &members);
    let one = Selection { subjects: vec!["anatomy".into()], ..with_shots(Benchmark::Mmlu, 2) };
    let questions = read(&path, &one);
    assert_eq!((questions.len(), questions.subjects[0].questions[0].question.as_str()), (2, "test, one"));
    assert_eq!(questions.subjects[0].examples[0].question, "dev, one");
    let all = read(&path, &selection(Benchmark::Mmlu));
    assert_eq!((all.subjects[1].key.as_str(), all.subjects[1].questions[0].right), ("virology", Some(2)));

    archive(&path, &[&members[..], &[("other/test/anatomy_test.csv", &test)]].concat());
    let twice = problem(&path, &selection(Benchmark::Mmlu));
    assert!(twice.contains("other/test/anatomy_test.csv` holds `anatomy` too"), "{twice}");
    let table: (&str, &[u8]) = ("law/val-00000-of-00001.parquet", b"PAR1");
    for members in [vec![table], vec![table, members[1]]] {
        archive(&path, &members);
        let refused = problem(&path, &selection(Benchmark::Ceval));
        let told = "data.zip`: `law/val-00000-of-00001.parquet` is not read inside an archive: unpack it";
        assert!(refused.contains(told), "{refused}");
    }
    archive(&path, &[("readme.md", b"x")]);
    assert!(problem(&path, &selection(Benchmark::Ceval)).contains("has no file of questions"));
}

#[test]
fn one_file_of_json_lines_has_options_by_letter_or_in_a_list() {
    let folder = tempfile::tempdir().unwrap();
    let rows = [
        json!({"question": "甲", "A": "1", "B": "2", "C": "3", "D": "4", "answer": "D", "subject": "电工"}),
        json!({"question": "乙", "options": ["1", 2, 3.5, "4"], "answer": "C", "subject": "钳工"}),
        json!({"question": "丙", "choices": ["1", "2", "3", "4"], "answer": 0, "subject": "钳工"}),
        json!({"question": "丁", "options": {"A": "1", "B": "2", "C": "3", "D": "4"}, "answer": "B", "subject": "钳工"}),
    ];
    let text: String = rows.iter().map(|row| format!("{row}\n")).collect();
    let file = write(folder.path(), "own.jsonl", &text);
    let questions = read(&file, &Selection::default());
    let rights: Vec<_> = questions
        .subjects
        .iter()
        .map(|subject| (subject.key.as_str(), subject.questions.iter().map(|q| q.right.unwrap()).collect()))
        .collect();
    let expected: Vec<(&str, Vec<usize>)> = vec![("电工", vec![3]), ("钳工", vec![2, 0, 1])];
    assert_eq!(rights, expected);
    assert_eq!(questions.subjects[1].questions[0].options, ["1", "2", "3.5", "4"]);
    let chosen = Selection { subjects: vec!["电工".into()], ..Selection::default() };
    assert_eq!(read(&file, &chosen).len(), 1);
}

#[test]
fn rows_that_are_no_questions_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |row: Value| {
        let file = write(folder.path(), "bad.jsonl", &format!("{row}\n"));
        problem(&file, &Selection::default())
    };
    let three = refused(json!({"question": "q", "options": ["1", "2", "3"], "answer": "A"}));
    assert!(three.contains("bad.jsonl:1: column `options` has 3 texts: expected a list of 4"), "{three}");
    let fifth = refused(json!({"question": "q", "choices": ["1", "2", "3", "4"], "answer": 4}));
    assert!(fifth.ends_with("column `answer`: expected A, B, C or D, or 0 to 3, found `4`"), "{fifth}");
    let letter = refused(json!({"question": "q", "A": "1", "B": "2", "C": "3", "D": "4", "answer": 1}));
    assert!(letter.ends_with("column `answer`: expected A, B, C or D, found `1`"), "{letter}");
    let lacks = refused(json!({"text": "q"}));
    assert!(lacks.contains("bad.jsonl:1: the row lacks the column `question`"), "{lacks}");

    let twice = tempfile::tempdir().unwrap();
    let row = format!("{HEADER}0,问,1,2,3,4,A\n");
    write(twice.path(), "one/val/law_val.csv", &row);
    write(twice.path(), "two/val/law_val.csv", &row);
    let twice = problem(twice.path(), &selection(Benchmark::Ceval));
    assert!(twice.contains("holds `law` too") && twice.contains("name one folder"), "{twice}");

    let withheld = tempfile::tempdir().unwrap();
    write(withheld.path(), "val/law_val.csv", &row);
    write(withheld.path(), "dev/law_dev.csv", "id,question,A,B,C,D\n0,问,1,2,3,4\n");
    let withheld = problem(withheld.path(), &with_shots(Benchmark::Ceval, 1));
    assert!(withheld.contains("law_dev.csv`: has examples without answers"), "{withheld}");
}

#[test]
fn real_cmmlu_and_mmlu_are_read_whole() {
    let Some(data) = shared() else { return };
    for (name, benchmark, subjects, questions) in
        [("cmmlu", Benchmark::Cmmlu, 67, 11582), ("mmlu", Benchmark::Mmlu, 57, 14042)]
    {
        let all = read(&data.join("benchmarks").join(name), &with_shots(benchmark, 5));
        assert_eq!((all.subjects.len(), all.len(), all.missing.len()), (subjects, questions, 0));
        assert!(all.subjects.iter().all(|subject| subject.examples.len() == 5));
        assert!(
            all.subjects
                .iter()
                .flat_map(|subject| &subject.questions)
                .all(|question| question.right.is_some())
        );
        assert!(all.subjects.iter().all(|subject| benchmark.group(&subject.key).is_some()));
    }
}
