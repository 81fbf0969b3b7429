//! Files → records: every format, and what the messages say about damaged files.

use std::path::{Path, PathBuf};

use danlu_data::{Content, DataError, Records, Result};
use fs_err as fs;
use proptest::prelude::*;
use serde_json::{Value, json};
use tempfile::TempDir;

struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, content).unwrap();
        path
    }
}

/// Each record as its line and its fields (a document as a string), each error as its message without the folder.
fn read(path: &Path) -> Vec<Result<(u64, Value), String>> {
    let folder = format!("{}/", path.parent().unwrap().display());
    match Records::open(path) {
        Err(error) => vec![Err(error.to_string().replace(&folder, ""))],
        Ok(records) => records
            .map(|record| {
                let record = record.map_err(|error| error.to_string().replace(&folder, ""))?;
                let value = match record.content {
                    Content::Fields(fields) => Value::Object(fields),
                    Content::Text(text) => Value::String(text),
                };
                Ok((record.source.line, value))
            })
            .collect(),
    }
}

fn rows(path: &Path) -> Vec<(u64, Value)> {
    read(path).into_iter().collect::<Result<_, String>>().unwrap()
}

#[test]
fn the_content_of_a_json_file_decides_how_it_is_read() {
    let folder = Folder::new();
    let expected =
        |lines: [u64; 2]| vec![(lines[0], json!({"text": "一"})), (lines[1], json!({"text": "二\n2"}))];
    let array =
        folder.write("array.json", "\u{feff}[\r\n  {\"text\": \"一\"},\r\n  {\"text\": \"二\\n2\"}\r\n]\r\n");
    assert_eq!(rows(&array), expected([2, 3]));
    let one_line = folder.write("line.json", r#"[{"text": "一"}, {"text": "二\n2"}]"#);
    assert_eq!(rows(&one_line), expected([1, 1]));
    let stream = folder.write("stream.json", "{\n  \"text\": \"一\"\n}\n{\n  \"text\": \"二\\n2\"\n}\n");
    assert_eq!(rows(&stream), expected([1, 4]));
    let lines = "{\"text\": \"一\"}\n\n{\"text\": \"二\\n2\"}";
    for name in ["lines.json", "lines.jsonl", "lines.JSONL", "lines.txt"] {
        assert_eq!(rows(&folder.write(name, lines)), expected([1, 3]), "{name}");
    }
    assert_eq!(rows(&folder.write("array.jsonl", "[{\"text\": \"一\"}]")).len(), 1);
    assert_eq!(rows(&folder.write("one.json", "{\n\"text\": \"一\"\n}")).len(), 1);
    assert_eq!(rows(&folder.write("none.json", " [ ] ")), []);
}

#[test]
fn a_text_file_is_one_document_with_plain_line_ends() {
    let folder = Folder::new();
    let path = folder.write("book.txt", "\u{feff}第一回\r\n\r\n甄士隱\n[1] {注}\r");
    assert_eq!(rows(&path), [(1, json!("第一回\n\n甄士隱\n[1] {注}\r"))]);
    assert_eq!(rows(&folder.write("note.txt", "[注] 文")), [(1, json!("[注] 文"))]);
    assert_eq!(rows(&folder.write("brace.txt", "{注} 文")), [(1, json!("{注} 文"))]);
}

#[test]
fn csv_fields_are_text_of_any_length() {
    let folder = Folder::new();
    let long = "长".repeat(100_000);
    let csv = format!("\u{feff}prompt,answer\r\nNA,null\r\n\"a \"\"b\"\",\nc\",nan\n\"{long}\",\n1,2.50\n");
    assert_eq!(
        rows(&folder.write("rows.csv", csv)),
        [
            (2, json!({"prompt": "NA", "answer": "null"})),
            (3, json!({"prompt": "a \"b\",\nc", "answer": "nan"})),
            (5, json!({"prompt": long, "answer": ""})),
            (6, json!({"prompt": "1", "answer": "2.50"})),
        ]
    );
}

#[test]
fn a_folder_is_read_in_the_order_of_its_names() {
    let folder = Folder::new();
    for name in ["b.jsonl", "c.txt", "a.json"] {
        folder.write(name, format!("{{\"text\": \"{name}\"}}"));
    }
    folder.write("LICENSE", "MIT");
    fs::create_dir(folder.path("bb")).unwrap();
    folder.write("bb/z.csv", "text\nbb/z.csv");
    let records = Records::open(folder.0.path()).unwrap();
    assert_eq!(records.ignored(), [folder.path("LICENSE")]);
    let texts: Vec<String> = records
        .map(|record| match record.unwrap().content {
            Content::Fields(fields) => fields["text"].as_str().unwrap().to_owned(),
            Content::Text(text) => text,
        })
        .collect();
    assert_eq!(texts, ["a.json", "b.jsonl", "bb/z.csv", "c.txt"]);
}

#[test]
fn invalid_utf8_names_line_and_byte() {
    let folder = Folder::new();
    // 编 in GB18030, in files that are UTF-8 before it.
    let lines = b"{\"text\": \"\xe4\xb8\x80\"}\n{\"text\": \"\xe4\xba\x8c\"}\n{\"text\": \"\xb1\xe0\"}\n{\"text\": \"d\"}\n";
    let expected =
        "correct the row, or name the encoding of the file with `encoding`, or set `on_bad_row: skip`";
    let read_lines = read(&folder.write("rows.jsonl", lines));
    assert_eq!(read_lines.len(), 4);
    assert_eq!(read_lines[2], Err(format!("rows.jsonl:3: invalid UTF-8 at byte 11 of the line: {expected}")));
    assert_eq!(read_lines[3], Ok((4, json!({"text": "d"}))));

    let array = b"[\n{\"text\": \"\xe4\xb8\x80\xe4\xb8\x80\"},\n {\"text\":\n \"\xb1\xe0\"}, {\"text\": \"\xb1\"},\n{\"text\": \"d\"}]";
    let read_array = read(&folder.write("rows.json", array));
    assert_eq!(read_array.len(), 4);
    assert_eq!(read_array[1], Err(format!("rows.json:4: invalid UTF-8 at byte 3 of the line: {expected}")));
    assert_eq!(read_array[2], Err(format!("rows.json:4: invalid UTF-8 at byte 19 of the line: {expected}")));
    assert_eq!(read_array[3], Ok((5, json!({"text": "d"}))));

    let book = read(&folder.write("book.txt", b"ab\ncd\n\xe4\xb8\x80\xe4\xba\x8c123\n1234567890\xb1\xe0"));
    assert_eq!(book, [Err(format!("book.txt:4: invalid UTF-8 at byte 11 of the line: {expected}"))]);

    let csv = read(&folder.write("rows.csv", b"prompt,answer\n\xe4\xb8\x80,\xe4\xba\x8c\nc,d\xb1\n"));
    assert_eq!(csv[1], Err(format!("rows.csv:3: invalid UTF-8 at byte 2 of the field `answer`: {expected}")));
}

#[test]
fn a_broken_json_line_names_its_column_and_the_rest_is_read() {
    let folder = Folder::new();
    let path = folder.write("rows.jsonl", "{\"a\": 1}\n{\"a\": 1,}\n{\"a\": \n[1]\n{\"a\": 2}\n");
    assert_eq!(
        read(&path),
        [
            Ok((1, json!({"a": 1}))),
            Err("rows.jsonl:2: invalid JSON at column 9: trailing comma; expected one JSON object a line, \
                 correct the row, or set `on_bad_row: skip`"
                .to_owned()),
            Err("rows.jsonl:3: invalid JSON at column 5: EOF while parsing a value; expected one JSON object a \
                 line, correct the row, or set `on_bad_row: skip`"
                .to_owned()),
            Err("rows.jsonl:4: found a list: expected a JSON object with a field for each column, \
                 or set `on_bad_row: skip`"
                .to_owned()),
            Ok((5, json!({"a": 2}))),
        ]
    );
}

#[test]
fn a_broken_object_is_stepped_over_where_the_next_one_can_be_found() {
    let folder = Folder::new();
    let stream = "{\n  \"a\": 1\n}\n{\n  \"a\": {\n  \"b\" 2}\n}\n{\n  \"a\": 3\n}\n";
    let expected = "invalid JSON at column 7: expected `:`; expected";
    let found = read(&folder.write("stream.json", stream));
    assert_eq!(found.len(), 3);
    assert_eq!(
        found[1],
        Err(format!(
            "stream.json:6: {expected} JSON objects one after another, correct the row, or set `on_bad_row: skip`"
        ))
    );
    assert_eq!(found[2], Ok((8, json!({"a": 3}))));
}

#[test]
fn what_cannot_be_read_past_is_an_error_that_cannot_be_skipped() {
    let folder = Folder::new();
    let one_line = read(&folder.write("line.json", r#"[{"a": 1}, {"a": "b}, {"a": 3}]"#));
    assert_eq!(
        one_line[1..],
        [Err("line.json:1: invalid JSON at column 25: expected `,` or `}`; expected an array of JSON objects, \
              correct the row"
            .to_owned())]
    );
    // Where the brackets match, only the row is lost.
    let matching = read(&folder.write("matching.json", r#"[{"a": 1}, {"a": }, {"a": 3}]"#));
    assert_eq!(
        matching[1..],
        [
            Err("matching.json:1: invalid JSON at column 18: expected value; expected an array of JSON objects, \
                 correct the row, or set `on_bad_row: skip`"
                .to_owned()),
            Ok((1, json!({"a": 3}))),
        ]
    );
    let cut_off = read(&folder.write("cut.json", "[\n{\"a\": 1},\n{\"a\": 2}\n"));
    assert_eq!(
        cut_off[2],
        Err("cut.json:4: invalid JSON at column 1: the file ends inside the array; expected an array of JSON \
             objects, correct the row"
            .to_owned())
    );
    let record = Records::open(&folder.path("line.json")).unwrap().nth(1).unwrap();
    assert!(matches!(record, Err(DataError::Row { problem, .. }) if !problem.can_be_skipped()));
}

#[test]
fn csv_rows_must_fit_the_header() {
    let folder = Folder::new();
    let found = read(&folder.write("rows.csv", "prompt,answer\na,b,c\nd,e\n"));
    assert_eq!(
        found,
        [
            Err("rows.csv:2: found 3 fields: expected 2 as in the header, check the quotes and commas, \
                 or set `on_bad_row: skip`"
                .to_owned()),
            Ok((3, json!({"prompt": "d", "answer": "e"}))),
        ]
    );
    let twice = read(&folder.write("twice.csv", "text,text\na,b\n"));
    assert_eq!(
        twice,
        [Err("twice.csv:1: the header names the column `text` twice: expected each name once, rename one"
            .to_owned())]
    );
}

#[test]
fn missing_files_and_other_endings_are_named() {
    let folder = Folder::new();
    let missing = Records::open(&folder.path("gone.jsonl")).err().unwrap().to_string();
    assert!(missing.contains(&folder.path("gone.jsonl").display().to_string()), "{missing}");
    let expected = "expected a name ending in `.jsonl`, `.json`, `.csv`, `.tsv`, `.txt` (also with `.gz` or `.zst` behind \
                    it, or in a `.zip`), `.parquet`, `.arrow` or `.xlsx`";
    for (name, advice) in [
        ("book.pdf", "make text of it: `pdftotext -enc UTF-8 book.pdf FILE.txt` (poppler)"),
        ("book.docx", "make text of it: `pandoc --to plain --wrap none book.docx --output FILE.txt`"),
        ("book.doc", "make text of it: `soffice --headless --convert-to txt:Text book.doc` (LibreOffice)"),
        ("book.EPUB", "make text of it: `pandoc --to plain --wrap none book.EPUB --output FILE.txt`"),
        ("page.html", "make text of it: `pandoc --to plain --wrap none page.html --output FILE.txt`"),
        ("rows.xls", "make a workbook of it: `soffice --headless --convert-to xlsx rows.xls` (LibreOffice)"),
        ("rows.7z", "unpack it: `7z x rows.7z`"),
        (
            "rows.parquet.gz",
            "of packed files only text is read: unpack it, or name what is inside, as in `rows.jsonl.gz`",
        ),
        ("rows.dat", "convert the file to one of these"),
    ] {
        assert_eq!(read(&folder.write(name, "?")), [Err(format!("`{name}`: {expected}; {advice}"))]);
    }
    let empty = folder.path("empty");
    fs::create_dir(&empty).unwrap();
    assert_eq!(
        read(&empty),
        [Err(format!("`empty` holds no file {}", &expected["expected a name ".len()..]))]
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever the bytes are, reading ends and does not panic.
    #[test]
    fn damaged_files_are_read_to_an_end(
        pieces in prop::collection::vec(
            prop::sample::select(vec![
                &b"{"[..], b"}", b"[", b"]", b"\"", b",", b":", b"\n", b"\r\n", b" ", b"\xb1", b"\xef\xbb\xbf", b"a",
                b"{\"a\": \"b\"}", b"\n{", b"\"\\ud83d\"", b"1",
            ]),
            0..40,
        ),
        name in prop::sample::select(vec!["f.json", "f.jsonl", "f.csv", "f.txt"]),
    ) {
        let folder = Folder::new();
        let bytes = pieces.concat();
        let found = read(&folder.write(name, &bytes));
        prop_assert!(found.len() <= bytes.len() + 1);
    }

    #[test]
    fn all_json_forms_give_the_same_rows(
        texts in prop::collection::vec("[a-z{}\\[\\]\"\\\\\n，。词]{0,12}", 1..8)
    ) {
        let folder = Folder::new();
        let values: Vec<Value> = texts.iter().map(|text| json!({"text": text, "list": [text, {"a": 1}]})).collect();
        let pretty: Vec<String> = values.iter().map(|value| serde_json::to_string_pretty(value).unwrap()).collect();
        let lines: Vec<String> = values.iter().map(Value::to_string).collect();
        let array = serde_json::to_string_pretty(&Value::Array(values.clone())).unwrap();
        for (name, content) in [
            ("array.json", array),
            ("stream.json", pretty.join("\n")),
            ("lines.json", lines.join("\n")),
            ("lines.jsonl", lines.join("\r\n")),
        ] {
            let found: Vec<Value> = rows(&folder.write(name, content)).into_iter().map(|row| row.1).collect();
            prop_assert_eq!(&found, &values, "{}", name);
        }
    }
}

/// Each of them once made the reader look far ahead; all together must take no longer than their bytes do.
#[test]
fn a_json_file_of_many_bad_rows_is_read_in_linear_time() {
    let folder = Folder::new();
    let text = "切削".repeat(40);
    for (broken, rows) in [("\"b\": {\"c\": 1", 6000), ("\"b\": 1, \"c\" 2}", 6000), ("\"b\": [{}, ", 6)] {
        let row = |index: usize| match index % 2 {
            0 => format!("  {{\"a\": \"{text}\"}},\n"),
            _ => format!("  {{\"a\": \"{text}\", {broken},\n"),
        };
        let padding = format!("  {{\"a\": \"{text}\"}},\n").repeat(if rows < 10 { 10_000 } else { 0 });
        let array = format!("[\n{}{padding}  {{}}\n]\n", (0..rows).map(row).collect::<String>());
        let start = std::time::Instant::now();
        let found = read(&folder.write("rows.json", array));
        let took = start.elapsed();
        let bad = found.iter().filter(|row| row.is_err()).count();
        assert_eq!(bad, rows / 2, "{:?}", found.iter().find(|row| row.is_err()));
        assert!(took.as_secs_f64() < 4.0, "{broken}: {took:?}");
    }
}

/// `json.dump(indent=0)` writes nested objects at the margin too.
#[test]
fn a_long_row_with_objects_at_the_margin_is_read_whole() {
    let folder = Folder::new();
    let long = "切削".repeat(300_000);
    let row = |text: &str| format!("{{\n\"m\": [\n{{\n\"a\": 1\n}}\n],\n\"text\": \"{text}\"\n}}");
    let found = rows(&folder.write("rows.json", format!("[\n{},\n{}\n]\n", row(&long), row("短"))));
    let expected =
        [(2, json!({"m": [{"a": 1}], "text": long})), (10, json!({"m": [{"a": 1}], "text": "短"}))];
    assert!(found == expected, "{:?}", found.iter().map(|row| row.0).collect::<Vec<_>>());
}

#[test]
fn a_bad_row_beside_chinese_text_is_not_called_invalid_utf8() {
    let folder = Folder::new();
    // Whatever piece of the file is looked at, some of these end inside a character.
    for shift in 0..3 {
        let text = format!("{}{}", "a".repeat(shift), "切".repeat(3000));
        let array = format!("[\n{{\"a\": 0}},\n{{\"a\": \"b\", \"m\": [\n{{\"a\": \"{text}\"}}\n]\n");
        let found = read(&folder.write("rows.json", array));
        let expected = "invalid JSON at column 1: EOF while parsing a list; expected an array of JSON objects, \
                        correct the row, or set `on_bad_row: skip`";
        assert_eq!(found[1], Err(format!("rows.json:4: {expected}")));
        assert_eq!(found[2], Ok((4, json!({"a": text}))));
        let stream = format!("{{\n\"a\": 0\n}}\n{{\"a\" 1\n{{\"a\": \"{text}\"}}\n");
        let found = read(&folder.write("stream.json", stream));
        assert!(
            found[1].as_ref().is_err_and(|error| error.contains(":4: invalid JSON at column 6")),
            "{found:?}"
        );
    }
}

#[test]
fn rows_that_are_never_closed_cost_as_many_times_as_they_are_more() {
    let folder = Folder::new();
    let seconds = |rows: usize| {
        let array = format!("[\n{}", "{\"text\": \"\", \"m\": [\n".repeat(rows));
        let path = folder.write("rows.json", array);
        let start = std::time::Instant::now();
        let found = read(&path);
        assert_eq!(found.len(), rows);
        assert!(found.iter().all(Result::is_err));
        start.elapsed().as_secs_f64()
    };
    let (few, many) = (seconds(1500), seconds(6000));
    assert!(many < 9.0 * few, "{few} s, {many} s");
}
