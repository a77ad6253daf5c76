"""Hypothesis strategies for topologies that the schema accepts, made from the schema itself.

Every key that a user can write can be drawn; most are left out of most examples, as in real files.
"""

from __future__ import annotations

import types
from enum import Enum
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MaxLen, MinLen
from hypothesis import strategies as some
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from pdcache.sglang.server_args import SERVER_ARGS
from pdcache.topology import Topology
from pdcache.topology.stores import STORES

MODELS = ("smollm2-135m", "tiny-random", "Qwen/Qwen3-8B", "deepseek-ai/DeepSeek-R1", "./no-weights")
SMALL_COUNTS = {
    "workers": 4, "nodes": 3, "holders": 4, "masters": 4, "count": 6, "gpus": 16,
    "tp": 32, "pp": 8, "dp": 8, "attn_dp": 8, "ep": 16,
}  # fmt: skip
"""Keys that make processes or ranks: large numbers say nothing new and take long to plan."""

BY_NAME: dict[str, some.SearchStrategy[Any]] = {
    "name": some.sampled_from(["a", "small", "x-1"]),
    "path": some.sampled_from(["/mnt/kv", "/tmp/kv", "/mnt/kv/"]),
    "model_path": some.sampled_from(MODELS),
    "tokenizer_path": some.sampled_from(MODELS),
    "args": some.dictionaries(
        some.sampled_from([*sorted(SERVER_ARGS)[::7], "page-size", "no-such-flag", "--tp"]),
        some.sampled_from([True, False, None, 1, 64, 0.5, "auto", "x"]),
        max_size=2,
    ),
    "env": some.dictionaries(
        some.sampled_from(["A", "PYTHONPATH"]), some.sampled_from(["1", "/x"]), max_size=1
    ),
    "extra": some.dictionaries(
        some.sampled_from(["folder", "extra_backend_tag", "prefetch_threshold", "x"]),
        some.sampled_from([1, "y", True]),
        max_size=1,
    ),
    "config": some.just({"remote_url": "eic://10.0.0.1:1"}),
    "options": some.dictionaries(some.sampled_from(["A", "B"]), some.just("1"), max_size=1),
    "metadata_server": some.just("http://10.0.0.9:18000"),
    "module_path": some.sampled_from(["pages", "a.b"]),
    "class_name": some.just("Pages"),
    "served_name": some.sampled_from(["m", "org/m"]),
    "ib_device": some.sampled_from(["mlx5_0", "mlx5_0,mlx5_1"]),
    "host": some.sampled_from(["127.0.0.1", "0.0.0.0", "10.0.0.1"]),
}
ADDRESS = some.sampled_from(["10.0.0.7:50051", "127.0.0.1:6379"])


def topologies() -> some.SearchStrategy[dict[str, Any]]:
    """Topologies as plain data."""
    return model(Topology).filter(lambda data: "model" in data)


def model(kind: type[BaseModel]) -> some.SearchStrategy[dict[str, Any]]:
    """Data for one section."""
    required, optional = {}, {}
    for name, field in kind.model_fields.items():
        if name == "store":
            value: some.SearchStrategy[Any] = store()
        elif kind.__name__ == "Model" and name == "path":
            value = some.sampled_from(MODELS)
        else:
            value = of_field(name, field)
        (required if field.is_required() else optional)[name] = value
    return some.fixed_dictionaries(required, optional=optional)


def store() -> some.SearchStrategy[dict[str, Any]]:
    """Data for any storage backend."""
    return some.one_of(
        model(kind).map(lambda data, name=name: data | {"backend": name})
        for name, kind in STORES.items()
    )


def of_field(name: str, field: FieldInfo) -> some.SearchStrategy[Any]:
    """A value of one key."""
    if name in BY_NAME:
        return BY_NAME[name]
    return of_type(name, field.annotation, list(field.metadata))


def of_type(name: str, kind: Any, limits: list[Any]) -> some.SearchStrategy[Any]:
    """A value of a type within pydantic's limits."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return of_type(name, inner[0], [*limits, *_limits(inner[1:])])
    if origin is Literal:
        return some.sampled_from(inner)
    if origin in (Union, types.UnionType):
        choices = [one for one in inner if one is not type(None)]
        return some.one_of(of_type(name, one, limits) for one in choices)
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return model(kind)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return some.sampled_from([one.value for one in kind])
    if kind is bool:
        return some.booleans()
    if kind in (int, float):
        return _number(name, kind, limits)
    if kind is str:
        pattern = next((one.pattern for one in limits if getattr(one, "pattern", None)), "")
        if "A-F" in str(pattern):
            return some.sampled_from(["127.0.0.2", "10.0.0.9", "::1"])
        return ADDRESS if "," in str(pattern) else some.sampled_from(["a", "kv-1", "mlx5_0"])
    raise NotImplementedError(f"{name}: {kind}")


def _limits(metadata: tuple[Any, ...]) -> list[Any]:
    found: list[Any] = []
    for one in metadata:
        found += one.metadata if isinstance(one, FieldInfo) else [one]
    return found


def _number(name: str, kind: type, limits: list[Any]) -> some.SearchStrategy[Any]:
    low, high = 0.0, 1e6
    for limit in limits:
        if isinstance(limit, Ge):
            low = float(limit.ge)  # type: ignore[arg-type]
        elif isinstance(limit, Gt):
            low = float(limit.gt) + (1 if kind is int else 1e-3)  # type: ignore[arg-type]
        elif isinstance(limit, Le):
            high = float(limit.le)  # type: ignore[arg-type]
        elif isinstance(limit, Lt):
            high = float(limit.lt) - 1e-3  # type: ignore[arg-type]
        else:
            assert not isinstance(limit, MinLen | MaxLen), name
    high = min(high, SMALL_COUNTS.get(name, high))
    if kind is int:
        usual = [n for n in (1, 2, 3, 8, 16, 64, 128, 1000, 8192, 20005) if low <= n <= high]
        return some.sampled_from(usual) | some.integers(int(low), int(high))
    usual_floats = [x for x in (0.5, 0.85, 1.0, 2.0, 100.0) if low <= x <= high]
    return some.sampled_from(usual_floats) | some.floats(low, high)
