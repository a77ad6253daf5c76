"""What each setting becomes, who decided it, and what SGLang makes of layout and io backend."""

from __future__ import annotations

import pytest

from pdcache.topology import Role, Topology, parse_topology
from pdcache.topology.hicache import storage_options
from pdcache.topology.setting import Setting, Settings
from pdcache.topology.settings import role_settings
from pdcache.topology.switches import resolve


def topology(text: str = "", *, mode: str = "full_offload", device: str = "cpu") -> Topology:
    head = f"name: small\nmode: {mode}\ndevice: {device}\nmodel: {{path: org/tiny-random}}\n"
    return parse_topology(head + text, source="t.yaml")


def settings(role: Role, text: str = "", **head: str) -> Settings:
    return role_settings(topology(text, **head), role)


def decided(found: Settings) -> dict[str, tuple[object, str]]:
    return {name: (setting.value, setting.origin) for name, setting in found.items()}


COMMON = {
    "served_model_name": ("tiny-random", "default"),
    "page_size": (64, "default"),
    "tp_size": (1, "default"),
    "mem_fraction_static": (None, "default"),
    "radix_eviction_policy": (None, "default"),
    "enable_metrics": (True, "default"),
    "enable_cache_report": (True, "default"),
}
ON_CPU = COMMON | {
    "dtype": ("float32", "device"),
    "max_total_tokens": (8192, "device"),
    "max_running_requests": (8, "device"),
}
ON_CUDA = COMMON | {
    "dtype": ("auto", "default"),
    "max_total_tokens": (None, "device"),
    "max_running_requests": (None, "device"),
}
HICACHE = {
    "hicache_io_backend": ("direct", "default"),
    "hicache_mem_layout": ("page_first_direct", "default"),
    "hicache_write_policy": ("write_through", "default"),
    "hicache_storage_backend": ("mooncake", "mode"),
}
FULL_HICACHE = HICACHE | {
    "enable_hierarchical_cache": (True, "mode"),
    "hicache_ratio": (2.0, "default"),
    "hicache_storage_prefetch_policy": ("wait_complete", "default"),
}
OFFLOAD = HICACHE | {"disaggregation_decode_enable_offload_kvcache": (True, "mode")}


@pytest.mark.parametrize("mode", ["prefill_only", "full_offload"])
@pytest.mark.parametrize(
    ("device", "expected"),
    [
        ("cpu", ON_CPU | FULL_HICACHE | {"chunked_prefill_size": (2048, "device")}),
        ("cuda", ON_CUDA | FULL_HICACHE | {"chunked_prefill_size": (None, "device")}),
    ],
)
def test_prefill_runs_full_hicache_in_both_modes(
    mode: str, device: str, expected: dict[str, tuple[object, str]]
) -> None:
    assert decided(settings(Role.PREFILL, mode=mode, device=device)) == expected


@pytest.mark.parametrize(
    ("mode", "device", "expected"),
    [
        ("prefill_only", "cpu", ON_CPU),
        ("prefill_only", "cuda", ON_CUDA),
        ("full_offload", "cpu", ON_CPU | OFFLOAD | {"hicache_ratio": (0.25, "device")}),
        ("full_offload", "cuda", ON_CUDA | OFFLOAD | {"hicache_size": (8, "device")}),
    ],
)
def test_decode_has_hicache_only_to_offload(
    mode: str, device: str, expected: dict[str, tuple[object, str]]
) -> None:
    assert decided(settings(Role.DECODE, mode=mode, device=device)) == expected


@pytest.mark.parametrize("role", [Role.PREFILL, Role.DECODE])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("mode", ["prefill_only", "full_offload"])
def test_every_value_has_a_reason_and_a_place_in_the_yaml(
    role: Role, device: str, mode: str
) -> None:
    for name, setting in settings(role, mode=mode, device=device).items():
        assert setting.path, name
        if setting.value is not None:
            assert setting.reason, name


USERS = [
    ("page_size", "page_size: 16", 16, "page_size"),
    ("page_size", "ROLE: {page_size: 32}", 32, "ROLE.page_size"),
    ("served_model_name", "ROLE: {served_name: mine}", "mine", "ROLE.served_name"),
    ("dtype", "ROLE: {dtype: float16}", "float16", "ROLE.dtype"),
    ("tp_size", "ROLE: {tp: 2}", 2, "ROLE.tp"),
    ("max_total_tokens", "ROLE: {max_total_tokens: 4096}", 4096, "ROLE.max_total_tokens"),
    ("max_running_requests", "ROLE: {max_running_requests: 2}", 2, "ROLE.max_running_requests"),
    ("mem_fraction_static", "ROLE: {mem_fraction_static: 0.5}", 0.5, "ROLE.mem_fraction_static"),
    ("hicache_ratio", "ROLE: {hicache: {ratio: 3.0}}", 3.0, "ROLE.hicache.ratio"),
    ("hicache_size", "ROLE: {hicache: {size_gb: 3}}", 3, "ROLE.hicache.size_gb"),
    ("hicache_io_backend", "hicache: {io_backend: kernel}", "kernel", "hicache.io_backend"),
    ("hicache_mem_layout", "ROLE: {hicache: {layout: page_head}}", "page_head",
     "ROLE.hicache.layout"),
    ("hicache_write_policy", "hicache: {write_policy: write_back}", "write_back",
     "hicache.write_policy"),
]  # fmt: skip


