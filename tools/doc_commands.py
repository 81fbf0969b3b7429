#!/usr/bin/env python3
"""Prints the commands of the `sh` blocks of a Markdown file, one a line, as a reader would type them.

Several files are translations of each other: their commands must be the same, and are printed once.
A line that ends in a backslash goes on in the next one; comment lines are left out. Nothing is run here.

usage: doc_commands.py FILE.md [TRANSLATION.md …]
"""

import sys


def commands(path):
    found, block, begun = [], None, ""
    with open(path, encoding="utf-8") as file:
        for line in map(str.rstrip, file):
            if line.startswith("```"):
                block = line[3:] if block is None else None
            elif block == "sh" and line and not line.startswith("#"):
                begun += line.removesuffix("\\")
                if not line.endswith("\\"):
                    found.append(" ".join(begun.split()))
                    begun = ""
    if begun or block is not None:
        sys.exit(f"{path}: the last block or command has no end")
    return found


def main(paths):
    if not paths:
        sys.exit(__doc__)
    first, *others = ((path, commands(path)) for path in paths)
    for path, found in others:
        if found != first[1]:
            differs = next((pair for pair in zip(first[1], found) if pair[0] != pair[1]), None)
            what = "`{}` and `{}`".format(*differs) if differs else "their number"
            sys.exit(f"the commands of {first[0]} and {path} differ: {what}")
    print("\n".join(first[1]))


main(sys.argv[1:])
