"""Records 20 steps of every optimizer on some tensors of tiny_llama.py's gqa-untied, for gradients that are given.

crates/train/tests/golden/optimizers.json:
    {"settings": {learning_rate, betas, lion_betas, eps, weight_decay, steps}, "names": [tensors of the model]}
crates/train/tests/golden/optimizers.safetensors: "OPTIMIZER/NAME", the weights after the last step, float32

The gradient of element i of tensor t in step s (all from 0) is a function of integers, `gradient` below, so that it need
not be stored. PyTorch's AdamW, Muon and SGD, transformers' Adafactor as its Trainer sets it up, Lion by its formula.
Muon's Newton-Schulz products run in float32 instead of bfloat16. Matrices of the blocks follow Muon, the rest AdamW.
Weight decay applies to matrices.
"""

import numpy
import torch
from safetensors.torch import save_file
from transformers.optimization import Adafactor

from recording import TRAIN_GOLDEN, load_variant, write_json

VARIANT = "gqa-untied"
NAMES = [
    "model.embed_tokens.weight", "model.layers.0.self_attn.q_proj.weight", "model.layers.0.self_attn.k_proj.weight",
    "model.layers.1.mlp.down_proj.weight", "model.layers.1.input_layernorm.weight",
]
SETTINGS = {
    "learning_rate": 1e-2, "betas": [0.9, 0.95], "lion_betas": [0.9, 0.99], "eps": 1e-8, "weight_decay": 0.1, "steps": 20,
}


def gradient(step, tensor, shape):
    """Multiples of 2^-15 in [-1, 1), smaller by 2^-(i mod 5), one in sixteen zero."""
    index = numpy.arange(numpy.prod(shape), dtype=numpy.uint32)
    bits = (index + numpy.uint32(step * 65_537 + tensor * 1_000_003)) * numpy.uint32(2_654_435_761)
    bits = (bits ^ (bits >> numpy.uint32(15))) * numpy.uint32(2_246_822_519)
    bits = bits ^ (bits >> numpy.uint32(13))
    value = (bits >> numpy.uint32(16)).astype(numpy.float32) / 32768 - 1
    value = value / (1 << (index % 5)).astype(numpy.float32)
    value[bits & numpy.uint32(15) == 0] = 0
    return torch.from_numpy(value.reshape(shape))


class Lion(torch.optim.Optimizer):
    """arXiv:2302.06675, algorithm 2."""

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            beta1, beta2 = SETTINGS["lion_betas"]
            for parameter in group["params"]:
                moment = self.state[parameter].setdefault("moment", torch.zeros_like(parameter))
                direction = (beta1 * moment + (1 - beta1) * parameter.grad).sign()
                parameter.mul_(1 - group["lr"] * group["weight_decay"]).add_(direction, alpha=-group["lr"])
                moment.mul_(beta2).add_(parameter.grad, alpha=1 - beta2)


def optimizers(kind, parameters):
    """The optimizers that together are `kind`: matrices decay, norms do not."""
    rate, decay = SETTINGS["learning_rate"], SETTINGS["weight_decay"]
    adamw = {"lr": rate, "betas": tuple(SETTINGS["betas"]), "eps": SETTINGS["eps"], "foreach": False}
    hidden = [p for name, p in parameters.items() if p.dim() == 2 and ".layers." in name]
    if kind == "muon":
        rest = [p for p in parameters.values() if not any(p is matrix for matrix in hidden)]
        muon = torch.optim.Muon(hidden, lr=rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw")
        return [muon, torch.optim.AdamW(groups(rest, decay), **adamw)]
    both = groups(parameters.values(), decay)
    return [{
        "adamw": lambda: torch.optim.AdamW(both, **adamw),
        "adafactor": lambda: Adafactor(both, lr=rate, scale_parameter=False, relative_step=False),
        "lion": lambda: Lion(both, {"lr": rate}),
        "sgd": lambda: torch.optim.SGD(both, lr=rate, foreach=False),
    }[kind]()]


def groups(parameters, decay):
    parameters = list(parameters)
    return [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]


def record(kind):
    weights = dict(load_variant(VARIANT).named_parameters())
    parameters = {name: torch.nn.Parameter(weights[name].detach().clone()) for name in NAMES}
    used = optimizers(kind, parameters)
    for step in range(SETTINGS["steps"]):
        for tensor, parameter in enumerate(parameters.values()):
            parameter.grad = gradient(step, tensor, tuple(parameter.shape))
        for optimizer in used:
            optimizer.step()
    return {f"{kind}/{name}": parameter.detach() for name, parameter in parameters.items()}


if __name__ == "__main__":
    # torch.optim.Muon asks for this dtype by name; everything else here is float32 already.
    torch.bfloat16 = torch.float32
    recorded = {}
    for kind in ["adamw", "adafactor", "lion", "muon", "sgd"]:
        recorded |= record(kind)
    write_json(TRAIN_GOLDEN / "optimizers.json", {"settings": SETTINGS, "names": NAMES})
    save_file(recorded, TRAIN_GOLDEN / "optimizers.safetensors")
