"""The lane's functions in C as other processors have them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pdcache.sglang_cpu import native

LEVELS = {"x86-64-v2": "sse4_2", "x86-64-v3": "avx2"}
"""Of the x86-64 ABI, and a flag of the processors that have them."""


def levels() -> list[str]:
    """This processor's own, and those below it that it can run."""
    flags = Path("/proc/cpuinfo").read_text().split()
    return ["native", *(level for level, flag in LEVELS.items() if flag in flags)]


@pytest.fixture(params=levels(), scope="module")
def level(request):
    """The functions are compiled for this level, whose vectors are narrower or wider."""
    with pytest.MonkeyPatch.context() as patch:
        own = [f for f in native.FLAGS if not f.startswith("-march")]
        patch.setattr(native, "FLAGS", (*own, f"-march={request.param}"))
        native.kernels.cache_clear()
        yield request.param
    native.kernels.cache_clear()


@pytest.fixture(params=[1, 3], ids="{} threads".format)
def threads(level, request):
    """How many threads the functions have."""
    before = torch.get_num_threads()
    native.kernels().use_threads(request.param)
    yield
    native.kernels().use_threads(before)
