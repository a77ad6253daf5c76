"""The key of a gateway: from the file that the topology names, or made there."""

from __future__ import annotations

import secrets
import stat
from pathlib import Path

from pdcache.cluster.record import write_secret
from pdcache.errors import TopologyError
from pdcache.topology.schema import Topology

SHORTEST = 16


def gateway_key(topology: Topology) -> str | None:
    """The key that clients must send, or None when the topology wants none.

    Raises:
        TopologyError: others can read the file, or it holds no proper key.
    """
    if topology.gateway.key_file is None:
        return None
    path = Path(topology.gateway.key_file)
    try:
        path = path.expanduser()
        if not path.exists():
            write_secret(path, secrets.token_urlsafe(32) + "\n")
        text, mode = path.read_text().strip(), path.stat().st_mode
    except (OSError, UnicodeDecodeError, RuntimeError) as error:
        raise TopologyError(f"cannot read {path}: {error}.", where="gateway.key_file") from None
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise TopologyError(
            f"others can read {path}.", where="gateway.key_file", remedy=f"chmod 600 {path}"
        )
    if len(text) < SHORTEST or not text.isascii() or not text.isprintable() or " " in text:
        raise TopologyError(
            f"{path} holds no key.",
            where="gateway.key_file",
            remedy=f"Put one word of at least {SHORTEST} letters and digits there, or delete the "
            "file to have one made.",
        )
    return text
