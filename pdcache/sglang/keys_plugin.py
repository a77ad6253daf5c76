"""SGLang plugin (entry-point group ``sglang.srt.plugins``): the keys of a server, from a file.

On SGLang's command line keys would show in its log, in ``/server_info`` and in the process list.
It is active only where `KEYS_ENV` names a file, and imports nothing that a server has not got.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from pdcache.sglang.first_event import StatusOfFirstEvent
from pdcache.sglang.served_by import NamesPrefill, noting

KEYS_ENV = "PDCACHE_KEYS_FILE"
"""Names the file in the environment of a worker and of the gateway."""

PLACEHOLDER = "in-the-keys-file"
"""What a worker gets as ``--admin-api-key``: SGLang wants one to be set, and nobody may use it."""


def register() -> None:
    """Have SGLang's own middleware check the keys of the file (sglang 0.5.23 ``utils/auth.py``).

    Raises:
        SystemExit: the file cannot be read, or SGLang is another version. SGLang swallows other
            exceptions of a plugin, and would go on without a key.
    """
    path = os.environ.get(KEYS_ENV)
    if not path:
        return
    try:
        keys = json.loads(Path(path).read_text())
        admin, gateway = keys["admin"], keys.get("gateway")
        if not (isinstance(admin, str) and admin):
            raise ValueError("it holds no admin key")
        if gateway is not None and not (isinstance(gateway, str) and gateway):
            raise ValueError("its gateway key is no text, or an empty one")
        from sglang.srt.utils import auth

        add = auth.add_api_key_middleware
    except Exception as error:
        raise SystemExit(f"pdcache: no keys for this server: {path}: {error!r}") from error

    def with_keys_of_the_file(app: Any, **unused: object) -> None:
        from sglang.srt.managers.tokenizer_manager import TokenizerManager

        TokenizerManager.generate_request = noting(TokenizerManager.generate_request)
        show_included_routes(app)
        app.add_middleware(StatusOfFirstEvent)
        app.add_middleware(NamesPrefill)
        app.add_middleware(WithoutAuthorization)
        add(app, api_key=gateway, admin_api_key=admin)
        app.add_middleware(OwnRequests, admin=admin, gateway=gateway)

    auth.add_api_key_middleware = with_keys_of_the_file


def show_included_routes(app: Any) -> None:
    """Put the routes of included routers where SGLang's check looks for them.

    FastAPI from 0.165 on keeps such a router as one entry, and SGLang 0.5.23 takes a path that it
    does not find among the routes (``/scale_elastic_ep``) for one that is open to everybody.
    """
    app.router.routes[:] = [
        own
        for route in app.router.routes
        for own in getattr(getattr(route, "original_router", None), "routes", [route])
    ]


class WithoutAuthorization:
    """Behind the check: SGLang never sees what a client sent as its key."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass a request on without the header."""
        if scope["type"] == "http":
            scope = {**scope, "headers": _without_authorization(scope)}
        await self._app(scope, receive, send)


class OwnRequests:
    """Before the check: a server's own requests to itself pass, which carry no key.

    Warm-up comes before the server serves anybody; ``/freeze_gc`` changes nothing that others see.
    """

    def __init__(self, app: Any, admin: str, gateway: str | None) -> None:
        self._app, self._admin, self._gateway = app, admin, gateway

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass a request on, with the right key if it is one of its own."""
        if scope["type"] == "http" and _from_itself(scope):
            freeze = scope["path"] == "/freeze_gc"
            key = self._admin if freeze else self._gateway
            if key and (freeze or _is_starting()):
                bearer = (b"authorization", f"Bearer {key}".encode())
                scope = {**scope, "headers": [*_without_authorization(scope), bearer]}
        await self._app(scope, receive, send)


def _without_authorization(scope: Any) -> list[tuple[bytes, bytes]]:
    return [(name, value) for name, value in scope["headers"] if name != b"authorization"]


def _from_itself(scope: Any) -> bool:
    client, server = scope.get("client"), scope.get("server")
    return bool(client and server) and client[0] == server[0]


def _is_starting() -> bool:
    from sglang.srt.entrypoints import http_server

    state = http_server._global_state
    return state is None or state.tokenizer_manager.server_status is (
        http_server.ServerStatus.Starting
    )
