"""Refuse ISA objects with weak or unique symbols.

The linker may keep an AVX-512 copy of a weak symbol for every CPU, which then dies of an illegal
instruction on those without it.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

SHARED_KINDS = {"W", "V", "u", "w", "v"}


def shared_symbols(nm_output: str) -> list[str]:
    """Names of the symbols that several objects may define, from `nm -C` output."""
    rows = (line.split(maxsplit=2) for line in nm_output.splitlines())
    return [row[-1] for row in rows if len(row) == 3 and row[1] in SHARED_KINDS]


def isa_objects(build_dir: Path) -> list[Path]:
    return sorted(build_dir.glob("**/kt_isa_*.dir/**/*.o"))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("objects", nargs="*", type=Path, help="instead of those of a build")
    parser.add_argument("--build-dir", type=Path, default=Path("build"))
    parser.add_argument("--nm", default="nm")
    asked = parser.parse_args(argv)
    objects = asked.objects or isa_objects(asked.build_dir)
    if not objects:
        print("no ISA objects found: build the kernels first", file=sys.stderr)
        return 1
    bad = 0
    for path in objects:
        listing = subprocess.run(
            [asked.nm, "-C", str(path)], check=True, capture_output=True, text=True
        ).stdout
        for name in shared_symbols(listing):
            print(f"{path.name}: {name}", file=sys.stderr)
            bad += 1
    print(f"{len(objects)} ISA objects, {bad} shared symbols")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
