#!/usr/bin/env python3
"""DPO of a LoRA adapter with trl over one epoch, against `danlu train` with the same pairs, model, batch and rank.

Counted from the tokenized pairs on: the pass for the reference (`precompute_ref_log_probs`) and every step; loading and tokenizing are not.
bfloat16 weights and arithmetic; every batch is padded to its longest answer, as trl's collator does. Pairs longer than --cutoff are
left out before, as danlu leaves them out. Prints one JSON line last.

  dpo.py --model FOLDER --data dpo_zh_demo.json [--pairs 64] [--batch 8] [--cutoff 1024] [--rank 8] [--threads 2]

The same for danlu, whose time is `train_runtime` of train_results.json, which begins with the pass for the reference:

  danlu train dpo model_name_or_path=FOLDER dataset=PAIRS.jsonl cutoff_len=1024 val_size=0 num_train_epochs=1
      per_device_train_batch_size=8 gradient_accumulation_steps=1 lora_rank=8 threads=2 output_dir=OUT

--write PAIRS.jsonl writes the pairs that are taken, for danlu to read."""
import argparse, json, resource, tempfile, time

ap = argparse.ArgumentParser()
ap.add_argument("--model", required=True, help="a Hugging Face folder with a chat template")
ap.add_argument("--data", required=True, help="JSON of LLaMA-Factory's form: conversations, chosen, rejected")
ap.add_argument("--pairs", type=int, default=64)
ap.add_argument("--batch", type=int, default=8)
ap.add_argument("--cutoff", type=int, default=1024)
ap.add_argument("--rank", type=int, default=8)
ap.add_argument("--threads", type=int, default=2)
ap.add_argument("--write")
a = ap.parse_args()

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer

torch.set_num_threads(a.threads)
tokenizer = AutoTokenizer.from_pretrained(a.model)
ROLES = {"human": "user", "gpt": "assistant", "system": "system"}

def message(turn):
    return {"role": ROLES[turn["from"]], "content": turn["value"]}

rows, source = [], []
for row in json.load(open(a.data, encoding="utf-8")):
    prompt, pair = [message(turn) for turn in row["conversations"]], {}
    for name in ("chosen", "rejected"):
        pair[name] = [message(row[name])]
    longest = max(len(tokenizer.apply_chat_template(prompt + pair[name], return_dict=False)) for name in pair)
    if longest <= a.cutoff and len(rows) < a.pairs:
        rows.append({"prompt": prompt, **pair})
        source.append(row)
if a.write:
    with open(a.write, "w", encoding="utf-8") as out:
        out.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in source)

model = AutoModelForCausalLM.from_pretrained(a.model, dtype=torch.bfloat16)
arguments = DPOConfig(
    output_dir=tempfile.mkdtemp(), use_cpu=True, bf16=False, report_to=[], save_strategy="no", disable_tqdm=True, num_train_epochs=1,
    per_device_train_batch_size=a.batch, precompute_ref_log_probs=True, precompute_ref_batch_size=a.batch, max_length=a.cutoff, beta=0.1,
    gradient_checkpointing=False, learning_rate=5e-5, logging_steps=1,
)
seconds = {}
precompute = DPOTrainer._precompute_ref_logps

def timed(*arguments, **more):
    start = time.perf_counter()
    result = precompute(*arguments, **more)
    seconds["reference"] = time.perf_counter() - start
    return result

DPOTrainer._precompute_ref_logps = timed
before = time.process_time()
trainer = DPOTrainer(
    model=model, args=arguments, train_dataset=Dataset.from_list(rows), processing_class=tokenizer,
    peft_config=LoraConfig(r=a.rank, lora_alpha=2 * a.rank, lora_dropout=0.0, task_type="CAUSAL_LM", target_modules="all-linear"),
)
start = time.perf_counter()
trainer.train()
seconds["steps"] = time.perf_counter() - start
cpu = time.process_time() - before
total = sum(seconds.values())
print(json.dumps({
    "peer": "trl", "dtype": "bf16", "padding": "longest of the batch", "pairs": len(rows), "pairs_per_s": round(len(rows) / total, 3),
    "reference_s": round(seconds["reference"], 2), "steps_s": round(seconds["steps"], 2), "cpu_s": round(cpu, 2),
    "loss": trainer.state.log_history[0]["loss"], "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
}))
