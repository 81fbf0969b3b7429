"""Records tiny random models in GPTQ's layouts, with the logits that transformers computes from their dequantized weights.

crates/model/tests/golden/gptq/NAME/
    model.safetensors, or gptq_model-8bit-128g.safetensors as AutoGPTQ named it: float16 and packed words
    config.json, and quantize_config.json where older programs kept the settings
    golden.json: {"sequences": [{"ids": [T], "logits": [T][V]}], "greedy": {"prompt": [P], "ids": [32]}}

The packing is written out here. Where GPTQModel is installed, its own unpacking must give the same weights.
"""

import shutil

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config

from recording import MODEL_GOLDEN, generator, random_ids, shortest, write_json
from tiny_families import write_config

FOLDER = MODEL_GOLDEN / "gptq"
VOCAB_SIZE = 31
SHAPE = dict(
    vocab_size=VOCAB_SIZE, hidden_size=64, intermediate_size=128, num_hidden_layers=1, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=64, bos_token_id=1, eos_token_id=2,
)
VARIANTS = {
    "4bit-32g": dict(bits=4, group_size=32, desc_act=False, sym=True),
    "4bit-64g-act-order": dict(bits=4, group_size=64, desc_act=True, sym=False),
    "4bit-v2": dict(bits=4, group_size=-1, desc_act=False, sym=False, checkpoint_format="gptq_v2"),
    "8bit-32g-act-order": dict(bits=8, group_size=32, desc_act=True, sym=True),
    "8bit-128g-autogptq": dict(bits=8, group_size=128, desc_act=False, sym=False),
    "4bit-32g-act-order-qwen2": dict(bits=4, group_size=32, desc_act=True, sym=True),
}


def packed_rows(values, bits):
    """[N, M] below 2^bits to i32 [N · bits / 32, M], the first row in the lowest bits."""
    pack = 32 // bits
    words = torch.zeros(values.shape[0] // pack, values.shape[1], dtype=torch.int64)
    for place in range(pack):
        words |= values[place::pack].to(torch.int64) << (bits * place)
    return words.to(torch.uint32).view(torch.int32)


def quantized(linear, source, bits, group_size, desc_act, sym, checkpoint_format="gptq"):
    """The layer's tensors with random quants, and its dequantized weight."""
    outputs, inputs = linear.weight.shape
    size = inputs if group_size == -1 else group_size
    groups = -(-inputs // size)
    order = torch.arange(inputs) // size
    if desc_act:
        order = order[torch.randperm(inputs, generator=source)]
    quants = torch.randint(2**bits, (inputs, outputs), generator=source)
    zeros = torch.full((groups, outputs), 2 ** (bits - 1))
    if not sym:
        zeros = torch.randint(1, 2**bits, (groups, outputs), generator=source)
    scales = ((0.5 + torch.rand(groups, outputs, generator=source)) * 0.8 / 2**bits).to(torch.float16)
    weight = scales.to(torch.float32)[order] * (quants - zeros[order])
    stored = zeros - (0 if checkpoint_format == "gptq_v2" else 1)
    tensors = {
        "qweight": packed_rows(quants, bits),
        "qzeros": packed_rows(stored.T.contiguous(), bits).T.contiguous(),
        "scales": scales,
        "g_idx": order.to(torch.int32),
    }
    return tensors, weight.T.contiguous()


def check_with_gptqmodel(tensors, weight, options):
    """GPTQModel unpacks the same weight."""
    try:
        from gptqmodel.nn_modules.qlinear.torch import TorchLinear
        from gptqmodel.utils.model import convert_gptq_v1_to_v2_format_module
    except ImportError:
        return
    outputs, inputs = weight.shape
    fields = {name: options[name] for name in ("bits", "group_size", "sym", "desc_act")}
    layer = TorchLinear(in_features=inputs, out_features=outputs, bias=False, pack_dtype=torch.int32, **fields)
    for name, value in tensors.items():
        getattr(layer, name).copy_(value)
    if options.get("checkpoint_format") != "gptq_v2":
        convert_gptq_v1_to_v2_format_module(layer, bits=options["bits"], pack_dtype=torch.int32)
    layer.post_init()
    found = layer.dequantize_weight().T.to(torch.float32)
    assert (found - weight).abs().max() <= 2e-3 * weight.abs().max(), "GPTQModel unpacks something else"


def record(name, options, source):
    folder = FOLDER / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    config = (Qwen2Config if name.endswith("qwen2") else LlamaConfig)(**SHAPE)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=torch.float32).eval()
    state = {}
    with torch.no_grad():
        for path, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=source)
            half = ((1.0 + 0.3 * noise) if path.endswith("norm.weight") else 0.3 * noise).to(torch.float16)
            parameter.copy_(half)
            if not (path.endswith("proj.weight")):
                state[path] = half
        for path, module in model.named_modules():
            if path.endswith("_proj"):
                tensors, weight = quantized(module, source, **options)
                check_with_gptqmodel(tensors, weight, options)
                module.weight.copy_(weight)
                state |= {f"{path}.{part}": value for part, value in tensors.items()}
                if name.endswith("autogptq"):
                    state[f"{path}.bias"] = torch.zeros(weight.shape[0], dtype=torch.float16)
    fields = config.to_diff_dict()
    fields["rope_theta"] = fields.pop("rope_parameters")["rope_theta"]
    fields["architectures"] = [type(model).__name__]
    settings = options | dict(damp_percent=0.01, true_sequential=True, static_groups=False)
    if name.endswith("autogptq"):
        file_name = f"gptq_model-{options['bits']}bit-{options['group_size']}g.safetensors"
        write_config(folder / "quantize_config.json", settings)
    else:
        file_name = "model.safetensors"
        fields["quantization_config"] = settings | {"quant_method": "gptq"}
    write_config(folder / "config.json", fields)
    save_file(state, folder / file_name, metadata={"format": "pt"})
    sequences = []
    for length in (1, 12):
        ids = random_ids(source, length, VOCAB_SIZE)
        with torch.no_grad():
            sequences.append({"ids": ids, "logits": shortest(model(input_ids=torch.tensor([ids])).logits[0])})
    prompt = random_ids(source, 4, VOCAB_SIZE)
    ids = list(prompt)
    with torch.no_grad():
        for _ in range(32):
            ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    write_json(folder / "golden.json", {"sequences": sequences, "greedy": {"prompt": prompt, "ids": ids[4:]}})


if __name__ == "__main__":
    for seed, (name, options) in enumerate(VARIANTS.items()):
        record(name, options, generator(60 + seed))
