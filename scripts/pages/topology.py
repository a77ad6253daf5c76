"""docs/topology.md: every key of the YAML, and the flags that follow from none of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from pages.markdown import GENERATED, table, text, words
from pdcache.plan import build_plan
from pdcache.plan.process import Provenance
from pdcache.topology.facts import Facts, Node
from pdcache.topology.hicache import storage_options
from pdcache.topology.schema import Mode, Topology
from pdcache.topology.stores import STORES

DESCRIPTIONS = {
    "ROLE.hicache": "the keys of `hicache` for this role alone",
    "ROLE.kv_events.topic": "ZMQ topic, by which subscribers choose",
    "store.backend": "what holds L3",
    "store.client_timeout_s": "of one read or write of 3FS",
    "store.plugin": "NIXL's plugin",
    "store.clnt_threadpool_size": "threads of SiMM's client in each rank",
    "store.class_name": "the class in that module",
    "nodes.count": "how many nodes",
    "gateway.host": "address the gateway listens on",
    "gateway.port": "port the gateway listens on",
    "gateway.prefill_policy": "how smg picks the prefill worker of a request without a session",
    "gateway.decode_policy": "how smg picks the decode worker",
    "timeouts.store_s": "a store process from start to healthy",
    "timeouts.gateway_s": "the gateway from start to healthy, and to the taking of all workers",
    "timeouts.proof_s": "the whole proof; a step of it has half",
    "name": "the cluster's name; lower case, digits and dashes, at most 40",
    "mode": "who writes KV to L3",
    "device": "what the workers compute on",
}
"""For keys whose field in the schema has no description of its own."""

SECTIONS = {
    "model": "model",
    "hicache": "hicache",
    "prefill": "ROLE",
    "transfer": "transfer",
    "store": "store",
    "gateway": "gateway",
    "memory": "memory",
    "nodes": "nodes",
    "traffic": "traffic",
    "timeouts": "timeouts",
    "network": "network",
    "watch": "watch",
}
"""Keys of the topology that have a heading of their own; `decode` has the keys of `prefill`."""

ELSEWHERE = ("ROLE.hicache",)
"""Sections inside a section whose keys stand under another heading; others stand in its table."""

OF_EVERY_STORE = ("backend", "namespace", "extra")
"""Keys of `store` whatever its backend."""

PLACE_OF_THE_MACHINE = (
    "--model-path",
    "--host",
    "--port",
    "--served-model-name",
    "--disaggregation-bootstrap-port",
    "--hicache-storage-backend-extra-config",
)
"""Flags whose values follow from the machine or the model, not from a default."""


@dataclass(frozen=True)
class Key:
    """One key of the YAML."""

    path: str
    type: str
    default: str
    description: str


def topology_page() -> str:
    """Every key of the YAML, and the flags that follow from none of them."""
    schema = Topology.model_json_schema()
    parts = [
        GENERATED,
        "# The topology file\n",
        "A topology is one YAML file. An unknown key is an error that names the nearest known one. "
        "`--set a.b=VALUE` lays a value over the file. `pdcache plan FILE` shows what each key "
        "became and why.\n",
        "`unset` means: decided by pdcache (see [defaults](#defaults-by-mode-and-device)) or left "
        "to SGLang.\n",
        "## Top level\n",
        text(schema["description"]),
        _key_table(
            key
            for key in topology_keys()
            if "." not in key.path and key.path not in {*SECTIONS, "decode"}
        ),
    ]
    for section, prefix in SECTIONS.items():
        if section == "store":
            parts += _store_parts()
            continue
        model = _section(schema, schema["properties"][section])
        title = "`prefill` and `decode`" if prefix == "ROLE" else f"`{section}`"
        parts += [f"## {title}\n", text(model["description"])]
        if prefix == "ROLE":
            parts.append("`ROLE` stands for `prefill` or `decode`.\n")
        parts.append(_key_table(_keys(schema, model, f"{prefix}.")))
    parts += [
        "## Defaults by mode and device\n",
        "What a topology that sets nothing but `name`, `mode`, `device` and `model.path` runs "
        "with. A flag that is not here has SGLang's own default. Left out are the flags that "
        "follow from the machine and the model: "
        + ", ".join(f"`{flag}`" for flag in PLACE_OF_THE_MACHINE)
        + ".\n",
    ]
    for device in ("cpu", "cuda"):
        parts += [f"### `device: {device}`\n", _default_table(device)]
    return "\n".join(parts)


def topology_keys() -> list[Key]:
    """Every key of the topology, in the order of the schema; those of `store` for each backend."""
    schema = Topology.model_json_schema()
    found = list(_keys(schema, schema, "", within=False))
    for section, prefix in SECTIONS.items():
        if section == "store":
            found += [key for backend in STORES for key in store_keys(backend)]
        else:
            model = _section(schema, schema["properties"][section])
            found += _keys(schema, model, f"{prefix}.")
    return found


def store_keys(backend: str) -> list[Key]:
    """The keys of `store` with a backend."""
    schema = STORES[backend].model_json_schema()
    return list(_keys(schema, schema, "store."))


def _store_parts() -> list[str]:
    """The section of the store: what all backends share, then a table for each."""
    every = [f"store.{name}" for name in OF_EVERY_STORE]
    keys = {key.path: key for key in store_keys("mooncake")}
    keys["store.backend"] = replace(keys["store.backend"], type=words(STORES))
    shared = [keys[path] for path in every]
    parts = [
        "## `store`\n",
        "L3, the store that all workers share. Each backend has keys of its own beside these.\n",
        _key_table(shared),
        "What each backend is and needs is in [backends.md](backends.md).\n",
    ]
    for backend, model in STORES.items():
        parts += [
            f"### `backend: {backend}`\n",
            text(model.__doc__ or ""),
            _key_table(key for key in store_keys(backend) if key.path not in every),
        ]
    return parts


def _keys(
    schema: dict[str, Any], model: dict[str, Any], prefix: str, *, within: bool = True
) -> Iterator[Key]:
    """Keys of a section, and `within` it those of sections that have no heading of their own."""
    required = model.get("required", [])
    for name, field in model["properties"].items():
        path = prefix + name
        section = _section(schema, field)
        yield Key(
            path,
            "keys" if section else _type(schema, field),
            "required" if name in required else _default(field, section is not None),
            field.get("description") or DESCRIPTIONS.get(path, ""),
        )
        if section and within and path not in ELSEWHERE:
            yield from _keys(schema, section, f"{path}.")


def _model(schema: dict[str, Any], field: dict[str, Any]) -> Any:
    reference = field.get("$ref")
    return schema["$defs"][reference.rpartition("/")[2]] if reference else None


def _section(schema: dict[str, Any], field: dict[str, Any]) -> Any:
    """What a field holds when it holds keys, also when it may be left out."""
    models = [_model(schema, one) for one in (field, *field.get("anyOf", []))]
    return next((model for model in models if model and "properties" in model), None)


def _type(schema: dict[str, Any], field: dict[str, Any]) -> str:
    if "oneOf" in field:
        return "keys"
    if "$ref" in field:
        return _type(schema, _model(schema, field))
    if "anyOf" in field:
        types = [_type(schema, one) for one in field["anyOf"] if one.get("type") != "null"]
        return " or ".join(types)
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    if "const" in field:
        return f"`{field['const']}`"
    if field.get("type") == "object":
        values = field["additionalProperties"]
        return "mapping" if values is True else f"mapping to {_type(schema, values)}"
    name = {"integer": "int", "number": "number", "string": "text", "boolean": "bool"}
    bounds = {
        "minimum": "≥ {}", "maximum": "≤ {}", "exclusiveMinimum": "> {}", "exclusiveMaximum": "< {}"
    }  # fmt: skip
    limits = [form.format(_number(field[key])) for key, form in bounds.items() if key in field]
    return " ".join([name[field["type"]], ", ".join(limits)]).strip()


def _default(field: dict[str, Any], is_section: bool) -> str:
    if is_section and "default" not in field:
        return ""
    value = field.get("default", {})
    if value is None:
        return "unset"
    if value == "":
        return "empty"
    return f"`{_number(value)}`" if not isinstance(value, bool) else f"`{str(value).lower()}`"


def _number(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _key_table(found: Iterable[Key]) -> str:
    rows = [(f"`{key.path}`", key.type, key.default, key.description) for key in found]
    return table(("key", "type", "default", "what"), rows)


def _default_table(device: str) -> str:
    """SGLang's settings in both modes, a column for each that differs between them."""
    prefill: dict[str, dict[str, Provenance]] = {}
    decode: dict[str, dict[str, Provenance]] = {}
    for mode in Mode:
        topology = Topology.model_validate(
            {"name": "docs", "mode": mode, "device": device, "model": {"path": "org/model"}}
        )
        plan = build_plan(topology, Facts(nodes=(Node(gpus=2),)))
        options = {
            f"{name} of the extra config": Provenance(**vars(option))
            for name, option in storage_options(topology).items()
        }
        prefill[mode] = plan.provenance["prefill-0"] | options
        decode[mode] = plan.provenance["decode-0"]
    columns = {
        "prefill": [*prefill.values()],
        "decode, prefill_only": [decode[Mode.PREFILL_ONLY]],
        "decode, full_offload": [decode[Mode.FULL_OFFLOAD]],
    }
    flags = dict.fromkeys(flag for own in (*prefill.values(), *decode.values()) for flag in own)
    rows = [
        (
            f"`{flag}`",
            *(_value(own.get(flag) for own in column) for column in columns.values()),
            _why([own[flag] for column in columns.values() for own in column if flag in own]),
        )
        for flag in flags
        if flag not in PLACE_OF_THE_MACHINE
    ]
    return table(("SGLang's setting", *columns, "why (decided by; key)"), rows)


def _value(given: Iterable[Provenance | None]) -> str:
    values = ["" if one is None else "on" if one.value is True else f"`{one.value}`"
              for one in given]  # fmt: skip
    return " / ".join(dict.fromkeys(values))


def _why(given: list[Provenance]) -> str:
    parts = {}
    for one in given:
        parts.setdefault((one.reason, one.origin), dict[str, None]())[one.path] = None
    return "; ".join(
        f"{reason} ({'; '.join([origin, *(f'`{path}`' for path in paths if path)])})"
        for (reason, origin), paths in parts.items()
    )
