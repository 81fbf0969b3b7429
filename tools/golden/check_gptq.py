"""Checks that GPTQ folders written by danlu give the same greedy tokens in GPTQModel as in danlu.

    python check_gptq.py DANLU FOLDER [FOLDER ...]
    python check_gptq.py DANLU --tiny TOKENIZER_FOLDER TEXT

DANLU is the program. For each folder and four prompts:

- GPTQModel loads the folder and unpacks its layers. transformers computes with these weights in f32, and must find at every one of
  danlu's 32 greedy tokens that it is the most probable one: then greedy decoding gives the same 32.
- GPTQModel's own layers (its plain PyTorch kernel) compute in float16, float32 being none that they have. How many of the tokens are the
  most probable ones there too is printed, and the mean Kullback-Leibler divergence from the f32 result, which is bounded. Where
  such a token differs, the two best must be nearly equal in f32.

`--tiny` makes a small random Llama with the tokenizer of a folder, lets danlu quantize it in 4 and 8 bits, with and without act-order,
symmetric and not, calibrated with TEXT, and checks those. Exit code 1 if anything differs. Needs `gptqmodel`.
"""

import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

# Its layers are compiled otherwise, which takes minutes and changes no number that is compared here.
os.environ["TORCH_COMPILE_DISABLE"] = "1"

import torch
from gptqmodel import BACKEND, GPTQModel
from gptqmodel.nn_modules.qlinear import BaseQuantLinear
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig

from of_danlu import COUNT, PROMPTS, continuation, danlu, encode

# Nats a token, and nats between the two best of a token that differs.
NEARLY, TIE = 0.02, 0.1
VARIANTS = {
    "4bit-32g": ["--quant", "gptq-4bit", "--group-size", "32"],
    "4bit-64g-act-order-asym": ["--quant", "gptq-4bit", "--group-size", "64", "--desc-act", "--sym", "false"],
    "4bit-row": ["--quant", "gptq-4bit", "--group-size=-1"],
    "8bit-32g": ["--quant", "gptq-8bit", "--group-size", "32"],
    "8bit-64g-act-order": ["--quant", "gptq-8bit", "--group-size", "64", "--desc-act"],
}


def with_unpacked_layers(folder, model):
    """The same model of transformers in f32, with the weights that GPTQModel's layers unpack."""
    state = {name: value.float() for name, value in model.state_dict().items() if value.is_floating_point()}
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, BaseQuantLinear)}
    for name, layer in layers.items():
        # In float16 the product of a scale and a small integer would be rounded, so the scales are widened first.
        layer.scales = layer.scales.float()
        state[f"{name}.weight"] = layer.dequantize_weight().float().T.contiguous()
    config = AutoConfig.from_pretrained(folder, attn_implementation="eager")
    del config.quantization_config
    plain = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    missing, _ = plain.load_state_dict(state, strict=False)
    assert layers and not [name for name in missing if name != "lm_head.weight"], missing
    return plain


def check(program, folder):
    """True if both programs agree on this folder."""
    def load():
        return GPTQModel.load(str(folder), backend=BACKEND.TORCH, device="cpu", dtype=torch.float16).model.eval()

    runs = []
    for prompt in PROMPTS:
        ids = encode(program, folder, prompt)
        runs.append((ids, continuation(program, folder, ids)))
    results = []
    for model in (load(), with_unpacked_layers(folder, load())):
        with torch.no_grad():
            results.append([
                model(input_ids=torch.tensor([ids + mine])).logits[0, len(ids) - 1:-1].double().log_softmax(-1) for ids, mine in runs
            ])
    agree, ties, same, total, divergence = True, True, 0, 0, 0.0
    for (_, mine), own, exact in zip(runs, *results):
        mine = torch.tensor(mine)
        agree &= torch.equal(exact.argmax(-1), mine)
        best = own.argmax(-1)
        gaps = (exact.max(-1).values - exact.gather(-1, best[:, None])[:, 0])[best != mine]
        ties &= bool((gaps < TIE).all())
        same += int((best == mine).sum())
        total += len(mine)
        divergence += (exact.exp() * (exact - own)).sum().item()
    divergence /= total
    print(f"{folder}: {'the same' if agree else 'OTHER'} {COUNT} tokens behind {len(PROMPTS)} prompts with the weights that GPTQModel "
          f"unpacks, in f32; its own layers in float16: {same} of {total} tokens, mean divergence {divergence:.6f} nats"
          f"{'' if ties else ', AND NOT BY NEAR-TIES'}", flush=True)
    return agree and ties and divergence < NEARLY


def tiny(program, tokenizer, text, folder):
    """Folders of a small random Llama, one for each variant."""
    plain = folder / "plain"
    plain.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        if (Path(tokenizer) / name).exists():
            shutil.copy(Path(tokenizer) / name, plain)
    vocab_size = json.loads((Path(tokenizer) / "config.json").read_text())["vocab_size"]
    config = LlamaConfig(vocab_size=vocab_size, hidden_size=128, intermediate_size=192, num_hidden_layers=2, num_attention_heads=4,
                         num_key_value_heads=2, max_position_embeddings=128, rope_theta=10000.0, tie_word_embeddings=True)
    torch.manual_seed(7)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for name, value in model.named_parameters():
            value.copy_(1 + 0.3 * torch.randn_like(value) if name.endswith("norm.weight") else 0.15 * torch.randn_like(value))
    save_file({name: value.half() for name, value in model.state_dict().items() if name != "lm_head.weight"},
              plain / "model.safetensors", metadata={"format": "pt"})
    config.architectures = ["LlamaForCausalLM"]
    config.save_pretrained(plain)
    for name, options in VARIANTS.items():
        danlu(program, "convert", str(plain), str(folder / name), "--calibration", text, "--calibration-samples", "16",
              "--calibration-length", "64", *options)
        yield folder / name


if __name__ == "__main__":
    program, *rest = sys.argv[1:]
    torch.set_grad_enabled(False)
    with tempfile.TemporaryDirectory() as name:
        folders = tiny(program, rest[1], rest[2], Path(name)) if rest[0] == "--tiny" else rest
        sys.exit(0 if all([check(program, folder) for folder in folders]) else 1)
