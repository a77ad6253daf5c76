"""What several rules ask of a topology: flags under ``args``, roles that use L3, traits, models."""

from __future__ import annotations

from dataclasses import dataclass

from pdcache.checks.budget import model_path
from pdcache.checks.rule import Subject, yaml_text
from pdcache.sglang.server_args import canonical
from pdcache.store.backend import Traits
from pdcache.store.registry import BACKENDS
from pdcache.topology.facts import ModelView
from pdcache.topology.schema import WORKER_ROLES, Role, Scalar

DIRECT = ("direct", "page_first_direct")
KERNEL = ("kernel", "page_first")
"""The two pairs of io backend and layout whose pages are one piece of memory."""


@dataclass(frozen=True)
class GivenFlag:
    """A flag under ``args`` that reaches the command line; ``path`` is where it stands."""

    value: Scalar
    path: str

    @property
    def number(self) -> int | None:
        """The value as SGLang reads a whole number; ``None`` if it cannot."""
        try:
            return int(str(self.value))
        except ValueError:
            return None


def flags(subject: Subject, role: Role) -> dict[str, GivenFlag]:
    """Flags of a role by SGLang's name, whatever their spelling; those left out are not there."""
    args = subject.topology.worker(role).args
    return {
        canonical(name): GivenFlag(value, f"{role}.args.{name}")
        for name, value in args.items()
        if value is not None and value is not False
    }


def store_roles(subject: Subject) -> list[Role]:
    """Roles whose servers read or write L3."""
    return [role for role in WORKER_ROLES if "hicache_storage_backend" in subject.resolved[role]]


def traits(subject: Subject) -> Traits:
    """What holds for the storage backend of the topology."""
    return BACKENDS[subject.topology.store.backend].traits


def usable_model(subject: Subject, role: Role) -> ModelView | None:
    """The model of a role, if it is known and can be read."""
    view = subject.facts.models.get(model_path(subject.topology, role))
    return view if view is not None and view.problem is None else None


def is_mla(subject: Subject, role: Role) -> bool:
    """Whether a role's KV is known to be the same on every rank."""
    view = usable_model(subject, role)
    return view is not None and view.is_mla


def pair_yaml(subject: Subject, pair: tuple[str, str]) -> str:
    """YAML that gives both roles one io backend and layout, also where a role has its own."""
    io, layout = pair
    data: dict[str, dict[str, object]] = {"hicache": {"io_backend": io, "layout": layout}}
    for role in WORKER_ROLES:
        own = subject.topology.worker(role).hicache
        if own.io_backend is not None or own.layout is not None:
            data[role.value] = {"hicache": {"io_backend": io, "layout": layout}}
    return yaml_text(data)
