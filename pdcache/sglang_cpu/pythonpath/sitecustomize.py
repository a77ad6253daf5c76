"""Runs at the start of every Python process that has this folder on its path.

Only prepares: makes pdcache importable for a process started outside its folder, arranges for
torchvision to be mended when it is imported, and runs the `sitecustomize` this one hides.
"""

from __future__ import annotations

import os
import sys

_FOLDER = os.path.dirname(os.path.abspath(__file__))


class _MendTorchvision:
    """A meta path finder that finds nothing; it acts when torchvision reaches the module
    that needs the operators, which is after torchvision has tried to load its own."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> None:
        if name == "torchvision._meta_registrations":
            from pdcache.sglang_cpu.torchvision_ops import declare_missing_operators

            declare_missing_operators()


def _run_hidden_sitecustomize() -> None:
    from importlib.machinery import PathFinder
    from importlib.util import module_from_spec

    others = [entry for entry in sys.path if os.path.abspath(entry) != _FOLDER]
    spec = PathFinder.find_spec("sitecustomize", others)
    if spec is not None and spec.loader is not None:
        spec.loader.exec_module(module_from_spec(spec))


_parent = os.path.dirname(os.path.dirname(os.path.dirname(_FOLDER)))
if _parent not in sys.path:
    sys.path.append(_parent)  # last, so that an installed pdcache wins
sys.meta_path.insert(0, _MendTorchvision)
_run_hidden_sitecustomize()
