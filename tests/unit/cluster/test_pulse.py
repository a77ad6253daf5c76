"""The actor of a process asks for its health; the controller hears of it when that changes."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
from golden.plans import golden_plan

from pdcache.cluster import process_actor, pulse
from pdcache.cluster.process_actor import LOOK_S, ProcessActor, Vitals
from pdcache.cluster.pulse import EVERY_S, NOT_ASKED, Pulse, Silence
from pdcache.cluster.tree import TreeState
from pdcache.plan.process import Process
from pdcache.sglang.keys import Keys

PLAN = golden_plan("full_offload")
SERVER = PLAN.process("prefill-0")
HEALTH = f"{SERVER.url}/health"


class Clock:
    """Goes on by itself whenever somebody sleeps."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def monotonic(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    own = Clock()
    monkeypatch.setattr(pulse, "time", own)
    monkeypatch.setattr(process_actor, "time", own)
    return own


class Server:
    """Answers every request as it is told; `asked` holds the requests."""

    def __init__(self, status: int | None = 200) -> None:
        self.status = status
        self.asked: list[httpx.Request] = []

    def answer(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        if self.status is None:
            raise httpx.ConnectError("refused", request=request)
        return httpx.Response(self.status)


@pytest.fixture
def pulse_of(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Pulse]:
    client = httpx.Client

    def make(server: Server, process: Process = SERVER, gateway_key: str | None = None) -> Pulse:
        transport = httpx.MockTransport(server.answer)
        monkeypatch.setattr(
            pulse.httpx, "Client", lambda **words: client(transport=transport, **words)
        )
        return Pulse(process, Keys("admin", gateway_key))

    return make


def test_a_process_that_answers_is_asked_once_a_second(
    pulse_of: Callable[..., Pulse], clock: Clock
) -> None:
    server = Server()
    own = pulse_of(server)
    for _ in range(int(10 * EVERY_S / LOOK_S)):
        assert own.look() == NOT_ASKED
        clock.sleep(LOOK_S)
    assert [str(request.url) for request in server.asked] == [HEALTH] * 10


def test_every_look_without_an_answer_counts_until_there_is_one(
    pulse_of: Callable[..., Pulse], clock: Clock
) -> None:
    server = Server(None)
    own = pulse_of(server)
    for count in (1, 2, 3):
        assert own.look() == Silence(f"{HEALTH}: ConnectError", count)
        clock.sleep(EVERY_S)
    server.status = 200
    assert own.look() == NOT_ASKED


def test_a_server_that_answers_503_refuses_and_one_that_is_silent_does_not(
    pulse_of: Callable[..., Pulse], clock: Clock
) -> None:
    assert pulse_of(Server(503)).look().refuses
    assert not pulse_of(Server(None)).look().refuses
    assert not pulse_of(Server(200)).look().refuses


def test_a_server_gets_the_gateways_key_and_the_store_none(
    pulse_of: Callable[..., Pulse], clock: Clock
) -> None:
    for name, wanted in (
        ("prefill-0", "Bearer k"),
        ("gateway", "Bearer k"),
        ("store-master", None),
    ):
        server = Server()
        pulse_of(server, PLAN.process(name), "k").look()
        assert server.asked[0].headers.get("Authorization") == wanted


def test_a_process_without_http_answers_while_its_port_accepts(clock: Clock) -> None:
    holder = PLAN.process("store-holder-0")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        own = Pulse(replace(holder, health_port=port), Keys("admin"))
        assert own.look() == NOT_ASKED
    clock.sleep(EVERY_S)
    assert (own.look().missing or "").startswith(f"127.0.0.1:{port}: ")


def test_a_pulse_that_is_closed_tells_nothing_wrong_of_its_successor(
    pulse_of: Callable[..., Pulse], clock: Clock
) -> None:
    own = pulse_of(Server())
    own.close()
    assert own.look().missing == f"{HEALTH}: RuntimeError"


# --- what the actor makes of it


@pytest.fixture
def actor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock) -> ProcessActor:
    """An actor whose process runs, without a process."""
    monkeypatch.setattr(process_actor, "end_at_sigterm", lambda: None)
    own = ProcessActor("id", SERVER, str(tmp_path), str(tmp_path), Keys("admin"))
    own._supervised = SimpleNamespace(pid=2, supervisor_pid=3, running=True, exit_code=None)
    own._tree = SimpleNamespace(look=lambda pid: TreeState())
    return own


def known(actor: ProcessActor) -> Vitals:
    return actor.vitals()


def test_while_all_is_well_a_call_waits_for_its_whole_time(
    actor: ProcessActor, pulse_of: Callable[..., Pulse], clock: Clock
) -> None:
    server = Server()
    actor._pulse = pulse_of(server)
    assert actor.changed(known(actor), 10.0) == known(actor)
    assert clock.now_s >= 1010.0
    assert len(server.asked) == 10


def test_a_process_that_falls_silent_is_told_at_once(
    actor: ProcessActor, pulse_of: Callable[..., Pulse], clock: Clock
) -> None:
    actor._pulse = pulse_of(Server(None))
    assert actor.changed(known(actor), 10.0).silence.looks == 1
    assert clock.now_s == 1000.0
    assert actor.changed(known(actor), 10.0).silence.looks == 2
    assert clock.now_s <= 1000.0 + EVERY_S + LOOK_S


def test_a_frozen_process_is_not_asked(
    actor: ProcessActor, pulse_of: Callable[..., Pulse], clock: Clock
) -> None:
    server = Server()
    actor._pulse = pulse_of(server)
    actor._tree = SimpleNamespace(look=lambda pid: TreeState(frozen=True))
    actor.changed(known(actor), 10.0)
    assert server.asked == []


def test_an_actor_that_is_only_looked_at_asks_nobody(
    actor: ProcessActor, pulse_of: Callable[..., Pulse], clock: Clock
) -> None:
    server = Server()
    actor._pulse = pulse_of(server)
    for _ in range(10):
        actor.vitals()
        clock.sleep(1.0)
    assert server.asked == []
