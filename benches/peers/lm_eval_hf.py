#!/usr/bin/env python3
"""C-Eval, CMMLU or MMLU with lm-eval's transformers backend, against `danlu eval` with the same questions, examples and model.

Counted is the time of the backend, from the requests' texts to their log-likelihoods; reading the model and putting the prompts together
are not. The four letters behind a prompt are one sequence, as lm-eval's cache of logits makes them. Prints one JSON line last.

  lm_eval_hf.py --model FOLDER --data CEVAL [--benchmark ceval] [--subjects law,logic] [--shots 5] [--limit N | --every N]
      [--batch 8] [--dtype bfloat16] [--threads 2]

The same for danlu, whose last line has `questions` and whose time is that of its run:

  danlu eval ceval --model FOLDER --data CEVAL --shots 5 --precision bf16 --threads 2 --json

--write PROMPTS.jsonl only writes the prompts, for llama_cpp_scoring.py beside this. Needs the package `lm_eval`, and uses the tasks in
tools/golden/lm_eval, which read local files."""
import argparse, json, resource, sys, time
from pathlib import Path

ap = argparse.ArgumentParser()
ap.add_argument("--model", help="a Hugging Face folder")
ap.add_argument("--data", required=True, help="the benchmark's folder, with dev and val or test")
ap.add_argument("--benchmark", default="ceval", choices=["ceval", "cmmlu", "mmlu"])
ap.add_argument("--subjects", help="names of files, separated by commas; all where none is given")
ap.add_argument("--shots", type=int, default=5)
ap.add_argument("--limit", type=int, help="the first so many questions of each subject")
ap.add_argument("--every", type=int, default=1, help="one of so many questions, of all subjects in turn")
ap.add_argument("--batch", type=int, default=8)
ap.add_argument("--dtype", default="bfloat16")
ap.add_argument("--threads", type=int, default=2)
ap.add_argument("--write", metavar="PROMPTS.jsonl")
a = ap.parse_args()

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools/golden"))
import torch
from of_lm_eval import all_subjects, answers, backend, every, prompts, subject_of, tasks

subjects = a.subjects.split(",") if a.subjects else all_subjects(a.benchmark)
if a.write:
    with open(a.write, "w", encoding="utf-8") as out:
        asked, samples = every(tasks(a.benchmark, a.data, subjects), a.every)
        for task in asked:
            only = samples[task.task_name] if a.every > 1 else None
            for prompt, choices, right in prompts(task, a.shots, limit=a.limit, samples=only):
                row = {"subject": subject_of(task), "prompt": prompt, "choices": choices, "right": right}
                out.write(json.dumps(row, ensure_ascii=False) + "\n")
    sys.exit()

torch.set_num_threads(a.threads)
model = backend(a.model, a.dtype, a.batch)
score, spent = model.loglikelihood, {}

def timed(*arguments, **more):
    start, cpu = time.perf_counter(), time.process_time()
    found = score(*arguments, **more)
    spent["seconds"], spent["cpu"] = time.perf_counter() - start, time.process_time() - cpu
    return found

model.loglikelihood = timed
found = [one for of_subject in answers(model, a.benchmark, a.data, subjects, a.shots, limit=a.limit, step=a.every).values() for one in of_subject]
print(json.dumps({
    "peer": "lm-eval", "backend": "hf", "dtype": a.dtype, "batch": a.batch, "questions": len(found), "seconds": round(spent["seconds"], 2),
    "questions_per_s": round(len(found) / spent["seconds"], 3), "cpu_s": round(spent["cpu"], 2),
    "accuracy": sum(one["acc"] for one in found) / len(found),
    "chosen": "".join(one["chosen"] for one in found), "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
}))
