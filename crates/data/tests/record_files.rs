//! Every kind of file, encoding and packing → the same rows; files that are damaged, or change while they are read.

use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};

use danlu_data::{Content, ReadOptions, Record, Records, TextUnit};
use fs_err as fs;
use proptest::prelude::*;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use zip::write::SimpleFileOptions;

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/tables");
const SHARED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/data");

fn golden(name: &str) -> PathBuf {
    Path::new(GOLDEN).join(name)
}

struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.path().join(name);
        fs::write(&path, content).unwrap();
        path
    }
}

fn value(content: Content) -> Value {
    match content {
        Content::Fields(fields) => Value::Object(fields),
        Content::Text(text) => Value::String(text),
    }
}

/// A row's place and value, or the message without the folder.
type Row = Result<(String, Value), String>;

/// The rows and the notices.
fn read_with(path: &Path, options: &ReadOptions) -> (Vec<Row>, Vec<String>) {
    let folder = format!("{}/", path.parent().unwrap().display());
    let plain = |text: String| text.replace(&folder, "");
    let mut records = match Records::open_with(path, options) {
        Ok(records) => records,
        Err(error) => return (vec![Err(plain(error.to_string()))], Vec::new()),
    };
    let row = |Record { content, source }| (plain(source.to_string()), value(content));
    let rows =
        records.by_ref().map(|record| record.map(row).map_err(|error| plain(error.to_string()))).collect();
    (rows, records.take_notices().into_iter().map(plain).collect())
}

fn read(path: &Path) -> Vec<Row> {
    read_with(path, &ReadOptions::default()).0
}

