"""What one fault did to a cluster under load, and the limits that it must keep."""

from __future__ import annotations

from dataclasses import dataclass, field

RECOVERY_LIMIT_S = 90.0
OUT_LIMIT_S = 2.0
TTFT_ABOVE_LIMIT_S = 2.0
REUSE_BACK_LIMIT_S = 30.0
REUSE = 0.99
"""Of the ceiling: what counts as finding all."""

WORKERS = ("prefill", "prefill's scheduler", "decode", "decode's scheduler")
STORE = ("master", "holder")
KINDS = (*WORKERS, *STORE, "gateway", "controller", "supervisor", "actor")
"""What is killed. A supervisor and an actor are those of a prefill."""

PROCESS = {
    "prefill": "prefill-0", "prefill's scheduler": "prefill-0", "supervisor": "prefill-0",
    "actor": "prefill-0", "decode": "decode-0", "decode's scheduler": "decode-0",
    "master": "store-master", "holder": "store-holder-0", "gateway": "gateway",
}  # fmt: skip

ERRORS = {"decode": 3, "decode's scheduler": 3, "gateway": 60}
"""Streams on a decode that is gone, one a session; and what three sessions ask again and again of
the one gateway while it is away, a second or two."""

HEAD = (
    "| process | fault | requests | errors | wrong answers | out of the gateway after "
    "| recovered and proved after | slowest request | TTFT above normal "
    "| hit/ceiling afterwards | reuse back after |\n" + "|---" * 11 + "|"
)


@dataclass
class Outcome:
    """What one fault did. Times are seconds after it; None where there is nothing to tell.

    Attributes:
        reuse_back_s: seconds after the store's return until every turn that follows in a running
            dialogue finds all before it.
        busy: what workers still hold when the load is over, by name.
        lost_connections: that schedulers keep to a decode that is gone.
    """

    kind: str
    how: str
    turns: int = 0
    errors: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    out_s: float | None = None
    recovered_s: float | None = None
    slowest_s: float = 0.0
    ttft_above_s: float | None = None
    reasons: list[str] = field(default_factory=list)
    reuse: float | None = None
    reuse_back_s: float | None = None
    busy: dict[str, str] = field(default_factory=dict)
    restarted: list[str] = field(default_factory=list)
    orphans: list[str] = field(default_factory=list)
    lost_connections: int = 0

    def row(self) -> str:
        """The outcome as a row of a table."""

        def shown(value: float | None, unit: str = " s") -> str:
            return "-" if value is None else f"{value:.1f}{unit}"

        reuse = "-" if self.reuse is None else f"{self.reuse:.3f}"
        cells = (
            self.kind, self.how, str(self.turns), str(len(self.errors)), str(len(self.wrong)),
            shown(self.out_s), shown(self.recovered_s), shown(self.slowest_s),
            shown(self.ttft_above_s), reuse, shown(self.reuse_back_s),
        )  # fmt: skip
        return f"| {' | '.join(cells)} |"

    def broken(self) -> list[str]:
        """The limits that were not kept, a line each."""
        found = [f"wrong answer: {one}" for one in self.wrong]
        found += [f"left over: {one}" for one in self.orphans]
        found += [f"{name} holds for nobody: {busy}" for name, busy in self.busy.items()]
        if self.kind.startswith("decode") and self.lost_connections:
            found.append(f"{self.lost_connections} connections are kept to what is gone")
        if len(self.errors) > ERRORS.get(self.kind, 0):
            found += [f"failed: {one}" for one in self.errors]
        hurt = {PROCESS.get(self.kind)}
        found += [f"{name} was not hurt and started again" for name in {*self.restarted} - hurt]
        limits = {"recovery": (self.recovered_s, RECOVERY_LIMIT_S)}
        if self.kind in WORKERS:
            limits["out of the gateway"] = (self.out_s, OUT_LIMIT_S)
        if self.kind in STORE:
            limits["TTFT above normal"] = (self.ttft_above_s, TTFT_ABOVE_LIMIT_S)
            limits["reuse back"] = (self.reuse_back_s, REUSE_BACK_LIMIT_S)
            found += [] if self.reasons else ["the fault was not told"]
        found += [
            f"{what}: {'never' if seen is None else f'{seen:.1f} s'}, limit {limit:.0f} s"
            for what, (seen, limit) in limits.items()
            if seen is None or seen > limit
        ]
        if self.reuse is None or self.reuse < REUSE:
            found.append(f"hit/ceiling afterwards: {self.reuse}")
        return found
