"""Pieces of a page, and the page that holds all it needs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from html import escape
from importlib.resources import files

# No request leaves the page, whatever a name in the data says.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"


def page(title: str, body: str) -> str:
    """A whole page: style and script are inside."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_asset('report.css')}</style></head>\n"
        f'<body><main>{body}</main><div id="tip" role="status"></div>'
        f"<script>{_asset('report.js')}</script></body></html>\n"
    )


def card(value: str, name: str, note: str = "") -> str:
    """One number, what it is, and a word on it."""
    more = f"<br>{escape(note)}" if note else ""
    return f'<div class="card"><b>{escape(value)}</b><span>{escape(name)}{more}</span></div>'


def figure(
    title: str, about: str, drawing: str, legend: Sequence[tuple[str, str]] = (), *,
    wide: bool = False,
) -> str:  # fmt: skip
    """A chart with its title, what to read in it, and its colours as (class, label)."""
    keys = "".join(f'<li><i class="{css}"></i>{escape(label)}</li>' for css, label in legend)
    return (
        f"<figure{' class=wide' if wide else ''}><h2>{escape(title)}</h2>"
        f"<figcaption>{escape(about)}</figcaption>"
        + (f'<ul class="legend">{keys}</ul>' if keys else "")
        + f'<div class="scroll">{drawing}</div></figure>'
    )


def section(title: str, content: str, about: str = "") -> str:
    """A block over the whole width."""
    told = f'<p class="about">{escape(about)}</p>' if about else ""
    return f'<section class="wide"><h2>{escape(title)}</h2>{told}{content}</section>'


def details(summary: str, content: str) -> str:
    """A block that opens on demand."""
    return f"<details><summary>{escape(summary)}</summary>{content}</details>"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], css: str = "") -> str:
    """A table of texts; without a head it is one of names and values."""
    top = "".join(f"<th scope=col>{escape(text)}</th>" for text in head)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(text)}</td>" for text in row) + "</tr>" for row in rows
    )
    return (
        f'<div class="scroll"><table class="{css}">'
        + (f"<thead><tr>{top}</tr></thead>" if head else "")
        + f"<tbody>{body}</tbody></table></div>"
    )


@cache
def _asset(name: str) -> str:
    return (files("pdcache.reports") / "assets" / name).read_text(encoding="utf-8")
