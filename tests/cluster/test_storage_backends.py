"""Storage backends, each on a real cluster from a lock file; `make matrix` proves all of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cluster_tools import SMALL, Shell, cluster, free_port


@pytest.mark.parametrize(
    ("topology", "folder_key", "sets"),
    [
        pytest.param(
            "file_backend", "store.path",
            ["hicache.layout=page_head", "hicache.io_backend=kernel"], id="file",
        ),
        pytest.param("hf3fs_mock", "store.path", [], id="hf3fs"),
        pytest.param("mooncake_ssd", "store.ssd.path", [], id="mooncake with SSD",
                     marks=pytest.mark.soak),
        pytest.param(
            "custom_backend", "store.extra.folder",
            ["hicache.layout=page_first", "hicache.io_backend=kernel"], id="dynamic, generic",
            marks=pytest.mark.soak,
        ),
        pytest.param(
            "custom_backend", "store.extra.folder",
            ["store.class_name=PageFilesInPlace", "store.interface_v1=true",
             "hicache.layout=layer_first"], id="dynamic, interface_v1",
        ),
    ],
)  # fmt: skip
def test_decode_writes_what_prefill_reads_with_the_same_tokens(
    topology: str, folder_key: str, sets: list[str], tmp_path: Path
) -> None:
    shell = Shell(tmp_path / "home")
    pages = tmp_path / "pages"
    own = [f"gateway.port={free_port()}", f"{folder_key}={pages}", *sets]
    words = [word for one in own for word in ("--set", one)]
    lock = str(tmp_path / "cluster.lock")
    shell.ok("plan", f"topologies/{topology}.yaml", *SMALL, *words, "--lock", lock)
    with cluster(shell, "--locked", lock) as up:
        assert up["state"] == "UP"
        canaries = {canary["name"]: canary for canary in up["proof"]["canaries"]}
        assert set(canaries) == {
            "same prompt after a flush",
            "short answer on a hot prompt",
            "prompt and answer after a flush",
        }
        for canary in canaries.values():
            assert canary["tokens_equal"] and canary["proved"]
            assert canary["cached_tokens"]["storage"] >= canary["expected_storage_tokens"] > 0
        assert pages.is_dir()
        if topology != "mooncake_ssd":  # only what leaves memory goes to disk
            assert any(path.is_file() for path in pages.rglob("*"))
