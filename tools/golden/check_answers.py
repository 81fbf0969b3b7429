"""Checks that an adapter gives the same greedy answers in danlu, PEFT and llama.cpp: rows as `danlu eval ner` asks them.

    python check_answers.py DANLU MODEL ADAPTER_FOLDER ROWS.jsonl [COUNT]

DANLU is the program, MODEL a GGUF file or an NF4 folder that the adapter was trained on, ROWS.jsonl rows of `instruct`, `query` and
`answer`, of which the first COUNT (30) are asked. All compute in f32, since rounding turns near-ties: PEFT has the folder itself, with
bitsandbytes' layers told to compute in f32, or what danlu makes of the GGUF file; llama.cpp has the model and the adapter as GGUF files
in f32. For a GGUF file llama.cpp also answers with the file as it is, whose activations it rounds to 8 bits: these may differ.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from llama_cpp import Llama
from of_danlu import danlu
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

LONGEST = 128


def in_f32(model):
    """What a model loaded from an NF4 folder computes in otherwise is bf16."""
    for layer in model.modules():
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            layer.support_avx512bf16_for_cpu, layer.compute_dtype = False, torch.float32
    for parameter in model.parameters():
        if parameter.dtype == torch.bfloat16:
            parameter.data = parameter.data.float()
    return model.eval()


def of_peft(folder, adapter, prompts, end):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model = in_f32(PeftModel.from_pretrained(model, adapter))
    for prompt in prompts:
        ids = torch.tensor([prompt])
        found = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=LONGEST, do_sample=False,
                               num_beams=1, eos_token_id=end, pad_token_id=end)
        yield found[0][len(prompt):].tolist()


def of_llama_cpp(path, adapter, prompts, end):
    model = Llama(str(path), lora_path=str(adapter), n_ctx=2048, n_threads=2, verbose=False)
    for prompt in prompts:
        model.reset()
        ids = []
        for token in model.generate(prompt, top_k=1, temp=0.0, repeat_penalty=1.0):
            if token == end or len(ids) == LONGEST:
                break
            ids.append(token)
        yield ids


def main(program, model, adapter, rows_path, count="30"):
    with open(rows_path, encoding="utf-8") as file:
        rows = [json.loads(line) for line, _ in zip(file, range(int(count)))]
    with tempfile.TemporaryDirectory() as name:
        folder, base, lora, answers = (Path(name) / file for file in ("folder", "base.gguf", "lora.gguf", "answers.jsonl"))
        is_file = model.endswith(".gguf")
        subprocess.run([program, "eval", "ner", "--model", model, "--adapter", adapter, "--data", rows_path, "--limit", count,
                        "--precision", "f32", "--max-new-tokens", str(LONGEST), "--out", str(answers)],
                       check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        mine = [json.loads(line)["prediction"].strip() for line in answers.read_text(encoding="utf-8").splitlines()]
        danlu(program, "convert", model, str(base), "--dtype", "f32")
        danlu(program, "convert", adapter, str(lora), "--base", model)
        if is_file:
            danlu(program, "convert", model, str(folder), "--dtype", "f32")
        loaded = str(folder) if is_file else model
        tokenizer = AutoTokenizer.from_pretrained(loaded)
        asked = [[{"role": "user", "content": f"{row['instruct']}\n{row['query']}"}] for row in rows]
        prompts = [tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False) for turns in asked]
        end = tokenizer.eos_token_id
        peers = {"PEFT": (of_peft, loaded, adapter), "llama.cpp in f32": (of_llama_cpp, base, lora)}
        if is_file:
            peers["llama.cpp with the file itself"] = (of_llama_cpp, model, lora)
        agree = {}
        for peer, (answer, path, of_adapter) in peers.items():
            found = [tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in answer(path, of_adapter, prompts, end)]
            agree[peer] = sum(one == other for one, other in zip(mine, found))
            print(f"{peer}: {agree[peer]} of {len(rows)} answers are those of danlu")
    return agree["PEFT"] == agree["llama.cpp in f32"] == len(rows)


if __name__ == "__main__":
    sys.exit(not main(*sys.argv[1:]))
