"""Write the pages of `docs/` that follow from the code: topology.md, rules.md, cli.md.

python scripts/docs.py            write them
python scripts/docs.py --check    write nothing; exit 1 and name the pages that would change
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from pages.backends import backends_page
from pages.cli import cli_page
from pages.rules import rules_page
from pages.settings import settings_page
from pages.topology import topology_page

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGES: dict[str, Callable[[], str]] = {
    "topology.md": topology_page,
    "backends.md": backends_page,
    "rules.md": rules_page,
    "settings.md": settings_page,
    "cli.md": cli_page,
}


def main(arguments: list[str], docs: Path = DOCS) -> int:
    """Write or check the pages; returns the exit code."""
    if arguments not in ([], ["--check"]):
        sys.stderr.write(f"{__doc__}")
        return 2
    stale = []
    for name, page in PAGES.items():
        path, text = docs / name, page()
        if path.is_file() and path.read_text() == text:
            continue
        stale.append(name)
        if not arguments:
            path.write_text(text)
    if arguments and stale:
        sys.stderr.write(f"docs: {', '.join(stale)} differ from the code: python scripts/docs.py\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
