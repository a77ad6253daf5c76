"""`explain` says why a rule exists; `schema` is what an editor checks YAML with."""

from __future__ import annotations

from command_outcome import Pdcache

from pdcache.checks import RULES
from pdcache.topology.stores import STORES


def test_a_rule_is_explained_with_its_source(pdcache: Pdcache) -> None:
    done = pdcache("explain", "prefetch-threshold")
    assert done.code == 0
    assert done.out.startswith("prefetch-threshold: ")
    assert "Why: " in done.out and "sglang 0.5.23" in done.out


def test_without_a_name_every_rule_is_listed(pdcache: Pdcache) -> None:
    text = pdcache("explain").out
    assert [name for name in RULES if f"{name} " not in text] == []
    data = pdcache("explain", "--json").json()
    assert {row["rule"] for row in data["rules"]} == set(RULES)


def test_an_unknown_rule_names_the_nearest(pdcache: Pdcache) -> None:
    done = pdcache("explain", "layuot")
    assert done.code == 1
    assert "Did you mean layout?" in done.err


def test_the_schema_knows_the_keys_of_every_storage_backend(pdcache: Pdcache) -> None:
    schema = pdcache("schema").json()
    assert schema["$schema"].startswith("https://json-schema.org/")
    assert set(schema["required"]) == {"name", "mode", "model"}
    assert "metadata_server" in schema["$defs"]["Hf3fsStore"]["properties"]
    assert schema["additionalProperties"] is False


def test_the_schema_lets_a_store_be_one_of_the_backends(pdcache: Pdcache) -> None:
    schema = pdcache("schema").json()
    stores = {one["$ref"].rpartition("/")[2] for one in schema["properties"]["store"]["oneOf"]}
    assert stores == {kind.__name__ for kind in STORES.values()}
    assert stores <= set(schema["$defs"])
