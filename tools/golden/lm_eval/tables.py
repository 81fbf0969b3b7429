"""Reads C-Eval, CMMLU and MMLU from CSV files for the tasks beside this. Every cell stays the text it is.

lm-eval calls these with the metadata of its command (`data`, the benchmark's folder) and the task's own `subject`.
"""

import csv
from pathlib import Path

from datasets import Dataset, DatasetDict


def rows(path):
    with open(path, encoding="utf-8-sig", newline="") as file:
        return list(csv.reader(file))


def records(path):
    header, *rest = rows(path)
    return [dict(zip(header, row, strict=True)) for row in rest]


def ceval(data, subject, **_):
    """DATA/{val,dev}/SUBJECT_{val,dev}.csv with the header id,question,A,B,C,D,answer[,explanation]."""
    return DatasetDict({split: Dataset.from_list(records(Path(data) / split / f"{subject}_{split}.csv")) for split in ("val", "dev")})


def cmmlu(data, subject, **_):
    """DATA/{test,dev}/SUBJECT.csv with the header ,Question,A,B,C,D,Answer."""
    return DatasetDict({split: Dataset.from_list(records(Path(data) / split / f"{subject}.csv")) for split in ("test", "dev")})


def mmlu(data, subject, **_):
    """DATA/{test,dev}/SUBJECT_{test,dev}.csv: question, four choices, and a letter, or below a header a number from 0 to 3."""

    def of(row):
        question, *choices, answer = row
        assert len(choices) == 4
        return {"question": question, "choices": choices, "answer": int(answer) if answer.isdigit() else "ABCD".index(answer)}

    def split_of(split):
        found = rows(Path(data) / split / f"{subject}_{split}.csv")
        headed = found[0] == ["question", "choice0", "choice1", "choice2", "choice3", "answer"]
        return Dataset.from_list([of(row) for row in found[headed:]])

    return DatasetDict({split: split_of(split) for split in ("test", "dev")})
