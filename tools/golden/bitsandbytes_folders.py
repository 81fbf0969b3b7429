"""Records tiny folders that transformers serialises with bitsandbytes, and what their weights mean.

crates/model/tests/golden/bitsandbytes/
    base/           a tiny random Llama, 16-bit weights, rows of 64 and 128
    nf4/ fp4/ int8/ the same, quantized by transformers: nf4 with double quantization, fp4 without, int8 by rows
    golden.json     {NAME: {"ids": [...], "logits": [T][V], "greedy": {"prompt_ids", "ids"}}}; for int8 also
                    "computed_logits": [T][V]

`logits` and `greedy` are those of transformers with the dequantized weights in float32. bitsandbytes' own layers of int8
round the activations too, so that they give other logits, `computed_logits`; those of 4 bits compute in bf16 on some CPUs.
"""

import shutil

from bitsandbytes_in_pytorch import functional

import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM

from recording import MODEL_GOLDEN, generator, random_ids, shortest, write_json

FOLDER = MODEL_GOLDEN / "bitsandbytes"
VOCAB_SIZE = 61
KINDS = {
    "nf4": BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=torch.float32
    ),
    "fp4": BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="fp4", bnb_4bit_compute_dtype=torch.float32),
    "int8": BitsAndBytesConfig(load_in_8bit=True),
}


def main():
    shutil.rmtree(FOLDER, ignore_errors=True)
    source = generator(11)
    torch.manual_seed(11)
    config = LlamaConfig(
        vocab_size=VOCAB_SIZE, hidden_size=64, intermediate_size=128, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128, tie_word_embeddings=False, bos_token_id=1, eos_token_id=2,
    )
    base = LlamaForCausalLM(config)
    for parameter in base.parameters():
        if parameter.ndim == 2:
            parameter.data = torch.randn(parameter.shape, generator=source) * 0.2
    base = base.to(torch.float16)
    base.save_pretrained(FOLDER / "base")
    ids = random_ids(source, 10, VOCAB_SIZE)
    recorded = {}
    for name, quantization in KINDS.items():
        model = AutoModelForCausalLM.from_pretrained(
            FOLDER / "base", quantization_config=quantization, dtype=torch.float32, attn_implementation="eager"
        )
        model.save_pretrained(FOLDER / name)
        plain = LlamaForCausalLM(config).to(torch.float32)
        plain.config._attn_implementation = "eager"
        # Before its first use, when bitsandbytes may turn the weights into an order of its own.
        plain.load_state_dict(dequantized(model, plain))
        with torch.no_grad():
            logits = plain(torch.tensor([ids])).logits[0]
            greedy = plain.generate(torch.tensor([ids[:4]]), max_new_tokens=16, do_sample=False, eos_token_id=None)
            computed = model(torch.tensor([ids])).logits[0]
        print(name, "largest difference of bitsandbytes' own layers:", (computed - logits).abs().max().item(),
              "of", logits.abs().max().item())
        recorded[name] = {
            "ids": ids, "logits": shortest(logits),
            "greedy": {"prompt_ids": ids[:4], "ids": greedy[0, 4:].tolist()},
        }
        if name == "int8":
            recorded[name]["computed_logits"] = shortest(computed)
    write_json(FOLDER / "golden.json", recorded)
    for path in FOLDER.rglob("generation_config.json"):
        path.unlink()


def dequantized(model, plain):
    import bitsandbytes

    state = {name: value.detach().float() for name, value in model.state_dict().items() if name in plain.state_dict()}
    for name, module in model.named_modules():
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            state[f"{name}.weight"] = functional.dequantize_4bit(module.weight.data, module.weight.quant_state).float()
        if isinstance(module, bitsandbytes.nn.Linear8bitLt):
            scales = module.weight.SCB if module.weight.SCB is not None else module.state.SCB
            rows = module.weight.CB if module.weight.CB is not None else module.weight.data
            state[f"{name}.weight"] = functional.int8_vectorwise_dequant(rows, scales).float()
    return state


main()
