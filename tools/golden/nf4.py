"""Records what bitsandbytes makes of given values: NF4 with double quantization.

crates/kernels/tests/golden/nf4.json:
    {"dynamic_map": [256], "codebook": [16], "packed": hash, "magnitudes": hash, "offset", "codes": hash, "nested": [...],
     "values": hash}

The values are those of `blocks.py`, and hashes are as there: `packed` of the bytes with two nibbles each, `magnitudes` of
the largest of every 64 values before the second quantization, `codes` and `nested` of the second quantization with
`offset` taken off before, `values` of the floats that all of it reads back as.

`nf4.py --native` records nothing: it prints how many codes of magnitudes the compiled part of bitsandbytes chooses otherwise
(see `bitsandbytes_in_pytorch.py`).
"""

import sys

NATIVE = "--native" in sys.argv
if NATIVE:
    import bitsandbytes.functional as functional
else:
    from bitsandbytes_in_pytorch import functional

import numpy
import torch

from blocks import fnv, values
from recording import ROOT, shortest, write_json

GOLDEN = ROOT / "crates/kernels/tests/golden/nf4.json"

torch.set_num_threads(1)
weights = torch.from_numpy(values())
packed, state = functional.quantize_4bit(weights, blocksize=64, compress_statistics=True, quant_type="nf4")
read = functional.dequantize_4bit(packed, state)
magnitudes = weights.reshape(-1, 64).abs().max(dim=1)[0]

if NATIVE:
    bounds = (state.state2.code[:-1] + state.state2.code[1:]) / 2
    left = magnitudes - state.offset
    scales = state.state2.absmax.repeat_interleave(256)[: len(left)]
    nearest = torch.bucketize(left / scales, bounds)
    differ = (nearest != state.absmax.long()).sum().item()
    print(f"{differ} of {len(left)} codes of magnitudes are not the nearest")
    sys.exit()


def hash_of(tensor):
    return fnv(numpy.ascontiguousarray(tensor.numpy()).tobytes())


write_json(GOLDEN, {
    "dynamic_map": shortest(state.state2.code),
    "codebook": shortest(state.code),
    "packed": hash_of(packed),
    "magnitudes": hash_of(magnitudes),
    "offset": shortest(state.offset),
    "codes": hash_of(state.absmax),
    "nested": shortest(state.state2.absmax),
    "values": hash_of(read),
})
