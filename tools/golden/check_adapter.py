"""Checks that an adapter written by danlu loads in PEFT and gives the answers that danlu gave with it.

    python check_adapter.py BASE ADAPTER_FOLDER PROMPTS.json

BASE is a model folder or a GGUF file. PROMPTS.json is
    {"max_new_tokens": 32, "cases": [{"messages": [{"role": "user", "content": "..."}], "answer": "..."}]}
Each case's messages go through the base tokenizer's chat template; the answer is decoded greedily, without special
tokens and surrounding white space. Exit code 1 if any answer differs or the adapter does not fit the base.
"""

import json
import sys
from pathlib import Path

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer


def load_base(path):
    """Model in float32 and tokenizer, from a folder or from a GGUF file, which is dequantized."""
    path = Path(path)
    folder, options = (path.parent, {"gguf_file": path.name}) if path.suffix == ".gguf" else (path, {})
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **options)
    return model, AutoTokenizer.from_pretrained(folder, **options)


def load_adapter(base, folder):
    """Base and adapter together. PEFT is silent about tensors that it does not know, so the names are compared."""
    model = PeftModel.from_pretrained(base, folder).eval()
    written = set(load_file(Path(folder) / "adapter_model.safetensors"))
    wanted = set(get_peft_model_state_dict(model))
    if written != wanted:
        sys.exit(f"{folder}: missing tensors {sorted(wanted - written)}, unknown tensors {sorted(written - wanted)}")
    return model


def answer(model, tokenizer, messages, max_new_tokens):
    prompt = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    generated = model.generate(
        **prompt, do_sample=False, max_new_tokens=max_new_tokens, repetition_penalty=1.0, temperature=None, top_p=None,
        top_k=None,
    )
    return tokenizer.decode(generated[0, prompt["input_ids"].shape[1]:], skip_special_tokens=True).strip()


def main(base_path, adapter_folder, prompts_path):
    """The number of cases whose answer differs."""
    prompts = json.loads(Path(prompts_path).read_text(encoding="utf-8"))
    base, tokenizer = load_base(base_path)
    model = load_adapter(base, adapter_folder)
    differing = 0
    for case in prompts["cases"]:
        expected, actual = case["answer"].strip(), answer(model, tokenizer, case["messages"], prompts["max_new_tokens"])
        differing += expected != actual
        print(f"{'same' if expected == actual else 'DIFFERENT'}: {json.dumps(case['messages'], ensure_ascii=False)}")
        print(f"  danlu: {expected}\n  PEFT:  {actual}")
    print(f"{len(prompts['cases']) - differing} of {len(prompts['cases'])} answers are the same")
    return differing


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit("usage: check_adapter.py BASE ADAPTER_FOLDER PROMPTS.json")
    torch.set_num_threads(1)
    with torch.no_grad():
        sys.exit(1 if main(*sys.argv[1:]) else 0)
