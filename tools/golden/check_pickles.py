"""Checks that PyTorch reads the file that danlu writes: crates/formats/tests/golden/pytorch/written.pth.

    cargo test -p danlu-formats --test pytorch -- --ignored write_the_recording
    python check_pickles.py

`torch.load(weights_only=True)`, mapped and not; every checksum; alignment; one storage for the tied head; and the bytes,
which are `index * 7 + sum of the name's bytes` modulo 256. Exit code 1 on a difference.
"""

import sys
import zipfile

import torch

from recording import ROOT

PATH = ROOT / "crates/formats/tests/golden/pytorch/written.pth"
TIED = {"output.weight": "tok_embeddings.weight"}


def main():
    """True if everything is as it should be."""
    good = zipfile.ZipFile(PATH).testzip() is None
    for mmap in (False, True):
        tensors = torch.load(PATH, weights_only=True, mmap=mmap)
        for name, tensor in tensors.items():
            seed = sum(TIED.get(name, name).encode())
            found = tensor.contiguous().reshape(-1).view(torch.uint8).tolist() if tensor.numel() else []
            expected = [(index * 7 + seed) % 256 for index in range(tensor.numel() * tensor.element_size())]
            aligned = tensor.data_ptr() % 64 == 0
            good &= found == expected and aligned and tensor.is_contiguous()
            print(f"{name} {tuple(tensor.shape)} {tensor.dtype}: {'equal' if found == expected else 'DIFFERENT'}")
        shared = {tensors[name].untyped_storage().data_ptr() for pair in TIED.items() for name in pair}
        good &= len(shared) == 1
    print("all as written" if good else "DIFFERENT")
    return good


if __name__ == "__main__":
    sys.exit(0 if main() else 1)
