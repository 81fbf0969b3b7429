"""Records transformers' learning-rate schedules and its rule for warmup ratios.

crates/train/tests/golden/schedules.json:
    {"schedules": [{"lr_scheduler_type", "learning_rate", "max_steps", "warmup_steps", "values": [max_steps]}],
     "warmup_ratios": [{"warmup_ratio", "max_steps", "warmup_steps"}]}

`values[s]` is the learning rate of the update in step s, counted from 0, in float64. `constant` takes no warmup.
"""

import itertools
import tempfile

import torch
from transformers import TrainingArguments, get_scheduler

from recording import TRAIN_GOLDEN, write_json

LEARNING_RATE = 3e-4
TOTALS = [1, 2, 7, 20, 61]
# 0.07 of 100 is 7.000000000000001 in float64, so it makes 8 steps.
RATIOS = [(0.0, 50), (0.03, 1), (0.03, 10), (0.03, 100), (0.03, 1000), (0.05, 61), (0.07, 100), (0.1, 3), (0.1, 7),
          (0.1, 30), (0.1, 1000), (0.25, 2), (0.29, 100), (0.5, 5)]


def schedule(kind, total, warmup):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=LEARNING_RATE)
    scheduler = get_scheduler(kind, optimizer, num_warmup_steps=warmup, num_training_steps=total)
    values = []
    for _ in range(total):
        values.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return {"lr_scheduler_type": kind, "learning_rate": LEARNING_RATE, "max_steps": total, "warmup_steps": warmup,
            "values": values}


def warmup_steps(ratio, total):
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(output_dir=folder, warmup_steps=ratio, use_cpu=True, report_to="none")
    return {"warmup_ratio": ratio, "max_steps": total, "warmup_steps": arguments.get_warmup_steps(total)}


if __name__ == "__main__":
    schedules = [schedule("constant", 7, 0)]
    for kind, total in itertools.product(["cosine", "linear", "constant_with_warmup"], TOTALS):
        schedules += [schedule(kind, total, warmup) for warmup in sorted({0, 1, 5, total}) if warmup <= total]
    write_json(TRAIN_GOLDEN / "schedules.json", {
        "schedules": schedules, "warmup_ratios": [warmup_steps(ratio, total) for ratio, total in RATIOS],
    })
