"""Records gradients and twenty training steps of some of the adapters that peft_kinds.py writes, which must be there.

crates/model/tests/golden/gradients/peft-NAME.{json,safetensors}: as in tiny_gradients.py, for what the adapter trains, under
    the names of adapter_model.safetensors
crates/train/tests/golden/adamw/peft-NAME.json: as in tiny_adamw.py, 20 steps, from this adapter
crates/train/tests/golden/adamw/peft-NAME.safetensors: what is trained, after the last step
crates/train/tests/golden/adamw/pissa.json: the same 20 steps from PEFT's start of PiSSA, whose matrices are those of the
    weights up to the signs of pairs of rows and columns, which change no loss
"""

import json

from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file

from adamw_run import adamw_run, learnable_batch
from peft_kinds import FOLDER, load_base
from recording import MODEL_GOLDEN, TRAIN_GOLDEN, batch_loss, generator, shortest, token_losses, write_json
from tiny_gradients import batch

# patterns: rank and alpha patterns, rsLoRA and a regular expression.
KINDS = ["dora", "patterns", "saved-modules", "tokens", "tokens-untied"]


def load(name):
    base = json.loads((FOLDER / name / "golden.json").read_text(encoding="utf-8"))["base"]
    return PeftModel.from_pretrained(load_base(base), FOLDER / name, is_trainable=True)


def stored_name(name):
    """The name in adapter_model.safetensors of a parameter of the model."""
    for old, new in [
        (".lora_magnitude_vector.default.weight", ".lora_magnitude_vector"),
        (".trainable_tokens_delta.default", ".trainable_tokens_delta"),
        (".modules_to_save.default.", "."),
        (".default.", "."),
    ]:
        if old in name:
            return name.replace(old, new)
    return name


def trainable(model, value):
    return {
        stored_name(name): value(parameter).contiguous()
        for name, parameter in model.named_parameters() if parameter.requires_grad
    }


def record(name, seed):
    model = load(name)
    vocab_size = model.config.vocab_size
    sequences = batch(generator(seed), vocab_size)
    # Rows that are trained have to be seen.
    sequences[1]["ids"][2], sequences[0]["ids"][6] = 3, 96
    loss = batch_loss(model, sequences)
    loss.backward()
    for sequence in sequences:
        sequence["token_nll"] = shortest(token_losses(model, sequence["ids"]))
    write_json(MODEL_GOLDEN / f"gradients/peft-{name}.json", {"loss": shortest(loss), "sequences": sequences})
    save_file(trainable(model, lambda parameter: parameter.grad), MODEL_GOLDEN / f"gradients/peft-{name}.safetensors")
    model = load(name)
    batches = [learnable_batch(generator(seed + 20 + index), vocab_size) for index in range(4)]
    batches[0][0]["ids"][4] = 3
    write_json(TRAIN_GOLDEN / f"adamw/peft-{name}.json", adamw_run(model, batches, steps=20, warmup_steps=2))
    save_file(trainable(model, lambda parameter: parameter.detach()), TRAIN_GOLDEN / f"adamw/peft-{name}.safetensors")


def record_pissa(seed):
    options = dict(r=3, lora_alpha=6, target_modules=["q_proj", "v_proj", "down_proj"], init_lora_weights="pissa")
    model = get_peft_model(load_base("gqa-untied"), LoraConfig(task_type="CAUSAL_LM", **options))
    batches = [learnable_batch(generator(seed + index), model.config.vocab_size) for index in range(4)]
    write_json(TRAIN_GOLDEN / "adamw/pissa.json", adamw_run(model, batches, steps=20, warmup_steps=2))


if __name__ == "__main__":
    record_pissa(400)
    for index, kind in enumerate(KINDS):
        record(kind, 200 + 40 * index)
