"""A topology is read whole or refused with the line, the key and the remedy."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from pdcache.errors import TopologyError
from pdcache.topology import Mode, Role, Topology, load_topology, parse_topology
from pdcache.topology.schema import (
    Gateway,
    Hicache,
    KvEvents,
    Memory,
    Model,
    Network,
    Nodes,
    Timeouts,
    Traffic,
    Watch,
    Worker,
    dump,
)
from pdcache.topology.stores import MooncakeStore

SMALLEST = """
name: small
mode: full_offload
model: {path: tiny-random}
"""


def parsed(text: str, *overrides: str) -> Topology:
    return parse_topology(text, source="t.yaml", overrides=overrides)


def refusal(text: str, *overrides: str) -> str:
    with pytest.raises(TopologyError) as caught:
        parsed(text, *overrides)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (SMALLEST + "page_sise: 64", "t.yaml:5: page_sise: unknown key. Did you mean `page_size`?"),
        (
            SMALLEST + "prefill:\n  workers: 1\n  hicache:\n    layuot: page_head",
            "t.yaml:8: prefill.hicache.layuot: unknown key. Did you mean `layout`?",
        ),
        (
            SMALLEST + "store:\n  segment_gib: 2",
            "t.yaml:6: store.segment_gib: unknown key. Did you mean `segment_gb`?",
        ),
        (
            SMALLEST + "gateway:\n  zzz: 2",
            "t.yaml:6: gateway.zzz: unknown key. Known keys here: host, port, key_file, ",
        ),
    ],
)
def test_an_unknown_key_is_refused_with_its_line_and_the_nearest_key(text: str, said: str) -> None:
    assert said in refusal(text)


def test_every_mistake_of_a_file_is_told_at_once() -> None:
    lines = refusal(SMALLEST + "modle: 1\npage_sise: 2\ngateway: {port: 99999}").splitlines()
    assert [line.split(":")[1] for line in lines] == ["7", "5", "6"]


@pytest.mark.parametrize("key", ["name", "mode", "model"])
def test_a_required_key_is_asked_for_by_name(key: str) -> None:
    data = yaml.safe_load(SMALLEST)
    del data[key]
    assert refusal(yaml.safe_dump(data)) == (
        f"t.yaml: {key}: this key is required. Add `{key}: ...`."
    )


def test_a_model_needs_a_path() -> None:
    said = refusal("name: small\nmode: full_offload\nmodel: {dtype: float32}")
    assert said == "t.yaml: model.path: this key is required. Add `path: ...`."


@pytest.mark.parametrize(
    ("line", "path"),
    [
        ("mode: half_offload", "mode"),
        ("name: Not_A_Name", "name"),
        ("name: " + "a" * 41, "name"),
        ("device: tpu", "device"),
        ("page_size: 0", "page_size"),
        ("page_size: many", "page_size"),
        ("prefill: {workers: 0}", "prefill.workers"),
        ("prefill: {mem_fraction_static: 1.0}", "prefill.mem_fraction_static"),
        ("hicache: {ratio: 0}", "hicache.ratio"),
        ("hicache: {layout: page_last}", "hicache.layout"),
        ("decode: {hicache: {prefetch_policy: never}}", "decode.hicache.prefetch_policy"),
        ("store: {holders: -1}", "store.holders"),
        ("store: {ha: {masters: 1}}", "store.ha.masters"),
        ("decode: {kv_events: {port: 0}}", "decode.kv_events.port"),
        ("gateway: {port: 70000}", "gateway.port"),
        ("gateway: {decode_policy: cache_aware}", "gateway.decode_policy"),
        ("timeouts: {worker_s: 0}", "timeouts.worker_s"),
        ("memory: {host_gb: 0}", "memory.host_gb"),
    ],
)
def test_a_value_out_of_range_is_refused_with_its_path_and_the_value(line: str, path: str) -> None:
    data = yaml.safe_load(SMALLEST) | yaml.safe_load(line)
    said = refusal(yaml.safe_dump(data))
    assert f": {path}: " in said
    value: object = yaml.safe_load(line)
    while isinstance(value, dict):
        (value,) = value.values()
    assert f"(given: {value!r})" in said


def test_broken_yaml_is_told_with_its_line() -> None:
    assert refusal("name: small\nmode: [full_offload").startswith("t.yaml:2: not valid YAML")


@pytest.mark.parametrize("text", ["", "- name: small", "just words"])
def test_a_file_without_a_mapping_is_told_how_to_start(text: str) -> None:
    assert "A topology starts with `name:`" in refusal(text)


def test_a_file_that_is_not_there_is_told_by_path(tmp_path: Path) -> None:
    with pytest.raises(TopologyError, match="No such file") as caught:
        load_topology(tmp_path / "none.yaml")
    assert caught.value.where == str(tmp_path / "none.yaml")


def test_a_folder_is_not_a_topology(tmp_path: Path) -> None:
    with pytest.raises(TopologyError, match="Is a directory"):
        load_topology(tmp_path)


def test_a_file_that_is_no_text_is_told_so(tmp_path: Path) -> None:
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(TopologyError, match=r"binary\.yaml: .*UTF-8"):
        load_topology(tmp_path / "binary.yaml")


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("page_size=32", "page_size", 32),
        ("name=other", "name", "other"),
        ("hicache.ratio=1.5", "hicache.ratio", 1.5),
        ("decode.hicache.size_gb=3", "decode.hicache.size_gb", 3),
        ("prefill.args.enable-mixed-chunk=true", "prefill.args.enable-mixed-chunk", True),
        ("prefill.args.note=null", "prefill.args.note", None),
        ("prefill.args.text=a=b", "prefill.args.text", "a=b"),
        ("store.namespace='12'", "store.namespace", "12"),
        (" gateway.port =9000", "gateway.port", 9000),
    ],
)
def test_an_override_lays_a_yaml_scalar_over_the_file(
    override: str, path: str, value: object
) -> None:
    found: object = parsed(SMALLEST, override).model_dump()
    for part in path.split("."):
        assert isinstance(found, dict)
        found = found[part]
    assert found == value
    assert type(found) is type(value)


def test_the_last_override_of_a_key_counts() -> None:
    assert parsed(SMALLEST, "page_size=32", "page_size=16").page_size == 16


@pytest.mark.parametrize("override", ["page_size", "=64", "a..b=1", ".page_size=1", ""])
def test_an_override_of_a_bad_form_is_refused_with_an_example(override: str) -> None:
    said = refusal(SMALLEST, override)
    assert f"cannot read the override {override!r}" in said
    assert "--set path.to.key=value" in said


@pytest.mark.parametrize("value", ["[1", "{a: b", "'open"])
def test_an_override_whose_value_is_broken_yaml_is_refused(value: str) -> None:
    override = f"page_size={value}"
    assert f"cannot read the override {override!r}" in refusal(SMALLEST, override)


def test_an_override_cannot_reach_into_a_scalar() -> None:
    assert refusal(SMALLEST, "mode.name=x") == "--set mode.name: mode is not a mapping."


def test_an_unknown_key_of_an_override_gets_the_nearest_key_too() -> None:
    assert "Did you mean `page_size`?" in refusal(SMALLEST, "page_siz=3")


def defaults(model: type[BaseModel]) -> dict[str, object]:
    """Defaults of the keys of one section, its own sections left out."""
    return {
        name: field.get_default(call_default_factory=True)
        for name, field in model.model_fields.items()
        if not field.is_required() and not isinstance(field.annotation, type(BaseModel))
    }


def test_the_defaults_of_a_topology() -> None:
    topology = parsed(SMALLEST)
    assert topology.mode is Mode.FULL_OFFLOAD
    assert (topology.device, topology.page_size) == ("cuda", 64)
    assert topology.transfer.backend == "mooncake"
    assert topology.transfer.ib_device is None


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (Model, {"served_name": None, "dtype": "auto", "context_length": None}),
        (Hicache, dict.fromkeys(Hicache.model_fields)),
        (KvEvents, {"port": 5557, "topic": "", "replay_port": None}),
        (
            Worker,
            dict.fromkeys(set(Worker.model_fields) - {"hicache"})
            | dict.fromkeys(["workers", "nodes", "tp", "pp", "dp", "attn_dp", "ep"], 1)
            | {"radix_cache": False, "metrics": True, "cache_report": True}
            | {"args": {}, "env": {}},
        ),
        (
            MooncakeStore,
            dict.fromkeys(MooncakeStore.model_fields)
            | {"backend": "mooncake", "segment_gb": 4.0, "worker_segment_gb": 0.0}
            | {"device": "", "extra": {}},
        ),
        (Nodes, {"count": 1, "gpus": 8, "gpu_gb": None}),
        (Traffic, {"answer_tokens": None, "prompt_tokens": None}),
        (
            Gateway,
            {
                "host": "127.0.0.1", "port": 8000, "prefill_policy": "cache_aware",
                "decode_policy": "round_robin", "request_timeout_s": 600, "key_file": None,
                "max_concurrent_requests": 1024, "queue_size": 1024, "queue_timeout_s": 30,
            },
        ),
        (Memory, {"host_gb": None}),
        (Network, {"address": None, "private": False}),
        (Watch, {"reuse_s": 60}),
        (
            Timeouts,
            {"ray_s": 60, "store_s": 30, "worker_s": 600, "gateway_s": 60, "proof_s": 180},
        ),
    ],
)  # fmt: skip
def test_every_default_of_a_section(model: type[BaseModel], expected: dict[str, object]) -> None:
    assert defaults(model) == expected


def test_a_role_has_its_own_settings() -> None:
    topology = parsed(SMALLEST + "prefill: {tp: 2}\ndecode: {tp: 4}")
    assert topology.worker(Role.PREFILL).tp == 2
    assert topology.worker(Role.DECODE).tp == 4


def test_only_what_the_user_set_is_dumped() -> None:
    assert dump(parsed(SMALLEST)) == yaml.safe_load(SMALLEST)


def test_a_topology_cannot_be_changed_after_it_was_read() -> None:
    topology = parsed(SMALLEST)
    with pytest.raises(ValueError, match="frozen"):
        topology.page_size = 1  # type: ignore[misc]
