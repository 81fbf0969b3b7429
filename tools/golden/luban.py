"""The model of Baby-Llama2 and Luban in PyTorch: recordings of it, and a check of danlu's whole way with it.

    python luban.py                                        records crates/model/tests/golden/luban/
    python luban.py check DANLU CHATGLM2_TOKENIZER.model   checks a danlu binary, in a temporary folder

The recording is a tiny random model as `torch.save` writes it (`plain.pth`), the same as saved from `torch.compile`
(`compiled.pth`: every name begins with `_orig_mod.`), `config.json` with what the shapes do not tell, and `logits.json`
with the logits of the last position and the ids that greedy generation gives.

The check makes such a file of ChatGLM2's 64793 rows, and compares with danlu: log-probabilities of a continuation and of
the question form `prompt<bos>`, for both files; then danlu trains an epoch on questions and answers from a CSV file, and
`epoch_0.pth` is loaded strictly here and compared again. Exit code 1 on a difference.
"""

import csv
import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from torch import nn

from recording import MODEL_GOLDEN, shortest

FOLDER = MODEL_GOLDEN / "luban"
TINY = {"dim": 32, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "vocab_size": 97, "multiple_of": 32, "max_seq_len": 64}
LARGE = {"dim": 64, "n_layers": 2, "n_heads": 8, "n_kv_heads": 8, "vocab_size": 64793, "multiple_of": 32, "max_seq_len": 128}
TOLERANCE = 1e-4


class Norm(nn.Module):
    """Divided by the root of the mean square, in float32."""

    def __init__(self, dim):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5) * self.weight


def rotate(x):
    """Neighbouring values are turned by position / 10000^(2 j / size); x is [time, heads, size]."""
    time, _, size = x.shape
    angles = torch.outer(torch.arange(time).float(), 1.0 / 10000 ** (torch.arange(0, size, 2).float() / size))
    turn = torch.polar(torch.ones_like(angles), angles).unsqueeze(1)
    return torch.view_as_real(torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2)) * turn).flatten(2)


class Attention(nn.Module):
    """Causal, with groups of query heads for each key head."""

    def __init__(self, dim, n_heads, n_kv_heads):
        super().__init__()
        self.size = dim // n_heads
        self.groups = n_heads // n_kv_heads
        self.wq = nn.Linear(dim, n_heads * self.size, bias=False)
        self.wk = nn.Linear(dim, n_kv_heads * self.size, bias=False)
        self.wv = nn.Linear(dim, n_kv_heads * self.size, bias=False)
        self.wo = nn.Linear(dim, dim, bias=False)

    def forward(self, x):
        heads = lambda linear: linear(x).view(len(x), -1, self.size)
        spread = lambda x: x.repeat_interleave(self.groups, dim=1)
        q, k, v = rotate(heads(self.wq)), spread(rotate(heads(self.wk))), spread(heads(self.wv))
        scores = torch.einsum("ihe,jhe->hij", q, k) / math.sqrt(self.size)
        later = torch.ones(len(x), len(x), dtype=torch.bool).triu(1)
        weights = scores.masked_fill(later, float("-inf")).softmax(-1)
        return self.wo(torch.einsum("hij,jhe->ihe", weights, v).reshape(len(x), -1))


class FeedForward(nn.Module):
    """w2(silu(w1 x) * w3 x)."""

    def __init__(self, dim, hidden):
        super().__init__()
        self.w1 = nn.Linear(dim, hidden, bias=False)
        self.w2 = nn.Linear(hidden, dim, bias=False)
        self.w3 = nn.Linear(dim, hidden, bias=False)

    def forward(self, x):
        return self.w2(nn.functional.silu(self.w1(x)) * self.w3(x))


class Block(nn.Module):
    """Norms come first."""

    def __init__(self, arguments, hidden):
        super().__init__()
        self.attention = Attention(arguments["dim"], arguments["n_heads"], arguments["n_kv_heads"])
        self.feed_forward = FeedForward(arguments["dim"], hidden)
        self.attention_norm = Norm(arguments["dim"])
        self.ffn_norm = Norm(arguments["dim"])

    def forward(self, x):
        x = x + self.attention(self.attention_norm(x))
        return x + self.feed_forward(self.ffn_norm(x))


