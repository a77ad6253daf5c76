"""Rules on ports and on who can reach the gateway."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from pdcache.checks.finding import Finding
from pdcache.checks.rule import Subject, finding, rule
from pdcache.topology.schema import Role


@rule("port-clash", "two processes of one topology cannot have one port")
def port_clash(subject: Subject) -> Iterable[Finding]:
    """No two given ports are the same."""
    topology = subject.topology
    given = [("gateway.port", topology.gateway.port)]
    for role in (Role.PREFILL, Role.DECODE):
        worker = topology.worker(role)
        for key in ("port", "bootstrap_port"):
            first = getattr(worker, key)
            if first is not None:
                given += [(f"{role}.{key}", first + i) for i in range(worker.workers)]
    if topology.store.master is None:
        given += [
            (f"store.{key}", getattr(topology.store, key))
            for key in ("port", "metrics_port")
            if getattr(topology.store, key)
        ]
    counts = Counter(port for _, port in given)
    for path, port in given:
        if counts[port] > 1:
            others = sorted({other for other, p in given if p == port and other != path})
            yield finding(
                "port-clash",
                "error",
                path,
                f"port {port} is also taken by {', '.join(others) or path}.",
                fix=f"# remove {path}: a free port is chosen",
            )


@rule("gateway-exposed", "anyone who reaches the gateway can use the cluster and read timing")
def gateway_exposed(subject: Subject) -> Iterable[Finding]:
    """The gateway listens on loopback."""
    host = subject.topology.gateway.host
    if host not in ("127.0.0.1", "localhost", "::1"):
        yield finding(
            "gateway-exposed",
            "warning",
            "gateway.host",
            f"the gateway listens on {host} and asks for no key.",
            "127.0.0.1",
        )
