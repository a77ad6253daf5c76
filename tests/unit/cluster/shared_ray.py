"""A Ray cluster that several users share: its named actors, and its key-value store."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from ray import exceptions

from pdcache.cluster import bring_down, client, desired, join
from pdcache.cluster.record import Record


class Method:
    """A method of an actor that notes its calls."""

    def __init__(self, actor: Actor, name: str) -> None:
        self._actor, self._name = actor, name

    def remote(self, *args: object) -> object:
        self._actor.calls.append(self._name)
        return self._actor.answers.get(self._name)


class Actor:
    """A named actor; a method answers what it is told to, an exception included."""

    def __init__(self, *given: object) -> None:
        self.given = given
        self.calls: list[str] = []
        self.answers: dict[str, object] = {"resume": 1, "stop": []}

    def __getattr__(self, name: str) -> Method:
        return Method(self, name)


class SharedRay:
    """As much of the module `ray` as the commands use, with actors by namespace and name."""

    exceptions = exceptions

    def __init__(self) -> None:
        self.actors: dict[tuple[str, str], Actor] = {}
        self.kept: dict[bytes, bytes] = {}
        self.util = SimpleNamespace(list_named_actors=self._list)

    def _list(self, *, all_namespaces: bool) -> list[dict[str, str]]:
        return [{"namespace": space, "name": name} for space, name in self.actors]

    def get_actor(self, name: str, namespace: str) -> Actor:
        if (namespace, name) not in self.actors:
            raise ValueError(name)
        return self.actors[namespace, name]

    def kill(self, actor: Actor) -> None:
        self.actors = {key: own for key, own in self.actors.items() if own is not actor}

    def get(self, reference: Any, timeout: float) -> Any:
        if isinstance(reference, Exception):
            raise reference
        return reference

    def shutdown(self) -> None:
        pass

    def remote(self, kind: type) -> SharedRay:
        return self

    def options(self, *, name: str, namespace: str, get_if_exists: bool = False, **_: Any) -> Any:
        def create(*given: object) -> Actor:
            found = self.actors.get((namespace, name))
            if found is not None and not get_if_exists:
                raise exceptions.ActorAlreadyExistsError(name)
            return self.actors.setdefault((namespace, name), found or Actor(*given))

        return SimpleNamespace(remote=create)

    # --- the key-value store

    def _internal_kv_put(self, key: bytes, value: bytes, *, overwrite: bool) -> None:
        self.kept[key] = value

    def _internal_kv_get(self, key: bytes) -> bytes | None:
        return self.kept.get(key)

    def _internal_kv_del(self, key: bytes) -> None:
        self.kept.pop(key, None)


def shared_ray(monkeypatch: pytest.MonkeyPatch) -> SharedRay:
    """A Ray cluster without actors, which every command of this process reaches."""
    ray = SharedRay()
    for module in (bring_down, client, join):
        monkeypatch.setattr(module, "connect", lambda record, limit_s: ray)
    monkeypatch.setattr(desired, "_kv", lambda: ray)
    return ray


def record(cluster_id: str, name: str = "demo") -> Record:
    """A cluster on the Ray cluster of the user's."""
    return Record(
        name=name, id=cluster_id, address="127.0.0.1:6379", token_file=None, temp_dir=None,
        scratch_dir=None, head_pid=None, head_started=None, created_s=1.0,
    )  # fmt: skip
