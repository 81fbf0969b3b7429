"""Perplexity of every leg of the way GGUF → Hugging Face → GGUF → Hugging Face, and whether the tensors are the same.

    python round_trip.py DANLU MODEL.gguf TEXT [--tokens-of BYTES] [--types q8_0,q5_0,q4_k_m]

DANLU is the program; the first BYTES (default 8000) of TEXT are measured in f32. The legs in f16 and in f32 must keep every
tensor bit for bit, and with it the perplexity. Of a quantized type, the leg back must keep the perplexity of the file (the
values are the same), and what the type costs over f16 is printed. Exit code 1 if a leg changes what it should keep.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from safetensors import safe_open

from of_danlu import danlu


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("model")
    parser.add_argument("text", type=Path)
    parser.add_argument("--tokens-of", type=int, default=8_000)
    parser.add_argument("--types", default="q8_0,q5_0,q4_k_m,q4_0")
    options = parser.parse_args()
    program, failed = options.program, False
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        text = folder / "text.txt"
        text.write_text(options.text.read_bytes()[: options.tokens_of].decode("utf-8", "ignore"), encoding="utf-8")

        def perplexity(model):
            return danlu(program, "eval", "ppl", "--model", str(model), "--text", str(text), "--precision", "f32")["perplexity"]

        def is_same(one, other):
            with safe_open(one / "model.safetensors", "np") as first, safe_open(other / "model.safetensors", "np") as second:
                return set(first.keys()) == set(second.keys()) and all(
                    first.get_tensor(key).tobytes() == second.get_tensor(key).tobytes() for key in first.keys())

        print("| legs | GGUF | to Hugging Face | to GGUF | to Hugging Face | |\n| --- | --- | --- | --- | --- | --- |")
        start = perplexity(options.model)
        for kind in ("f32", "f16"):
            back, again, last = folder / f"{kind}-1", folder / f"{kind}-2.gguf", folder / f"{kind}-3"
            for one, other in ((options.model, back), (back, again), (again, last)):
                danlu(program, "convert", str(one), str(other), "--dtype", kind)
            legs = [perplexity(model) for model in (back, again, last)]
            same = is_same(back, last) and len(set(legs)) == 1 and (kind == "f16" or legs[0] == start)
            failed |= not same
            verdict = "the same tensors" if same else "DIFFERS"
            print(f"| {kind} | {start:.4f} | {' | '.join(f'{leg:.4f}' for leg in legs)} | {verdict} |", flush=True)
            base = legs[0]
        for kind in filter(None, options.types.split(",")):
            quantized, last = folder / f"{kind}.gguf", folder / kind
            danlu(program, "convert", str(folder / "f16-1"), str(quantized), "--quant", kind)
            danlu(program, "convert", str(quantized), str(last), "--dtype", "f32")
            legs = [perplexity(model) for model in (quantized, last)]
            same = abs(legs[1] / legs[0] - 1) < 1e-5
            failed |= not same
            print(f"| {kind} | {start:.4f} | {base:.4f} | {legs[0]:.4f} | {legs[1]:.4f} | "
                  f"{(legs[0] / base - 1) * 100:+.2f} %{'' if same else ' DIFFERS'} |", flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
