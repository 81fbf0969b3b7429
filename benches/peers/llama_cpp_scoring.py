#!/usr/bin/env python3
"""Scores the letters A to D of multiple choice in llama.cpp: each prompt is evaluated from scratch, and the last token's logits compared.

Nothing of one prompt is kept for the next. Only the last token's logits are computed, and one evaluation serves the four letters; the
prompt goes through in pieces of --batch tokens. Reading the model and tokenizing are not timed. Prints one JSON line last.

  llama_cpp_scoring.py --model model-f16.gguf --prompts prompts.jsonl [--limit N] [--batch 512] [--threads 2]

prompts.jsonl is what lm_eval_hf.py beside this writes with --write: `prompt`, `choices` and `right` in each row. The same for danlu:

  danlu eval ceval --model FOLDER --data CEVAL --shots 5 --threads 2 --json"""
import argparse, json, resource, time

import numpy
from llama_cpp import Llama

ap = argparse.ArgumentParser()
ap.add_argument("--model", required=True, help="a GGUF file")
ap.add_argument("--prompts", required=True, help="JSON lines of lm_eval_hf.py --write")
ap.add_argument("--limit", type=int, help="the first so many prompts")
ap.add_argument("--batch", type=int, default=512, help="tokens of one evaluation, llama.cpp's n_batch and n_ubatch")
ap.add_argument("--threads", type=int, default=2)
ap.add_argument("--flash-attention", action="store_true")
a = ap.parse_args()

rows = [json.loads(line) for line in open(a.prompts, encoding="utf-8")][:a.limit]
only_words = Llama(a.model, vocab_only=True, verbose=False)
bos = only_words.metadata.get("tokenizer.ggml.add_bos_token") == "true"

def ids_of(text):
    return only_words.tokenize(text.encode(), add_bos=bos, special=False)

questions = []
for row in rows:
    prompt, letters = ids_of(row["prompt"]), []
    for choice in row["choices"]:
        whole = ids_of(row["prompt"] + choice)
        assert whole[:len(prompt)] == prompt and len(whole) == len(prompt) + 1, "a letter is more than one token"
        letters.append(whole[-1])
    questions.append((prompt, letters, row["right"]))

context = max(len(prompt) for prompt, _, _ in questions) + 1
model = Llama(a.model, n_ctx=context, n_batch=a.batch, n_ubatch=a.batch, n_threads=a.threads, n_threads_batch=a.threads,
              flash_attn=a.flash_attention, verbose=False)
model.reset()
model.eval(questions[0][0])
start, cpu, right = time.perf_counter(), time.process_time(), 0
for prompt, letters, answer in questions:
    model.reset()
    model.eval(prompt)
    logits = model._ctx.get_logits_ith(-1)
    right += int(numpy.argmax([logits[letter] for letter in letters])) == answer
seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
tokens = sum(len(prompt) for prompt, _, _ in questions)
print(json.dumps({
    "peer": "llama.cpp", "questions": len(questions), "seconds": round(seconds, 2), "questions_per_s": round(len(questions) / seconds, 3),
    "tokens_per_s": round(tokens / seconds, 1), "cpu_s": round(cpu, 2), "accuracy": right / len(questions),
    "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
}))
