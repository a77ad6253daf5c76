"""The keys of a server against the installed SGLang's own check, each in a process of its own."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

import pytest

from pdcache.sglang import storage
from pdcache.sglang.keys import ADMIN_PATHS, Keys
from pdcache.sglang.keys_plugin import KEYS_ENV, PLACEHOLDER
from pdcache.sglang_cpu import pythonpath_folder, worker_environment

SGLANG = Path(find_spec("sglang").origin).parent
HTTP_SERVER = SGLANG / "srt" / "entrypoints" / "http_server.py"

# Prints the level of every path of SGLang's server, then what each question was answered.
ASK = """
import asyncio, json, os, sys
from pathlib import Path
from types import SimpleNamespace
import httpx
from fastapi import APIRouter, FastAPI, Request
from pdcache.sglang import keys_plugin
from sglang.srt.entrypoints import http_server
from sglang.srt.utils import auth

add = auth.add_api_key_middleware

def app_with(keys):
    Path(os.environ[keys_plugin.KEYS_ENV]).write_text(keys)
    auth.add_api_key_middleware = add
    keys_plugin.register()
    app = FastAPI()
    included = APIRouter()
    for path in ("/normal", "/health", "/freeze_gc", "/admin", "/included"):
        async def told(request: Request):
            return [request.headers.get("authorization"), request.headers["x-other"]]
        if path in ("/freeze_gc", "/admin", "/included"):
            told = auth.auth_level(auth.AuthLevel.ADMIN_OPTIONAL)(told)
        (included if path == "/included" else app).get(path)(told)
    app.include_router(included)
    auth.add_api_key_middleware(app, api_key=None, admin_api_key="in-the-keys-file")
    return app

async def ask(app, path, bearer, from_itself, starting):
    up = SimpleNamespace(server_status=http_server.ServerStatus.Up)
    http_server._global_state = None if starting else SimpleNamespace(tokenizer_manager=up)
    headers = {"X-Other": "kept"} | ({"Authorization": bearer} if bearer is not None else {})
    client = ("10.0.0.1" if from_itself else "10.0.0.2", 5000)
    transport = httpx.ASGITransport(app=app, client=client)
    async with httpx.AsyncClient(transport=transport, base_url="http://10.0.0.1:21000") as client:
        answer = await client.get(path, headers=headers)
    return [answer.status_code, answer.json()]

async def main():
    levels = {route.path: getattr(route.endpoint, "_auth_level", "normal")
              for route in http_server.app.routes if hasattr(route, "endpoint")}
    apps = {}
    found = []
    for keys, *question in json.loads(sys.argv[1]):
        if keys not in apps:
            apps[keys] = app_with(keys)
        found.append(await ask(apps[keys], *question))
    print(json.dumps([levels, found]))

asyncio.run(main())
"""
ADMIN, GATEWAY = "the-admin-key", "the-gateway-key"
BEARERS = {
    "no key": None,
    "admin": f"Bearer {ADMIN}",
    "gateway": f"Bearer {GATEWAY}",
    "placeholder": f"Bearer {PLACEHOLDER}",
    "empty": "Bearer ",
    "without a scheme": ADMIN,
}
BOTH, ADMIN_ALONE = Keys(ADMIN, GATEWAY), Keys(ADMIN)
PATHS = ("/normal", "/health", "/freeze_gc", "/admin", "/included")
QUESTIONS = [
    (keys, path, key, from_itself, starting)
    for keys in (BOTH, ADMIN_ALONE)
    for path in PATHS
    for key in BEARERS
    for from_itself, starting in ((False, False), (False, True), (True, False), (True, True))
]


def run(code, *words, keys_file):
    return subprocess.run(
        [sys.executable, "-c", code, *words],
        env={
            **os.environ, **worker_environment(), KEYS_ENV: str(keys_file),
            "PYTHONPATH": str(pythonpath_folder()),
        },
        cwd="/", capture_output=True, text=True, timeout=300,
    )  # fmt: skip


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """The levels of SGLang's paths, and the answer to each of `QUESTIONS`."""
    questions = [(keys.text(), path, BEARERS[key], *rest) for keys, path, key, *rest in QUESTIONS]
    done = run(ASK, json.dumps(questions), keys_file=tmp_path_factory.mktemp("keys") / "keys.json")
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def answers(told):
    return dict(zip(QUESTIONS, told[1], strict=True))


def let_in(answers, keys, *, from_itself, starting):
    """Who gets in where."""
    return {
        (path, key)
        for (own, path, key, *rest), (code, _) in answers.items()
        if (own, *rest) == (keys, from_itself, starting) and code == 200
    }


EVERYBODY = {("/health", key) for key in BEARERS}
ADMIN_ONLY = {("/admin", "admin"), ("/included", "admin"), ("/freeze_gc", "admin")}


