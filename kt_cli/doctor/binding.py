"""Tries to bind a page of memory to a NUMA node and prints `ok` or the error's name.

Run in a process of its own: a seccomp filter may kill whoever calls mbind.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import sys

# mbind's number: x86-64 arch/x86/entry/syscalls/syscall_64.tbl, others asm-generic/unistd.h.
NUMBERS = {"x86_64": 237, "aarch64": 235, "riscv64": 235, "loongarch64": 235}
MPOL_BIND = 2
PROT_READ_WRITE = 3
MAP_PRIVATE_ANONYMOUS = 0x22
PAGE = 65536
MASK_BITS = 1024


def attempt(node: int) -> str:
    number = NUMBERS.get(platform.machine())
    if number is None:
        return ""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    address = libc.mmap(None, ctypes.c_size_t(PAGE), PROT_READ_WRITE, MAP_PRIVATE_ANONYMOUS, -1, 0)
    mask = (ctypes.c_ulong * (MASK_BITS // 64))()
    mask[node // 64] = 1 << node % 64
    arguments = (ctypes.c_void_p(address), ctypes.c_ulong(PAGE), MPOL_BIND, mask)
    done = libc.syscall(ctypes.c_long(number), *arguments, ctypes.c_ulong(MASK_BITS), 0)
    return "ok" if done == 0 else errno.errorcode.get(ctypes.get_errno(), "unknown error")


def first_node() -> int:
    """The first node this process may have memory of."""
    with open("/proc/self/status") as status:  # noqa: PTH123
        lines = (line for line in status if line.startswith("Mems_allowed_list:"))
        text = next(lines, ":0").partition(":")[2].strip()
    return int(text.split(",")[0].split("-")[0] or 0)


if __name__ == "__main__":
    here = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120
    sys.path[:] = [p for p in sys.path if p != here]
    sys.stdout.write(attempt(first_node()) + "\n")
