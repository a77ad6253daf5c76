"""The lane's own functions in C, compiled once a machine and kept in the cache."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import functools
import hashlib
import os
import platform
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from pdcache.models.cache import cache_root

SOURCES = tuple(Path(__file__).with_name(name) for name in ("decode.c", "linear.c", "prefill.c"))
HEADERS = tuple(Path(__file__).with_name(name) for name in ("layers.h", "vectors.h"))
COMPILER = "gcc"
FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-fopenmp", "-shared", "-fPIC")
"""OpenMP's library is the one that torch has loaded, by its name, or becomes torch's."""

LANES = 16
"""Numbers that the functions take at a time."""

_POINTER, _COUNT = ctypes.c_void_p, ctypes.c_long
_LINEAR = (_POINTER, ctypes.c_int, _COUNT, _COUNT, _POINTER, _POINTER, _COUNT)
_DECODE = (
    _POINTER, _COUNT, *(_POINTER,) * 2, ctypes.c_int, *(_POINTER,) * 2, _COUNT, *(_POINTER,) * 2,
    *(_COUNT,) * 4, ctypes.c_float, _POINTER,
)  # fmt: skip
FUNCTIONS = {
    "linear": _LINEAR,
    "decode": _DECODE,
    "decode_step": (_POINTER, _POINTER, _COUNT),
    "extend": (_POINTER,),
    "prefill_rows": (_POINTER, _POINTER, _POINTER),
    "use_threads": (ctypes.c_int,),
}
"""Their arguments; what they mean say `SOURCES`."""


@functools.cache
def kernels() -> ctypes.CDLL:
    """The functions, ready to be called.

    Raises:
        RuntimeError: the compiler is missing or failed, with what it said and the remedy.
    """
    path = _compiled()
    try:
        library = ctypes.CDLL(str(path))
    except OSError:  # What a full disk or a crash left of it.
        path.unlink(missing_ok=True)
        library = ctypes.CDLL(str(_compiled()))
    for name, arguments in FUNCTIONS.items():
        function = getattr(library, name)
        function.argtypes, function.restype = arguments, None
    return library


def _compiled() -> Path:
    """The library, compiled unless one of the same source, flags and processor is there."""
    texts = [path.read_text() for path in (*HEADERS, *SOURCES)]
    made_of = "\n".join((*texts, *FLAGS, platform.machine(), _processor()))
    name = f"kernels-{hashlib.blake2b(made_of.encode(), digest_size=8).hexdigest()}.so"
    path = cache_root() / name
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with _one_at_a_time(path.parent):
            if not path.exists():
                with tempfile.TemporaryDirectory(dir=path.parent, prefix=".kernels-") as folder:
                    made = Path(folder) / name
                    _compile(made)
                    os.replace(made, path)
    return path


@contextlib.contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Servers that start together wait for the one that compiles."""
    held = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield
    finally:
        os.close(held)


def _compile(into: Path) -> None:
    command = [COMPILER, *FLAGS, "-o", str(into), *map(str, SOURCES)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise RuntimeError(f"{COMPILER} is missing; apt-get install gcc") from error
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr.strip()}")


def _processor() -> str:
    """What tells processors apart for which the compiler makes other code."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    wanted = ("model name", "flags", "CPU part", "Features")
    return "\n".join(sorted({line for line in lines if line.startswith(wanted)}))