ANYBODY = {("/normal", key) for key in BEARERS}


@pytest.mark.parametrize("starting", [False, True])
def test_with_both_keys_each_opens_what_it_is_for_and_nothing_else(answers, starting):
    found = let_in(answers, BOTH, from_itself=False, starting=starting)
    assert found == EVERYBODY | ADMIN_ONLY | {("/normal", "gateway")}


@pytest.mark.parametrize("starting", [False, True])
def test_without_a_gateway_key_requests_are_open_and_the_administration_is_not(answers, starting):
    found = let_in(answers, ADMIN_ALONE, from_itself=False, starting=starting)
    assert found == EVERYBODY | ADMIN_ONLY | ANYBODY


FREEZE = {("/freeze_gc", key) for key in BEARERS}


def test_a_server_asks_itself_without_a_key_while_it_starts(answers):
    found = let_in(answers, BOTH, from_itself=True, starting=True)
    assert found - {("/admin", "admin")} == EVERYBODY | ANYBODY | FREEZE


def test_a_server_that_serves_lets_in_its_own_freeze_gc_alone(answers):
    found = let_in(answers, BOTH, from_itself=True, starting=False)
    assert found == EVERYBODY | FREEZE | ADMIN_ONLY | {("/normal", "gateway")}
    alone = let_in(answers, ADMIN_ALONE, from_itself=True, starting=False)
    assert alone == EVERYBODY | FREEZE | ANYBODY | ADMIN_ONLY


def test_sglang_never_sees_a_key_and_sees_all_other_headers(answers):
    bodies = [body for code, body in answers.values() if code == 200]
    assert len(bodies) > 50
    assert all(body == [None, "kept"] for body in bodies)


def test_who_is_refused_is_told_nothing(answers):
    refusals = [body for code, body in answers.values() if code != 200]
    assert len(refusals) > 50
    assert all(body == {"error": "Unauthorized"} for body in refusals)


@pytest.mark.parametrize(
    "text", [None, "", "{", "[]", "{}", '{"gateway": "only-this-one"}', "\udcff"]
)
def test_a_server_without_proper_keys_does_not_start_at_all(tmp_path, text):
    keys_file = tmp_path / "keys.json"
    if text is not None:
        keys_file.write_bytes(os.fsencode(text))
    code = "from pdcache.sglang.keys_plugin import register; register(); print('goes on')"
    done = run(code, keys_file=keys_file)
    assert done.returncode == 1
    assert "goes on" not in done.stdout
    assert f"pdcache: no keys for this server: {keys_file}" in done.stderr
    assert "only-this-one" not in done.stderr


def test_sglang_does_not_swallow_what_ends_a_server_without_keys(tmp_path):
    code = "from sglang.srt.plugins import load_plugins; load_plugins(); print('goes on')"
    done = run(code, keys_file=tmp_path / "none")
    assert done.returncode == 1, done.stdout
    assert "goes on" not in done.stdout
    assert "pdcache: no keys for this server" in done.stderr


def test_without_a_file_the_plugin_does_nothing(monkeypatch):
    monkeypatch.delenv(KEYS_ENV, raising=False)
    code = "import sys; from pdcache.sglang.keys_plugin import register; register();" \
           " print([name for name in sys.modules if name.startswith('sglang')])"  # fmt: skip
    done = run(code, keys_file="")
    assert (done.returncode, done.stdout.strip()) == (0, "[]")


def test_the_plugin_is_where_sglang_looks_for_it():
    (own,) = [found for found in entry_points(group="sglang.srt.plugins")
              if found.name == "pdcache_keys"]  # fmt: skip
    assert own.value == "pdcache.sglang.keys_plugin:register"


def test_sglang_takes_its_check_from_the_place_that_is_replaced_and_only_when_it_serves():
    """Inside a function: an import at the top would bind the check before the plugin runs."""
    tree = ast.parse(HTTP_SERVER.read_text())
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)
               and any(name.name == "add_api_key_middleware" for name in node.names)]  # fmt: skip
    assert [node.module for node in imports] == ["sglang.srt.utils.auth"]
    assert not any(node in tree.body for node in imports)


def test_the_admin_key_goes_where_sglang_asks_for_it_and_nowhere_else(told):
    levels = told[0]
    assert len(levels) > 50
    for prefix in ADMIN_PATHS:
        own = {level for path, level in levels.items() if path.startswith(prefix)}
        assert own == {"admin_optional"}, prefix
    assert levels[storage.PATH] == "admin_optional"
    for path in ("/generate", "/health", "/health_generate", "/v1/chat/completions"):
        assert levels[path] == "normal", path
    # FastAPI keeps the routes of an included router to itself: SGLang then takes them for normal.
    assert levels.get("/v1/loads", "normal") == "normal"
