"""Records what ggml's reference makes of given values: blocks of every type, and the values that they read back as.

    blocks.py [--library libggml-base.so]    (default: the one that llama-cpp-python has installed)

crates/kernels/tests/golden/blocks.json:
    {"row_length", "rows", "types": {NAME: {"plain" | "important": {"first_row": hex, "blocks": hash, "values": hash},
                                            "any_bytes": hash}}}

`first_row` are the bytes of row 0, `blocks` the hash of the bytes of all rows, `values` of the floats they read back as;
`any_bytes` of the floats that a row of arbitrary bytes reads back as. Values, importance and bytes are functions of
integers, below, and need not be stored; a hash is FNV-1a, 64 bits, over little-endian bytes, every NaN as 0x7fc00000.

The results depend on how the library was compiled: products and sums must not be contracted into fused operations, as is
the case for ggml-base on x86-64, which is not compiled for the machine's own instructions.
"""

import argparse
import ctypes
from pathlib import Path

import numpy

from recording import ROOT, write_json

GOLDEN = ROOT / "crates/kernels/tests/golden/blocks.json"
ROW_LENGTH, ROWS = 1024, 66
# Name, number in ggml, elements and bytes of a block, function that reads it.
TYPES = [
    ("F16", 1, 1, 2, "ggml_fp16_to_fp32_row"), ("BF16", 30, 1, 2, "ggml_bf16_to_fp32_row"),
    ("Q4_0", 2, 32, 18, "dequantize_row_q4_0"), ("Q4_1", 3, 32, 20, "dequantize_row_q4_1"),
    ("Q5_0", 6, 32, 22, "dequantize_row_q5_0"), ("Q5_1", 7, 32, 24, "dequantize_row_q5_1"),
    ("Q8_0", 8, 32, 34, "dequantize_row_q8_0"), ("Q2_K", 10, 256, 84, "dequantize_row_q2_K"),
    ("Q3_K", 11, 256, 110, "dequantize_row_q3_K"), ("Q4_K", 12, 256, 144, "dequantize_row_q4_K"),
    ("Q5_K", 13, 256, 176, "dequantize_row_q5_K"), ("Q6_K", 14, 256, 210, "dequantize_row_q6_K"),
]


def bits(count, stream):
    """32 bits for each number below `count`."""
    index = numpy.arange(count, dtype=numpy.uint32)
    mixed = (index + numpy.uint32(stream * 1_000_003)) * numpy.uint32(2_654_435_761)
    mixed = (mixed ^ (mixed >> numpy.uint32(15))) * numpy.uint32(2_246_822_519)
    return mixed ^ (mixed >> numpy.uint32(13))


def values():
    """Eleven kinds of runs of 256, one after the other: ordinary, outliers, zeros, all equal, subnormal, negative, zeros
    of both signs between, ties, small, one alone, large."""
    drawn = bits(ROWS * ROW_LENGTH, 1)
    unit = (drawn >> numpy.uint32(8)).astype(numpy.float32) / numpy.float32(1 << 23) - numpy.float32(1)
    power = [numpy.float32(2.0) ** numpy.float32(exponent) for exponent in range(-149, 20)]
    out = unit * unit * unit
    for start in range(0, len(out), 256):
        run, unit_run, drawn_run = (array[start : start + 256] for array in (out, unit, drawn))
        match start // 256 % 11:
            case 1:
                run[drawn_run % 64 == 0] *= numpy.float32(64)
            case 2:
                run[:] = 0
            case 3:
                run[:] = unit_run[0]
            case 4:
                run[:] = unit_run * power[149 - 140]
            case 5:
                run[:] = -numpy.abs(unit_run)
            case 6:
                run[drawn_run % 3 == 1] = 0.0
                run[drawn_run % 3 == 2] = -0.0
            case 7:
                run[:] = numpy.trunc(unit_run * numpy.float32(16)) / numpy.float32(8)
            case 8:
                run[:] = unit_run * power[149 - 20]
            case 9:
                run[1:] = 0
            case 10:
                run[:] = unit_run * numpy.float32(1000)
    return out


def importance():
    unit = (bits(ROW_LENGTH, 2) >> numpy.uint32(8)).astype(numpy.float32) / numpy.float32(1 << 24)
    out = unit * unit
    out[::97] = 0
    return out


def fnv(data):
    value = 0xCBF29CE484222325
    for byte in bytes(data):
        value = (value ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return f"{value:016x}"


def pointer(array):
    return array.ctypes.data_as(ctypes.c_void_p)


def read_back(library, function, data, count):
    out = numpy.empty(count, dtype=numpy.float32)
    getattr(library, function)(pointer(data), pointer(out), ctypes.c_int64(count))
    out.view(numpy.uint32)[numpy.isnan(out)] = 0x7FC00000
    return fnv(out.tobytes())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", type=Path)
    path = parser.parse_args().library
    if path is None:
        import llama_cpp

        path = Path(llama_cpp.__file__).parent / "lib/libggml-base.so"
    library = ctypes.CDLL(str(path))
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    floats, weights = values(), importance()
    types = {}
    for name, number, elements, block_bytes, function in TYPES:
        total = len(floats) // elements * block_bytes
        recorded = {}
        for kind, vector in (("plain", None), ("important", weights)):
            data = numpy.zeros(total, dtype=numpy.uint8)
            written = library.ggml_quantize_chunk(
                number, pointer(floats), pointer(data), ctypes.c_int64(0), ctypes.c_int64(ROWS),
                ctypes.c_int64(ROW_LENGTH), None if vector is None else pointer(vector),
            )
            assert written == total
            recorded[kind] = {
                "first_row": data[: total // ROWS].tobytes().hex() if elements > 1 else "",
                "blocks": fnv(data.tobytes()),
                "values": read_back(library, function, data, len(floats)),
            }
        row_bytes = ROW_LENGTH // elements * block_bytes
        any_bytes = (bits(row_bytes * 4, 3) >> numpy.uint32(24)).astype(numpy.uint8)
        recorded["any_bytes"] = read_back(library, function, any_bytes, ROW_LENGTH * 4)
        types[name] = recorded
    write_json(GOLDEN, {"row_length": ROW_LENGTH, "rows": ROWS, "types": types})


if __name__ == "__main__":
    main()
