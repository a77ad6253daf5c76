"""`report.html`: one page that a person reads, without network."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

import yaml

from pdcache.reports.goodput import Slo
from pdcache.reports.html import card, details, figure, page, section, table
from pdcache.reports.plots import TIER_NAMES, distribution, promises, reuse_by_turn, ttft_by_turn
from pdcache.reports.plots_of_time import timeline
from pdcache.reports.report import TIERS, Report
from pdcache.reports.run_folder import RunFolder
from pdcache.reports.waterfall import waterfall
from pdcache.reports.words import duration, headline, percent, tokens


def report_page(run: RunFolder, report: Report, title: str) -> str:
    """The page of one run; `report` is what `build_report` made of it."""
    slo = report["goodput"].get("slo")
    known = Slo(slo["ttft_s"], slo["tpot_s"]) if slo else None
    body = _head(report, title) + f'<div class="cards">{_cards(report)}</div>'
    body += f'<div class="grid">{_charts(run, report, known)}</div>'
    return page(f"{title} · pdcache replay", body)


def _head(report: Report, title: str) -> str:
    requests = report["requests"]
    facts = [
        report["mode"], f"pages of {report['page_size']} tokens", report["target"],
        f"{requests['completed']} requests in {duration(report['wall_s'])}", report["started_at"],
    ]  # fmt: skip
    alerts = []
    if not report["complete"]:
        alerts.append("The replay was cut short: what follows is of the requests until then.")
    if report["errors"]:
        kinds = ", ".join(f"{kind} {count}" for kind, count in report["error_kinds"].items())
        alerts.append(f"Failed requests: {report['errors']} ({kinds}).")
    return (
        f"<header><h1>{escape(title)}</h1>"
        f"<p>{escape(' · '.join(fact for fact in facts if fact))}</p></header>"
        f'<p class="headline">{escape(headline(report))}</p>'
        + "".join(f'<p class="alert" role="note">{escape(text)}</p>' for text in alerts)
    )


def _cards(report: Report) -> str:
    total, good = report["total"], report["goodput"]
    first = report["turns"][0] if report["turns"] else None
    against = (
        f"turn {first['turn']}: {duration(first['ttft_s']['p50'])}"
        if first and first["turn"] == 1
        else ""
    )
    cards = [
        card(percent(total["hit_over_ceiling"]), "hit / ceiling, turns from 2", "of this mode"),
        card(percent(total["hit_over_prompt"]), "of prompt tokens reused", "turns from 2"),
        card(duration(total["ttft_s"]["p50"]), "TTFT p50, turns from 2", against),
        card(duration(total["tpot_s"]["p50"]), "TPOT p50, turns from 2"),
        card(f"{good['output_tokens_per_s']:.1f}", "output tokens a second"),
    ]
    if "slo" in good:
        each = f"{good['requests_per_s_meeting_slo']:.2f} requests a second"
        cards.append(card(percent(good["share_meeting_slo"]), "met the SLO", each))
    cards.append(card(str(report["errors"]), "failed requests"))
    return "".join(cards)


def _charts(run: RunFolder, report: Report, slo: Slo | None) -> str:
    done = [record for record in run.measured if record.error is None]
    tiers = [(tier, TIER_NAMES[tier]) for tier in TIERS]
    parts = []
    if done:
        parts += [
            figure(
                "Reuse by turn", "Prompt tokens a request, and the tier that held their KV.",
                reuse_by_turn(report),
                [*tiers, ("prompt", "computed anew"), ("mark", "ceiling of this mode")],
            ),
            figure(
                "Time to first token by turn", "Seconds from sending to the first token.",
                ttft_by_turn(report), [("p50", "p50"), ("p95", "p95")],
            ),
            figure(
                "Where the hits went",
                "From what the dialogues offered to what was served: prompt tokens of all turns. "
                "Grey: given up by design. Red: lost below the ceiling.",
                waterfall(report), wide=True,
            ),
            f'<div class="thirds">{_distributions(run, slo)}{_promises(run, slo)}</div>',
        ]  # fmt: skip
    over_time = timeline(run)
    if over_time:
        about = "Sampled from the workers' metrics. Red areas: the store did not answer."
        parts.append(figure("Timeline", about, over_time, wide=True))
    parts += [_capacity(report), _turns(report), _errors(report), _environment(run)]
    return "".join(parts)


def _distributions(run: RunFolder, slo: Slo | None) -> str:
    done = [record for record in run.measured if record.error is None]
    groups = [
        ("first turns", "first", [record for record in done if record.turn == 1]),
        ("turns from 2", "p50", [record for record in done if record.turn >= 2]),
    ]
    ttft = [(label, css, _known(r.ttft_s for r in of)) for label, css, of in groups]
    tpot = [(label, css, _known(r.tpot_s for r in of)) for label, css, of in groups]
    legend = [("first", "first turns"), ("p50", "turns from 2")]
    return figure(
        "Time to first token", "Share of requests that had it within so long.",
        distribution("ttft-spread", "TTFT", ttft, slo.ttft_s if slo else None), legend,
    ) + figure(
        "Time per output token", "A request's mean time a token after the first.",
        distribution("tpot-spread", "TPOT", tpot, slo.tpot_s if slo else None), legend,
    )  # fmt: skip


def _known(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _promises(run: RunFolder, slo: Slo | None) -> str:
    if slo is None:
        return ""
    return figure(
        "Goodput", "Each request; the shaded area keeps both promises.",
        promises(run.measured, slo), [("met", "meets the SLO"), ("missed", "does not")],
    )  # fmt: skip


def _capacity(report: Report) -> str:
    names = {"device": "L1", "host": "L1 + L2", "storage": "L1 + L2 + L3"}
    rows = [
        [
            names[tier], tokens(row["capacity_tokens"]), tokens(row["lru_tokens"]),
            tokens(row["belady_tokens"]),
        ]
        for tier, row in report["capacity"].items()
        if row is not None
    ]  # fmt: skip
    if not rows:
        return ""
    ceiling = tokens(report["losses"]["ceiling_tokens"])
    about = (
        "Prompt tokens that one cache shared by all workers could have served. "
        f"Without limit it would serve {ceiling}."
    )
    head = ["tiers", "hold", "served by LRU", "served at best (Belady)"]
    return section("What caches of this size could serve", table(head, rows), about)


def _turns(report: Report) -> str:
    rows = [*[(str(turn["turn"]), turn) for turn in report["turns"]], ("2+", report["total"])]
    head = [
        "turn", "done", "failed", "prompt", "L1", "L2", "L3", "ceiling", "hit / ceiling",
        "TTFT p50", "p95", "p99", "TPOT p50", "p95", "send lag p99",
    ]  # fmt: skip
    body = [
        [
            name, str(row["requests"]), str(row["errors"]), f"{row['prompt_tokens']:,}",
            *(f"{row['cached_tokens'][tier]:,}" for tier in TIERS), f"{row['ceiling_tokens']:,}",
            percent(row["hit_over_ceiling"]),
            *(duration(row["ttft_s"][p]) for p in ("p50", "p95", "p99")),
            *(duration(row["tpot_s"][p]) for p in ("p50", "p95")),
            duration(row["send_lag_s"]["p99"]),
        ]
        for name, row in rows
    ]  # fmt: skip
    return section("All numbers by turn", table(head, body), "Tokens are sums over requests.")


def _errors(report: Report) -> str:
    if not report["error_kinds"]:
        return ""
    rows = [[kind, str(count)] for kind, count in report["error_kinds"].items()]
    return section("Errors", table(["kind", "requests"], rows))


def _environment(run: RunFolder) -> str:
    environment = run.environment
    capacity = environment.capacity
    facts = [
        ("target", environment.target),
        ("started", environment.started_at or "-"),
        ("prefill workers", str(environment.prefills)),
        ("prefetch threshold", _tokens(environment.prefetch_threshold)),
        ("L1 and L2 a prefill worker", f"{_tokens(capacity.device)}, {_tokens(capacity.host)}"),
        ("L3", _tokens(capacity.storage)),
        *((f"argument {name}", _shown(value)) for name, value in environment.spec.items()),
        *((f"version of {name}", str(value)) for name, value in environment.versions.items()),
    ]
    content = table([], facts, "text")
    if environment.topology is not None:
        text = yaml.safe_dump(dict(environment.topology), sort_keys=False, allow_unicode=True)
        content += details("topology", f'<pre class="scroll">{escape(text)}</pre>')
    for process in (environment.plan or {}).get("processes", []):
        content += details(str(process.get("name", "process")), _process(process))
    return section("Environment and plan", content)


def _process(process: Mapping[str, Any]) -> str:
    argv = shlex.join(map(str, process.get("argv", [])))
    given = process.get("env", {}).items()
    env = " ".join(f"{name}={shlex.quote(str(value))}" for name, value in given)
    lines = filter(None, (env, argv))
    return "".join(f'<p class="scroll"><code>{escape(words)}</code></p>' for words in lines)


def _tokens(count: int | None) -> str:
    return "unknown" if count is None else f"{count:,} tokens"


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
