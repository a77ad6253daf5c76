"""Starts smg with the cluster's key, which must not stand on a command line.

    python -m pdcache.gateway.launch SMG_ARGUMENTS...

The keys are in the file that `KEYS_ENV` names. smg 1.13.0 takes the gateway's as ``--api-key``:
clients must send it, and smg sends it to workers when it registers them. The admin key alone opens
what changes smg: its workers, tokenizers and modules.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from pdcache.sglang.keys_plugin import KEYS_ENV


def main(arguments: list[str]) -> None:
    """Run smg in this process."""
    from smg.cli import main as smg

    keys = json.loads(Path(os.environ[KEYS_ENV]).read_text())
    words = ["--control-plane-api-keys", f"pdcache:pdcache:admin:{keys['admin']}"]
    if keys.get("gateway"):
        words += ["--api-key", keys["gateway"]]
    smg([*arguments, *words])


if __name__ == "__main__":
    main(sys.argv[1:])
