"""What the shell commands share about a cluster: a folder per name under the pdcache home."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from pdcache.errors import ClusterError
from pdcache.topology.facts import pdcache_home

CLUSTER_ENV = "PDCACHE_CLUSTER_ID"
"""Marks every process of a cluster, so that what lost its parent can still be found."""


@dataclass(frozen=True)
class Record:
    """One cluster.

    Attributes:
        id: random; the value of `CLUSTER_ENV` in every process.
        address: Ray's GCS address.
        token_file: Ray auth token, mode 0600; None on a Ray cluster of the user's.
        temp_dir: Ray's temp folder, for a head of our own.
        scratch_dir: where the processes keep their sockets.
        head_pid, head_started: supervisor of the head of our own, with its start time in
            clock ticks so that a reused pid is not taken for it.
    """

    name: str
    id: str
    address: str
    token_file: str | None
    temp_dir: str | None
    scratch_dir: str | None
    head_pid: int | None
    head_started: int | None
    created_s: float

    @property
    def namespace(self) -> str:
        """Ray namespace of the cluster's actors."""
        return f"pdcache-{self.name}"

    @property
    def folder(self) -> Path:
        """The cluster's folder."""
        return cluster_folder(self.name)

    def save(self) -> None:
        """Write the record, atomically."""
        target = self.folder / "cluster.json"
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_suffix(".part")
        part.write_text(json.dumps(asdict(self), indent=1))
        part.rename(target)

    def remove(self) -> None:
        """Forget the cluster; its logs stay until the name is used again."""
        for path in self.folder.iterdir() if self.folder.is_dir() else ():
            if path.name != "logs":
                path.unlink(missing_ok=True)
        for folder in (self.temp_dir, self.scratch_dir):
            if folder:
                shutil.rmtree(folder, ignore_errors=True)
        if self.scratch_dir:
            with contextlib.suppress(OSError):  # Another cluster has its folder there.
                Path(self.scratch_dir).parent.rmdir()


def new_id() -> str:
    """A cluster id that no other cluster has."""
    return secrets.token_hex(8)


def now_s() -> float:
    """Wall clock, seconds since 1970."""
    return time.time()


def cluster_folder(name: str) -> Path:
    """Folder of a cluster's record, manifest and logs."""
    return pdcache_home() / "clusters" / name


def log_file(name: str, process: str) -> Path:
    """Log of one process of a cluster."""
    return cluster_folder(name) / "logs" / f"{process}.log"


def find(name: str) -> Record | None:
    """The record of a cluster, or None."""
    try:
        data = json.loads((cluster_folder(name) / "cluster.json").read_text())
    except FileNotFoundError:
        return None
    except ValueError:
        data = {}
    try:
        return Record(**data)
    except TypeError:
        raise ClusterError(
            "this record of a cluster cannot be read; another version of pdcache wrote it.",
            where=str(cluster_folder(name) / "cluster.json"),
            remedy="End the cluster with that version, or delete the file if it is not up.",
        ) from None


def all_records() -> list[Record]:
    """Every cluster that was brought up and not yet down, oldest first."""
    folder = pdcache_home() / "clusters"
    names = sorted(path.parent.name for path in folder.glob("*/cluster.json"))
    records = [record for name in names if (record := find(name)) is not None]
    return sorted(records, key=lambda record: record.created_s)


def the_record(name: str | None) -> Record:
    """The named cluster, or the only one.

    Raises:
        ClusterError: there is none, or several and no name.
    """
    if name is not None:
        record = find(name)
        if record is None:
            known = ", ".join(record.name for record in all_records()) or "none"
            raise ClusterError(
                f"no cluster named {name!r} is up.", remedy=f"Clusters that are up: {known}."
            )
        return record
    records = all_records()
    if len(records) == 1:
        return records[0]
    if not records:
        raise ClusterError(
            "no cluster is up.", remedy="Bring one up: pdcache up topologies/full_offload.yaml"
        )
    raise ClusterError(
        "several clusters are up; say which.",
        remedy=f"Names: {', '.join(record.name for record in records)}.",
    )


def name_taken(name: str) -> ClusterError:
    """The error of a name that another cluster has on the same Ray cluster."""
    return ClusterError(
        f"the name {name!r} is taken on this Ray cluster by another cluster.",
        where="RAY_ADDRESS",
        remedy="Bring this one up under another name with --name, or end that one where it was "
        f"started: `pdcache down {name}`.",
    )


def write_secret(path: Path, text: str) -> None:
    """Write a file that only its owner can read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
