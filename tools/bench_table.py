#!/usr/bin/env python3
"""Measures danlu beside PyTorch and writes the table of docs/benchmarks.md.

usage, in the project's folder, on an idle machine:
    PY=~/.cache/danlu-peers/venv/bin/python
    tools/bench_table.py --peers ../shared/peers --python $PY --danlu target/release/danlu [--rows GLOB,…] [--runs N]
    tools/bench_table.py --write            only write the table again from what was measured
    tools/bench_table.py --write --cause ROW=TEXT    say below the table why a bound is missed
    tools/bench_table.py --list             names of the rows

A run measures danlu and its peer in turn. All results are kept in `--results` (a JSON file), so that rows can be measured piece
by piece and runs added; `--again` forgets earlier runs of the chosen rows. Ratios are those of the medians. A bound that is
missed is shown as missed. `--quick` tries everything out on tiny shapes, and writes nothing into the document.

`--gemm` takes the program that `cargo build --release` makes in `benches/peers/gemm`, a second peer of the f32 products.

With `--torch-linear` it is the peer of the products: it prints seconds of PyTorch's linear layers as one JSON line.
"""

import argparse
import datetime
import fnmatch
import json
import math
import os
import pathlib
import re
import statistics
import subprocess
import sys
import time

DOCUMENT = pathlib.Path("docs/benchmarks.md")
SHAPES = ["2048x512x512", "2048x512x1536", "2048x512x6400", "1024x2048x2048", "2048x2048x5632"]
DIRECTIONS = {"forward": "forward", "prepacked": "forward, weight packed before", "input": "gradient of the input", "weight": "gradient of the weight"}
KEYS = {"forward": "gflops", "prepacked": "prepacked_gflops", "input": "backward_input_gflops", "weight": "backward_weight_gflops"}
FULL_95M = "--hidden 768 --layers 12 --heads 12 --kv-heads 12 --intermediate 2048 --vocab 6400 --batch 4 --seq 512"
LORA_1B = ("--mode lora --rank 16 --hidden 2048 --layers 22 --heads 32 --kv-heads 4 --intermediate 5632 --vocab 32000 "
           "--batch 1 --seq 512")
TINY = "--hidden 64 --layers 2 --heads 4 --kv-heads 4 --intermediate 96 --vocab 256 --batch 2 --seq 32"


def training(what, shape, peer, speed, memory, share=None):
    """A row of training steps; `speed`, `memory` and `share` are (at least or at most, aim)."""
    return {"what": what, "danlu": f"bench train {shape} --steps 6", "peer": f"train.py {shape} {peer} --steps 6",
            "speed": ("tokens_per_s", "tokens/s", *speed), "memory": ("train_peak_mb", *memory), "share": share}


def rows(data, tokenizer, quick):
    """Every row of the table by its name."""
    sft = f"--data {data} --tokenizer {tokenizer} --mode lora --rank 16"
    full_95m, lora_1b, steps = FULL_95M, LORA_1B, []
    if quick:
        full_95m, lora_1b = TINY, f"--mode lora --rank 2 {TINY}"
        sft += " --hidden 64 --layers 2 --heads 4 --kv-heads 2 --intermediate 96 --rows 8"
    found = {
        "full-32m": training("full training, 32M", TINY if quick else "--mode full", "--dtype amp", (2.0, 2.3), (0.25, 0.18)),
        "full-95m": training("full training, 95M", full_95m, "--dtype amp", (2.0, 2.3), (0.40, 0.36), (0.6, 0.7)),
        "lora-1.1b": training("LoRA r16 on all linears, 1.1B", lora_1b, "--dtype bf16", (1.5, 1.7), (0.60, 0.55)),
        "sft": {"what": "SFT on real lengths, SmolLM2's shape, LoRA", "danlu": f"bench sft {sft}",
                "peer": f"train_sft.py {sft} --dtype bf16", "speed": ("rows_per_s", "rows/s", 6.0, 9.0),
                "memory": ("peak_rss_mb", 0.08, 0.055), "share": None},
    }
    for precision in ["bf16", "f32"]:
        for shape in ["64x32x48"] if quick else SHAPES:
            found[f"linear-{precision}-{shape}"] = {"linear": shape, "precision": precision}
    return found


