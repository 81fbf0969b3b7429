"""What the recording scripts share: where recordings go, how they are written, and the loss that they all use.

Records nothing by itself. One thread and fixed seeds, so that a second run writes the same bytes.
"""

import json
from pathlib import Path

import numpy
import torch
from transformers import LlamaForCausalLM

ROOT = Path(__file__).resolve().parents[2]
MODEL_GOLDEN = ROOT / "crates/model/tests/golden"
TRAIN_GOLDEN = ROOT / "crates/train/tests/golden"
EVAL_GOLDEN = ROOT / "crates/eval/tests/golden"

torch.set_num_threads(1)
torch.use_deterministic_algorithms(True)


def load_variant(variant):
    """One of the folders that tiny_llama.py writes: float32, eager attention."""
    return LlamaForCausalLM.from_pretrained(MODEL_GOLDEN / variant, dtype=torch.float32, attn_implementation="eager")


def generator(seed):
    """A random source of its own for each recording, so that the scripts do not depend on each other's order."""
    return torch.Generator().manual_seed(seed)


def random_ids(source, length, vocab_size):
    """`length` token ids, drawn uniformly."""
    return torch.randint(vocab_size, (length,), generator=source).tolist()


def shortest(values):
    """Nested lists of the shortest decimals that read back as the same float32."""
    if isinstance(values, torch.Tensor):
        values = values.detach().to(torch.float32).numpy()
    if isinstance(values, numpy.ndarray) and values.ndim > 0:
        return [shortest(value) for value in values]
    return float(str(numpy.float32(values)))


def token_losses(model, ids):
    """Negative log-likelihoods of ids[1:], shape [len(ids) - 1]."""
    row = torch.tensor(ids)
    logits = model(input_ids=row.unsqueeze(0)).logits[0]
    return torch.nn.functional.cross_entropy(logits[:-1], row[1:], reduction="none")


def batch_loss(model, batch):
    """Sum of weight times negative log-likelihood over sum of weights; each sequence runs alone, without padding.

    A sequence is {"ids": [...], "loss_weights": [...]} of equal lengths. `loss_weights[i]` belongs to the prediction of
    `ids[i]` from the ids before it; the first id is predicted from nothing, so its weight is 0.
    """
    total, weights = torch.zeros(()), 0.0
    for sequence in batch:
        assert sequence["loss_weights"][0] == 0
        weight = torch.tensor(sequence["loss_weights"][1:], dtype=torch.float32)
        total = total + (weight * token_losses(model, sequence["ids"])).sum()
        weights += weight.sum().item()
    return total / weights


def json_text(value, depth=0):
    """JSON with a list of plain values on one line."""
    pad = " " * (depth + 1)
    if isinstance(value, dict):
        items = [f"{pad}{json.dumps(key)}: {json_text(item, depth + 1)}" for key, item in value.items()]
        return "{\n" + ",\n".join(items) + "\n" + " " * depth + "}"
    if isinstance(value, list) and any(isinstance(item, (dict, list)) for item in value):
        items = [pad + json_text(item, depth + 1) for item in value]
        return "[\n" + ",\n".join(items) + "\n" + " " * depth + "]"
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def write_json(path, value):
    """Writes `value` to `path` and says so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json_text(value) + "\n", encoding="utf-8")
    print(f"{path.relative_to(ROOT)}  {path.stat().st_size} bytes")
