"""Records distillation of the mha-tied model (teacher) into the gqa-untied model (student): losses and their two parts, gradients,
20-step curves for several shares, temperatures and numbers of tokens.

crates/train/tests/golden/distillation.json
    {case: {"options": {recipe keys}, "settings": {optimizer}, "batch_size": samples of a step,
            "rows": [{"ids": [T], "loss_weights": [T]}], "steps": [{"loss", "kl", "ce", "grad_norm"}]}}
    Step s takes rows s·batch_size … of the list, over and over. The first step stands before any update.
crates/train/tests/golden/distillation.safetensors
    "{case}": gradient of model.layers.0.self_attn.q_proj.weight by the loss of the first step, before clipping

The soft loss is torch's kl_div between the teacher's top-k probabilities at the temperature, normalised again, and the student's
log-probabilities of all tokens at the temperature, as in axolotl's and DistillKit's training on stored probabilities.
"""

import torch
from safetensors.torch import save_file

from recording import TRAIN_GOLDEN, generator, load_variant, random_ids, shortest, write_json

TEACHER, STUDENT = "mha-tied", "gqa-untied"
PARAMETER = "model.layers.0.self_attn.q_proj.weight"
STEPS, BATCH = 20, 4
SETTINGS = {"learning_rate": 5e-4, "adam_beta1": 0.9, "adam_beta2": 0.95, "adam_epsilon": 1e-8, "weight_decay": 0.0,
            "max_grad_norm": 1.0}
CASES = {
    "half": {"distillation_alpha": 0.5, "distillation_temperature": 1.0, "distillation_top_k": 8},
    "warm": {"distillation_alpha": 0.7, "distillation_temperature": 2.0, "distillation_top_k": 5},
    "teacher-alone": {"distillation_alpha": 1.0, "distillation_temperature": 0.5, "distillation_top_k": 97},
    "likeliest": {"distillation_alpha": 0.25, "distillation_temperature": 3.0, "distillation_top_k": 1},
}


def rows():
    """Prompts and answers of several lengths; one answer weighs half."""
    source = generator(91)
    lengths = [(3, 6), (5, 3), (1, 9), (4, 2), (6, 5), (2, 14), (7, 8), (3, 7)]
    return [
        {"ids": random_ids(source, prompt + answer, 97), "loss_weights": [0] * prompt + [0.5 if row == 2 else 1] * answer}
        for row, (prompt, answer) in enumerate(lengths)
    ]


def logits(model, row):
    """Those that predict ids[1:]."""
    return model(input_ids=torch.tensor([row["ids"]])).logits[0, :-1]


def parts(student, teacher, row, options):
    """The sums of weight times divergence and of weight times cross-entropy of a row, and of the weights."""
    temperature, top_k = options["distillation_temperature"], options["distillation_top_k"]
    with torch.no_grad():
        kept = logits(teacher, row).log_softmax(-1).topk(top_k)
    found = logits(student, row)
    soft = (kept.values / temperature).softmax(-1)
    own = (found / temperature).log_softmax(-1).gather(-1, kept.indices)
    divergence = torch.nn.functional.kl_div(own, soft, reduction="none").sum(-1)
    hard = torch.nn.functional.cross_entropy(found, torch.tensor(row["ids"][1:]), reduction="none")
    weight = torch.tensor(row["loss_weights"][1:], dtype=torch.float32)
    return (weight * divergence).sum(), (weight * hard).sum(), weight.sum()


def run(options, data, gradients, case):
    student, teacher = load_variant(STUDENT), load_variant(TEACHER)
    optimizer = torch.optim.AdamW(
        student.parameters(), lr=SETTINGS["learning_rate"], betas=(SETTINGS["adam_beta1"], SETTINGS["adam_beta2"]),
        eps=SETTINGS["adam_epsilon"], weight_decay=0.0, foreach=False,
    )
    alpha, temperature = options["distillation_alpha"], options["distillation_temperature"]
    log = []
    for step in range(STEPS):
        start = step * BATCH % len(data)
        sums = [parts(student, teacher, row, options) for row in data[start:start + BATCH]]
        kl, ce, weight = (sum(values) for values in zip(*sums))
        loss = (alpha * temperature**2 * kl + (1 - alpha) * ce) / weight
        optimizer.zero_grad()
        loss.backward()
        if step == 0:
            gradients[case] = dict(student.named_parameters())[PARAMETER].grad.clone()
        norm = torch.nn.utils.clip_grad_norm_(student.parameters(), SETTINGS["max_grad_norm"])
        log.append({"loss": shortest(loss), "kl": shortest(kl / weight), "ce": shortest(ce / weight),
                    "grad_norm": shortest(norm)})
        optimizer.step()
    return {"options": options, "settings": SETTINGS, "batch_size": BATCH, "rows": data, "steps": log}


if __name__ == "__main__":
    gradients, data = {}, rows()
    write_json(TRAIN_GOLDEN / "distillation.json",
               {case: run(options, data, gradients, case) for case, options in CASES.items()})
    save_file(gradients, TRAIN_GOLDEN / "distillation.safetensors")
