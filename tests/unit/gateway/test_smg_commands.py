"""smg: its command line and the manifest of workers."""

from __future__ import annotations

import json

from golden.plans import shipped

from pdcache.gateway.smg import SESSION_HEADERS, gateway_argv, manifest
from pdcache.topology import Role


def argv(*overrides: str) -> tuple[str, ...]:
    topology = shipped("full_offload", *overrides)
    return gateway_argv("smg", topology, "127.0.0.1", 8000, 20005, "/home/u/workers.json")


def value(words: tuple[str, ...], flag: str) -> str:
    assert words.count(flag) == 1
    return words[words.index(flag) + 1]


def test_the_gateway_reads_its_workers_from_the_manifest() -> None:
    words = argv()
    assert words[1:5] == ("-m", "pdcache.gateway.launch", "launch", "--pd-disaggregation")
    assert value(words, "--discovery-provider") == "file"
    assert value(words, "--discovery-file") == "/home/u/workers.json"
    assert (value(words, "--host"), value(words, "--port")) == ("127.0.0.1", "8000")
    assert value(words, "--prometheus-port") == "20005"


def test_policies_and_the_request_limit_are_the_topologys() -> None:
    words = argv(
        "gateway.prefill_policy=round_robin",
        "gateway.decode_policy=random",
        "gateway.request_timeout_s=77",
    )
    assert value(words, "--prefill-policy") == "round_robin"
    assert value(words, "--decode-policy") == "random"
    assert value(words, "--request-timeout-secs") == "77"


def test_a_session_stays_on_one_prefill_by_any_of_its_headers() -> None:
    words = argv()
    at = words.index("--routing-key-headers")
    assert words[at + 1 : at + 4] == SESSION_HEADERS
    assert words[at + 4].startswith("--")
    assert "--routing-key-override" in words


def test_a_busy_cpu_worker_is_given_more_time_to_say_that_it_is_well() -> None:
    patience = {
        device: int(value(words, "--health-check-timeout-secs"))
        * int(value(words, "--health-failure-threshold"))
        for device in ("cpu", "cuda")
        if (words := argv(f"device={device}"))
    }
    assert patience["cpu"] > patience["cuda"] > 0


def test_a_dead_worker_is_noticed_within_seconds() -> None:
    assert value(argv(), "--health-check-interval-secs") == "1"


def test_a_manifest_has_the_fields_smg_knows_and_no_other() -> None:
    text = manifest(
        [
            ("prefill-0-1", Role.PREFILL, "http://127.0.0.1:21000", 20003),
            ("decode-0-1", Role.DECODE, "http://127.0.0.1:21002", None),
        ]
    )
    assert json.loads(text) == {
        "version": 1,
        "workers": [
            {
                "id": "prefill-0-1",
                "url": "http://127.0.0.1:21000",
                "worker_type": "prefill",
                "bootstrap_port": 20003,
            },
            {"id": "decode-0-1", "url": "http://127.0.0.1:21002", "worker_type": "decode"},
        ],
    }


def test_a_manifest_without_a_worker_is_still_a_manifest() -> None:
    assert json.loads(manifest([])) == {"version": 1, "workers": []}
