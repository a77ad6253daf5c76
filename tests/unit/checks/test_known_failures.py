"""Every failure that was reported as silent is caught by something that exists."""

from __future__ import annotations

import inspect

import pytest

from pdcache.checks import RULES
from pdcache.checks.failures import KNOWN_FAILURES, KnownFailure
from pdcache.proof import hops


@pytest.mark.parametrize("failure", KNOWN_FAILURES, ids=lambda failure: failure.reported)
def test_what_catches_a_failure_exists(failure: KnownFailure) -> None:
    assert set(failure.rules) <= set(RULES)
    assert failure.rules or failure.canary or failure.otherwise
    if failure.canary is not None:
        assert f'"{failure.canary}"' in inspect.getsource(hops)
