"""Records the learning-rate schedules of transformers and DeepSpeed, and transformers' rule for warmup ratios.

    python schedules.py LR_SCHEDULES

LR_SCHEDULES is `deepspeed/runtime/lr_schedules.py` of DeepSpeed's source package (0.19.8), which needs no more of it than a logger.

crates/train/tests/golden/schedules.json:
    {"schedules": [{"lr_scheduler_type", "learning_rate", "max_steps", "warmup_steps", ["lr_scheduler_kwargs",]
                    "values": [max_steps]}],
     "warmup_ratios": [{"warmup_ratio", "max_steps", "warmup_steps"}]}

`values[s]` is the learning rate of the update in step s, counted from 0, in float64. `constant` takes no warmup. Of DeepSpeed's
schedules it is what they give at `last_batch_iteration = s`.
"""

import importlib.util
import itertools
import logging
import sys
import tempfile
import types

import torch
from transformers import TrainingArguments, get_scheduler

from recording import TRAIN_GOLDEN, write_json

LEARNING_RATE = 3e-4
TOTALS = [1, 2, 7, 20, 61]
# 0.07 of 100 is 7.000000000000001 in float64, so it makes 8 steps.
RATIOS = [(0.0, 50), (0.03, 1), (0.03, 10), (0.03, 100), (0.03, 1000), (0.05, 61), (0.07, 100), (0.1, 3), (0.1, 7),
          (0.1, 30), (0.1, 1000), (0.25, 2), (0.29, 100), (0.5, 5)]


# `min_lr_rate` is a key of its own in recipes.
KWARGS = [
    ("cosine", {"num_cycles": 1.5}),
    ("cosine_with_min_lr", {"min_lr_rate": 0.1}),
    ("cosine_with_restarts", {}),
    ("cosine_with_restarts", {"num_cycles": 3}),
    ("polynomial", {}),
    ("polynomial", {"power": 2.5, "lr_end": 1e-5}),
    ("inverse_sqrt", {}),
    ("inverse_sqrt", {"timescale": 7}),
    ("warmup_stable_decay", {"num_decay_steps": 4}),
    ("warmup_stable_decay", {"num_decay_steps": 9, "num_stable_steps": 5, "min_lr_ratio": 0.1, "warmup_type": "cosine",
                             "decay_type": "linear"}),
    ("warmup_stable_decay", {"num_decay_steps": 9, "num_stable_steps": 20, "warmup_type": "1-sqrt",
                             "decay_type": "1-sqrt"}),
    ("warmup_stable_decay", {"num_decay_steps": 30, "num_cycles": 1.5, "min_lr_ratio": 0.2}),
]
DEEPSPEED = [
    ("WarmupLR", {}),
    ("WarmupLR", {"warmup_min_lr": 1e-5, "warmup_type": "linear"}),
    ("WarmupDecayLR", {}),
    ("WarmupDecayLR", {"warmup_min_lr": 1e-5, "total_num_steps": 40}),
    ("WarmupCosineLR", {}),
    ("WarmupCosineLR", {"warmup_min_ratio": 0.1, "cos_min_ratio": 0.05, "warmup_type": "linear"}),
]


def sgd():
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=LEARNING_RATE)


def deepspeed_schedule(module, kind, total, warmup, kwargs):
    numbers = {"warmup_num_steps": warmup, **kwargs}
    if kind != "WarmupLR":
        numbers.setdefault("total_num_steps", total)
    if kind != "WarmupCosineLR":
        numbers["warmup_max_lr"] = LEARNING_RATE
    scheduler = getattr(module, kind)(sgd(), **numbers)
    values = []
    for step in range(total):
        scheduler.step(step)
        values.append(scheduler.get_last_lr()[0])
    return {"lr_scheduler_type": kind, "learning_rate": LEARNING_RATE, "max_steps": total, "warmup_steps": warmup,
            "lr_scheduler_kwargs": kwargs, "values": values}


def deepspeed_module(path):
    utils = types.ModuleType("deepspeed.utils")
    utils.logger = logging.getLogger("deepspeed")
    sys.modules |= {"deepspeed": types.ModuleType("deepspeed"), "deepspeed.utils": utils}
    spec = importlib.util.spec_from_file_location("lr_schedules", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def with_kwargs(kind, total, warmup, kwargs):
    recorded = schedule(kind, total, warmup, kwargs)
    numbers = dict(kwargs)
    if "min_lr_rate" in numbers:
        recorded["min_lr_rate"] = numbers.pop("min_lr_rate")
    return {"lr_scheduler_kwargs": numbers, **recorded}


def schedule(kind, total, warmup, kwargs=None):
    optimizer = sgd()
    scheduler = get_scheduler(kind, optimizer, num_warmup_steps=warmup, num_training_steps=total,
                              scheduler_specific_kwargs=kwargs)
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
    for (kind, kwargs), warmup in itertools.product(KWARGS, [0, 6]):
        schedules.append(with_kwargs(kind, 41, warmup, kwargs))
    deepspeed = deepspeed_module(sys.argv[1])
    for (kind, kwargs), warmup in itertools.product(DEEPSPEED, [1, 6]):
        schedules.append(deepspeed_schedule(deepspeed, kind, 41, warmup, kwargs))
    write_json(TRAIN_GOLDEN / "schedules.json", {
        "schedules": schedules, "warmup_ratios": [warmup_steps(ratio, total) for ratio, total in RATIOS],
    })
