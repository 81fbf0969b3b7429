"""The training loop that tiny_adamw.py and tiny_lora.py record. Records nothing by itself."""

import torch
from transformers import get_cosine_schedule_with_warmup

from recording import batch_loss, shortest

SETTINGS = {
    "learning_rate": 1e-3, "betas": [0.9, 0.95], "eps": 1e-8, "weight_decay": 0.1, "max_grad_norm": 1.0,
    "lr_scheduler_type": "cosine",
}


def learnable_batch(source, vocab_size):
    """Three sequences that count upwards in a fixed stride: something that a few steps can learn."""
    sequences = []
    for length, prompt in [(9, 3), (13, 1), (6, 2)]:
        start = torch.randint(vocab_size, (), generator=source).item()
        ids = [(start + 3 * position) % vocab_size for position in range(length)]
        sequences.append({"ids": ids, "loss_weights": [0] * prompt + [1] * (length - prompt)})
    return sequences


def adamw_run(model, batches, steps, warmup_steps):
    """Trains what requires gradients; step s (from 0) takes batches[s % len(batches)].

    Returns the recording: settings, batches and, for each step, the loss before the update, the gradients' norm before
    clipping, and the learning rate of the update (0 in the first step of a warmup). Weight decay applies to parameters
    of two or more dimensions, the embedding included. Clipping scales by min(1, max_grad_norm / (norm + 1e-6)).
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": SETTINGS["weight_decay"]},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(
        [group for group in groups if group["params"]], lr=SETTINGS["learning_rate"], betas=tuple(SETTINGS["betas"]),
        eps=SETTINGS["eps"], foreach=False,
    )
    scheduler = get_cosine_schedule_with_warmup(optimizer, warmup_steps, steps)
    log = []
    for step in range(steps):
        loss = batch_loss(model, batches[step % len(batches)])
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters, SETTINGS["max_grad_norm"])
        log.append({"loss": shortest(loss), "grad_norm": shortest(norm), "learning_rate": scheduler.get_last_lr()[0]})
        optimizer.step()
        scheduler.step()
    settings = {**SETTINGS, "max_steps": steps, "warmup_steps": warmup_steps}
    return {"settings": settings, "batches": batches, "steps": log}
