"""Checks that a model folder written by danlu gives the same log-probabilities in transformers.

    danlu generate --model FOLDER --prompt-ids 1,2,3 --max-new-tokens 8 --temperature 0 --top-logprobs 97 --json > OUT
    python load_back.py FOLDER OUT [FOLDER OUT ...]

Reads `prompt_ids`, `ids` and `top_logprobs` of OUT's last line; `top_logprobs` has, for each generated id, a list of
{"id", "logprob"}. The relative error is the largest difference over the largest log-probability by magnitude. Exit code
1 if it exceeds 1e-4, if transformers misses or does not know a tensor, or if an id is not the most likely one.
"""

import json
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

TOLERANCE = 1e-4


def check(folder, output):
    """True if `folder` in transformers agrees with what danlu printed into `output`."""
    printed = json.loads(Path(output).read_text(encoding="utf-8").splitlines()[-1])
    prompt_ids, ids, top_logprobs = printed["prompt_ids"], printed["ids"], printed["top_logprobs"]
    if not ids or len(ids) != len(top_logprobs):
        print(f"{folder}: {len(ids)} ids and {len(top_logprobs)} rows of top_logprobs: nothing that can be compared")
        return False
    model, report = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    problems = {kind: sorted(names) for kind, names in report.items() if names}
    with torch.no_grad():
        logits = model.eval()(input_ids=torch.tensor([prompt_ids + ids])).logits[0]
    expected = logits[len(prompt_ids) - 1:-1].log_softmax(-1)
    reference = torch.cat([row[[entry["id"] for entry in top]] for row, top in zip(expected, top_logprobs)])
    actual = torch.tensor([entry["logprob"] for top in top_logprobs for entry in top], dtype=torch.float32)
    error = ((actual - reference).abs().max() / reference.abs().max()).item()
    same_ids = ids == expected.argmax(-1).tolist()
    greedy = "equal" if same_ids else f"differ: {expected.argmax(-1).tolist()}"
    print(f"{folder}: relative error {error:.2e} over {len(actual)} log-probabilities, "
          f"greedy ids {greedy}, tensors {problems or 'complete'}")
    return error <= TOLERANCE and same_ids and not problems


if __name__ == "__main__":
    arguments = sys.argv[1:]
    if not arguments or len(arguments) % 2:
        sys.exit("usage: load_back.py FOLDER OUT [FOLDER OUT ...]")
    results = [check(folder, output) for folder, output in zip(arguments[::2], arguments[1::2])]
    sys.exit(0 if all(results) else 1)
