"""Records preference tuning of trl on the gqa-untied model: losses, rewards, gradients and 20-step curves of every loss.

crates/train/tests/golden/preferences.json
    {case: {"options": {recipe keys}, "settings": {optimizer}, "batch_size": pairs or answers of a step,
            "rows": [[{"ids": [T], "loss_weights": [T]}, …]], the answers of a pair or one judged answer; unwanted ones have weights
            of -1, "steps": [{"loss", "grad_norm", "rewards/chosen", …}]}}
    Step s takes rows s·batch_size … of the list, over and over. The first step stands before any update.
crates/train/tests/golden/preferences.safetensors
    "{case}": gradient of model.layers.0.self_attn.q_proj.weight by the loss of the first step, before clipping

trl's plain loss beside ORPO and CPO is a mean over the tokens of a batch, of ORPO with the prompt's. Here it is that of
LLaMA-Factory: of the answer alone, per token, and the mean over pairs; the trainers are told so in two short overrides.
"""

import tempfile

import torch
from datasets import Dataset
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer
from trl.experimental.cpo import CPOConfig, CPOTrainer
from trl.experimental.orpo import ORPOConfig, ORPOTrainer

from recording import TRAIN_GOLDEN, generator, load_variant, random_ids, shortest, write_json

BASE = "gqa-untied"
PARAMETER = "model.layers.0.self_attn.q_proj.weight"
STEPS = 20
END, PAD = 5, 96
SETTINGS = {"learning_rate": 5e-4, "adam_beta1": 0.9, "adam_beta2": 0.95, "adam_epsilon": 1e-8, "weight_decay": 0.0,
            "max_grad_norm": 1.0}


class Orpo(ORPOTrainer):
    """ORPO whose plain loss is that of the answers."""

    def concatenated_forward(self, model, batch):
        chosen, rejected, chosen_logits, rejected_logits, _ = super().concatenated_forward(model, batch)
        return chosen, rejected, chosen_logits, rejected_logits, -chosen.mean()


class Cpo(CPOTrainer):
    """CPO whose plain loss is a mean over pairs."""

    def concatenated_forward(self, model, batch):
        chosen, rejected, chosen_logits, rejected_logits, plain = super().concatenated_forward(model, batch)
        tokens = (batch["chosen_labels"] != -100).sum(-1)
        means = chosen if self.loss_type in ["ipo", "simpo"] else chosen / tokens
        return chosen, rejected, chosen_logits, rejected_logits, -means.mean() if self.cpo_alpha else plain


def tokenizer():
    """Token n is the word `tn`; words are separated by spaces."""
    words = {f"t{number}": number for number in range(97)}
    words["<e>"], words["<p>"] = END, PAD
    del words[f"t{END}"], words[f"t{PAD}"]
    plain = Tokenizer(models.WordLevel(words, unk_token="<p>"))
    plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=plain, eos_token="<e>", pad_token="<p>")


def words(ids):
    return " ".join("<e>" if number == END else f"t{number}" for number in ids)


def rows(source, count):
    """Prompts with two answers of other lengths, each ending with the end token."""
    def ids(length):
        return [number % 90 + 6 for number in random_ids(source, length, 90)]

    lengths = [(3, 6, 4), (5, 3, 7), (1, 9, 8), (4, 2, 2), (6, 5, 9), (2, 4, 3), (7, 8, 5), (3, 7, 7)]
    return [(ids(p), ids(c) + [END], ids(r) + [END]) for p, c, r in lengths[:count]]


def arguments(kind, batch_size, **more):
    return kind(
        output_dir=tempfile.mkdtemp(), use_cpu=True, bf16=False, fp16=False, report_to=[], save_strategy="no",
        disable_tqdm=True, logging_steps=1, logging_nan_inf_filter=False, max_steps=STEPS, lr_scheduler_type="constant",
        per_device_train_batch_size=batch_size, gradient_checkpointing=False, train_sampling_strategy="sequential",
        seed=1, **SETTINGS, **more,
    )


def sample(prompt, answer, sign):
    return {"ids": prompt + answer, "loss_weights": [0] * len(prompt) + [sign] * len(answer)}


NAMES = ["loss", "grad_norm", "rewards/chosen", "rewards/rejected", "rewards/accuracies", "rewards/margins",
         "logps/chosen", "logps/rejected", "kl"]


