//! Every kind of data file through the program: the same samples, whatever the file.

use crate::common;

use std::io::Write;
use std::path::Path;

use common::{Ran, run, with_model};
use danlu_data::RecordWriter;
use serde_json::{Value, json};

/// Rows that are known to the vocabulary of the tests.
fn rows() -> Vec<Value> {
    vec![
        json!({"prompt": "车削是什么？", "answer": "在车床上加工。"}),
        json!({"prompt": "铣刀", "answer": "多刃刀具，\n每个刀齿"}),
    ]
}

fn write(path: &Path) {
    let mut writer = RecordWriter::create(path).unwrap();
    rows().iter().for_each(|row| writer.write(row.as_object().unwrap()).unwrap());
    writer.finish().unwrap();
}

fn inspect(folder: &Path, more: &[&str]) -> Ran {
    run(folder, &[&["data", "inspect", "--json", "--model", "model"], more].concat())
}

fn ids(ran: &Ran) -> Vec<Value> {
    ran.json()["samples"].as_array().unwrap().iter().map(|sample| sample["ids"].clone()).collect()
}

#[test]
fn every_kind_of_file_gives_the_same_samples() {
    let folder = with_model();
    let path = folder.path();
    write(&path.join("rows.json"));
    let expected = ids(&inspect(path, &["rows.json"]));
    assert_eq!(expected.len(), 2);
    for name in ["rows.jsonl.gz", "rows.csv.zst", "rows.csv", "rows.parquet"] {
        write(&path.join(name));
        let found = inspect(path, &[name]);
        assert_eq!(ids(&found), expected, "{name}");
        let place = if name == "rows.parquet" { "rows.parquet:row 1" } else { name };
        let source = found.json()["samples"][0]["source"].as_str().unwrap().to_owned();
        assert!(source.starts_with(place), "{source}");
    }
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../data/tests/golden/tables/workbook.xlsx");
    std::fs::copy(golden, path.join("book.xlsx")).unwrap();
    let book = inspect(path, &["book.xlsx"]);
    assert_eq!(book.json()["report"]["rows"], 3);
    assert!(book.stdout.contains("of `book.xlsx` the sheet `问答` is read"), "{}", book.stdout);
    let sheet = inspect(path, &["book.xlsx#second"]);
    assert_eq!(sheet.json()["samples"][0]["source"], "book.xlsx#second:row 2");
    // A folder of them, with what only accompanies data.
    std::fs::create_dir(path.join("all")).unwrap();
    write(&path.join("all/a.parquet"));
    write(&path.join("all/b.jsonl.gz"));
    std::fs::write(path.join("all/LICENSE"), "MIT").unwrap();
    let all = inspect(path, &["all"]);
    assert_eq!(all.json()["report"]["rows"], 4);
    assert!(all.stdout.contains("not read because of its name: `all/LICENSE`"), "{}", all.stdout);
}

/// Files as Windows in China writes them (LLaMA-Factory and transformers stop with `UnicodeDecodeError`).
#[test]
fn gbk_files_are_read_and_told() {
    let folder = with_model();
    let path = folder.path();
    write(&path.join("rows.csv"));
    let expected = ids(&inspect(path, &["rows.csv"]));
    // The rows above in GBK.
    let lines: [&[u8]; 4] = [
        b"prompt,answer\r\n",
        b"\xb3\xb5\xcf\xf7\xca\xc7\xca\xb2\xc3\xb4\xa3\xbf,\xd4\xda\xb3\xb5\xb4\xb2\xc9\xcf\xbc\xd3\xb9\xa4\xa1\xa3\r\n",
        b"\xcf\xb3\xb5\xb6,\"\xb6\xe0\xc8\xd0\xb5\xb6\xbe\xdf\xa3\xac\n",
        b"\xc3\xbf\xb8\xf6\xb5\xb6\xb3\xdd\"\r\n",
    ];
    std::fs::write(path.join("gbk.csv"), lines.concat()).unwrap();
    let found = inspect(path, &["gbk.csv"]);
    assert_eq!(ids(&found), expected);
    assert!(found.stdout.contains("`gbk.csv` is not UTF-8: read as gb18030"), "{}", found.stdout);
    let named = inspect(path, &["gbk.csv", "encoding=gbk"]);
    assert_eq!(ids(&named), expected);
    inspect(path, &["gbk.csv", "encoding=utf-8"]).is_refused("gbk.csv:2: invalid UTF-8");
    inspect(path, &["gbk.csv", "encoding=klingon"]).is_refused("expected the name of an encoding");
}

#[test]
fn vocabularies_and_token_files_are_made_of_every_file() {
    let folder = with_model();
    let path = folder.path();
    std::fs::write(path.join("book.txt"), format!("{}\n\n{}", common::TEXT, common::TEXT)).unwrap();
    let mut writer = RecordWriter::create(&path.join("rows.parquet")).unwrap();
    for line in common::TEXT.lines() {
        writer.write(json!({"text": line}).as_object().unwrap()).unwrap();
    }
    writer.finish().unwrap();
    std::fs::create_dir(path.join("corpus")).unwrap();
    std::fs::File::create(path.join("corpus/README.md")).unwrap().write_all(b"about").unwrap();
    std::fs::rename(path.join("book.txt"), path.join("corpus/book.txt")).unwrap();
    let train =
        ["tokenizer", "train", "corpus", "rows.parquet", "--out", "v", "--vocab-size", "300", "--json"];
    let trained = run(path, &train);
    assert_eq!(trained.json()["vocabulary_size"], 300);
    assert!(
        trained.stderr.contains("not read because of its name: `corpus/README.md`"),
        "{}",
        trained.stderr
    );
    let documents = |more: &[&str]| {
        let fixed =
            ["tokenizer", "encode", "--json", "--tokenizer", "v", "--input", "corpus", "rows.parquet"];
        run(path, &[&fixed[..], more].concat()).json()["documents"].clone()
    };
    assert_eq!(documents(&["--out", "files"]), 3);
    assert_eq!(documents(&["--out", "paragraphs", "--text-unit", "paragraph"]), 4);
    assert_eq!(documents(&["--out", "lines", "--text-unit", "line"]), 6);
}

#[test]
fn what_is_not_read_names_its_converter() {
    let folder = with_model();
    for (name, command) in [("book.pdf", "pdftotext -enc UTF-8"), ("book.docx", "pandoc --to plain")] {
        std::fs::write(folder.path().join(name), "?").unwrap();
        inspect(folder.path(), &[name]).is_refused(command);
    }
    std::fs::write(folder.path().join("rows.parquet"), "PAR1 and nothing more PAR1").unwrap();
    inspect(folder.path(), &["rows.parquet"])
        .is_refused("`rows.parquet` is no Parquet file that can be read");
}
