"""Starts smg with the cluster's key, which must not stand on a command line.

    python -m pdcache.gateway.launch SMG_ARGUMENTS...

The key is in the file that `KEYS_ENV` names. smg takes it as ``--api-key``: clients must send it,
and smg sends it to workers when it registers them (smg 1.13.0).
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

    key = json.loads(Path(os.environ[KEYS_ENV]).read_text()).get("gateway")
    smg([*arguments, *(["--api-key", key] if key else [])])


if __name__ == "__main__":
    main(sys.argv[1:])
