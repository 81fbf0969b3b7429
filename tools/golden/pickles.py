"""Records small files of torch.save in every form that danlu reads, and some that it must refuse.

Writes to crates/formats/tests/golden/pytorch/:

    expected.safetensors   what `zip.pth`, `legacy.pth` and `protocol4.pth` hold, contiguous, under the same names
    zip.pth                every element type; a scalar, an empty tensor, a Parameter, a transposed matrix, rows of a
                           larger storage, two names of one storage
    legacy.pth             the same in the form before PyTorch 1.6 (keys of storages are addresses: each run differs)
    protocol4.pth          the same with a newer pickle protocol
    module.pth             state dict of a module, with its `_metadata`
    training.pth           {"model": state dict, "optimizer": ..., "model_args": ..., numbers, texts, sizes, types}
    nested.pth             dictionaries and lists of tensors, no usual key
    refused/*.pth          code (os.system, eval), repeated elements, unknown types, two state dicts, a single tensor,
                           a TorchScript program
"""

import io
import zipfile

import torch
from safetensors.torch import save_file

from recording import ROOT, generator

FOLDER = ROOT / "crates/formats/tests/golden/pytorch"
NUMBERS = [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16, torch.uint32, torch.uint64]
FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.float8_e4m3fn, torch.float8_e5m2]


def tensors():
    """Every element type and every way to lie in a storage."""
    source = generator(4)
    values = {}
    for dtype in NUMBERS:
        values[str(dtype)] = torch.randint(0, 100, (2, 3), generator=source).to(dtype)
    for dtype in FLOATS:
        values[str(dtype)] = torch.randn(3, 2, generator=source).to(dtype)
    values["bool"] = torch.tensor([True, False, True])
    values["scalar"] = torch.tensor(1.5)
    values["empty"] = torch.zeros(0, 4)
    values["parameter"] = torch.nn.Parameter(torch.randn(2, 2, generator=source))
    values["transposed"] = torch.randn(3, 5, generator=source).to(torch.bfloat16).t()
    values["permuted"] = torch.randn(2, 3, 4, generator=source).permute(2, 0, 1)
    large = torch.randn(6, 4, generator=source)
    values["rows"] = large[2:5]
    values["columns"] = large[:, 1:3]
    values["tok_embeddings.weight"] = torch.randn(7, 2, generator=source)
    values["output.weight"] = values["tok_embeddings.weight"]
    return values


def code(pickle):
    """A file of torch.save whose pickle is this one."""
    data = io.BytesIO()
    torch.save({}, data)
    out = io.BytesIO()
    with zipfile.ZipFile(data) as old, zipfile.ZipFile(out, "w") as new:
        for name in sorted(old.namelist()):
            info = zipfile.ZipInfo(name)
            new.writestr(info, pickle if name.endswith("/data.pkl") else old.read(name))
    return out.getvalue()


class Evil:
    """Its pickle calls eval."""

    def __reduce__(self):
        return eval, ("print('this must never be printed')",)


def save(name, value, **options):
    """Writes one file and says so."""
    path = FOLDER / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(value, bytes):
        path.write_bytes(value)
    else:
        data = io.BytesIO()
        torch.save(value, data, **options)
        path.write_bytes(data.getvalue())
    print(f"{path.relative_to(ROOT)}  {path.stat().st_size} bytes")


def main():
    values = tensors()
    save("zip.pth", values)
    save("legacy.pth", values, _use_new_zipfile_serialization=False)
    save("protocol4.pth", values, pickle_protocol=4)
    save_file({name: value.detach().clone(memory_format=torch.contiguous_format) for name, value in values.items()},
              FOLDER / "expected.safetensors")

    torch.manual_seed(4)
    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.LayerNorm(2))
    save("module.pth", module.state_dict())
    optimizer = torch.optim.AdamW(module.parameters())
    module(torch.ones(1, 3)).square().sum().backward()
    optimizer.step()
    attributed = torch.arange(3.0)
    attributed.note = "a tensor with an attribute"
    save("training.pth", {
        "model": dict(module.state_dict(), attributed=attributed),
        "optimizer": optimizer.state_dict(),
        "model_args": {"dim": 64, "norm_eps": 1e-5, "tied": True, "name": "丹炉"},
        "iter_num": 2**40, "seed": 2**63, "best_val_loss": torch.tensor(2.5), "loss": float("inf"), "none": None,
        "size": torch.Size([1, 2]), "dtype": torch.bfloat16, "device": torch.device("cpu"), "bytes": b"ab", "set": {1},
    })
    weight = torch.arange(4.0)
    save("nested.pth", {"encoder": {"weight": weight, 0: weight + 1}, "layers": [weight + 2, (weight + 3,)]})

    system = b"\x80\x02}X\x01\x00\x00\x00acos\nsystem\nX\x09\x00\x00\x00echo evil\x85Rs."
    save("refused/os_system.pth", code(system))
    save("refused/eval.pth", {"weight": weight, "evil": Evil()})
    save("refused/eval_legacy.pth", {"weight": weight, "evil": Evil()}, _use_new_zipfile_serialization=False)
    save("refused/expanded.pth", {"weight": torch.ones(1).expand(1000, 1000)})
    save("refused/complex.pth", {"weight": torch.ones(2, dtype=torch.complex64)})
    save("refused/two.pth", {"model": {"weight": weight}, "module": {"weight": weight}})
    save("refused/single.pth", weight)
    save("refused/module.pth", torch.nn.Linear(1, 1))
    script = io.BytesIO()
    torch.jit.save(torch.jit.script(torch.nn.Identity()), script)
    save("refused/script.pth", script.getvalue())


if __name__ == "__main__":
    main()
