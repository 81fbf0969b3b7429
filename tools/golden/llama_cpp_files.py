"""What the other scripts ask of llama.cpp, through llama-cpp-python: its quantizer, its logits, its greedy tokens."""

import ctypes

import llama_cpp
import numpy
from gguf import GGUFReader
from llama_cpp import Llama

# Numbers of `llama_ftype`, by the names that danlu and llama.cpp's quantizer share.
FILE_TYPES = {
    "f32": 0, "f16": 1, "bf16": 32, "q8_0": 7, "q4_0": 2, "q4_1": 3, "q5_0": 8, "q5_1": 9,
    "q3_k_m": 12, "q4_k_s": 14, "q4_k_m": 15, "q5_k_m": 17, "q6_k": 18,
}
F32 = 0


@llama_cpp.llama_log_callback
def _quiet(level, text, data):
    pass


llama_cpp.llama_log_set(_quiet, ctypes.c_void_p(0))


def quantize(source, out, name, imatrix=None, threads=2):
    """Writes `source` as `out` with llama.cpp's own quantizer; `imatrix` maps tensors to one number for each column."""
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = FILE_TYPES[name]
    parameters.nthread = threads
    parameters.allow_requantize = True
    kept = []
    if imatrix is not None:
        kind = parameters.imatrix._type_
        rows = [numpy.ascontiguousarray(values, dtype=numpy.float32) for values in imatrix.values()]
        entries = (kind * (len(rows) + 1))()
        for entry, tensor, row in zip(entries, imatrix, rows):
            entry.name = tensor.encode()
            entry.data = row.ctypes.data_as(type(entry.data))
            entry.size = row.size
        parameters.imatrix = ctypes.cast(entries, ctypes.POINTER(kind))
        kept += [rows, entries]
    if llama_cpp.llama_model_quantize(str(source).encode(), str(out).encode(), parameters):
        raise SystemExit(f"llama.cpp cannot write `{out}`")


def tensors(path):
    """The type and bytes of every tensor, by name."""
    return {tensor.name: (tensor.tensor_type.name, tensor.data.tobytes()) for tensor in GGUFReader(path).tensors}


def differing(mine, theirs):
    """Names of the tensors that are not the same in both files."""
    mine, theirs = tensors(mine), tensors(theirs)
    return sorted(name for name in mine.keys() | theirs.keys() if mine.get(name) != theirs.get(name))


def load(path, context, **options):
    """The model with keys and values in f32, so that nothing is rounded that is not in the file."""
    return Llama(str(path), n_ctx=context, n_batch=context, n_ubatch=context, seed=0, verbose=False, n_threads=1, n_threads_batch=1,
                 type_k=F32, type_v=F32, **options)


def greedy(llama, ids, count):
    """The `count` most probable ids behind `ids`, one after the other, up to the end token and with it."""
    found = []
    llama.reset()
    for token in llama.generate(ids, temp=0.0, repeat_penalty=1.0, top_k=1):
        found.append(token)
        if len(found) == count or token == llama.token_eos():
            return found


def log_probabilities(llama, ids):
    """[len(ids), vocabulary]: of every next token, as float64. The model must be loaded with `logits_all=True`."""
    llama.reset()
    llama.eval(ids)
    logits = numpy.array(llama.scores[: len(ids)], dtype=numpy.float64)
    logits -= logits.max(axis=1, keepdims=True)
    return logits - numpy.log(numpy.exp(logits).sum(axis=1, keepdims=True))


def read_imatrix(path):
    """The mean square of each column's inputs by tensor, from an importance matrix in GGUF, as llama.cpp reads it."""
    found = {tensor.name: numpy.array(tensor.data, dtype=numpy.float32) for tensor in GGUFReader(path).tensors}
    end = ".in_sum2"
    return {
        name.removesuffix(end): (sums / found[name.removesuffix(end) + ".counts"]).ravel()
        for name, sums in found.items()
        if name.endswith(end)
    }
