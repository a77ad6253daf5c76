"""docs/cli.md: the help of every command."""

from __future__ import annotations

from typing import Any

import typer.main
from rich.text import Text

from pages.markdown import GENERATED
from pdcache.cli.main import app

WIDTH = 100


def cli_page() -> str:
    """The help of every command, plain and of one width whatever the terminal."""
    group: Any = typer.main.get_command(app)
    parts = [
        GENERATED,
        "# The command line\n",
        "Exit code 0: done. 1: the input or the cluster is at fault, and the message says how to "
        "mend it. 2: wrong usage. 130: interrupted. Results go to stdout, progress and errors to "
        "stderr.\n",
        _help(group, None, "pdcache"),
    ]
    top = group.context_class(group, info_name="pdcache")
    for name, command in group.commands.items():
        parts += _pages(command, top, name, "##")
    return "\n".join(parts)


def _pages(command: Any, parent: Any, name: str, heading: str) -> list[str]:
    """The help of a command and of those below it."""
    context = command.context_class(command, info_name=name, parent=parent)
    parts = [f"{heading} `{context.command_path}`\n", _help(command, parent, name)]
    for own, below in getattr(command, "commands", {}).items():
        parts += _pages(below, context, own, f"{heading}#")
    return parts


def _help(command: Any, parent: Any, name: str) -> str:
    # Without rich the text depends on neither the terminal nor its variables.
    command.rich_markup_mode = None
    if command.epilog:
        command.epilog = Text.from_markup(command.epilog).plain
    context = command.context_class(
        command, info_name=name, parent=parent, terminal_width=WIDTH, max_content_width=WIDTH
    )
    lines = [line.rstrip() for line in command.get_help(context).splitlines()]
    return "\n".join(["```text", *lines, "```\n"])