class Transformer(nn.Module):
    """The whole model; the head is the embedding, under a second name."""

    def __init__(self, arguments):
        super().__init__()
        dim, multiple = arguments["dim"], arguments["multiple_of"]
        hidden = -(-(8 * dim // 3) // multiple) * multiple
        self.tok_embeddings = nn.Embedding(arguments["vocab_size"], dim)
        self.layers = nn.ModuleList(Block(arguments, hidden) for _ in range(arguments["n_layers"]))
        self.norm = Norm(dim)
        self.output = nn.Linear(dim, arguments["vocab_size"], bias=False)
        self.output.weight = self.tok_embeddings.weight

    def forward(self, ids):
        x = self.tok_embeddings(torch.tensor(ids))
        for layer in self.layers:
            x = layer(x)
        return self.output(self.norm(x[-1]))

    @torch.no_grad()
    def greedy(self, ids, count):
        ids = list(ids)
        for _ in range(count):
            ids.append(int(self(ids).argmax()))
        return ids


def make(arguments, seed):
    """A random model with opinions."""
    torch.manual_seed(seed)
    model = Transformer(arguments)
    for name, parameter in model.named_parameters():
        nn.init.normal_(parameter, 1.0 if name.endswith("norm.weight") else 0.0, 0.2)
    return model.eval()


def save(model, plain, compiled):
    """Both forms of the file."""
    state = model.state_dict()
    torch.save(state, plain)
    torch.save({f"_orig_mod.{name}": tensor for name, tensor in state.items()}, compiled)


def record():
    FOLDER.mkdir(parents=True, exist_ok=True)
    model = make(TINY, 11)
    save(model, FOLDER / "plain.pth", FOLDER / "compiled.pth")
    (FOLDER / "config.json").write_text(json.dumps(TINY, indent=2) + "\n")
    prompts = [[1], [5, 96, 0, 33, 33, 7], [int(id) for id in torch.randint(97, (40,))]]
    with torch.no_grad():
        recorded = [
            {"ids": ids, "logits": shortest(model(ids)), "greedy": model.greedy(ids, 12)[len(ids) :]} for ids in prompts
        ]
    (FOLDER / "logits.json").write_text(json.dumps(recorded, separators=(",", ":")) + "\n")


def answer(danlu, folder, *arguments):
    """The JSON object that danlu prints last."""
    done = subprocess.run([danlu, *arguments, "--json"], cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"danlu {' '.join(arguments)}: {done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def compare(danlu, folder, model, path, what, *arguments):
    """Whether danlu's log-probabilities of three greedy tokens are those of the model."""
    found = answer(
        danlu, folder, "generate", "--model", path, "--temperature", "0", "--max-new-tokens", "3", "--top-logprobs", "5",
        "--precision", "f32", *arguments,
    )
    ids, worst = found["prompt_ids"], 0.0
    for step, id in zip(found["top_logprobs"], found["ids"]):
        with torch.no_grad():
            expected = model(ids).log_softmax(-1)
        worst = max([worst] + [abs(float(expected[token["id"]]) - token["logprob"]) for token in step])
        ids = ids + [id]
    print(f"{what}: {len(found['prompt_ids'])} prompt ids, largest difference {worst:.2e}")
    return worst < TOLERANCE, found["prompt_ids"]


def check(danlu, tokenizer):
    danlu, tokenizer = str(Path(danlu).resolve()), str(Path(tokenizer).resolve())
    good = True
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        model = make(LARGE, 12)
        save(model, folder / "plain.pth", folder / "compiled.pth")
        (folder / "config.json").write_text(json.dumps(LARGE))
        given = ["--tokenizer", tokenizer]
        for path in ("plain.pth", "compiled.pth"):
            raw = compare(danlu, folder, model, path, f"{path}, continued", *given, "--raw", "--prompt", "介绍一下数控加工：")
            asked = compare(
                danlu, folder, model, path, f"{path}, asked", *given, "--template", "baby_llama2", "--prompt", "问题是什么？"
            )
            good &= raw == (True, [30910, 48875, 47592, 33185, 31211])
            good &= asked == (True, [30910, 31639, 32664, 31514, 1])
        with open(folder / "finetune_data.csv", "w", encoding="utf-8", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["prompt", "answer"])
            rows.writerows([f"第{row}道工序是什么？", f"车床加工轴，公差{row}微米。"] for row in range(8))
        answer(
            danlu, folder, "train", "sft-csv", "finetuning_type=full", "model_name_or_path=compiled.pth",
            f"tokenizer_name_or_path={tokenizer}", "template=baby_llama2", "dataset=finetune_data.csv", "cutoff_len=64",
            "val_size=0", "num_train_epochs=1", "warmup_ratio=0", "learning_rate=0.01", "output_dir=out",
        )
        state = torch.load(folder / "out/epoch_0.pth", weights_only=True)
        trained = Transformer(LARGE).eval()
        trained.load_state_dict(state, strict=True)
        good &= state["output.weight"].equal(state["tok_embeddings.weight"])
        moved = float((trained.norm.weight - model.norm.weight).detach().abs().max())
        print(f"epoch_0.pth: {len(state)} tensors, the last norm moved by up to {moved:.3f}")
        good &= moved > 1e-3
        asked = compare(danlu, folder, trained, "out/epoch_0.pth", "epoch_0.pth, asked", "--prompt", "问题是什么？")
        good &= asked == (True, [30910, 31639, 32664, 31514, 1])
    print("all equal" if good else "DIFFERENT")
    return good


if __name__ == "__main__":
    if sys.argv[1:2] == ["check"]:
        sys.exit(0 if check(*sys.argv[2:4]) else 1)
    record()
