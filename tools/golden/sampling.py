"""Records the probabilities from which transformers' `generate` would draw, for fixed logits and sampling options.

crates/model/tests/golden/sampling.json: {"cases": [{"name", "logits": [12], "previous_ids": [...],
    "repetition_penalty", "temperature", "top_k", "top_p", "probabilities": [12]}]}

`generate` itself chooses and orders the processors: repetition penalty over all ids so far, temperature, top-k, top-p.
`top_k` 0, `top_p` 1, `repetition_penalty` 1 and `temperature` 1 switch a step off. A dropped id has probability 0.
"""

import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from recording import MODEL_GOLDEN, shortest, write_json

SPREAD = [2.5, -1.0, 0.5, 3.0, -2.0, 1.5, 0.0, 2.0, -0.5, 1.0, -3.0, 0.25]
TIED = [1.0, 2.0, 2.0, 0.5, 2.0, -1.0, 3.0, 0.5, -1.0, 2.0, 0.0, 0.5]
NEGATIVE = [-1.25, -0.5, -4.0, -2.0, -0.75, -3.0, -6.0, -2.5, -1.0, -5.0, -1.5, -3.5]
FLAT = [0.0] * 12
PEAKED = [0.0, 0.0, 30.0, 0.0, 1.0, 0.0, 2.0, 0.0, 0.0, 3.0, 0.0, 0.0]

OFF = {"previous_ids": [], "repetition_penalty": 1.0, "temperature": 1.0, "top_k": 0, "top_p": 1.0}

CASES = [
    ("plain", SPREAD, {}),
    ("temperature below one", SPREAD, {"temperature": 0.7}),
    ("temperature above one", SPREAD, {"temperature": 1.8}),
    ("low temperature", SPREAD, {"temperature": 0.2}),
    ("top-k", SPREAD, {"top_k": 4}),
    ("top-k of one", SPREAD, {"top_k": 1}),
    ("top-k beyond the vocabulary", SPREAD, {"top_k": 50}),
    ("top-k keeps every tie of the last place", TIED, {"top_k": 3}),
    ("top-k of one keeps every tie", FLAT, {"top_k": 1}),
    ("top-k ends beside a tie", TIED, {"top_k": 5}),
    ("top-p", SPREAD, {"top_p": 0.8}),
    ("small top-p keeps one", SPREAD, {"top_p": 0.01}),
    ("top-p near one", SPREAD, {"top_p": 0.99}),
    ("top-p on a peak", PEAKED, {"top_p": 0.9}),
    ("repetition penalty on both signs", SPREAD, {"previous_ids": [0, 1, 3, 6], "repetition_penalty": 1.3}),
    ("repetition penalty counts an id once", SPREAD, {"previous_ids": [3, 3, 3, 4, 4], "repetition_penalty": 1.5}),
    ("repetition penalty on negative logits", NEGATIVE, {"previous_ids": [1, 4], "repetition_penalty": 2.0}),
    ("repetition penalty below one", SPREAD, {"previous_ids": [0, 1], "repetition_penalty": 0.8}),
    ("top-p after top-k", SPREAD, {"top_k": 5, "top_p": 0.6}),
    ("top-p after temperature", SPREAD, {"temperature": 2.0, "top_p": 0.6}),
    ("top-k after repetition penalty", SPREAD, {"previous_ids": [3, 0], "repetition_penalty": 2.5, "top_k": 3}),
    ("all", SPREAD,
     {"previous_ids": [3, 7, 10], "repetition_penalty": 1.1, "temperature": 0.2, "top_k": 6, "top_p": 0.9}),
    ("all on negative logits", NEGATIVE,
     {"previous_ids": [0, 2, 2, 11], "repetition_penalty": 1.2, "temperature": 1.3, "top_k": 7, "top_p": 0.75}),
]


def probabilities(model, logits, options):
    options = dict(options)
    previous_ids = torch.tensor([options.pop("previous_ids")], dtype=torch.long)
    processors = model._get_logits_processor(
        GenerationConfig(do_sample=True, **options), input_ids_seq_length=previous_ids.shape[1]
    )
    return processors(previous_ids, torch.tensor([logits])).softmax(-1)[0]


if __name__ == "__main__":
    carrier = LlamaForCausalLM(LlamaConfig(
        vocab_size=12, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8,
        bos_token_id=None, eos_token_id=None,
    ))
    cases = []
    for name, logits, options in CASES:
        options = {**OFF, **options}
        result = shortest(probabilities(carrier, logits, options))
        cases.append({"name": name, "logits": logits, **options, "probabilities": result})
    write_json(MODEL_GOLDEN / "sampling.json", {"cases": cases})
