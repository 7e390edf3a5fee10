"""A driver of CUDA that is a thread: built from `cuda.c` and found in place of libcuda.so.1."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from pathlib import Path

NAME = "libcuda.so.1"
SETTINGS = ("memory_ops", "devices", "ordinal", "fail_copy", "fail_register", "own_addresses")


def build(folder: Path) -> Path | None:
    """The library, or None without a C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return None
    target = folder / NAME
    source = Path(__file__).with_name("cuda.c")
    flags = ["-shared", "-fPIC", "-pthread", "-O1", f"-Wl,-soname,{NAME}"]
    environment = dict(os.environ)
    if "libtsan" in environment.pop("LD_PRELOAD", ""):
        flags.append("-fsanitize=thread")  # otherwise its words would order nothing
    command = [compiler, *flags, "-o", str(target), str(source)]
    subprocess.run(command, check=True, env=environment)
    return target


class Driver:
    """Loaded once, the kernels find it by its name."""

    def __init__(self, library: Path) -> None:
        self.functions = ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)
        self.functions.fake_stream.restype = ctypes.c_void_p

    def set(self, **values: int) -> None:
        for name, value in values.items():
            self.functions.fake_set(SETTINGS.index(name), value)

    def stream(self, context: int = 0) -> Stream:
        """Contexts 0 to 3 are the primary ones of GPUs 0 to 3, 4 to 7 other ones of theirs."""
        return Stream(self.functions, int(self.functions.fake_stream(context)))

    def registered(self) -> int:
        return int(self.functions.fake_registered())

    def launched(self) -> int:
        return int(self.functions.fake_launched())

    def balanced(self) -> bool:
        return self.functions.fake_context_depth() == 0


class Stream:
    def __init__(self, functions: ctypes.CDLL, handle: int) -> None:
        self.handle = handle
        self._functions = functions
        self._argument = ctypes.c_void_p(handle)

    def capture(self, on: bool) -> None:
        self._functions.fake_capture(self._argument, int(on))

    def replay(self) -> None:
        self._functions.fake_replay(self._argument)

    def synchronise(self) -> None:
        self._functions.fake_synchronise(self._argument)
