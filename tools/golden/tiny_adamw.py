"""Records 20 AdamW steps from the weights of two of tiny_llama.py's models.

crates/train/tests/golden/adamw/{gqa-untied,mha-tied}.json:
    {"settings": {learning_rate, betas, eps, weight_decay, max_grad_norm, lr_scheduler_type, max_steps, warmup_steps},
     "batches": [4][3]{"ids": [T], "loss_weights": [T]}, "steps": [20]{"loss", "grad_norm", "learning_rate"}}
    what the numbers mean exactly: adamw_run.py
crates/train/tests/golden/adamw/{gqa-untied,mha-tied}.safetensors: the weights after the last step, float32
"""

from safetensors.torch import save_file

from adamw_run import adamw_run, learnable_batch
from recording import TRAIN_GOLDEN, generator, load_variant, write_json


def record(variant, seed):
    model, source = load_variant(variant), generator(seed)
    batches = [learnable_batch(source, model.config.vocab_size) for _ in range(4)]
    recording = adamw_run(model, batches, steps=20, warmup_steps=4)
    write_json(TRAIN_GOLDEN / f"adamw/{variant}.json", recording)
    save_file(
        {name: parameter.detach() for name, parameter in model.named_parameters()},
        TRAIN_GOLDEN / f"adamw/{variant}.safetensors",
    )


if __name__ == "__main__":
    record("gqa-untied", 21)
    record("mha-tied", 22)