def run(command, threads):
    """The JSON object that a command prints last."""
    print("$", " ".join(command), file=sys.stderr, flush=True)
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": str(threads)})
    if done.returncode != 0:
        sys.exit(f"`{' '.join(command)}` ended with {done.returncode}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def shown(command):
    """A command as a reader would type it, without the folders of this machine."""
    return " ".join(os.path.basename(word) if os.path.isabs(word) or word.startswith("..") else word for word in command.split())


def commands(row, args):
    """danlu's command and the peer's."""
    danlu = [args.danlu, "--threads", str(args.threads), "--json"]
    if "linear" not in row:
        script, *flags = row["peer"].split()
        peer = [args.python, str(pathlib.Path(args.peers) / script), *flags, "--threads", str(args.threads)]
        return [*danlu, *row["danlu"].split()], peer
    shape, precision = row["linear"], row["precision"]
    seconds = ["--seconds", str(args.seconds)]
    peer = [args.python, __file__, "--torch-linear", shape, "--precision", precision, "--threads", str(args.threads), *seconds]
    return [*danlu, "bench", "matmul", "--shapes", shape, "--precision", precision, *seconds], peer


def measure(name, row, args, results):
    kept = results.setdefault(name, {"runs": []})
    if args.again:
        kept["runs"] = []
    for _ in range(args.runs):
        ours, theirs = (run(command, args.threads) for command in commands(row, args))
        if "linear" in row:
            ours = {key: ours["gflops"][0][field] for key, field in KEYS.items()} | {"ceiling_gflops": ours["ceiling_gflops"]}
        kept["runs"].append({"danlu": ours, "peer": theirs})
        if args.gemm and row.get("precision") == "f32":
            shape = row["linear"]
            speeds = run([args.gemm, str(args.threads), str(args.seconds), shape], args.threads)
            kept["runs"][-1]["gemm"] = {"forward": speeds[shape]}
        kept |= {"date": str(datetime.date.today()), "processor": processor(), "threads": args.threads}
        pathlib.Path(args.results).write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def torch_linear(args):
    """PyTorch's linear layer: GFLOP/s of the forward and of both gradients."""
    import torch

    torch.set_num_threads(args.threads)
    tokens, inputs, outputs = map(int, args.torch_linear.split("x"))
    dtype = {"bf16": torch.bfloat16, "f32": torch.float32}[args.precision]
    x, weight, dy = (torch.randn(shape).to(dtype) for shape in [(tokens, inputs), (outputs, inputs), (tokens, outputs)])
    products = {
        "forward": lambda: torch.nn.functional.linear(x, weight),
        "input": lambda: dy @ weight,
        "weight": lambda: dy.t() @ x,
    }
    flops, result = 2 * tokens * inputs * outputs, {}
    with torch.no_grad():
        for name, product in products.items():
            product()
            times, begin = [], time.perf_counter()
            while len(times) < 3 or time.perf_counter() - begin < args.seconds:
                start = time.perf_counter()
                product()
                times.append(time.perf_counter() - start)
            result[name] = flops / statistics.median(times) / 1e9
    print(json.dumps(result))


def processor():
    names = re.findall(r"^model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return names[0] if names else "unknown processor"


def median(runs, who, key):
    return statistics.median(result[who][key] for result in runs)


def number(value):
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def line(*cells):
    return "| " + " | ".join(map(str, cells)) + " |"


def bound(ratio, least, aim, higher=True):
    """Cells of a bound and of its verdict."""
    met = lambda limit: ratio >= limit if higher else ratio <= limit
    verdict = "aim reached" if met(aim) else "held" if met(least) else "**missed**"
    return f"{'≥' if higher else '≤'} {least:g}", f"{aim:g}", verdict


def work_lines(name, row, kept):
    """Lines of the table of whole steps."""
    runs, what = kept["runs"], row["what"]
    key, unit, least, aim = row["speed"]
    ours, theirs = (median(runs, who, key) for who in ["danlu", "peer"])
    yield line(what, f"{number(ours)} {unit}", f"{number(theirs)} {unit}", f"{ours / theirs:.2f}", *bound(ours / theirs, least, aim), len(runs))
    key, least, aim = row["memory"]
    ours, theirs = (median(runs, who, key) for who in ["danlu", "peer"])
    ratio = ours / theirs
    yield line(f"{what}: peak memory", f"{number(ours)} MB", f"{number(theirs)} MB", f"{ratio:.3f}", *bound(ratio, least, aim, False), len(runs))
    if row["share"]:
        share = median(runs, "danlu", "share_of_ceiling")
        least, aim = row["share"]
        limit = median(runs, "danlu", "ceiling_gflops")
        yield line(f"{what}: share of the ceiling", f"{100 * share:.0f} %", f"ceiling {number(limit)} GFLOP/s", f"{share:.2f}", *bound(share, least, aim), len(runs))


def product_lines(precision, measured):
    """Lines of the table of products of one precision, and the line of their geometric mean."""
    bounds = {"bf16": (0.95, 1.0), "f32": (1.8, 2.1)}[precision]
    means = {"forward": (bounds, []), "prepacked": ((1.0, 1.05), [])}
    for shape, kept in measured:
        runs = kept["runs"]
        for direction, name in DIRECTIONS.items():
            # PyTorch packs in every call.
            ours, theirs = median(runs, "danlu", direction), median(runs, "peer", "forward" if direction == "prepacked" else direction)
            ratio = ours / theirs
            if direction in means:
                means[direction][1].append(ratio)
            verdict = bound(ratio, *bounds) if direction == "forward" else ("", "", "")
            yield line(shape, name, number(ours), number(theirs), f"{ratio:.2f}", *verdict, len(runs))
        beside = [result for result in runs if "gemm" in result]
        if beside:
            ours, theirs = (median(beside, who, "forward") for who in ["danlu", "gemm"])
            verdict = bound(ours / theirs, 1.2, 1.5)
            yield line(shape, "forward, beside the `gemm` crate", number(ours), number(theirs), f"{ours / theirs:.2f}", *verdict, len(beside))
    for direction, (limits, ratios) in means.items():
        # The bound of prepacked weights is one of bf16.
        if len(ratios) > 1 and (direction == "forward" or precision == "bf16"):
            mean = math.exp(statistics.fmean(map(math.log, ratios)))
            least_of_mean = (1.0, 1.0) if direction == "forward" and precision == "bf16" else limits
            yield line(f"{len(ratios)} shapes", f"geometric mean: {DIRECTIONS[direction]}", "", "", f"{mean:.2f}", *bound(mean, *least_of_mean), "")


def table(found, results, args):
    """The measured part of the document."""
    text = []
    work = [(name, row) for name, row in found.items() if "linear" not in row and results.get(name, {}).get("runs")]
    measured = [(name, found[name], kept) for name, kept in results.items() if name in found and kept["runs"]]
    if not measured:
        sys.exit("nothing was measured yet")
    dates = sorted({kept["date"] for _, _, kept in measured})
    machines = sorted({f"{kept['processor']}, {kept['threads']} threads" for _, _, kept in measured})
    text.append(f"{' to '.join(dict.fromkeys([dates[0], dates[-1]]))}, {'; '.join(machines)}. Medians of runs in turn; ratios are danlu's figure over the "
                "peer's, transformers with PyTorch.")
    if work:
        text += ["", line("work", "danlu", "peer", "ratio", "bound", "aim", "verdict", "runs"), line(*["---"] * 8)]
        for name, row in work:
            text += work_lines(name, row, results[name])
        text += ["", f"The commands, in the order of the table, each with `--threads {args.threads}`:", "", "```"]
        for _, row in work:
            text += [shown(f"danlu {row['danlu']} --json"), shown(f"python {row['peer']}")]
        text += ["```"]
    for precision in ["bf16", "f32"]:
        products = [(row["linear"], kept) for _, row, kept in measured if row.get("precision") == precision]
        products.sort(key=lambda product: SHAPES.index(product[0]) if product[0] in SHAPES else -1)
        if not products:
            continue
        text += ["", f"Products in {precision}, GFLOP/s, rounding and packing of both operands included on danlu's side "
                 f"(`danlu bench matmul --precision {precision}` against PyTorch's `linear`; tokens x inputs x outputs):", ""]
        text += [line("shape", "product", "danlu", "peer", "ratio", "bound", "aim", "verdict", "runs"), line(*["---"] * 9)]
        text += product_lines(precision, products)
    text += ["", *(f"- {name}: {kept['cause']}" for name, _, kept in measured if "cause" in kept)]
    return "\n".join(text).rstrip()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", default="../shared/peers")
    parser.add_argument("--data", default="../shared/data/datasets/llama-factory/alpaca_zh_demo.json")
    parser.add_argument("--tokenizer", default="../shared/data/tokenizers/smollm/tokenizer.json")
    parser.add_argument("--python", default=sys.executable, help="a Python with PyTorch and transformers")
    parser.add_argument("--danlu", default="target/release/danlu")
    parser.add_argument("--gemm", metavar="PROGRAM", help="also measure f32 products of the `gemm` crate")
    parser.add_argument("--rows", default="*", help="names, or patterns such as `linear-bf16-*`, separated by commas")
    parser.add_argument("--runs", type=int, default=3, help="runs to add to each row")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=1.0, help="for each product")
    parser.add_argument("--results", help="default: target/benchmarks.json")
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--cause", metavar="ROW=TEXT", action="append", default=[])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--torch-linear", metavar="TxIxO")
    parser.add_argument("--precision", choices=["bf16", "f32"], default="bf16")
    args = parser.parse_args()
    if args.torch_linear:
        return torch_linear(args)
    found = rows(args.data, args.tokenizer, args.quick)
    if args.list:
        return print("\n".join(found))
    args.results = args.results or f"target/benchmarks{'-quick' if args.quick else ''}.json"
    path = pathlib.Path(args.results)
    results = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    for name, text in (cause.split("=", 1) for cause in args.cause):
        if name not in results:
            sys.exit(f"`--cause`: nothing was measured of `{name}`")
        results[name]["cause"] = text
        path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    if not args.write:
        path.parent.mkdir(parents=True, exist_ok=True)
        patterns = args.rows.split(",")
        chosen = [name for name in found if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)]
        if not chosen:
            sys.exit(f"no row is named `{args.rows}`; there are {', '.join(found)}")
        for name in chosen:
            measure(name, found[name], args, results)
    text = table(found, results, args)
    if args.quick:
        return print(text)
    before, rest = DOCUMENT.read_text(encoding="utf-8").split("<!-- figures: begin -->\n")
    after = rest.split("<!-- figures: end -->")[1]
    DOCUMENT.write_text(f"{before}<!-- figures: begin -->\n{text}\n<!-- figures: end -->{after}", encoding="utf-8")


main()
