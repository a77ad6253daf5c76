"""smg, the front door: command line, manifest of workers, session affinity.

Facts: smg 1.13.0, measured with killed and stopped workers behind it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from pdcache.topology.schema import Role, Topology

SESSION_HEADERS = ("x-session-affinity", "x-session-id", "x-smg-routing-key")
"""Request headers that keep a dialogue on one prefill worker; the first one present counts."""


def gateway_argv(
    python: str, topology: Topology, host: str, port: int, metrics_port: int, manifest: str
) -> tuple[str, ...]:
    """Command line of smg over a manifest file; its key is no part of it."""
    gateway = topology.gateway
    # A busy CPU worker answers its health check late without being ill.
    timeout, failures = ("5", "3") if topology.device == "cpu" else ("2", "2")
    return (
        python, "-m", "pdcache.gateway.launch", "launch",
        "--pd-disaggregation",
        "--host", host,
        "--port", str(port),
        # Without a key, so it is for this machine only.
        "--prometheus-host", "127.0.0.1",
        "--prometheus-port", str(metrics_port),
        "--discovery-provider", "file",
        "--discovery-file", manifest,
        "--discovery-check-interval-secs", "1",
        "--prefill-policy", gateway.prefill_policy,
        "--decode-policy", gateway.decode_policy,
        "--routing-key-override",
        "--routing-key-headers", *SESSION_HEADERS,
        "--request-timeout-secs", str(gateway.request_timeout_s),
        "--max-concurrent-requests", str(gateway.max_concurrent_requests),
        "--queue-size", str(gateway.queue_size),
        "--queue-timeout-secs", str(gateway.queue_timeout_s),
        "--header-read-timeout-secs", "30",
        "--health-check-interval-secs", "1",
        "--health-check-timeout-secs", timeout,
        "--health-failure-threshold", failures,
        "--health-success-threshold", "1",
        "--cb-timeout-duration-secs", "2",
        "--cb-success-threshold", "1",
        # Enough to outlast the second that a dead worker is still in the manifest.
        "--retry-max-retries", "10",
        "--retry-initial-backoff-ms", "100",
        "--retry-max-backoff-ms", "600",
        "--worker-startup-check-interval", "1",
        "--disable-worker-overload-protection",
        "--disable-tokenizer-autoload",
        "--shutdown-grace-period-secs", "1",
        "--log-level", "warn",
    )  # fmt: skip


def manifest(workers: Iterable[tuple[str, Role, str, int | None]]) -> str:
    """The manifest's text for (name, role, url, bootstrap port) of every healthy worker.

    smg takes a file with an unknown field as broken and keeps the last good one.
    """
    rows = []
    for name, role, url, bootstrap_port in workers:
        row: dict[str, str | int] = {"id": name, "url": url, "worker_type": role.value}
        if bootstrap_port is not None:
            row["bootstrap_port"] = bootstrap_port
        rows.append(row)
    return json.dumps({"version": 1, "workers": rows}, indent=1)
