"""What is found out about this machine before a plan is made."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from pdcache.topology.facts import Facts, local_node, pdcache_home, port_is_free


def test_the_home_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PDCACHE_HOME", str(tmp_path))
    assert pdcache_home() == Facts().home == tmp_path
    monkeypatch.delenv("PDCACHE_HOME")
    assert pdcache_home() == Path.home() / ".pdcache"


def test_this_machine_has_cores_and_memory() -> None:
    node = local_node()
    assert node.cpus == os.cpu_count()
    assert 1 << 28 < node.memory_bytes <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert node.address == "127.0.0.1"


def test_a_port_somebody_listens_on_is_not_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert not port_is_free(port)
    assert port_is_free(port)
