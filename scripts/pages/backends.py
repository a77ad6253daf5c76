"""docs/backends.md: what each storage backend is, needs, and can do."""

from __future__ import annotations

import inspect
from pathlib import Path

from pages.markdown import GENERATED, table, text, words
from pdcache.store.registry import BACKENDS
from pdcache.topology import load_topology
from pdcache.topology.stores import STORES

TOPOLOGIES = Path(__file__).resolve().parents[2] / "topologies"


def backends_page() -> str:
    """What each storage backend is, needs, and can do."""
    parts = [
        GENERATED,
        "# Storage backends\n",
        "What holds for each backend of SGLang 0.5.23 that a topology can name. The keys are in "
        "[topology.md](topology.md), what was proved on real clusters in [matrix.md](matrix.md). "
        "SGLang's keys hold neither weights nor layout nor dtype, so pdcache derives a namespace "
        "from all that shapes a page and puts it where the backend takes it.\n",
    ]
    for name, backend in BACKENDS.items():
        traits = backend.traits
        files = [path.name for path in sorted(TOPOLOGIES.glob("*.yaml")) if _uses(path, name)]
        rows = [
            ("processes started", traits.processes),
            ("shared by its workers", traits.sharing),
            ("pages without a copy", words(traits.zero_copy) or "no layout"),
            ("pages with a copy", words(traits.copied) or "no layout"),
            ("MLA models", "yes" if traits.mla else "no"),
            ("pipeline stages", "yes" if traits.stages else "no: its keys do not tell them apart"),
            ("namespace", traits.isolation),
            ("it serves when", traits.health),
            ("packages on workers", words(traits.packages) or "none beside SGLang"),
            ("topologies", words(files)),
        ]
        doc = inspect.getdoc(STORES[name]) or ""
        parts += [f"## `{name}`\n", text(doc), table(("what", "answer"), rows)]
    return "\n".join(parts)


def _uses(path: Path, backend: str) -> bool:
    return load_topology(path).store.backend == backend
