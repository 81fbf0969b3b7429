"""Small tables as pandas, pyarrow, fastparquet and openpyxl write them, and what the same libraries read in real ones.

Writes crates/data/tests/golden/tables/:
  nested-*.parquet   the rows of nested.json with each compression, page version and library
  workbook.xlsx      two sheets, with dates, empty rows and a column without a name
  real.json          of the tables in ../shared/data/datasets/sft-zh: number of rows, SHA-256 of the rows as JSON lines
"""

import datetime
import decimal
import hashlib
import json
import zipfile
from pathlib import Path

import fastparquet
import openpyxl
import pandas
import pyarrow
import pyarrow.parquet

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "crates/data/tests/golden/tables"
REAL = ROOT.parent / "shared/data/datasets/sft-zh"

TEXTS = ["春眠不觉晓", "NA", "", None, "two\nlines, \"quoted\"", "null"]
SCHEMA = pyarrow.schema([
    ("text", pyarrow.string()),
    ("number", pyarrow.int64()),
    ("small", pyarrow.uint8()),
    ("share", pyarrow.float32()),
    ("is_good", pyarrow.bool_()),
    ("messages", pyarrow.list_(pyarrow.struct([("role", pyarrow.string()), ("content", pyarrow.string())]))),
    ("matrix", pyarrow.list_(pyarrow.list_(pyarrow.int32()))),
    ("inner", pyarrow.struct([("a", pyarrow.int32()), ("tags", pyarrow.list_(pyarrow.string()))])),
    ("counts", pyarrow.map_(pyarrow.string(), pyarrow.int32())),
    ("day", pyarrow.date32()),
    ("moment", pyarrow.timestamp("us")),
    ("price", pyarrow.decimal128(9, 2)),
    ("label", pyarrow.dictionary(pyarrow.int32(), pyarrow.string())),
])


def rows():
    for index in range(300):
        messages = [{"role": "user", "content": f"问 {index}"}, {"role": "assistant", "content": TEXTS[index % 6]}]
        yield {
            "text": TEXTS[index % 6],
            "number": None if index % 5 == 3 else index * 10**12,
            "small": index % 256,
            "share": index / 8,
            "is_good": index % 3 == 0,
            "messages": [None, [], messages[:1], messages][index % 4],
            "matrix": [[[1, 2], [], [3]], [[]], [], None, [None, [index]]][index % 5],
            "inner": None if index % 7 == 2 else {"a": index, "tags": [None, ["a", None], []][index % 3]},
            "counts": [None, {}, {"a": 1, "b": None}][index % 3],
            "day": datetime.date(1969, 12, 30) + datetime.timedelta(days=index * 97),
            "moment": datetime.datetime(2024, 2, 29, 23, 59, 59) + datetime.timedelta(microseconds=index * 250_000),
            "price": decimal.Decimal(index - 3) / 100,
            "label": "ab"[index % 2],
        }


def plain(value):
    """As JSON has it: dates and decimals as text."""
    if isinstance(value, datetime.datetime):
        return str(value).rstrip("0") if value.microsecond else str(value)
    if isinstance(value, (datetime.date, decimal.Decimal)):
        return str(value)
    raise TypeError(value)


def write_parquet():
    table = pyarrow.Table.from_pylist(list(rows()), SCHEMA)
    expected = [{**row, "price": row["price"].quantize(decimal.Decimal("0.01"))} for row in rows()]
    (OUT / "nested.json").write_text(json.dumps(expected, ensure_ascii=False, default=plain) + "\n")
    for name, options in {
        "gzip": {"compression": "gzip", "row_group_size": 120},
        "snappy": {"compression": "snappy", "data_page_version": "2.0"},
        "zstd": {"compression": "zstd", "use_dictionary": False, "data_page_size": 4096},
        "plain": {"compression": "none", "version": "1.0", "coerce_timestamps": "us"},
    }.items():
        pyarrow.parquet.write_table(table, OUT / f"nested-{name}.parquet", **options)
    for name, writer in {"stream": pyarrow.ipc.new_stream, "file": pyarrow.ipc.new_file}.items():
        with writer(OUT / f"nested-{name}.arrow", SCHEMA) as file:
            file.write_table(table.slice(0, 60), max_chunksize=25)
    # As the cleaning scripts of baby-llama2 write their corpora.
    frame = pandas.DataFrame({"response": [f"第{index}条" for index in range(50)]})
    fastparquet.write(str(OUT / "fastparquet.parquet"), frame, compression="GZIP", row_group_offsets=[0, 20, 40])


def write_workbook():
    book = openpyxl.Workbook()
    sheet = book.active
    sheet.title = "问答"
    sheet.append([])
    sheet.append(["question", "answer", None, "date", "is_good"])
    sheet.append(["1+1=?", 2, "no column", datetime.datetime(2024, 2, 29), True])
    sheet.append([])
    sheet.append(["NA", 2.5, None, datetime.datetime(2024, 2, 29, 12, 30, 1), False])
    sheet.append(["多行\n文字", "null"])
    other = book.create_sheet("second")
    other.append(["text"])
    other.append(["二"])
    book.save(OUT / "workbook.xlsx")
    # The same bytes on every run: entries without the time.
    with zipfile.ZipFile(OUT / "workbook.xlsx") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(OUT / "workbook.xlsx", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            if name != "docProps/core.xml":
                archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)


def digest(frame):
    """Number of rows, SHA-256 of them as JSON lines, bytes of the longest field; CRLF counts as LF."""
    hash, longest = hashlib.sha256(), 0
    for row in frame.to_dict("records"):
        row = {name: value.replace("\r\n", "\n") for name, value in row.items()}
        longest = max(longest, *(len(value.encode()) for value in row.values()))
        hash.update(json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode() + b"\n")
    return {"rows": len(frame), "sha256": hash.hexdigest(), "longest_field": longest}


def record_real():
    read = {"parquet": pandas.read_parquet, "csv": lambda path: pandas.read_csv(path, dtype=str, keep_default_na=False)}
    files = sorted(path for path in REAL.iterdir() if path.suffix[1:] in read)
    real = {path.name: digest(read[path.suffix[1:]](path)) for path in files}
    (OUT / "real.json").write_text(json.dumps(real, indent=1) + "\n")


if __name__ == "__main__":
    OUT.mkdir(parents=True, exist_ok=True)
    write_parquet()
    write_workbook()
    record_real()