def record(trainer, options, recorded, batch_size, gradients, case):
    """Runs a trainer and returns its recording."""
    batch = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
    trainer.model.train()
    trainer.compute_loss(trainer.model, batch).backward()
    gradients[case] = dict(trainer.model.named_parameters())[PARAMETER].grad.clone()
    trainer.model.zero_grad()
    trainer.train()
    logs = [log for log in trainer.state.log_history if "grad_norm" in log]
    assert len(logs) == STEPS
    steps = []
    for log in logs:
        step = {name: shortest(log[name]) for name in NAMES if name in log}
        if "log_odds_ratio" in log:
            step["odds_ratio_loss"] = shortest(-log["log_odds_ratio"])
        if "nll_loss" in log and log["nll_loss"] != 0:
            step["sft_loss"] = shortest(log["nll_loss"])
        steps.append(step)
    return {"options": options, "settings": SETTINGS, "batch_size": batch_size, "rows": recorded, "steps": steps}


def pairs_of(kind, config, options, gradients, case, **more):
    data = rows(generator(71), 8)
    dataset = Dataset.from_list(
        [{"prompt": words(p), "chosen": " " + words(c), "rejected": " " + words(r)} for p, c, r in data]
    )
    trainer = kind(
        model=load_variant(BASE), args=arguments(config, 4, **more), train_dataset=dataset, processing_class=tokenizer()
    )
    recorded = [[sample(p, c, 1), sample(p, r, -1)] for p, c, r in data]
    first = trainer.train_dataset[0]
    ids = first["prompt_ids"] + first["chosen_ids"] if "prompt_ids" in first else first["chosen_input_ids"]
    assert ids == recorded[0][0]["ids"], (ids, recorded[0][0]["ids"])
    return record(trainer, options, recorded, 4, gradients, case)


def judged(options, gradients, case, **more):
    data = rows(generator(72), 8)
    recorded = [[sample(p, c if number % 3 else r, 1 if number % 3 else -1)] for number, (p, c, r) in enumerate(data)]
    dataset = Dataset.from_list([
        {"prompt": words(p), "completion": " " + words(c if number % 3 else r), "label": bool(number % 3)}
        for number, (p, c, r) in enumerate(data)
    ])
    trainer = KTOTrainer(
        model=load_variant(BASE), args=arguments(KTOConfig, 8, **more), train_dataset=dataset,
        processing_class=tokenizer(),
    )
    return record(trainer, options, recorded, 8, gradients, case)


if __name__ == "__main__":
    gradients, cases = {}, {}

    def dpo(case, loss, beta):
        cases[case] = pairs_of(
            DPOTrainer, DPOConfig, {"stage": "dpo", "pref_loss": loss, "pref_beta": beta}, gradients, case,
            loss_type=loss, beta=beta, precompute_ref_log_probs=True,
        )

    dpo("sigmoid", "sigmoid", 0.3)
    dpo("ipo", "ipo", 0.5)
    dpo("hinge", "hinge", 0.3)
    cases["orpo"] = pairs_of(
        Orpo, ORPOConfig, {"stage": "orpo", "pref_beta": 0.4}, gradients, "orpo", beta=0.4,
    )
    cases["simpo"] = pairs_of(
        Cpo, CPOConfig, {"stage": "simpo", "pref_beta": 2.0, "simpo_gamma": 0.7, "dpo_label_smoothing": 0.1}, gradients,
        "simpo", loss_type="simpo", cpo_alpha=0.0, beta=2.0, simpo_gamma=0.7, label_smoothing=0.1,
    )
    cases["cpo"] = pairs_of(
        Cpo, CPOConfig, {"stage": "dpo", "pref_loss": "cpo", "pref_beta": 0.2}, gradients, "cpo", loss_type="sigmoid",
        cpo_alpha=1.0, beta=0.2,
    )
    cases["kto"] = judged(
        {"stage": "kto", "pref_beta": 0.5, "kto_chosen_weight": 1.2, "kto_rejected_weight": 0.8}, gradients, "kto",
        beta=0.5, desirable_weight=1.2, undesirable_weight=0.8, precompute_ref_log_probs=True,
    )
    write_json(TRAIN_GOLDEN / "preferences.json", cases)
    save_file(gradients, TRAIN_GOLDEN / "preferences.safetensors")
    (TRAIN_GOLDEN / "preferences.safetensors").chmod(0o644)
