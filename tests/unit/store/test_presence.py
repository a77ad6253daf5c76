"""Asking a store from outside which pages it holds."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest
from asking import Handler, asked, refused

from pdcache.errors import ClusterError
from pdcache.store.backend import StoreAccess
from pdcache.store.presence import QUERY_BATCH, present, wait_present

URL, STANDBY = "http://master:20001", "http://standby:20001"
MOONCAKE = StoreAccess("mooncake", "mooncake", urls=(URL,), where="store.master")
SEVERAL = StoreAccess("mooncake", "mooncake", urls=(STANDBY, URL), where="store.master")
HF3FS = StoreAccess("hf3fs", "hf3fs", urls=(URL,), where="store.metadata_server")


class Holding:
    """A master that holds some keys and remembers how many were asked for at a time."""

    def __init__(self, *keys: str, appear_after: int = 0) -> None:
        self.keys = set(keys)
        self.batches: list[int] = []
        self.appear_after = appear_after

    def __call__(self, request: httpx.Request) -> httpx.Response:
        assert request.url.path == "/batch_query_keys"
        keys = request.url.params["keys"].split(",")
        self.batches.append(len(keys))
        known = self.keys if len(self.batches) > self.appear_after else set()
        return httpx.Response(
            200, json={"data": {key: {"ok": key in known} for key in keys}, "success": True}
        )


def test_the_keys_that_are_held_are_found() -> None:
    assert asked(Holding("a", "c"), lambda client: present(client, MOONCAKE, ["a", "b", "c"])) == {
        "a",
        "c",
    }


def test_many_keys_are_asked_for_in_batches() -> None:
    keys = [f"key{i}" for i in range(QUERY_BATCH * 2 + 1)]
    master = Holding(*keys)
    assert asked(master, lambda client: present(client, MOONCAKE, keys)) == set(keys)
    assert master.batches == [QUERY_BATCH, QUERY_BATCH, 1]


def test_no_key_needs_no_question() -> None:
    assert asked(refused, lambda client: present(client, MOONCAKE, [])) == set()


BAD = pytest.mark.parametrize(
    "bad",
    [
        refused,
        lambda request: httpx.Response(500),
        lambda request: httpx.Response(200, text="<p>"),
        lambda request: httpx.Response(200, json=["a"]),
        lambda request: httpx.Response(200, json={"data": None, "exists": None}),
    ],
    ids=["refused", "HTTP 500", "no JSON", "another JSON", "JSON without an answer"],
)


@BAD
@pytest.mark.parametrize("store", [MOONCAKE, HF3FS], ids=["mooncake", "hf3fs"])
def test_a_store_that_does_not_answer_is_named(bad: Handler, store: StoreAccess) -> None:
    with pytest.raises(ClusterError, match="did not answer a key query") as caught:
        asked(bad, lambda client: present(client, store, ["a"]))
    assert URL in caught.value.message
    assert caught.value.where == store.where


@BAD
def test_where_one_master_answers_an_error_the_next_one_is_asked(bad: Handler) -> None:
    leader = Holding("a")

    def masters(request: httpx.Request) -> httpx.Response:
        return bad(request) if str(request.url).startswith(STANDBY) else leader(request)

    assert asked(masters, lambda client: present(client, SEVERAL, ["a", "b"])) == {"a"}


def test_where_no_master_answers_all_are_named() -> None:
    with pytest.raises(ClusterError) as caught:
        asked(refused, lambda client: present(client, SEVERAL, ["a"]))
    assert STANDBY in caught.value.message
    assert URL in caught.value.message


def test_waiting_ends_when_all_keys_are_there() -> None:
    master = Holding("a", "b", appear_after=1)
    wait = asked(master, lambda client: wait_present(client, MOONCAKE, ["a", "b"], limit_s=20))
    assert wait == set()
    assert master.batches == [2, 2]


def test_waiting_ends_at_the_limit_with_the_keys_that_miss() -> None:
    wait = asked(Holding("a"), lambda client: wait_present(client, MOONCAKE, ["a", "b"], limit_s=0))
    assert wait == {"b"}


def test_pages_in_files_are_looked_for_on_the_disk(tmp_path: Path) -> None:
    store = StoreAccess("file", "files", where="store.path")
    (tmp_path / "there.bin").write_bytes(b"page")
    (tmp_path / "folder.bin").mkdir()
    keys = [str(tmp_path / f"{name}.bin") for name in ("there", "folder", "missing")]
    assert asked(refused, lambda client: present(client, store, keys)) == {keys[0]}


class Ranks:
    """A metadata server of 3FS: what each rank's file holds; it knows no other rank."""

    def __init__(self, *held: set[str]) -> None:
        self.held = held
        self.asked: list[str] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        assert request.method == "POST"
        self.asked.append(request.url.path)
        rank, route = request.url.path.strip("/").split("/")
        assert route == "exists"
        if int(rank) >= len(self.held):
            return httpx.Response(404, json={"detail": f"Rank {rank} not initialized"})
        keys = json.loads(request.content)["keys"]
        return httpx.Response(200, json={"exists": [key in self.held[int(rank)] for key in keys]})


def test_a_page_is_on_3fs_when_every_rank_has_its_part() -> None:
    server = Ranks({"a", "b", "c"}, {"a", "c"}, {"c", "b"})
    found = asked(server, lambda client: present(client, HF3FS, ["a", "b", "c", "d"], ranks=3))
    assert found == {"c"}
    assert server.asked == ["/0/exists", "/1/exists", "/2/exists"]


def test_a_page_that_all_ranks_share_is_asked_of_the_first_rank_only() -> None:
    server = Ranks({"a"})
    assert asked(server, lambda client: present(client, HF3FS, ["a", "b"])) == {"a"}
    assert server.asked == ["/0/exists"]


def test_a_rank_that_never_came_to_the_metadata_server_is_told() -> None:
    with pytest.raises(ClusterError, match="404"):
        asked(Ranks({"a"}), lambda client: present(client, HF3FS, ["a"], ranks=2))


def test_a_store_that_cannot_be_asked_says_so() -> None:
    store = StoreAccess("eic", "unknown", where="store.config")
    with pytest.raises(ClusterError, match="unknown") as caught:
        asked(refused, lambda client: present(client, store, ["a"]))
    assert caught.value.where == "store.config"
