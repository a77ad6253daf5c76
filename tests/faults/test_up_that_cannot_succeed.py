"""Each mistake ends `up` within its limit, with a cause and a remedy, and nothing left."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster_tools import SMALL, Shell, free_port

FILE = "topologies/full_offload.yaml"


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    shell = Shell(tmp_path / "home")
    yield shell
    shell.assert_nothing_left()


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that accepts connections and never answers."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(64)
        held: list[socket.socket] = []

        def hold() -> None:
            while True:
                try:
                    held.append(server.accept()[0])
                except OSError:
                    return

        thread = threading.Thread(target=hold, daemon=True)
        thread.start()
        yield int(server.getsockname()[1])
        server.shutdown(socket.SHUT_RDWR)
        thread.join(5)
        for connection in held:
            connection.close()


def test_an_unknown_key_is_named_with_the_nearest_known_one(shell: Shell) -> None:
    message = shell.fails("up", FILE, "--set", "gatewy.port=1", limit_s=30)
    assert "gatewy" in message and "Did you mean `gateway`?" in message


def test_a_port_that_is_no_port_is_refused(shell: Shell) -> None:
    message = shell.fails("up", FILE, "--set", "gateway.port=99999", limit_s=30)
    assert "gateway.port" in message and "65535" in message


def test_a_port_in_use_names_its_key(shell: Shell, silent_port: int) -> None:
    message = shell.fails("up", FILE, *SMALL, "--set", f"gateway.port={silent_port}", limit_s=30)
    assert f"port {silent_port} is in use" in message and "--set gateway.port=" in message


def test_a_missing_model_folder_is_named(shell: Shell) -> None:
    message = shell.fails("up", FILE, "--set", "model.path=/no/such/model", limit_s=30)
    assert "/no/such/model" in message and "model-files" in message


def test_an_unreachable_ray_address_says_so(shell: Shell) -> None:
    address = f"127.0.0.1:{free_port()}"
    message = shell.fails(
        "up", FILE, *SMALL, "--set", "timeouts.ray_s=3", env={"RAY_ADDRESS": address}, limit_s=30
    )
    assert address in message and "RAY_ADDRESS" in message


def test_a_master_that_never_answers_stops_up_before_any_worker_sees_it(
    shell: Shell, silent_port: int
) -> None:
    message = shell.fails(
        "up", FILE, *SMALL, "--set", f"gateway.port={free_port()}",
        "--set", f"store.master=127.0.0.1:{silent_port}",
        "--set", f"store.metrics_port={silent_port}", "--set", "timeouts.store_s=5", limit_s=120,
    )  # fmt: skip
    assert "mooncake store did not answer" in message and "correct store.master" in message
    assert "prefill-0 starting" not in message


def test_a_worker_that_dies_during_its_start_is_named_with_its_log(shell: Shell) -> None:
    message = shell.fails(
        "up", FILE, *SMALL, "--set", f"gateway.port={free_port()}",
        "--set", "decode.args.load_format=nonsense", "--skip-check", "args", limit_s=200,
    )  # fmt: skip
    assert "decode-0" in message and "ended with exit code" in message
    assert "nonsense" in message.split("end of its log:")[1]
