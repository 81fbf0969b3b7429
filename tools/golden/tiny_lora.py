"""Records a LoRA adapter of PEFT on the gqa-untied model: its logits, its gradients, ten training steps.

crates/model/tests/golden/gqa-untied-lora/
    adapter_config.json, adapter_model.safetensors: as PEFT saves them; r 4, alpha 8, all seven linears, A and B random
    golden.json: {"sequences": [{"ids": [T], "logits": [T][V], "mean_nll": number}]}, base and adapter together
crates/model/tests/golden/gradients/gqa-untied-lora.{json,safetensors}: as in tiny_gradients.py, for A and B only, under
    the names of adapter_model.safetensors
crates/train/tests/golden/adamw/gqa-untied-lora.{json,safetensors}: as in tiny_adamw.py, 10 steps, from this adapter
"""

import json
import shutil

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file

from adamw_run import adamw_run, learnable_batch
from recording import (
    MODEL_GOLDEN, TRAIN_GOLDEN, batch_loss, generator, load_variant, random_ids, shortest, token_losses, write_json,
)
from tiny_gradients import batch

BASE = "gqa-untied"
NAME = "gqa-untied-lora"


def random_adapter(source):
    """PEFT starts with B = 0, where the adapter changes nothing and A has no gradient: here both are random."""
    config = LoraConfig(
        r=4, lora_alpha=8, lora_dropout=0.0, task_type="CAUSAL_LM",
        target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    )
    model = get_peft_model(load_variant(BASE), config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(0.15 * torch.randn(parameter.shape, generator=source))
    return model


def save_adapter(model, folder):
    """PEFT's own files, without what differs from run to run or from place to place."""
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    plain_config(folder / "adapter_config.json", f"../{BASE}")


def plain_config(path, base):
    """PEFT keeps some lists as sets, whose order is another in every run."""
    config = json.loads(path.read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = base
    for field in ("target_modules", "exclude_modules"):
        if isinstance(config[field], list):
            config[field].sort()
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def trainable(model, value):
    """`value` of every trained parameter under its name in adapter_model.safetensors."""
    return {
        name.replace(".default.", "."): value(parameter)
        for name, parameter in model.named_parameters() if parameter.requires_grad
    }


def record_logits(model, source):
    vocab_size = model.config.vocab_size
    sequences = []
    with torch.no_grad():
        for ids in [random_ids(source, 5, vocab_size), random_ids(source, 21, vocab_size)]:
            logits = model(input_ids=torch.tensor([ids])).logits[0]
            mean_nll = token_losses(model, ids).mean()
            sequences.append({"ids": ids, "logits": shortest(logits), "mean_nll": shortest(mean_nll)})
    write_json(MODEL_GOLDEN / NAME / "golden.json", {"sequences": sequences})


def record_gradients(model, source):
    sequences = batch(source, model.config.vocab_size)
    loss = batch_loss(model, sequences)
    loss.backward()
    for sequence in sequences:
        sequence["token_nll"] = shortest(token_losses(model, sequence["ids"]))
    write_json(MODEL_GOLDEN / f"gradients/{NAME}.json", {"loss": shortest(loss), "sequences": sequences})
    gradients = trainable(model, lambda parameter: parameter.grad)
    save_file(gradients, MODEL_GOLDEN / f"gradients/{NAME}.safetensors")


def record_training(model, source):
    batches = [learnable_batch(source, model.config.vocab_size) for _ in range(4)]
    write_json(TRAIN_GOLDEN / f"adamw/{NAME}.json", adamw_run(model, batches, steps=10, warmup_steps=2))
    weights = trainable(model, lambda parameter: parameter.detach())
    save_file(weights, TRAIN_GOLDEN / f"adamw/{NAME}.safetensors")


if __name__ == "__main__":
    adapter = random_adapter(generator(31))
    save_adapter(adapter, MODEL_GOLDEN / NAME)
    record_logits(adapter, generator(32))
    record_gradients(adapter, generator(33))
    record_training(adapter, generator(34))
