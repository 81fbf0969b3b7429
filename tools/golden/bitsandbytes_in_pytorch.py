"""Imports bitsandbytes without its compiled part, so that its definition in PyTorch answers, which searches the nearest
code of a magnitude as CUDA does. The compiled CPU part of 0.50 looks it up in a table of 65,536 entries, which is coarser
than the codes near zero and takes a neighbour near midpoints. Import it before anything that imports bitsandbytes.
"""

import ctypes


def refuse(*_):
    raise OSError("not wanted here")


load, ctypes.cdll.LoadLibrary = ctypes.cdll.LoadLibrary, refuse

import bitsandbytes.functional as functional

ctypes.cdll.LoadLibrary = load
