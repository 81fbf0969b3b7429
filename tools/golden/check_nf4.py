"""Checks that a folder of `danlu convert --quant nf4` loads in transformers with bitsandbytes and continues alike there.

    python check_nf4.py DANLU FOLDER [FOLDER ...]

DANLU is the program; it computes in f32. For each folder and four prompts:

- bitsandbytes' layers computing in f32, as the folder's `bnb_4bit_compute_dtype` says, must find at every one of danlu's 32 greedy
  tokens that it is the most probable one: then greedy decoding gives the same 32.
- On a CPU with AVX-512 BF16, bitsandbytes takes another kernel whatever the folder says. It rounds the scale of every block, the
  weights and the activations to bf16. Where that changes a token is printed, with what separates the two best in f32, and the mean
  Kullback-Leibler divergence from f32, beside that of the same rounding written out in PyTorch, which it must not exceed by half.

Exit code 1 if anything differs. Needs `bitsandbytes`.
"""

import sys

import bitsandbytes
import bitsandbytes.functional as functional
import torch
from transformers import AutoModelForCausalLM

from of_danlu import PROMPTS, continuation, encode


def load(folder):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    return model, [module for module in model.modules() if isinstance(module, bitsandbytes.nn.Linear4bit)]


class Rounded(torch.nn.Module):
    """A 4-bit layer whose scales, weights and activations are rounded to bf16, and whose sums are f32."""

    def __init__(self, layer):
        super().__init__()
        state = layer.weight.quant_state
        scales = functional.dequantize_blockwise(state.absmax, state.state2) + state.offset
        ones = torch.ones_like(scales)
        codes = torch.ops.bitsandbytes.dequantize_4bit(
            layer.weight.data, ones, state.blocksize, state.quant_type, state.shape, torch.float32)
        scales = scales.bfloat16().float().repeat_interleave(state.blocksize).view(state.shape)
        self.weight = (codes.bfloat16().float() * scales).bfloat16().float()

    def forward(self, x):
        return torch.nn.functional.linear(x.bfloat16().float(), self.weight).bfloat16().float()


def with_rounded_layers(folder):
    model, _ = load(folder)
    for name, module in list(model.named_modules()):
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            model.set_submodule(name, Rounded(module))
    return model


def in_f32(folder):
    model, layers = load(folder)
    for layer in layers:
        layer.support_avx512bf16_for_cpu = False
    return model


def check(program, folder):
    """True if both programs agree on this folder."""
    runs = []
    for prompt in PROMPTS:
        ids = encode(program, folder, prompt)
        runs.append((ids, continuation(program, folder, ids)))

    def log_probabilities(model):
        return torch.cat([
            model(input_ids=torch.tensor([ids + mine])).logits[0, len(ids) - 1:-1].double().log_softmax(-1) for ids, mine in runs
        ])

    mine = torch.tensor([token for _, tokens in runs for token in tokens])
    exact, rounded = log_probabilities(in_f32(folder)), log_probabilities(with_rounded_layers(folder))
    model, layers = load(folder)
    own = log_probabilities(model)
    divergence, expected = ((exact.exp() * (exact - other)).sum(-1).mean().item() for other in (own, rounded))
    agree, best = torch.equal(exact.argmax(-1), mine), own.argmax(-1)
    gaps = (exact.max(-1).values - exact.gather(-1, best[:, None])[:, 0])[best != mine]
    said = ", ".join(f"{gap:.3f}" for gap in gaps.sort().values)
    print(f"{folder}: {len(layers)} layers in 4 bits; {'the same' if agree else 'OTHER'} tokens in f32 behind {len(PROMPTS)} prompts; "
          f"with its own kernel {len(mine) - len(gaps)} of {len(mine)} are the best ones, the others by {said or 'none'} nats; "
          f"mean divergence {divergence:.5f} nats, of the same rounding in PyTorch {expected:.5f}", flush=True)
    return len(layers) > 0 and agree and divergence < 1.5 * expected + 1e-4


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    program, *folders = sys.argv[1:]
    sys.exit(0 if all([check(program, folder) for folder in folders]) else 1)
