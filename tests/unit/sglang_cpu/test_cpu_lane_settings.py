from __future__ import annotations

import subprocess
import sys

import pytest

from pdcache.sglang_cpu import HOST_RESERVE_ENV, pythonpath_folder, worker_environment
from pdcache.sglang_cpu.pinning import host_reserve_bytes
from pdcache.sglang_cpu.plugin import register
from pdcache.sglang_cpu.targets import MissingTarget, Target


def test_no_host_reserve_is_kept_unless_asked_for(monkeypatch):
    monkeypatch.delenv(HOST_RESERVE_ENV, raising=False)
    assert host_reserve_bytes() == 0


def test_the_host_reserve_is_read_in_bytes(monkeypatch):
    monkeypatch.setenv(HOST_RESERVE_ENV, "123456789")
    assert host_reserve_bytes() == 123456789


@pytest.mark.parametrize("text", ["10GB", "-1", "1.5", "", "²"])
def test_a_host_reserve_that_is_not_bytes_is_refused_by_name(monkeypatch, text):
    monkeypatch.setenv(HOST_RESERVE_ENV, text)
    with pytest.raises(ValueError, match=HOST_RESERVE_ENV):
        host_reserve_bytes()


def test_a_worker_runs_one_thread_and_stays_offline():
    environment = worker_environment()
    assert environment["OMP_NUM_THREADS"] == "1"
    assert environment["SGLANG_USE_CPU_ENGINE"] == "1"
    assert environment["HF_HUB_OFFLINE"] == "1"
    assert "PYTHONPATH" not in environment


def test_each_environment_is_the_callers_own():
    worker_environment()["OMP_NUM_THREADS"] = "8"
    assert worker_environment()["OMP_NUM_THREADS"] == "1"


def test_the_pythonpath_folder_holds_the_stand_in_and_the_entry_point():
    folder = pythonpath_folder()
    assert (folder / "sgl_kernel" / "__init__.py").is_file()
    assert len(list(folder.glob("*.dist-info/entry_points.txt"))) == 1


def test_importing_the_package_imports_neither_torch_nor_sglang():
    code = "import sys, pdcache.sglang_cpu; print({'torch', 'sglang'} & set(sys.modules))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "set()"


def test_a_target_is_read_and_replaced_where_it_is(monkeypatch):
    monkeypatch.setattr("json.decoder.JSONDecoder.decode", "original")
    target = Target("json.decoder", "JSONDecoder", "decode")
    assert target.get() == "original"
    target.set("replacement")
    assert target.get() == "replacement"


@pytest.mark.parametrize(
    "target",
    [
        Target("json.no_such_module", "name"),
        Target("json", "no_such_name"),
        Target("json", "JSONDecoder", "no_such_method"),
    ],
    ids=str,
)
def test_a_target_that_moved_is_named_and_not_created(target):
    with pytest.raises(MissingTarget, match=str(target)):
        target.set("anything")


def test_a_target_that_moved_ends_the_process_with_both_versions(monkeypatch):
    monkeypatch.setattr("pdcache.sglang_cpu.plugin.IS_CPU", Target("json", "is_cpu_was_renamed"))
    with pytest.raises(SystemExit) as ended:
        register()
    message = str(ended.value)
    assert "json.is_cpu_was_renamed does not exist" in message
    assert "0.5.23" in message
