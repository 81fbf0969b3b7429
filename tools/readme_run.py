#!/usr/bin/env python3
"""Puts a run of `danlu quickstart` into both READMEs: what it printed, the end of its log, its loss curves.

usage, in the project's folder:
    danlu quickstart >run.txt 2>&1 && tools/readme_run.py run.txt

The parts between `<!-- run: begin -->` and `<!-- run: end -->` (the output) and `<!-- log: begin -->` and
`<!-- log: end -->` (the log) are replaced, the curves copied to docs/images. Nothing is changed in what was printed
but progress bars, which are left out.
"""

import datetime
import os
import pathlib
import re
import shutil
import sys

RUN = pathlib.Path("runs/quickstart")
LOG_LINES = 4


def processor():
    names = re.findall(r"^model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return names[0] if names else "unknown processor"


def replace(text, name, content):
    begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->"
    before, rest = text.split(begin)
    return f"{before}{begin}```text\n{content}\n```\n{end}{rest.split(end)[1]}"


def main(printed):
    lines = [line.split("\r")[-1].rstrip() for line in pathlib.Path(printed).read_text(encoding="utf-8").splitlines()]
    lines = [line for line in lines if not re.match(r"(pretraining|fine-tuning|scoring) \d+/\d+", line)]
    date = datetime.date.fromtimestamp(pathlib.Path(printed).stat().st_mtime)
    head = f"$ danlu quickstart    # {date}, {os.cpu_count()} cores, {processor()}"
    log = (RUN / "model/train.log").read_text(encoding="utf-8").splitlines()[-LOG_LINES:]
    for readme in map(pathlib.Path, ["README.md", "README.zh.md"]):
        text = replace(readme.read_text(encoding="utf-8"), "run", "\n".join([head, *lines]).rstrip())
        text = replace(text, "log", "\n".join(["$ tail -n %d %s" % (LOG_LINES, RUN / "model/train.log"), *log]))
        readme.write_text(text, encoding="utf-8")
    for folder, name in [("pretrained", "pretraining"), ("model", "fine-tuning")]:
        shutil.copyfile(RUN / folder / "training_loss.svg", f"docs/images/quickstart-{name}.svg")


if len(sys.argv) != 2:
    sys.exit(__doc__)
main(sys.argv[1])
