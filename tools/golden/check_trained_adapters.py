"""Trains adapters of every kind with danlu and checks that PEFT, and llama.cpp where it can, gives the logits that danlu gives.

    python check_trained_adapters.py DANLU

DANLU is the program. A tiny model is trained from nothing and written as a folder, as one in NF4, and as GGUF in Q8_0, Q4_1
and Q4_K_M; each method trains an adapter for a few steps on one of them. transformers opens the same model (GGUF by its own
reader; of NF4 the values, which check_nf4.py checks, because the products of bitsandbytes on a CPU are rounded), PEFT puts
the adapter on it, and the log-probabilities of the next token must agree with those of danlu. LoRA of GGUF models also goes as
GGUF to llama.cpp, where the adapter must give danlu's greedy tokens. Needs `gguf` and `llama-cpp-python`.
"""

import json
import sys
import tempfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

import llama_cpp_files as peer
from check_adapter import load_adapter
from of_danlu import COUNT, continuation, danlu

PROMPTS = [[5, 17, 40, 9], [33, 2, 80, 81, 7, 120, 11, 64, 3]]
METHODS = [
    ("folder", "rsLoRA with patterns", ["use_rslora=true", 'rank_pattern={"q_proj": 2}', 'alpha_pattern={"up_proj": 3}']),
    ("folder", "DoRA with dropout", ["use_dora=true", "lora_dropout=0.1"]),
    ("folder", "whole modules", ["additional_target=embed_tokens,lm_head,model.norm"]),
    ("folder", "rows of the embedding", ["trainable_token_indices=[5, 17, 120]"]),
    ("folder", "PiSSA", ["pissa_init=true", "lora_target=q_proj,v_proj"]),
    ("folder", "orthogonal, LoRA+, NEFTune",
     ["init_lora_weights=orthogonal", "loraplus_lr_ratio=4", "neftune_noise_alpha=5"]),
    ("q8_0.gguf", "LoRA", []),
    ("q4_1.gguf", "LoRA", []),
    ("q4_k_m.gguf", "LoRA", []),
    ("q4_1.gguf", "DoRA", ["use_dora=true"]),
    ("nf4", "LoRA", []),
    ("nf4", "DoRA", ["use_dora=true"]),
]


def write_recipe(folder):
    rows = [{"text": f"第{row}道工序：车床加工轴，公差{row % 7 + 1}微米，转速{row * 37 % 900}转。"} for row in range(80)]
    (folder / "rows.jsonl").write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    recipe = folder / "recipe.yaml"
    recipe.write_text(
        f"stage: pt\npacking: false\ndataset: {folder}/rows.jsonl\ncutoff_len: 48\nlearning_rate: 0.01\nmax_steps: 20\n"
        "per_device_train_batch_size: 8\nprecision: f32\nsave_strategy: 'no'\noverwrite_output_dir: true\nlora_rank: 4\n",
        encoding="utf-8",
    )
    return str(recipe)


def log_probabilities(model, ids):
    return torch.log_softmax(model(input_ids=torch.tensor([ids])).logits[0, -1].double(), -1)


def open_model(path):
    if path.suffix == ".gguf":
        return AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)


def difference(program, base, adapter):
    """The largest difference of log-probabilities of the ten best tokens, and how much the adapter changes them."""
    values = base.with_name("nf4-values") if base.name == "nf4" else base
    plain = [log_probabilities(open_model(values), ids) for ids in PROMPTS]
    model = load_adapter(open_model(values), adapter)
    worst = changed = 0.0
    for ids, before in zip(PROMPTS, plain):
        found = danlu(program, "generate", "--model", str(base), "--adapter", str(adapter), "--prompt-ids",
                      ",".join(map(str, ids)), "--max-new-tokens", "1", "--temperature", "0", "--precision", "f32",
                      "--top-logprobs", "10")["top_logprobs"][0]
        theirs = log_probabilities(model, ids)
        worst = max(worst, *(abs(theirs[one["id"]].item() - one["logprob"]) for one in found))
        changed = max(changed, (theirs - before).abs().max().item())
    return worst, changed


def llama_agrees(program, base, adapter, folder):
    lora = folder / f"{base.stem}-adapter.gguf"
    danlu(program, "convert", str(adapter), str(lora), "--base", str(base))
    llama = peer.load(str(base), 128, lora_path=str(lora))
    mine = [continuation(program, str(base), ids, "--adapter", str(adapter)) for ids in PROMPTS]
    return sum(one == peer.greedy(llama, ids, COUNT) for one, ids in zip(mine, PROMPTS))


def main(program):
    failed = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        recipe = write_recipe(folder)
        base = folder / "folder"
        danlu(program, "train", recipe, "finetuning_type=full", "hidden_size=256", "intermediate_size=512",
              "num_hidden_layers=2", "num_attention_heads=4", "num_key_value_heads=2", "max_position_embeddings=128",
              "vocab_size=320", f"output_dir={base}")
        for kind in ("q8_0", "q4_1", "q4_k_m"):
            danlu(program, "convert", str(base), str(folder / f"{kind}.gguf"), "--quant", kind)
        danlu(program, "convert", str(base), str(folder / "nf4"), "--quant", "nf4")
        danlu(program, "convert", str(folder / "nf4"), str(folder / "nf4-values"), "--dtype", "f32")
        for number, (source, what, keys) in enumerate(METHODS):
            adapter = folder / f"adapter-{number}"
            danlu(program, "train", recipe, f"model_name_or_path={folder / source}", f"output_dir={adapter}",
                  "learning_rate=0.02", *keys)
            worst, changed = difference(program, folder / source, adapter)
            good = worst < 1e-3 < changed
            line = f"{source}, {what}: the adapter changes log-probabilities by {changed:.3f}, PEFT differs by {worst:.1e}"
            if source.endswith(".gguf") and not keys:
                same = llama_agrees(program, folder / source, adapter, folder)
                good &= same == len(PROMPTS)
                line += f"; llama.cpp goes on the same behind {same} of {len(PROMPTS)} prompts"
            print(("" if good else "DIFFERENT: ") + line, flush=True)
            failed += not good
    return failed


if __name__ == "__main__":
    torch.set_num_threads(1)
    with torch.no_grad():
        sys.exit(1 if main(*sys.argv[1:]) else 0)
