#!/usr/bin/env python3
"""Rows of alpaca form to ids and labels: `datasets.map` with the fast tokenizer of transformers on 2 processes, as LLaMA-Factory's preprocessing
does, against `danlu data inspect FILE --tokenizer DIR tokenized_path=DIR --samples 0 --json`. `--make N FILE` writes N rows grown from
alpaca_zh_demo.json by a seed. Reading the file is timed on both sides; nothing is cached. Prints one JSON line last."""
import argparse, json, os, random, resource, shutil, tempfile, time

ap = argparse.ArgumentParser()
ap.add_argument("rows", help="JSON lines with instruction, input, output")
ap.add_argument("--tokenizer", help="folder with tokenizer.json and a chat template")
ap.add_argument("--processes", type=int, default=2)
ap.add_argument("--cutoff", type=int, default=2048)
ap.add_argument("--limit", type=int, help="only so many rows: the peer's speed does not depend on it")
ap.add_argument("--make", type=int, help="write so many rows into ROWS")
ap.add_argument("--source", default="../shared/data/datasets/llama-factory/alpaca_zh_demo.json")
ap.add_argument("--seed", type=int, default=1)
a = ap.parse_args()

if a.make:
    # Sentences of other rows' answers, so that no two rows are equal and lengths are those of the source.
    rng, source = random.Random(a.seed), json.load(open(a.source, encoding="utf-8"))
    sentences = [s + "。" for row in source for s in row["output"].split("。") if s.strip()]
    with open(a.rows, "w", encoding="utf-8") as out:
        for number in range(a.make):
            row = rng.choice(source)
            length, output = max(len(row["output"]), 1), ""
            while len(output) < length:
                output += rng.choice(sentences)
            made = {"instruction": f"{row['instruction']}（{number}）", "input": row.get("input", ""), "output": output[:length]}
            out.write(json.dumps(made, ensure_ascii=False) + "\n")
    raise SystemExit

cache = tempfile.mkdtemp()
os.environ.update(HF_DATASETS_CACHE=cache, HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
import datasets, transformers
datasets.disable_progress_bars()
tokenizer = transformers.AutoTokenizer.from_pretrained(a.tokenizer)

def preprocess(rows):
    """Prompt and answer apart, as LLaMA-Factory encodes them: the answer and its end are the labels."""
    prompts, whole = [], []
    for instruction, query, output in zip(rows["instruction"], rows["input"], rows["output"]):
        user = {"role": "user", "content": instruction + ("\n" + query if query else "")}
        prompts.append(tokenizer.apply_chat_template([user], tokenize=False, add_generation_prompt=True))
        whole.append(tokenizer.apply_chat_template([user, {"role": "assistant", "content": output}], tokenize=False))
    answers = [text[len(prompt):] for prompt, text in zip(prompts, whole)]
    prompts = tokenizer(prompts, add_special_tokens=False)["input_ids"]
    answers = tokenizer(answers, add_special_tokens=False)["input_ids"]
    ids = [(prompt + answer)[:a.cutoff] for prompt, answer in zip(prompts, answers)]
    labels = [([-100] * len(prompt) + answer)[:a.cutoff] for prompt, answer in zip(prompts, answers)]
    return {"input_ids": ids, "attention_mask": [[1] * len(row) for row in ids], "labels": labels}

start = time.perf_counter()
rows = datasets.load_dataset("json", data_files=a.rows, split="train" + (f"[:{a.limit}]" if a.limit else ""))
loaded = time.perf_counter()
done = rows.map(preprocess, batched=True, batch_size=1000, num_proc=a.processes, remove_columns=rows.column_names)
end = time.perf_counter()
tokens = sum(map(len, done[:20000]["input_ids"]))
peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) // 1024
shutil.rmtree(cache)
print(json.dumps({"peer": "datasets.map", "rows": len(rows), "rows_per_s": round(len(rows) / (end - start), 1),
                  "map_rows_per_s": round(len(rows) / (end - loaded), 1), "seconds": round(end - start, 2),
                  "tokens_of_first_20000": tokens, "peak_rss_mb": peak}))