@pytest.mark.parametrize("role", [Role.PREFILL, Role.DECODE])
@pytest.mark.parametrize(("name", "text", "value", "path"), USERS)
def test_what_the_user_sets_is_taken_and_named_as_theirs(
    role: Role, name: str, text: str, value: object, path: str
) -> None:
    setting = settings(role, text.replace("ROLE", role.value))[name]
    assert (setting.value, setting.origin) == (value, "user")
    assert setting.path == path.replace("ROLE", role.value)


def test_the_shared_model_settings_are_named_as_the_users() -> None:
    found = role_settings(
        parse_topology(
            "name: a\nmode: full_offload\n"
            "model: {path: x/y, served_name: mine, dtype: bfloat16, context_length: 4096}",
            source="t.yaml",
        ),
        Role.PREFILL,
    )
    assert decided(found).items() >= {
        "served_model_name": ("mine", "user"),
        "dtype": ("bfloat16", "user"),
        "context_length": (4096, "user"),
    }.items()  # fmt: skip


def test_a_role_overrides_the_shared_hicache_key_by_key() -> None:
    text = (
        "hicache: {io_backend: kernel, layout: page_first}\ndecode: {hicache: {layout: page_head}}"
    )
    assert settings(Role.DECODE, text)["hicache_mem_layout"].value == "page_head"
    assert settings(Role.DECODE, text)["hicache_io_backend"].value == "kernel"
    assert settings(Role.PREFILL, text)["hicache_mem_layout"].value == "page_first"


def test_a_size_takes_the_place_of_the_ratio() -> None:
    found = settings(Role.PREFILL, "hicache: {ratio: 3.0, size_gb: 10}")
    assert found["hicache_size"].value == 10
    assert "hicache_ratio" not in found


def test_the_shared_l2_size_is_not_meant_for_the_staging_of_decode() -> None:
    found = settings(Role.DECODE, "hicache: {ratio: 3.0, size_gb: 10}")
    assert found["hicache_ratio"].value == 0.25
    assert "hicache_size" not in found


@pytest.mark.parametrize("mode", ["prefill_only", "full_offload"])
def test_a_page_beyond_l1_and_l2_is_worth_a_read_from_l3(mode: str) -> None:
    setting = storage_options(topology("page_size: 32", mode=mode))["prefetch_threshold"]
    assert (setting.value, setting.origin) == (32, "mode")
    assert "256" in setting.reason


def test_the_prefetch_timeouts_appear_only_when_they_are_set() -> None:
    assert list(storage_options(topology())) == ["prefetch_threshold"]
    options = storage_options(
        topology(
            "hicache: {prefetch_threshold: 7, prefetch_timeout_base_s: 2.5,"
            " prefetch_timeout_per_ki_token_s: 0.5}"
        )
    )
    assert {name: (setting.value, setting.origin) for name, setting in options.items()} == {
        "prefetch_threshold": (7, "user"),
        "prefetch_timeout_base": (2.5, "user"),
        "prefetch_timeout_per_ki_token": (0.5, "user"),
    }


def asked(layout: str, io: str, storage: str = "mooncake") -> Settings:
    return {
        "hicache_mem_layout": Setting(layout, "user", "set", "hicache.layout"),
        "hicache_io_backend": Setting(io, "user", "set", "hicache.io_backend"),
        "hicache_write_policy": Setting("write_back", "user", "set", "hicache.write_policy"),
        "hicache_storage_backend": Setting(storage, "mode", "L3", "store.backend"),
    }


LAYOUT_AND_IO = ("hicache_mem_layout", "hicache_io_backend")

# (layout, io) asked for -> run on Mooncake; elsewhere where that is not the same.
TABLE = {
    ("layer_first", "kernel"): ("page_first", "kernel"),
    ("layer_first", "direct"): ("page_first_direct", "direct"),
    ("page_first", "kernel"): ("page_first", "kernel"),
    ("page_first", "direct"): ("page_first_direct", "direct"),
    ("page_first_direct", "kernel"): ("page_first_direct", "direct"),
    ("page_first_direct", "direct"): ("page_first_direct", "direct"),
    ("page_first_direct", "kernel_ascend"): ("page_first_direct", "kernel_ascend"),
    ("page_first_kv_split", "kernel_ascend"): ("page_first_kv_split", "kernel_ascend"),
    ("page_head", "kernel"): ("page_head", "kernel"),
    ("page_head", "direct"): ("page_head", "direct"),
}


@pytest.mark.parametrize(("pair", "run"), TABLE.items())
def test_layout_and_io_become_what_sglang_runs_on_mooncake(
    pair: tuple[str, str], run: tuple[str, str]
) -> None:
    found = resolve(asked(*pair))
    assert (found["hicache_mem_layout"].value, found["hicache_io_backend"].value) == run
    for name, before, after in zip(LAYOUT_AND_IO, pair, run, strict=True):
        switched = before != after
        assert found[name].origin == ("rule" if switched else "user")
        assert found[name].path == asked(*pair)[name].path


@pytest.mark.parametrize("io", ["kernel", "direct"])
def test_layer_first_stays_where_the_store_is_not_mooncake(io: str) -> None:
    found = resolve(asked("layer_first", io, storage="file"))
    assert (found["hicache_mem_layout"].value, found["hicache_io_backend"].value) == (
        "layer_first",
        io,
    )


def test_a_decode_without_hicache_has_nothing_to_resolve() -> None:
    plain = settings(Role.DECODE, mode="prefill_only")
    assert resolve(plain) == plain


def test_resolving_leaves_what_was_asked_for_as_it_was() -> None:
    before = asked("page_first", "direct")
    resolve(before)
    assert before == asked("page_first", "direct")
