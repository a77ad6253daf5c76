"""Program: Ray's head on this machine, with no more than actors need.

    python -m pdcache.cluster.ray_head PORT TEMP_FOLDER

`ray start` of ray 2.60 also starts the server of Ray Client and a dashboard that loads nothing but
usage statistics, waits for it, and has no flag against either: two Python programs, and half of the
three seconds that it takes. A log monitor and the autoscaler are left out too.
"""

from __future__ import annotations

import logging
import sys
import time
from typing import Any

from ray._private.node import Node
from ray._private.parameter import RayParams
from ray._private.services import resolve_ip_for_localhost

from pdcache.cluster.head import STARTED

OBJECT_STORE_BYTES = 80_000_000
LOOK_S = 0.5


class Head(Node):  # type: ignore[misc]
    """A head node without Ray's dashboard."""

    def start_api_server(self, **_: Any) -> None:
        """Called by `Node.start_head_processes`, whatever its parameters say."""


def main() -> None:
    """Run Ray until it is told to end (SIGTERM), or one of its processes has ended."""
    logging.basicConfig(level=logging.WARNING)
    port, temp_folder = int(sys.argv[1]), sys.argv[2]
    node = Head(
        RayParams(
            # Who connects to 127.0.0.1 is sent there by Ray itself.
            node_ip_address=resolve_ip_for_localhost("127.0.0.1"), gcs_server_port=port,
            temp_dir=temp_folder, object_store_memory=OBJECT_STORE_BYTES, resources={},
            include_dashboard=False,
            # It reads all logs again and again, to send them to drivers that do not ask for them.
            include_log_monitor=False,
            # Ray's autoscaler, a process of its own that has nothing to scale here.
            no_monitor=True,
        ),
        head=True, shutdown_at_exit=True, spawn_reaper=True,
    )  # fmt: skip
    print(STARTED, flush=True)
    while not (ended := node.dead_processes()):
        time.sleep(LOOK_S)
    names = ", ".join(f"{kind} ({process.returncode})" for kind, process in ended)
    sys.exit(f"ended by itself: {names}; see {temp_folder}")


if __name__ == "__main__":
    main()
