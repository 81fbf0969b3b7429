"""Records a GGUF file that gguf-py has written: metadata of every type, tensors of plain and block types.

crates/formats/tests/golden/gguf-py.gguf: what `write_gguf` must write for the same content, which its test repeats.
With a path, it reads that file instead and prints what is in it.
"""

import sys

import numpy
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter

from recording import ROOT

GOLDEN = ROOT / "crates/formats/tests/golden/gguf-py.gguf"


def record():
    writer = GGUFWriter(GOLDEN, "llama")
    writer.add_uint8("test.u8", 200)
    writer.add_int8("test.i8", -100)
    writer.add_uint16("test.u16", 60_000)
    writer.add_int16("test.i16", -30_000)
    writer.add_uint32("test.u32", 4_000_000_000)
    writer.add_int32("test.i32", -2_000_000_000)
    writer.add_uint64("test.u64", 1 << 63)
    writer.add_int64("test.i64", -(1 << 62))
    writer.add_float32("test.f32", 0.1)
    writer.add_float64("test.f64", 0.1)
    writer.add_bool("test.bool", True)
    writer.add_string("test.string", "丹炉")
    writer.add_array("test.i32s", [1, -2, 3])
    writer.add_array("test.f32s", [0.5, -1.5])
    writer.add_array("test.bools", [True, False])
    writer.add_key_value("test.u64s", [1, 1 << 40], GGUFValueType.ARRAY, GGUFValueType.UINT64)
    writer.add_array("test.strings", ["<s>", "", "炉"])
    writer.add_custom_alignment(64)
    writer.add_tensor("f32", numpy.arange(6, dtype=numpy.float32).reshape(2, 3))
    writer.add_tensor("f16", numpy.arange(5, dtype=numpy.float16))
    blocks = numpy.arange(68, dtype=numpy.uint8).reshape(2, 34)
    writer.add_tensor("q8_0", blocks, raw_dtype=GGMLQuantizationType.Q8_0)
    writer.add_tensor("last", numpy.array([7], dtype=numpy.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    print(f"{GOLDEN.relative_to(ROOT)}  {GOLDEN.stat().st_size} bytes")


def show(path):
    reader = GGUFReader(path)
    for name, field in reader.fields.items():
        text = str(field.contents())
        print(f"{name} {[kind.name for kind in field.types]} {text[:60]}")
    for tensor in reader.tensors:
        print(tensor.name, tensor.tensor_type.name, tensor.shape.tolist(), tensor.data_offset, tensor.n_bytes)


if __name__ == "__main__":
    if sys.argv[1:]:
        show(sys.argv[1])
    else:
        record()
