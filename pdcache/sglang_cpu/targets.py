"""The places in SGLang that the CPU lane replaces, checked before they are replaced."""

from __future__ import annotations

import importlib
from importlib import metadata
from typing import Any


class MissingTarget(Exception):
    """An attribute that the CPU lane replaces is not where this SGLang version should have it."""


class Target:
    """An attribute of SGLang, named by module and attribute path."""

    def __init__(self, module: str, *path: str) -> None:
        self.module = module
        self.path = path

    def __str__(self) -> str:
        return ".".join((self.module, *self.path))

    def get(self) -> Any:
        """The current value.

        Raises:
            MissingTarget: the module or the attribute does not exist.
        """
        return self._attribute(self._owner(), self.path[-1])

    def set(self, value: object) -> None:
        """Replace the value; raises `MissingTarget` when there is none to replace."""
        self.get()
        setattr(self._owner(), self.path[-1], value)

    def load_module(self) -> Any:
        """Import the module; raises `MissingTarget` when that fails for want of a module."""
        try:
            return importlib.import_module(self.module)
        except ModuleNotFoundError as error:
            raise MissingTarget(f"{self} cannot be imported: {error}") from error

    def _owner(self) -> Any:
        owner: Any = self.load_module()
        for name in self.path[:-1]:
            owner = self._attribute(owner, name)
        return owner

    def _attribute(self, owner: Any, name: str) -> Any:
        try:
            return getattr(owner, name)
        except AttributeError as error:
            raise MissingTarget(f"{self} does not exist: {error}") from error


def sglang_version() -> str:
    """The installed SGLang's version, for messages."""
    try:
        return metadata.version("sglang")
    except metadata.PackageNotFoundError:
        return "(unknown version)"
