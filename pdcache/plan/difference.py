"""What differs between two portable plans, line by line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Difference:
    """One place that differs; ``before`` or ``after`` is None where it is on one side only."""

    process: str
    what: str
    before: str | None
    after: str | None

    def as_json(self) -> dict[str, Any]:
        """The difference as data."""
        return asdict(self)

    def __str__(self) -> str:
        sides = [
            f"{sign} {self.what}{f' {value}' if value else ''}"
            for sign, value in (("-", self.before), ("+", self.after))
            if value is not None
        ]
        return "\n".join(sides)


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Difference]:
    """All differences between two results of `pdcache.plan.portable.portable`."""
    found: list[Difference] = []
    for process in dict.fromkeys([*before, *after]):
        old, new = before.get(process), after.get(process)
        if old is None or new is None:
            there = "a process"
            found.append(
                Difference(process, there, None if old is None else "", None if new is None else "")
            )
            continue
        if old["command"] != new["command"]:
            found.append(Difference(process, "command", old["command"], new["command"]))
        for part, prefix in (("flags", ""), ("env", ""), ("files", "file ")):
            for key in dict.fromkeys([*old[part], *new[part]]):
                one, other = old[part].get(key), new[part].get(key)
                if one != other:
                    found.append(Difference(process, f"{prefix}{key}", one, other))
    return found
