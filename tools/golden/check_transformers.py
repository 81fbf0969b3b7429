"""Checks what danlu writes of every family that transformers has: model folders in transformers, adapters in PEFT.

    python check_transformers.py DANLU TOKENIZER_FOLDER [FAMILY ...]

DANLU is the program. For each family a small random model is made with the tokenizer of TOKENIZER_FOLDER (of a Llama; the folder
that `danlu convert stories260K.gguf FOLDER` writes will do), and danlu writes

- it as a Hugging Face folder,
- the same by way of a GGUF file,
- a LoRA adapter of all its linear layers, trained some steps,
- model and adapter merged.

Each must load completely and continue two prompts by the same 32 greedy tokens as in danlu, with the log-probabilities of
all of them within 1e-4 of the largest. Exit code 1 if one does not. Needs `transformers` and `peft`.
"""

import json
import shutil
import sys
import tempfile
from pathlib import Path

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

from of_danlu import COUNT, danlu

SHAPE = dict(hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
             max_position_embeddings=128, bos_token_id=1, eos_token_id=2, pad_token_id=None)


def rope(kind, **fields):
    return dict(rope_parameters={"rope_type": kind, "rope_theta": 10000.0, **fields})


FAMILIES = {
    "llama": LlamaConfig(**SHAPE),
    "llama, tied": LlamaConfig(**SHAPE, tie_word_embeddings=True),
    "llama, biases": LlamaConfig(**SHAPE, attention_bias=True, mlp_bias=True),
    "llama, linear rope": LlamaConfig(**SHAPE, **rope("linear", factor=4.0)),
    "llama, dynamic rope": LlamaConfig(**SHAPE | dict(max_position_embeddings=16), **rope("dynamic", factor=8.0)),
    "llama 3.1": LlamaConfig(**SHAPE | dict(max_position_embeddings=131072), **rope(
        "llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=8192)),
    "llama, yarn": LlamaConfig(**SHAPE, **rope("yarn", factor=4.0, original_max_position_embeddings=32)),
    "mistral": MistralConfig(**SHAPE, head_dim=32, sliding_window=None),
    "mistral, window of 6": MistralConfig(**SHAPE, head_dim=32, sliding_window=6),
    "qwen2": Qwen2Config(**SHAPE),
    "qwen3": Qwen3Config(**SHAPE, head_dim=32, tie_word_embeddings=True),
}
# GGUF has neither the scaling `dynamic`, nor biases of the MLP in a Llama, nor the window in its architecture `llama`.
WITHOUT_GGUF = {"llama, dynamic rope", "llama, biases", "mistral, window of 6"}
PROMPTS = [[1, 17, 5, 40], [1, 300, 9, 9, 28, 77, 14]]
CLOSE = 1e-4


def write(folder, tokenizer, config):
    config.vocab_size = json.loads((tokenizer / "config.json").read_text(encoding="utf-8"))["vocab_size"]
    torch.manual_seed(11)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    for name, value in model.named_parameters():
        noise = torch.randn_like(value)
        value.copy_(1 + 0.3 * noise if name.endswith("norm.weight") else 0.2 * noise)
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json"):
        if (tokenizer / name).exists():
            shutil.copy(tokenizer / name, folder)


def load(folder):
    """The model, if no tensor is missing or unknown."""
    model, report = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True)
    problems = {kind: sorted(names) for kind, names in report.items() if names}
    assert not problems, f"{folder}: {problems}"
    return model.eval()


def with_adapter(base, folder):
    model = PeftModel.from_pretrained(load(base), folder).eval()
    written, wanted = load_file(folder / "adapter_model.safetensors"), get_peft_model_state_dict(model)
    assert written.keys() == wanted.keys(), f"{folder}: {sorted(written.keys() ^ wanted.keys())}"
    assert all(values.any() for values in written.values()), f"{folder}: an adapter that does nothing"
    return model


def error(program, model, *options):
    """The largest relative error of log-probabilities behind both prompts, infinite where a token is another one."""
    largest = 0.0
    for prompt in PROMPTS:
        found = danlu(program, "generate", *options, "--prompt-ids", ",".join(map(str, prompt)), "--max-new-tokens", str(COUNT),
                      "--temperature", "0", "--precision", "f32", "--top-logprobs", "100")
        mine = found["ids"]
        generated = model.generate(torch.tensor([prompt]), max_new_tokens=len(mine), do_sample=False, output_logits=True,
                                   return_dict_in_generate=True, pad_token_id=0)
        logits = [row[0].log_softmax(-1) for row in generated.logits]
        if generated.sequences[0, len(prompt):].tolist() != mine:
            return float("inf")
        for row, top in zip(logits, found["top_logprobs"]):
            theirs = row[[entry["id"] for entry in top]]
            difference = (theirs - torch.tensor([entry["logprob"] for entry in top])).abs().max()
            largest = max(largest, (difference / theirs.abs().max()).item())
    return largest


def check(program, name, tokenizer, folder):
    source, plain, file, back = (folder / part for part in ("source", "plain", "model.gguf", "back"))
    write(source, tokenizer, FAMILIES[name])
    danlu(program, "convert", source, plain, "--dtype", "f32")
    errors = {"folder": error(program, load(plain), "--model", plain)}
    if name not in WITHOUT_GGUF:
        danlu(program, "convert", plain, file, "--dtype", "f32")
        danlu(program, "convert", file, back, "--dtype", "f32")
        errors["through GGUF"] = error(program, load(back), "--model", back)
    rows, adapter, merged = (folder / part for part in ("rows.jsonl", "adapter", "merged"))
    row = json.dumps({"instruction": "Tell a story", "input": "", "output": "Once upon a time there was a small dog."})
    rows.write_text(f"{row}\n" * 8, encoding="utf-8")
    danlu(program, "train", "sft-lora", f"model_name_or_path={plain}", f"dataset={rows}", f"output_dir={adapter}", "template=llama2",
          "cutoff_len=128", "max_steps=6", "learning_rate=0.02", "lora_target=all", "save_strategy=no", "precision=f32")
    errors["adapter"] = error(program, with_adapter(plain, adapter), "--model", plain, "--adapter", adapter)
    danlu(program, "merge", "--base", plain, "--adapter", adapter, "--out", merged)
    errors["merged"] = error(program, load(merged), "--model", merged)
    holds = max(errors.values()) <= CLOSE
    said = ", ".join(f"{part} {value:.1e}" for part, value in errors.items())
    print(f"{name}: {said}: {'holds' if holds else 'DIFFERS'}", flush=True)
    return holds


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    torch.set_num_threads(1)
    program, tokenizer, *chosen = sys.argv[1:]
    results = []
    for name in chosen or FAMILIES:
        with tempfile.TemporaryDirectory() as folder:
            results.append(check(program, name, Path(tokenizer), Path(folder)))
    sys.exit(not all(results))
