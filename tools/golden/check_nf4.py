"""Checks that a folder of `danlu convert --quant nf4` loads in transformers with bitsandbytes and continues alike there.

    python check_nf4.py DANLU FOLDER [FOLDER ...]

Both continue the same prompt by 32 tokens, greedily and in f32. bitsandbytes computes 4-bit layers in bf16 on CPUs that
have it, whatever it is told, so that the tokens may part where the two best are nearly equal: then transformers is asked
once more with the dequantized weights in f32, and that continuation must be the same. Exit code 1 if it is not.
"""

import json
import subprocess
import sys

import bitsandbytes
import bitsandbytes.functional as functional
import torch
from transformers import AutoConfig, AutoModelForCausalLM

COUNT = 32
PROMPT = [1, 40, 7, 23]


def of_danlu(program, folder):
    listed = ",".join(map(str, PROMPT))
    command = [program, "generate", "--model", folder, "--prompt-ids", listed, "--max-new-tokens", str(COUNT),
               "--temperature", "0", "--precision", "f32", "--json"]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return json.loads(output.splitlines()[-1])["ids"]


def continuation(model, count):
    ids = model.generate(torch.tensor([PROMPT]), max_new_tokens=count, do_sample=False, eos_token_id=None, pad_token_id=0)
    return ids[0, len(PROMPT):].tolist()


def with_dequantized_layers(model):
    """The same model in f32 without 4-bit layers."""
    state = {name: value.float() for name, value in model.state_dict().items() if value.is_floating_point()}
    for name, module in model.named_modules():
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            weight = functional.dequantize_4bit(module.weight.data, module.weight.quant_state)
            state[f"{name}.weight"] = weight.float()
    plain = type(model)(AutoConfig.from_pretrained(model.name_or_path, attn_implementation="eager")).float().eval()
    missing, _ = plain.load_state_dict(state, strict=False)
    assert not [name for name in missing if name != "lm_head.weight"], missing
    return plain


def check(program, folder):
    mine = of_danlu(program, folder)
    load = lambda: AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    model = load()
    layers = sum(isinstance(module, bitsandbytes.nn.Linear4bit) for module in model.modules())
    theirs = continuation(model, len(mine))
    plain = continuation(with_dequantized_layers(load()), len(mine))
    same = next((place for place, pair in enumerate(zip(mine, theirs)) if pair[0] != pair[1]), len(mine))
    print(f"{folder}: {layers} layers in 4 bits; {same} of {len(mine)} tokens are those of bitsandbytes' layers; "
          f"with its dequantized weights {'all' if plain == mine else 'not all'} are the same")
    return layers > 0 and plain == mine


if __name__ == "__main__":
    program, *folders = sys.argv[1:]
    sys.exit(0 if all([check(program, folder) for folder in folders]) else 1)