fn values(path: &Path) -> Vec<Value> {
    read(path).into_iter().map(|row| row.unwrap().1).collect()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zip(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (name, bytes) in members {
        archive.start_file(*name, SimpleFileOptions::default()).unwrap();
        archive.write_all(bytes).unwrap();
    }
    archive.finish().unwrap().into_inner()
}

#[test]
fn parquet_and_arrow_of_every_writer_give_the_same_rows() {
    let expected: Vec<Value> = serde_json::from_slice(&fs::read(golden("nested.json")).unwrap()).unwrap();
    for name in
        ["gzip.parquet", "snappy.parquet", "zstd.parquet", "plain.parquet", "stream.arrow", "file.arrow"]
    {
        let rows = read(&golden(&format!("nested-{name}")));
        let expected = if name.ends_with(".arrow") { &expected[..60] } else { &expected[..] };
        assert_eq!(rows.len(), expected.len(), "{name}");
        for (number, (row, expected)) in rows.into_iter().zip(expected).enumerate() {
            let (place, row) = row.unwrap();
            assert_eq!(place, format!("nested-{name}:row {}", number + 1));
            assert_eq!(row, *expected, "{place}");
        }
    }
    let rows = values(&golden("fastparquet.parquet"));
    assert_eq!((rows.len(), &rows[49]), (50, &json!({"response": "第49条"})));
}

#[test]
fn a_workbook_is_read_as_text() {
    let rows = |path: PathBuf| read_with(&path, &ReadOptions::default());
    let (found, notices) = rows(golden("workbook.xlsx"));
    let row = |question: &str, answer: &str, date: &str, is_good: &str| json!({"question": question, "answer": answer, "date": date, "is_good": is_good});
    assert_eq!(
        found,
        [
            Ok(("workbook.xlsx:row 3".to_owned(), row("1+1=?", "2", "2024-02-29", "true"))),
            Ok(("workbook.xlsx:row 5".to_owned(), row("NA", "2.5", "2024-02-29 12:30:01", "false"))),
            Ok(("workbook.xlsx:row 6".to_owned(), row("多行\n文字", "null", "", ""))),
        ]
    );
    assert_eq!(
        notices,
        [
            "of `workbook.xlsx` the sheet `问答` is read; name another one behind `#`, as in `workbook.xlsx#second`"
        ]
    );
    let (found, notices) = rows(golden("workbook.xlsx#second"));
    assert_eq!(found, [Ok(("workbook.xlsx#second:row 2".to_owned(), json!({"text": "二"})))]);
    assert!(notices.is_empty(), "{notices:?}");
    let (found, _) = rows(golden("workbook.xlsx#third"));
    assert_eq!(
        found,
        [Err("`workbook.xlsx` has no sheet `third`: expected one of `问答`, `second`".to_owned())]
    );
}

/// What pandas reads in the real tables: one has fields over 128 KiB with line breaks (`csv.field_size_limit` of Python).
#[test]
fn real_tables_are_read_as_pandas_reads_them() {
    let folder = Path::new(SHARED).join("datasets/sft-zh");
    if !folder.exists() {
        println!("skipped: ../shared/data is not there");
        return;
    }
    let real: Value = serde_json::from_slice(&fs::read(golden("real.json")).unwrap()).unwrap();
    for (name, expected) in real.as_object().unwrap() {
        let (mut hash, mut longest) = (Sha256::new(), 0);
        let rows = values(&folder.join(name));
        for row in &rows {
            hash.update(format!("{row}\n"));
            let lengths = row.as_object().unwrap().values().map(|text| text.as_str().unwrap().len());
            longest = longest.max(lengths.max().unwrap());
        }
        let sha256: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        let found = json!({"rows": rows.len(), "sha256": sha256, "longest_field": longest});
        assert_eq!(found, *expected, "{name}");
    }
}

#[test]
fn packed_files_give_the_rows_of_what_is_inside() {
    let folder = Folder::new();
    let lines = "{\"text\": \"一\"}\n{\"text\": \"二\"}\n";
    let expected = vec![json!({"text": "一"}), json!({"text": "二"})];
    assert_eq!(values(&folder.write("rows.jsonl.gz", gzip(lines.as_bytes()))), expected);
    assert_eq!(
        values(&folder.write("rows.json.zst", zstd::encode_all(lines.as_bytes(), 3).unwrap())),
        expected
    );
    assert_eq!(values(&folder.write("rows.csv.GZ", gzip("text\n一\n二\n".as_bytes()))), expected);
    // As `cat a.gz b.gz` and pigz write them.
    let (first, second) = lines.split_at(20);
    let members = [gzip(first.as_bytes()), gzip(second.as_bytes())].concat();
    assert_eq!(values(&folder.write("members.jsonl.gz", members)), expected);
    let frames = [first, second].map(|part| zstd::encode_all(part.as_bytes(), 1).unwrap()).concat();
    assert_eq!(values(&folder.write("frames.jsonl.zst", frames)), expected);

    let archive = zip(&[
        ("b/second.txt", "文".as_bytes()),
        ("a/first.jsonl.gz", &gzip(lines.as_bytes())),
        ("README.md", b"about"),
        ("__MACOSX/a/._first.jsonl", b"\0\x05\x16\x07"),
        ("table.parquet", b"PAR1"),
    ]);
    let (rows, notices) = read_with(&folder.write("all.zip", archive), &ReadOptions::default());
    assert_eq!(
        rows,
        [
            Ok(("all.zip/a/first.jsonl.gz:1".to_owned(), expected[0].clone())),
            Ok(("all.zip/a/first.jsonl.gz:2".to_owned(), expected[1].clone())),
            Ok(("all.zip/b/second.txt:1".to_owned(), json!("文"))),
        ]
    );
    assert_eq!(
        notices,
        [
            "not read because of their names: `README.md`, `__MACOSX/a/._first.jsonl`, `table.parquet` in `all.zip`"
        ]
    );
}

#[test]
fn packed_files_that_are_cut_off_are_errors() {
    let folder = Folder::new();
    let lines: String = (0..500).map(|row| format!("{{\"text\": \"{}\"}}\n", row * 7919 % 1000)).collect();
    let packed = [
        ("rows.jsonl.gz", gzip(lines.as_bytes()), "cannot be unpacked"),
        ("rows.jsonl.zst", zstd::encode_all(lines.as_bytes(), 3).unwrap(), "cannot be unpacked"),
        ("rows.zip", zip(&[("rows.jsonl", lines.as_bytes())]), "is no zip archive that can be read"),
    ];
    for (name, bytes, expected) in packed {
        let found = read(&folder.write(name, &bytes[..bytes.len() - 5]));
        let message = found.last().unwrap().as_ref().unwrap_err();
        assert!(message.contains(name) && message.contains(expected), "{message}");
    }
    // A byte of the content is another: the checksum tells.
    let mut stored = zip::ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    stored.start_file("rows.txt", options).unwrap();
    stored.write_all(b"some text").unwrap();
    let mut bytes = stored.finish().unwrap().into_inner();
    let at = bytes.windows(4).position(|window| window == b"text").unwrap();
    bytes[at] = b'T';
    let found = read(&folder.write("stored.zip", bytes));
    assert_eq!(
        found,
        [Err("`stored.zip/rows.txt` cannot be unpacked (its checksum or length is another): it is damaged or cut off"
            .to_owned())]
    );
}

#[test]
fn chinese_encodings_are_found_and_told_once() {
    let folder = Folder::new();
    let simplified = "春眠不觉晓，处处闻啼鸟。\n夜来风雨声，花落知多少。\n";
    let traditional = "話說天下大勢，分久必合，合久必分。\n春眠不覺曉，處處聞啼鳥。\n";
    let encode = |encoding: &'static encoding_rs::Encoding, text: &str| encoding.encode(text).0.into_owned();
    let utf_16 = |text: &str, is_big: bool| -> Vec<u8> {
        let bytes = |unit: u16| if is_big { unit.to_be_bytes() } else { unit.to_le_bytes() };
        text.encode_utf16().flat_map(bytes).collect()
    };
    let marked = |text: &str| format!("\u{feff}{text}");
    let rare = format!("{simplified}𠮷㐀\n");
    let ascii = format!("{}{simplified}", "plain\n".repeat(100_000));
    let cases = [
        ("gbk", encode(encoding_rs::GBK, simplified), simplified, "gb18030"),
        ("rare", encode(encoding_rs::GB18030, &rare), &rare, "gb18030"),
        ("late", encode(encoding_rs::GBK, &ascii), &ascii, "gb18030"),
        ("big5", encode(encoding_rs::BIG5, traditional), traditional, "Big5"),
        ("le", utf_16(&marked(simplified), false), simplified, "UTF-16LE"),
        ("be", utf_16(&marked(traditional), true), traditional, "UTF-16BE"),
        ("bare", utf_16("name,answer\n1,文\n", false), "name,answer\n1,文\n", "UTF-16LE"),
        ("mark", marked(simplified).into_bytes(), simplified, ""),
        ("utf8", simplified.as_bytes().to_vec(), simplified, ""),
        ("damaged-not", b"caf\xe9 noir".to_vec(), "", ""),
    ];
    for (name, bytes, expected, encoding) in cases {
        let file = format!("{name}.txt");
        let (rows, notices) = read_with(&folder.write(&file, bytes), &ReadOptions::default());
        if expected.is_empty() {
            let message = rows[0].as_ref().unwrap_err();
            assert!(message.contains("invalid UTF-8 at byte 4 of the line"), "{message}");
        } else {
            assert_eq!(rows, [Ok((format!("{file}:1"), json!(expected)))]);
        }
        let expected = match encoding {
            "" => Vec::new(),
            _ => vec![format!(
                "`{file}` is not UTF-8: read as {encoding}; name another encoding with `encoding` if the text looks wrong"
            )],
        };
        assert_eq!(notices, expected, "{name}");
    }
    // Rows of other forms, packed too.
    let csv = encode(encoding_rs::GBK, "问题,答案\n进给量是什么？,刀具每转的移动量。\n");
    let expected = [json!({"问题": "进给量是什么？", "答案": "刀具每转的移动量。"})];
    assert_eq!(values(&folder.write("rows.csv", &csv)), expected);
    assert_eq!(values(&folder.write("rows.csv.gz", gzip(&csv))), expected);
    let json = encode(encoding_rs::GBK, &format!("[{}]", expected[0]));
    assert_eq!(values(&folder.write("rows.json", json)), expected);
}

/// A short Korean or Japanese file reads as Chinese bytes too: only its user knows, and says so.
#[test]
fn an_encoding_can_be_named() {
    let folder = Folder::new();
    let text = "日本語のテキスト";
    let path = folder.write("sjis.txt", encoding_rs::SHIFT_JIS.encode(text).0);
    let options = |label: &str| ReadOptions { encoding: Some(label.to_owned()), ..ReadOptions::default() };
    let (rows, notices) = read_with(&path, &options("Shift_JIS"));
    assert_eq!((rows, notices), (vec![Ok(("sjis.txt:1".to_owned(), json!(text)))], Vec::new()));
    let (rows, _) = read_with(&path, &options("klingon"));
    let message = rows[0].as_ref().unwrap_err();
    assert!(
        message.starts_with("`encoding`: found `klingon`: expected the name of an encoding"),
        "{message}"
    );
}

#[test]
fn undecodable_bytes_name_line_and_byte_of_the_file() {
    let folder = Folder::new();
    let gbk = |text: &str| encoding_rs::GBK.encode(text).0.into_owned();
    let (before, after) =
        ("{\"text\": \"春眠不觉晓\"}\n{\"text\": \"处处", "闻啼鸟\"}\n{\"text\": \"夜来风雨声\"}\n");
    let lines = [gbk(before), b"\xff".to_vec(), gbk(after)];
    let rows = read(&folder.write("rows.jsonl", lines.concat()));
    assert_eq!(rows.len(), 3);
    assert_eq!(
        rows[1],
        Err("rows.jsonl:2: byte 15 of the line is no gb18030, as which the file is read: correct the row, or name another \
             encoding with `encoding`, or set `on_bad_row: skip`"
            .to_owned())
    );
    assert_eq!(rows[2], Ok(("rows.jsonl:3".to_owned(), json!({"text": "夜来风雨声"}))));
    // Half a character at the end of a file, in each encoding.
    for (name, bytes, problem) in [
        ("utf8.txt", "一二三".as_bytes().to_vec(), "invalid UTF-8 at byte 7"),
        ("gbk.txt", gbk("春眠不觉晓处处闻啼鸟"), "byte 19 of the line is no gb18030"),
        ("utf16.txt", b"\xff\xfea\0b\0c\0".to_vec(), "byte 5 of the line is no UTF-16LE"),
    ] {
        let rows = read(&folder.write(name, &bytes[..bytes.len() - 1]));
        let message = rows[0].as_ref().unwrap_err();
        assert!(message.contains(problem), "{message}");
    }
}

#[test]
fn a_text_file_is_cut_as_asked() {
    let folder = Folder::new();
    let path = folder.write("book.txt", "\n第一\r\n第二\n \n\n第三\n");
    let cut = |text_unit| {
        let (rows, _) = read_with(&path, &ReadOptions { text_unit, ..ReadOptions::default() });
        rows.into_iter()
            .map(Result::unwrap)
            .map(|(place, text)| format!("{place} {text}"))
            .collect::<Vec<_>>()
    };
    assert_eq!(cut(TextUnit::File), ["book.txt:1 \"\\n第一\\n第二\\n \\n\\n第三\\n\""]);
    assert_eq!(cut(TextUnit::Line), ["book.txt:2 \"第一\"", "book.txt:3 \"第二\"", "book.txt:6 \"第三\""]);
    assert_eq!(cut(TextUnit::Paragraph), ["book.txt:2 \"第一\\n第二\"", "book.txt:6 \"第三\""]);
}

/// Nothing is lost, no character is cut, and no document is larger than its bound.
#[test]
fn a_huge_text_file_is_cut_between_paragraphs() {
    let folder = Folder::new();
    let paragraph = format!("{}\n\n", "文".repeat(5_000));
    let book = paragraph.repeat(1_500);
    let texts: Vec<String> =
        values(&folder.write("book.txt", &book)).iter().map(|text| text.as_str().unwrap().into()).collect();
    assert_eq!(texts.concat(), book);
    assert_eq!(texts.len(), 2);
    assert!(texts[0].len() < 17 << 20 && texts[0].ends_with("\n\n"));
    let line = "文".repeat(7_000_000);
    let texts: Vec<String> =
        values(&folder.write("line.txt", &line)).iter().map(|text| text.as_str().unwrap().into()).collect();
    assert_eq!(texts.concat(), line);
    assert!(texts.len() == 2 && texts[0].len() < 18 << 20);
}

#[test]
fn a_file_that_changes_while_it_is_read_is_an_error() {
    let folder = Folder::new();
    let lines = "{\"text\": \"一\"}\n".repeat(100_000);
    for (name, change) in [("grown.jsonl", lines.len() as u64 + 10), ("shrunk.jsonl", 500_000)] {
        let path = folder.write(name, &lines);
        let mut records = Records::open(&path).unwrap();
        records.next().unwrap().unwrap();
        fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(change).unwrap();
        let error =
            records.find_map(|record| record.err().filter(|error| !error.to_string().contains("JSON")));
        let message = error.unwrap().to_string();
        assert!(message.contains(name) && message.contains("changed while it was read"), "{message}");
    }
}

#[test]
fn tabs_separate_and_every_cell_is_text() {
    let folder = Folder::new();
    let rows = values(&folder.write("rows.tsv", "a\tb\n1,5\tNA\n\"x\ty\nz\"\tnull\n"));
    assert_eq!(rows, [json!({"a": "1,5", "b": "NA"}), json!({"a": "x\ty\nz", "b": "null"})]);
}

#[test]
fn a_quote_without_partner_is_told_where_it_opens() {
    let folder = Folder::new();
    let told = |name: &str, text: &str| {
        let mut rows = read(&folder.write(name, text));
        (rows.pop().unwrap().unwrap_err(), rows.len())
    };
    let (message, rows) = told("rows.csv", "a,b\r\n1,2\r\n\"3\r\n\",\"4\r\n5,6\r\n7,8\r\n");
    assert_eq!(rows, 1, "{message}");
    assert_eq!(
        message,
        "rows.csv:4: the quote that opens the field `b` has no partner: expected one before the end of the file, close the \
         field, or double the quotes that belong to its text"
    );
    let (message, rows) = told("end.tsv", "a\tb\n1\t\"2");
    assert_eq!((rows, message.starts_with("end.tsv:2: the quote that opens the field `b`")), (0, true));
    let (message, _) = told("header.csv", "a,\"b\n1,2\n");
    assert!(message.starts_with("header.csv:1: the quote that opens the field `2`"), "{message}");
    // Quotes within a field, or closed at the very end, are as they should be.
    let rows = values(&folder.write("good.csv", "a\n5\" pipe\n\"x \"\"y\"\"\n\""));
    assert_eq!(rows, [json!({"a": "5\" pipe"}), json!({"a": "x \"y\"\n"})]);
}

#[test]
fn zero_bytes_and_empty_files_are_no_trouble() {
    let folder = Folder::new();
    assert_eq!(values(&folder.write("zero.txt", "一\0二")), [json!("一\0二")]);
    assert_eq!(values(&folder.write("zero.csv", "a\n一\0二\n")), [json!({"a": "一\0二"})]);
    let rows = read(&folder.write("zero.jsonl", "{\"a\": \"一\0\"}\n{\"a\": 2}\n"));
    assert!(rows[0].as_ref().unwrap_err().contains("control character"), "{rows:?}");
    assert_eq!(rows[1], Ok(("zero.jsonl:2".to_owned(), json!({"a": 2}))));
    for name in ["e.txt", "e.json", "e.jsonl", "e.csv", "e.tsv"] {
        assert_eq!(read(&folder.write(name, "")), [], "{name}");
        assert_eq!(read(&folder.write(&format!("{name}.gz"), gzip(b""))), [], "{name}");
    }
    for name in ["e.parquet", "e.arrow", "e.xlsx", "e.zip", "e.txt.gz"] {
        let rows = read(&folder.write(name, ""));
        if name != "e.txt.gz" {
            assert!(rows[0].as_ref().unwrap_err().contains("that can be read"), "{rows:?}");
        }
    }
}

#[test]
fn what_accompanies_data_is_not_read() {
    let folder = Folder::new();
    for name in [
        "LICENSE",
        "README.md",
        "README_zh.txt",
        "license.txt",
        "dataset_info.json",
        "state.json",
        ".hidden.jsonl",
    ] {
        folder.write(name, "{\"text\": \"no\"}");
    }
    folder.write("data.jsonl", "{\"text\": \"yes\"}");
    let records = Records::open(folder.0.path()).unwrap();
    assert_eq!(records.ignored().len(), 7);
    let texts: Vec<Value> = records.map(|record| value(record.unwrap().content)).collect();
    assert_eq!(texts, [json!({"text": "yes"})]);
    // Named itself, a file is read whatever its name.
    assert_eq!(values(&folder.0.path().join("README_zh.txt")).len(), 1);
}

/// Mixed columns from row to row are the rows' own; their meaning is judged later, row by row.
#[test]
fn rows_of_different_columns_are_read() {
    let folder = Folder::new();
    let rows = values(&folder.write("rows.json", "[{\"a\": 1}, {\"b\": [1, {}]}, {}]"));
    assert_eq!(rows, [json!({"a": 1}), json!({"b": [1, {}]}), json!({})]);
}

#[test]
fn rows_can_be_parsed_on_other_threads() {
    let folder = Folder::new();
    let path = folder.write("rows.jsonl", "{\"a\": 1}\n{\"a\": }\n{\"a\": 3}\n");
    let mut records = Records::open(&path).unwrap();
    let raw: Vec<_> = std::iter::from_fn(|| records.next_raw()).map(Result::unwrap).collect();
    let parsed = std::thread::spawn(|| raw.into_iter().map(|raw| raw.parse().is_ok()).collect::<Vec<_>>());
    assert_eq!(parsed.join().unwrap(), [true, false, true]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    /// Cut off or changed anywhere: reading ends, does not panic, and takes no more memory than the file could fill.
    #[test]
    fn damaged_tables_are_read_to_an_end(
        (name, bytes) in prop::sample::select(damageable()),
        cut in prop::option::of(0.0..1.0),
        changes in prop::collection::vec((0.0..1.0, any::<u8>()), 0..4),
    ) {
        let folder = Folder::new();
        let mut bytes = bytes;
        for (place, byte) in changes {
            let place = (place * bytes.len() as f64) as usize;
            bytes[place] = byte;
        }
        bytes.truncate((cut.unwrap_or(1.0) * bytes.len() as f64) as usize);
        let rows = read(&folder.write(&name, &bytes));
        prop_assert!(rows.len() < 10_000);
    }
}

fn damageable() -> Vec<(String, Vec<u8>)> {
    let lines: String = (0..50).map(|row| format!("{{\"text\": \"第{row}行\"}}\n")).collect();
    let mut files: Vec<(String, Vec<u8>)> =
        ["nested-gzip", "nested-snappy", "nested-zstd", "nested-plain", "fastparquet"]
            .map(|name| (format!("{name}.parquet"), fs::read(golden(&format!("{name}.parquet"))).unwrap()))
            .into();
    for name in ["nested-stream.arrow", "nested-file.arrow"] {
        files.push((name.into(), fs::read(golden(name)).unwrap()));
    }
    files.push(("book.xlsx".into(), fs::read(golden("workbook.xlsx")).unwrap()));
    files.push(("rows.jsonl.gz".into(), gzip(lines.as_bytes())));
    files.push(("rows.jsonl.zst".into(), zstd::encode_all(lines.as_bytes(), 3).unwrap()));
    files.push(("rows.zip".into(), zip(&[("a.jsonl", lines.as_bytes()), ("b.txt", b"text")])));
    files.push(("rows.txt".into(), encoding_rs::GBK.encode(&lines).0.into_owned()));
    files
}
