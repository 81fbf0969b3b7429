"""Checks that PyTorch reads the file that danlu writes: crates/formats/tests/golden/pytorch/written.pth.

    python check_pickles.py [NEW.pth]

A test compares what danlu writes with this file; where that has changed, the test names the new file, and given that, the
script takes it as the recording if PyTorch reads it as it should: `torch.load(weights_only=True)`, mapped and not; every
checksum; alignment; one storage for the tied head; and the bytes, which are `index * 7 + sum of the name's bytes` modulo
256. Exit code 1 on a difference.
"""

import shutil
import sys
import zipfile

import torch

from recording import ROOT

PATH = ROOT / "crates/formats/tests/golden/pytorch/written.pth"
TIED = {"output.weight": "tok_embeddings.weight"}


def main(path):
    """True if everything is as it should be."""
    good = zipfile.ZipFile(path).testzip() is None
    for mmap in (False, True):
        tensors = torch.load(path, weights_only=True, mmap=mmap)
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
    new = sys.argv[1] if len(sys.argv) > 1 else PATH
    good = main(new)
    if good and new != PATH:
        shutil.copyfile(new, PATH)
    sys.exit(0 if good else 1)
