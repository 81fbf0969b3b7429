#!/usr/bin/env python3
"""Deduplication in Baby-Llama2's setting (sets of single characters, 256 permutations, 0.85): datasketch beside danlu.

Runs `../shared/peers/dedup.py` and `danlu data dedup --compat …` in turn on the same JSON lines with `text`, then checks that
both keep the same rows, which datasketch is asked for once more. The fitting --compat follows from its version; legacy
permutations (--legacy), those before datasketch 2, are only compared. danlu's default setting is timed beside them. Needs
`pip install datasketch`. Prints one JSON line last."""
import argparse, importlib.metadata, json, os, re, statistics, subprocess, sys, tempfile

ap = argparse.ArgumentParser()
ap.add_argument("corpus", help="JSON lines with `text`")
ap.add_argument("--danlu", default="target/release/danlu")
ap.add_argument("--peer", default="../shared/peers/dedup.py")
ap.add_argument("--rounds", type=int, default=3)
ap.add_argument("--threads", type=int, default=2)
ap.add_argument("--legacy", action="store_true", help="compare the rows with the permutations before datasketch 2; no times")
a = ap.parse_args()

is_2 = importlib.metadata.version("datasketch") >= "2"
compat = "baby-llama2-datasketch2" if is_2 and not a.legacy else "baby-llama2"
folder = tempfile.mkdtemp(dir=os.path.dirname(os.path.abspath(a.corpus)))
out = os.path.join(folder, "kept.jsonl")


def last_line(command):
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def danlu(*more):
    return last_line([a.danlu, "data", "dedup", a.corpus, "--out", out, "--threads", str(a.threads), "--json", *more])


def kept_by_datasketch():
    from datasketch import MinHash, MinHashLSH

    scheme = {"scheme": "legacy"} if is_2 and a.legacy else {}
    lsh = MinHashLSH(threshold=0.85, num_perm=256)
    for number, line in enumerate(open(a.corpus, encoding="utf-8")):
        row = json.loads(line)
        text = "".join(re.split(r"[^[\u4E00-\u9FA5|A-Za-z_0-9]", row["text"]))
        sketch = MinHash(num_perm=256, **scheme)
        sketch.update_batch([character.encode() for character in set(text)])
        if not lsh.query(sketch):
            yield row
        lsh.insert(str(number), sketch)


result = {"peer": "datasketch " + importlib.metadata.version("datasketch"), "compat": compat}
if a.legacy:
    danlu("--compat", compat)
else:
    runs = {"peer": [], "danlu": [], "default": []}
    for _ in range(a.rounds):
        runs["peer"].append(last_line([sys.executable, a.peer, a.corpus]))
        runs["default"].append(danlu())
        runs["danlu"].append(danlu("--compat", compat))
    for name, measured in runs.items():
        result[name + "_docs_per_s"] = round(statistics.median(run["docs_per_s"] for run in measured), 1)
        result[name + "_peak_rss_mb"] = max(run["peak_rss_mb"] for run in measured)
    result["docs"] = runs["peer"][0]["docs"]
    result["ratio"] = round(result["danlu_docs_per_s"] / result["peer_docs_per_s"], 1)
    result["default_ratio"] = round(result["default_docs_per_s"] / result["peer_docs_per_s"], 1)
with open(out, encoding="utf-8") as file:
    ours = [json.loads(line) for line in file]
theirs = list(kept_by_datasketch())
result["kept"] = len(theirs)
result["same_rows"] = ours == theirs
os.remove(out)
os.rmdir(folder)
print(json.dumps(result))
