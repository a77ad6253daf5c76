"""Rules on ports and on who can reach the gateway."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from pdcache.checks.finding import Finding, Severity
from pdcache.checks.rule import Subject, finding, rule, yaml_at
from pdcache.topology.ports import given_ports
from pdcache.topology.schema import WORKER_ROLES

LAST_PORT = 65_535
ZMQ_DELTA, ZMQ_PORTS = 233, 7
"""With DP attention SGLang takes so many ports so far above a server's HTTP port."""


@rule("port-clash", "two processes of one topology cannot have one port")
def port_clash(subject: Subject) -> Iterable[Finding]:
    """No two given ports are the same."""
    rows = given_ports(subject.topology)
    counts = Counter(port for row in rows.values() for port in row)
    for path, row in rows.items():
        port = next((port for port in row if counts[port] > 1), None)
        if port is not None:
            others = sorted(other for other, ports in rows.items() if port in ports)
            others.remove(path)
            yield finding(
                "port-clash",
                "error",
                path,
                f"port {port} is also taken by {', '.join(others) or path}.",
                fix=f"# remove {path}: a free port is chosen",
            )


@rule("port-range", "there is no port above 65535, and servers of one role count up from the first")
def port_range(subject: Subject) -> Iterable[Finding]:
    """Every port of a row exists."""
    for path, row in given_ports(subject.topology).items():
        if row[-1] > LAST_PORT:
            first = LAST_PORT + 1 - len(row)
            yield finding(
                "port-range",
                "error",
                path,
                f"{len(row)} ports from {row[0]} on end at {row[-1]}.",
                fix=yaml_at(path, first)
                if first > 1024
                else f"# remove {path}: free ports are chosen",
            )


@rule(
    "sglang-ports",
    "with DP attention on one node a server takes seven ports from 233 above its HTTP port on "
    "(sglang 0.5.23 server_args.py:817-850)",
)
def sglang_ports(subject: Subject) -> Iterable[Finding]:
    """No given port is one that SGLang takes for itself."""
    severity: Severity = "error" if len(subject.facts.nodes) == 1 else "warning"
    rows = given_ports(subject.topology)
    for role in WORKER_ROLES:
        worker = subject.topology.worker(role)
        if worker.attn_dp == 1 or worker.nodes > 1 or worker.port is None:
            continue
        first = worker.port + ZMQ_DELTA
        own = range(first, first + ZMQ_PORTS + worker.workers - 1)
        for path, row in rows.items():
            taken = next((port for port in row if port in own), None)
            if taken is not None:
                yield finding(
                    "sglang-ports",
                    severity,
                    path,
                    f"a {role} server with attn_dp {worker.attn_dp} takes port {taken} on its "
                    "node.",
                    fix=f"# remove {path}: a free port is chosen",
                )


@rule("gateway-exposed", "anyone who reaches the gateway can use the cluster and read timing")
def gateway_exposed(subject: Subject) -> Iterable[Finding]:
    """Outside loopback the gateway asks for a key."""
    gateway = subject.topology.gateway
    if not _is_loopback(gateway.host) and gateway.key_file is None:
        yield finding(
            "gateway-exposed",
            "error",
            "gateway.key_file",
            f"the gateway listens on {gateway.host} and asks for no key.",
            f"~/.pdcache/keys/{subject.topology.name}",
        )


@rule(
    "workers-exposed",
    "what listens without a key on a worker's node: Mooncake's data ports and torch's store on all "
    "interfaces, SGLang's bootstrap and Mooncake's master on the node's address (sglang 0.5.23, "
    "mooncake 0.3.13)",
)
def workers_exposed(subject: Subject) -> Iterable[Finding]:
    """Nodes that others can reach are behind a network policy."""
    reachable = [n.address for n in subject.facts.nodes if not _is_loopback(n.address)]
    if reachable and not subject.topology.network.private:
        yield finding(
            "workers-exposed",
            "warning",
            "network.private",
            f"workers on {', '.join(reachable[:3])} listen on ports that ask for no key: "
            "15000-17000 (Mooncake data, on all interfaces), bootstrap, and the master. Let only "
            "the cluster's nodes reach them (docs/security.md), and say so.",
            True,
        )


def _is_loopback(host: str) -> bool:
    return host in ("localhost", "::1") or host.startswith("127.")
