"""Perplexity of a model in every type of GGUF over that in f16, beside the file of llama.cpp's own quantizer.

    python perplexity_of_types.py DANLU MODEL TEXT [--tokens-of BYTES] [--calibrate] [--types q4_0,q4_k_m] [--precision bf16] [--window 512]

DANLU is the program, MODEL any model, TEXT an English text; its first BYTES (default 50000) are measured, and with
`--calibrate` the BYTES behind them are the calibration text of an importance matrix. MODEL → Hugging Face folder in f16 (the
base) → GGUF of the type → Hugging Face folder in f32, measured in f32 (or bf16, faster). llama.cpp's quantizer makes the same type from the
base's GGUF (with the same importance matrix); where its tensors are byte for byte the same it needs no measurement of its own.

Fails if a type is over its bound, or over llama.cpp's file by more than 0.5 %. A type that is over its bound with the bytes
of llama.cpp's own file is said to be so: the bounds are for an original, and a MODEL that was quantized before (SmolLM2's Q4_1 file)
can lose more. The comparison with llama.cpp's file holds of any MODEL. Needs `llama-cpp-python` and `gguf`.
"""

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

import llama_cpp_files as peer
from of_danlu import danlu

# Percent over f16.
BOUNDS = {"q8_0": 0.5, "q5_0": 2, "q5_1": 2, "q5_k_m": 2, "q4_k_m": 4, "q4_0": 8}
TYPES = ["q8_0", "q6_k", "q5_k_m", "q5_1", "q5_0", "q4_k_m", "q4_k_s", "q4_1", "q4_0", "q3_k_m"]
OVER_PEER = 0.5


def perplexity(program, model, text, options):
    found = danlu(program, "eval", "ppl", "--model", model, "--text", text, "--window", str(options.window),
                  "--stride", str(options.window * 3 // 4), "--precision", options.precision)
    return found["perplexity"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("model")
    parser.add_argument("text", type=Path)
    parser.add_argument("--tokens-of", type=int, default=50_000)
    parser.add_argument("--calibrate", action="store_true")
    parser.add_argument("--precision", default="f32", choices=["f32", "bf16"])
    parser.add_argument("--window", type=int, default=1024, help="tokens, up to the model's context")
    parser.add_argument("--types", default=",".join(TYPES))
    options = parser.parse_args()
    program = options.program
    failed = False
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        whole = options.text.read_bytes()
        texts = [whole[start : start + options.tokens_of] for start in (0, options.tokens_of)]
        for place, part in zip(("measured.txt", "calibration.txt"), texts):
            (folder / place).write_text(part.decode("utf-8", "ignore"), encoding="utf-8")
        measured, base, plain = folder / "measured.txt", folder / "base", folder / "f16.gguf"
        danlu(program, "convert", options.model, str(base), "--dtype", "f16")
        danlu(program, "convert", base, plain, "--dtype", "f16")
        importance, extra = None, []
        if options.calibrate:
            matrix = folder / "importance.gguf"
            danlu(program, "convert", base, folder / "first.gguf", "--quant", "q4_k_m", "--calibration",
                  folder / "calibration.txt", "--write-imatrix", matrix)
            importance, extra = peer.read_imatrix(matrix), ["--imatrix", matrix]
        reference = perplexity(program, base, measured, options)
        print(f"| type | perplexity | over f16 | bound | llama.cpp's own | |\n| --- | --- | --- | --- | --- | --- |\n"
              f"| f16 | {reference:.4f} | | | | |", flush=True)
        for kind in options.types.split(","):
            mine, theirs, back = (folder / f"{kind}-{end}" for end in ("mine.gguf", "theirs.gguf", "back"))
            danlu(program, "convert", base, mine, "--quant", kind, *extra)
            danlu(program, "convert", mine, back, "--dtype", "f32")
            peer.quantize(plain, theirs, kind, importance)
            is_same = not peer.differing(mine, theirs)
            found = perplexity(program, back, measured, options)
            other = found if is_same else perplexity(program, theirs, measured, options)
            over, bound = (found / reference - 1) * 100, BOUNDS.get(kind)
            verdict = "holds"
            if bound is not None and over > bound:
                verdict = "over the bound, with llama.cpp's bytes" if is_same else "OVER THE BOUND"
            if found > other * (1 + OVER_PEER / 100):
                verdict = "WORSE THAN LLAMA.CPP"
            failed |= verdict.isupper()
            said = f"{other:.4f}, {'the same bytes' if is_same else 'other bytes'}"
            limit = "" if bound is None else f"+{bound} %"
            print(f"| {kind} | {found:.4f} | {over:+.2f} % | {limit} | {said} | {verdict} |", flush=True)
            mine.unlink()
            theirs.unlink()
            shutil.rmtree(back)
    sys.exit(failed)


if __name__ == "__main__":
    main()
