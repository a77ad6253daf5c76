from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from golden.plans import golden_plan

from pdcache.changes.kinds import without_storage
from pdcache.errors import ReplayError
from pdcache.plan import Plan
from pdcache.replay import server_target
from pdcache.replay.target import of_plan
from pdcache.sglang.keys import Keys
from pdcache.topology.schema import Role

PAGE = (
    'sglang:max_total_num_tokens{tp_rank="0"} 4096\nsglang:hicache_host_total_tokens 9216\n'
    "sglang:context_len 2048\nmaster_total_capacity_bytes 4e9\n"
)


class _Metrics(BaseHTTPRequestHandler):
    seen: list[tuple[str, str | None]] = []  # noqa: RUF012

    def do_GET(self) -> None:
        self.seen.append((self.path, self.headers.get("Authorization")))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(PAGE.encode())

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def plan() -> Iterator[Plan]:
    """A plan whose processes all answer at one address."""
    _Metrics.seen.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Metrics)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_address[1]}"
    plan = golden_plan("full_offload")
    yield replace(
        plan,
        processes=tuple(replace(own, url=own.url and url) for own in plan.processes),
    )
    server.shutdown()
    server.server_close()


def test_a_cluster_is_asked_for_its_sizes(plan: Plan) -> None:
    target = of_plan(plan, Keys("admin", "gateway"))
    token_bytes = plan.formats["prefill"].token_bytes
    assert target.capacity == {
        "device": 4096, "host": 9216, "storage": 4_000_000_000 // token_bytes,
    }  # fmt: skip
    assert target.context_tokens == 2048
    assert target.prefetch_threshold == 64
    assert target.prefills == len(plan.role(Role.PREFILL))
    assert target.url == plan.endpoint and target.mode == "full_offload"
    assert target.headers == {"Authorization": "Bearer gateway"}
    assert {path for path, _ in _Metrics.seen} == {"/metrics"}


def test_a_store_that_is_detached_holds_nothing(plan: Plan) -> None:
    assert of_plan(without_storage(plan), Keys("admin")).capacity["storage"] == 0


def test_every_worker_and_the_master_is_watched(plan: Plan) -> None:
    watched = of_plan(plan, Keys("admin")).watched
    names = {(own.name, own.role) for own in watched}
    workers = [own for role in (Role.PREFILL, Role.DECODE) for own in plan.role(role)]
    assert names == {
        *((own.name, own.role.value) for own in workers), ("store-master", "store"),
    }  # fmt: skip


def test_workers_have_their_names_by_the_addresses_that_answers_tell() -> None:
    plan = replace(golden_plan("full_offload"), model_path="tiny-random")
    prefill = plan.process("prefill-1")
    workers = of_plan(plan, Keys("admin")).workers
    assert workers[str(prefill.url)] == "prefill-1"
    assert workers[f"127.0.0.1:{prefill.ports['bootstrap']}"] == "prefill-1"
    assert workers[str(plan.process("decode-0").url)] == "decode-0"
    assert len(workers) == 5


def test_a_cluster_that_tells_no_sizes_has_those_of_its_plan(plan: Plan) -> None:
    silent = replace(
        plan,
        model_path="tiny-random",
        processes=tuple(replace(own, url=None) for own in plan.processes),
    )
    target = of_plan(silent, Keys("admin"))
    assert target.capacity["host"] == plan.formats["prefill"].l2_tokens
    assert target.capacity["device"] is not None
    assert target.capacity["storage"] is None


def test_a_server_by_its_address_needs_a_model() -> None:
    with pytest.raises(ReplayError, match="needs its model"):
        server_target("http://h:1", None)


def test_a_mode_that_is_none_is_refused() -> None:
    with pytest.raises(ReplayError, match="full_offload"):
        server_target("http://h:1", "tiny-random", mode="half_offload")
