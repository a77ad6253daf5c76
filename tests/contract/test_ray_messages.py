"""What Ray tells of its nodes does not stand among a command's results."""

from __future__ import annotations

import subprocess
import sys

import pytest

TELL = """
import sys
from ray._private import worker
from pdcache.cluster.head import messages_to_stderr

if sys.argv[1] == "ours":
    messages_to_stderr()
    messages_to_stderr()
said = {"lines": ["a node died"], "pid": "raylet", "is_err": False}
worker.print_to_stdstream(said, ignore_prefix=False)
"""


@pytest.mark.parametrize("ours", [True, False])
def test_a_message_of_ray_goes_to_stderr(ours: bool) -> None:
    """Without our hand it goes to stdout: then Ray has no need of it any more, or changed."""
    done = subprocess.run(
        [sys.executable, "-c", TELL, "ours" if ours else "rays"],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert ("a node died" in done.stderr) is ours
    assert ("a node died" in done.stdout) is not ours
