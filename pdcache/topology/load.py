"""Read a topology from YAML; every error names the line, the path and the remedy."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from pdcache.errors import TopologyError
from pdcache.topology.schema import Topology
from pdcache.topology.stores import STORES, DynamicStore


def load_topology(file: Path | str, overrides: Iterable[str] = ()) -> Topology:
    """Load and validate a topology file.

    Args:
        file: a YAML file.
        overrides: ``a.b=value`` settings laid over it; values are YAML scalars.

    Raises:
        TopologyError: missing file, broken YAML, unknown key, or a value out of range.
    """
    path = Path(file)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise TopologyError(
            f"cannot read the topology: {error.strerror or error}.",
            where=str(path),
            remedy="Give the path of a YAML file, for example topologies/full_offload.yaml.",
        ) from None
    except UnicodeDecodeError:
        raise TopologyError(
            "not valid YAML: the file is no UTF-8 text.",
            where=str(path),
            remedy="Give the path of a YAML file, for example topologies/full_offload.yaml.",
        ) from None
    topology = parse_topology(text, source=str(path), overrides=overrides)
    if isinstance(topology.store, DynamicStore) and topology.store.code is not None:
        code = str((path.parent / topology.store.code).resolve())
        store = topology.store.model_copy(update={"code": code})
        topology = topology.model_copy(update={"store": store})
    return topology


def parse_topology(text: str, *, source: str, overrides: Iterable[str] = ()) -> Topology:
    """`load_topology` for text that is already read; ``source`` names it in errors."""
    try:
        data = yaml.safe_load(text)
        lines = _lines(yaml.compose(text, Loader=yaml.SafeLoader), source)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{source}:{mark.line + 1}" if mark is not None else source
        problem = getattr(error, "problem", None) or str(error)
        raise TopologyError(
            f"not valid YAML: {problem}.", where=where, remedy="Mend the syntax at that line."
        ) from None
    if not isinstance(data, dict):
        raise TopologyError(
            "the file holds no mapping.",
            where=source,
            remedy="A topology starts with `name:`, `mode:` and `model:`.",
        )
    for override in overrides:
        path = _apply(data, override)
        places = {key: f"--set {path}" for key in (path, *lines) if _within(key, path)}
        lines.update(places)
    try:
        return Topology.model_validate(data)
    except ValidationError as error:
        raise TopologyError(_explain(error, lines, source)) from None


def _within(key: str, path: str) -> bool:
    return key == path or key.startswith(f"{path}.")


def _apply(data: dict[str, Any], override: str) -> str:
    """Lay one override over the data; returns the dotted path it set."""
    key, equals, value = override.partition("=")
    parts = key.strip().split(".")
    try:
        scalar = yaml.safe_load(value)
    except yaml.YAMLError:
        equals = ""
    if not equals or not all(parts):
        raise TopologyError(
            f"cannot read the override {override!r}.",
            where="--set",
            remedy="Write --set path.to.key=value, for example --set gateway.port=9000.",
        )
    node = data
    for part in parts[:-1]:
        inner = node.setdefault(part, {})
        if not isinstance(inner, dict):
            raise TopologyError(f"{part} is not a mapping.", where=f"--set {key}")
        node = inner
    node[parts[-1]] = scalar
    return ".".join(parts)


def _lines(node: yaml.Node | None, source: str, prefix: str = "") -> dict[str, str]:
    """Where each dotted path stands in the file: ``file:line: path``."""
    found: dict[str, str] = {}
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            path = f"{prefix}.{key.value}" if prefix else str(key.value)
            found[path] = f"{source}:{key.start_mark.line + 1}: {path}"
            found.update(_lines(value, source, path))
    return found


def _explain(error: ValidationError, places: Mapping[str, str], source: str) -> str:
    texts = []
    for problem in error.errors():
        backend = next((part for part in problem["loc"] if part in STORES), "mooncake")
        names = [str(part) for part in problem["loc"]]
        if names[:1] == ["store"] and names[1:2] and names[1] in STORES:
            del names[1]  # the tag that pydantic puts in for the storage backend
        if problem["type"] == "union_tag_invalid":
            names.append("backend")
        path = ".".join(names)
        place = places.get(path, f"{source}: {path}")
        if problem["type"] == "extra_forbidden":
            texts.append(f"{place}: unknown key. {_nearest(names, backend)}")
        elif problem["type"] == "missing":
            texts.append(f"{place}: this key is required. Add `{names[-1]}: ...`.")
        elif problem["type"] == "union_tag_invalid":
            texts.append(f"{place}: {_no_such_backend(problem['input'])}")
        else:
            given = problem.get("input")
            texts.append(f"{place}: {problem['msg']} (given: {given!r}).")
    return "\n".join(texts)


def _no_such_backend(section: Mapping[str, Any]) -> str:
    name = str(section.get("backend"))
    close = difflib.get_close_matches(name, STORES, n=1, cutoff=0.5)
    hint = f"Did you mean `{close[0]}`? " if close else ""
    return f"there is no storage backend `{name}`. {hint}Backends: {', '.join(STORES)}."


def _nearest(names: list[str], backend: str) -> str:
    known = _known_keys(names[:-1], backend)
    close = difflib.get_close_matches(names[-1], known, n=1, cutoff=0.5)
    if close:
        return f"Did you mean `{close[0]}`?"
    return f"Known keys here: {', '.join(known)}."


def _known_keys(path: list[str], backend: str) -> list[str]:
    model: type[BaseModel] = Topology
    if path[:1] == ["store"]:
        model, path = STORES[backend], path[1:]
    for name in path:
        field = model.model_fields.get(name)
        if field is None:
            return []
        candidates = [field.annotation, *get_args(field.annotation)]
        models = [c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)]
        if not models:
            return []
        model = models[0]
    return list(model.model_fields)
