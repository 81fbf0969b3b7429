#!/usr/bin/env python3
"""A corpus of any size whose distinct spans grow with it: clauses of real texts, recombined.

Each document takes clauses from all over the material and joins the beginning of each to the end of another, so that
new clause-long text keeps coming. A share of the documents are copies of earlier ones. Writes JSON lines with `text`; the same arguments give the same bytes.

    benches/make_corpus.py --seed 1 --docs 350000 --dup-rate 0.1 --out corpus.jsonl ../shared/data/corpus"""
import argparse, json, os, random, re

ap = argparse.ArgumentParser()
ap.add_argument("material", nargs="+", help="files or folders of .txt and .json")
ap.add_argument("--seed", type=int, default=0)
ap.add_argument("--docs", type=int, required=True)
ap.add_argument("--dup-rate", type=float, default=0.1, help="share of documents that are copies")
ap.add_argument("--out", required=True)
a = ap.parse_args()


def texts(path):
    if os.path.isdir(path):
        for name in sorted(os.listdir(path)):
            yield from texts(os.path.join(path, name))
    elif path.endswith(".txt"):
        with open(path, encoding="utf-8") as file:
            yield file.read()
    elif path.endswith(".json"):
        with open(path, encoding="utf-8") as file:
            yield from strings(json.load(file))


def strings(value):
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, dict)):
        for part in value if isinstance(value, list) else value.values():
            yield from strings(part)


clauses = sorted({clause for path in a.material for text in texts(path) for clause in re.findall(r"[^\s，。！？；：、,.!?;:]{2,40}[，。！？；：、,.!?;:]?", text)})
rng = random.Random(a.seed)
earlier = []
with open(a.out, "w", encoding="utf-8") as file:
    for number in range(a.docs):
        if earlier and rng.random() < a.dup_rate:
            line = rng.choice(earlier)
        else:
            count = 40 + int(120 * rng.random())
            parts = []
            for one, other in zip(rng.choices(clauses, k=count), rng.choices(clauses, k=count)):
                # The beginning of one clause and the end of another: spans that occur in neither.
                at = 1 + int((len(one) - 1) * rng.random())
                parts.append(one[:at] + other[min(at, len(other) - 1) :])
            line = json.dumps({"text": "".join(parts)}, ensure_ascii=False) + "\n"
            if len(earlier) < 1000:
                earlier.append(line)
            else:
                earlier[rng.randrange(1000)] = line
        file.write(line)
