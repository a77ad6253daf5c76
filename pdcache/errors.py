"""The one error hierarchy: what is wrong, where, and how to mend it."""

from __future__ import annotations


class PdcacheError(Exception):
    """Base of every error a user may see.

    Args:
        message: what is wrong, in one sentence.
        where: the place: a path in the YAML, a worker's name, an address.
        remedy: how to mend it.
        log_tail: last lines of the guilty process's log, when there is one.
    """

    def __init__(
        self,
        message: str,
        *,
        where: str | None = None,
        remedy: str | None = None,
        log_tail: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.remedy = remedy
        self.log_tail = log_tail

    def __str__(self) -> str:
        text = f"{self.where}: {self.message}" if self.where else self.message
        return f"{text} {self.remedy}" if self.remedy else text

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.message, self.where, self.remedy, self.log_tail))


def _rebuild(
    kind: type[PdcacheError],
    message: str,
    where: str | None,
    remedy: str | None,
    log_tail: str | None,
) -> PdcacheError:
    return kind(message, where=where, remedy=remedy, log_tail=log_tail)


class TopologyError(PdcacheError):
    """The YAML does not describe a topology."""


class ModelError(PdcacheError):
    """A model cannot be found, read, or made."""


class PlanError(PdcacheError):
    """A valid topology does not fit the machines at hand."""


class ClusterError(PdcacheError):
    """Something on the running cluster failed."""


class ProofError(PdcacheError):
    """Reuse of KV could not be proved."""


class ReplayError(PdcacheError):
    """A replay's input or target is at fault."""
