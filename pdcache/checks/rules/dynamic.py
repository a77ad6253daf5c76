"""Rules on a storage backend of the user's own."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import PurePosixPath

from pdcache.checks.finding import Finding
from pdcache.checks.rule import Subject, finding, rule, yaml_text
from pdcache.topology.schema import Mode
from pdcache.topology.stores import DynamicStore

NO_PYTHON = (SyntaxError, ValueError, RecursionError, MemoryError)
"""What a text that is no Python makes of its reading."""


@rule(
    "dynamic-module",
    "a backend that cannot be imported ends every server at start, a minute later "
    "(sglang 0.5.23 mem_cache/storage/backend_factory.py:132-165)",
)
def dynamic_module(subject: Subject) -> Iterable[Finding]:
    """The code that is sent to the workers has the module, and the module has the class."""
    store, code = subject.topology.store, subject.facts.code
    if not isinstance(store, DynamicStore) or store.code is None or not code:
        return
    file = _file_of(store.module_path, code)
    if file is None:
        yield _no_module(store, code)
        return
    try:
        names = _names(code[file])
    except NO_PYTHON as error:
        yield finding(
            "dynamic-module",
            "error",
            "store.module_path",
            f"{file} is no Python that can be imported: {error}.",
            fix=f"# remove the mistake in {file}, which store.module_path names",
        )
        return
    if names is not None and store.class_name not in names:
        classes = _classes(code[file])
        known = f"; it has {', '.join(classes)}" if classes else ""
        better = next(iter(get_close_matches(store.class_name, classes, 1, 0.0)), None)
        fix = None if better else f"# remove store.class_name {store.class_name} or write it"
        yield finding(
            "dynamic-module",
            "error",
            "store.class_name",
            f"{file} has no {store.class_name}{known}.",
            better,
            fix=fix,
        )


@rule(
    "no-sharing",
    "what only its writer can read is found by no other worker; the topology says so of this class "
    "(store.shares)",
)
def no_sharing(subject: Subject) -> Iterable[Finding]:
    """A store that shares nothing has one writer that is its only reader."""
    topology = subject.topology
    store, several = topology.store, topology.prefill.workers > 1
    full = topology.mode is Mode.FULL_OFFLOAD
    if not isinstance(store, DynamicStore) or store.shares or not (several or full):
        return
    lost = ["prefill workers find nothing of each other"] if several else []
    lost += ["prefill finds nothing that decode wrote"] if full else []
    yield finding(
        "no-sharing",
        "error",
        "store.shares",
        f"each worker reads only what it wrote itself: {', and '.join(lost)}.",
        fix=yaml_text({"mode": "prefill_only", "prefill": {"workers": 1}}),
    )


def _no_module(store: DynamicStore, code: Mapping[str, str]) -> Finding:
    modules = [module for file in sorted(code) if (module := _module_of(file))]
    better = next(
        (module for module in modules if store.class_name in _safe_classes(module, code)), None
    )
    return finding(
        "dynamic-module",
        "error",
        "store.module_path",
        f"the code in {store.code} has no module {store.module_path}; it has "
        f"{', '.join(modules[:5]) or 'no Python file'}.",
        better,
        fix=None if better else "# remove store.code, or name one of its modules in "
        "store.module_path",
    )  # fmt: skip


def _file_of(module: str, code: Mapping[str, str]) -> str | None:
    base = module.replace(".", "/")
    return next((file for file in (f"{base}/__init__.py", f"{base}.py") if file in code), None)


def _module_of(file: str) -> str | None:
    path = PurePosixPath(file)
    parts = path.parent.parts if path.name == "__init__.py" else path.with_suffix("").parts
    usable = path.suffix == ".py" and parts and all(part.isidentifier() for part in parts)
    return ".".join(parts) if usable else None


def _safe_classes(module: str, code: Mapping[str, str]) -> list[str]:
    file = _file_of(module, code)
    try:
        return _classes(code[file]) if file else []
    except NO_PYTHON:
        return []


def _classes(text: str) -> list[str]:
    """Classes that a module defines."""
    return [node.name for node in ast.parse(text).body if isinstance(node, ast.ClassDef)]


def _names(text: str) -> set[str] | None:
    """Names that a module may have at its top; ``None`` if they cannot be told from its text."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return None if "*" in names or "__getattr__" in text or "globals()" in text else names
