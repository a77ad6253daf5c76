"""Every port of a cluster on an address of its own, tried without a key.

What answers is the table of docs/security.md, and nothing beyond it.
"""

from __future__ import annotations

import re
import stat
from pathlib import Path

import httpx
import psutil
import pytest

from pdcache.plan import Plan
from tests.cluster_tools import ROOT, SMALL, Shell, cluster, free_port
from tests.dialogues import Running, running_cluster

ADDRESS = "127.0.0.2"
GETS = (
    "/health", "/liveness", "/readiness", "/v1/models", "/get_server_info", "/server_info",
    "/model_info", "/v1/loads", "/loads", "/workers", "/wasm", "/metrics", "/status", "/events",
    "/hicache/storage-backend", "/get_all_keys", "/get_all_segments", "/route", "/openapi.json",
)  # fmt: skip
POSTS = (
    "/generate", "/v1/chat/completions", "/v1/completions", "/flush_cache", "/abort_request",
    "/workers", "/v1/tokenizers", "/pd_role_switch", "/configure_logging",
)  # fmt: skip
PUTS = ("/hicache/storage-backend", "/workers/1", "/wasm")
DELETES = ("/hicache/storage-backend", "/workers/1", "/wasm/1")
EVERY_PATH = {f"`{path}`" for path in GETS}
REFUSED = {401, 403, 404, 405}


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    return Shell(tmp_path_factory.mktemp("home"))


@pytest.mark.soak
def test_nothing_answers_without_the_key_beyond_what_the_docs_say(
    shell: Shell, tmp_path: Path
) -> None:
    key_file = tmp_path / "key"
    sets = (
        f"gateway.port={free_port()}", f"gateway.host={ADDRESS}", f"network.address={ADDRESS}",
        f"gateway.key_file={key_file}",
    )  # fmt: skip
    words = [word for one in sets for word in ("--set", one)]
    with cluster(shell, "topologies/full_offload.yaml", *SMALL, *words) as up:
        running = running_cluster(shell, up["name"])
        assert stat.S_IMODE(key_file.stat().st_mode) == 0o600
        assert_keys_are_nowhere(shell, running, key_file.read_text().strip())
        assert_the_key_opens(running, key_file.read_text().strip())
        seen = what_answers(shell, running.plan)
    # Ray's metrics agent is late now and then, and has opened its port or has not.
    assert seen - documented() == set()
    assert {row for row in documented() - seen if row[:2] != ("ray", "metrics")} == set()


def assert_the_key_opens(running: Running, key: str) -> None:
    """With the key a request is served, with another it is not, and no key moves the fleet."""
    url, name = running.plan.endpoint, running.plan.formats["prefill"].served_name
    body = {"model": name, "input_ids": [11, 12], "sampling_params": {"max_new_tokens": 2}}
    right = {"Authorization": f"Bearer {key}"}
    assert httpx.post(f"{url}/generate", json=body, headers=right, timeout=60).status_code == 200
    for headers in ({}, {"Authorization": f"Bearer {running.keys.admin}x"}):
        assert httpx.post(f"{url}/generate", json=body, headers=headers).status_code == 401
    assert httpx.get(f"{url}/workers", headers=right).status_code in REFUSED
    for worker in (*running.plan.processes,):
        if worker.role.value == "prefill":
            flush = httpx.post(f"{worker.url}/flush_cache", headers=right)
            assert flush.status_code in REFUSED


def assert_keys_are_nowhere(shell: Shell, running: Running, gateway_key: str) -> None:
    """Neither key stands in a log, a plan, a status, a command line or an environment."""
    texts = {
        "status": shell.ok("status", running.plan.name, "--json"),
        "plan": repr(running.plan),
        "events": shell.ok("events", running.plan.name, "--json"),
    }
    for log in (shell.home / "clusters").rglob("*.log"):
        texts[log.name] = log.read_text(errors="replace")
    for process in shell.processes():
        for part in ("cmdline", "environ"):
            path = Path(f"/proc/{process.pid}/{part}")
            if path.exists():
                texts[f"{part} of {process.pid}"] = path.read_bytes().decode("utf-8", "replace")
    for key in (gateway_key, running.keys.admin):
        assert [where for where, text in texts.items() if key in text] == []


def what_answers(shell: Shell, plan: Plan) -> set[tuple[str, str, str, str]]:
    """Rows of the table: process, port, address, paths that answer without a key."""
    owners = {int(row["pid"]): row["role"] for row in shell.json("status", plan.name)["workers"]}
    known = {
        port: (own.role.value, kind) for own in plan.processes for kind, port in own.ports.items()
    }
    rows: dict[tuple[str, str], tuple[set[str], set[str]]] = {}
    for process in shell.processes():
        for connection in process.net_connections("tcp"):
            if connection.status != "LISTEN":
                continue
            address, port = connection.laddr
            role = known.get(port, (owner(process, owners), "other"))
            if port == plan.controller_port:
                role = ("controller", "http")
            found = answering(ADDRESS if address in ("::", "0.0.0.0") else address, port)
            if role == ("ray", "other") and found == EVERY_PATH:
                role = ("ray", "metrics")
            addresses, paths = rows.setdefault(role, (set(), set()))
            addresses.add(address)
            paths |= found
    return {
        (role, kind, where(role, kind, addresses), shown(paths))
        for (role, kind), (addresses, paths) in rows.items()
    }


def shown(paths: set[str]) -> str:
    """In the words of the table."""
    return "every path" if paths == EVERY_PATH else " ".join(sorted(paths)) or "no HTTP"


def owner(process: psutil.Process, owners: dict[int, str]) -> str:
    """The role of the process, or of the one it descends from."""
    for pid in (process.pid, *(parent.pid for parent in process.parents())):
        if pid in owners:
            return owners[pid]
    return "ray"


def where(role: str, kind: str, addresses: set[str]) -> str:
    """In the words of the table."""
    if kind == "other" or role == "ray":
        return "any"
    if addresses == {ADDRESS}:
        return "its host" if role == "gateway" else "address"
    return "loopback" if addresses == {"127.0.0.1"} else " ".join(sorted(addresses))


def answering(address: str, port: int) -> set[str]:
    """Paths that are answered with something else than a refusal."""
    host = f"[{address}]" if ":" in address else address
    found = set()
    with httpx.Client(base_url=f"http://{host}:{port}", timeout=20, trust_env=False) as client:
        asked = {"GET": GETS, "POST": POSTS, "PUT": PUTS, "DELETE": DELETES}
        for method, paths in asked.items():
            for path in paths:
                try:
                    answer = client.request(
                        method, path, json=None if method == "GET" else {},
                        timeout=3 if path == GETS[0] else 20,
                    )  # fmt: skip
                except httpx.RequestError:
                    if not found and path == GETS[0]:
                        return found  # it speaks no HTTP
                    continue
                if answer.status_code not in REFUSED:
                    found.add(f"`{path}`")
    return found


def documented() -> set[tuple[str, str, str, str]]:
    """The table of the docs."""
    text = (ROOT / "docs" / "security.md").read_text()
    table = text.partition("<!-- ports -->")[2].partition("<!-- end -->")[0]
    rows = [
        [cell.strip() for cell in line.strip("| ").split("|")]
        for line in table.strip().splitlines()[2:]
    ]
    return {
        (
            role,
            kind,
            place,
            shown(
                set(re.findall(r"`[^`]+`", paths))
                or (EVERY_PATH if paths == "every path" else set())
            ),
        )
        for role, kind, place, paths in rows
    }
