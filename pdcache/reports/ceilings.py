"""Ceilings of every request, from the page ids of those that had finished before it was sent.

Numbers of a request, each at most the one before, in prompt tokens:

* `offered`: what the dialogue offered: the previous turn's prompt and its answer but for the
  last token, as if the next prompt held them token for token.
* `exact`: what a cache of prompts and answers that is not cut into pages could have served.
* `full`: the same in whole pages.
* `mode`: in whole pages, of what the mode of the run keeps: prompts only, or prompts and answers.

`full` and `mode` are the two definitions of `pdcache.replay.ceiling`. Pages tell nothing of the
tokens behind the last whole one, so `exact` takes the dialogue's word for them: when all whole
pages of the previous turn stand in this prompt, its tail does too. Tails that two sessions share
are not seen.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pdcache.replay.records import RequestRecord
from pdcache.reports.run_folder import Key, Pages, RunFolder


@dataclass(frozen=True)
class Ceilings:
    """Prompt tokens that could have been served, from the most generous definition down.

    `prompts` is what `mode` is in `prefill_only`; `full` what it is in `full_offload`.
    """

    offered: int
    exact: int
    full: int
    prompts: int
    mode: int


@dataclass(frozen=True)
class Event:
    """A request is sent, or (`finished`) its answer has arrived."""

    at_s: float
    finished: bool
    record: RequestRecord
    pages: Pages


def events(run: RunFolder) -> Iterator[Event]:
    """Sendings and endings of the requests whose pages are known, in order of time.

    What ends at the very moment another is sent ends first.
    """
    known = []
    for record in run.requests:
        pages = run.pages.get((record.session, record.turn))
        if pages is not None:
            known.append(Event(record.sent_s, False, record, pages))
            if record.error is None:
                known.append(Event(record.finished_s, True, record, pages))
    yield from sorted(known, key=lambda event: (event.at_s, not event.finished))


def ceilings(run: RunFolder) -> dict[Key, Ceilings]:
    """The ceilings of every request; one without pages has the client's own number in all."""
    size = run.environment.page_size
    prompts: set[int] = set()
    everything: set[int] = set()
    finished: dict[Key, Pages] = {}
    found = {
        (record.session, record.turn): Ceilings(*[record.ceiling_tokens] * 5)
        for record in run.requests
    }
    for event in events(run):
        key, pages = (event.record.session, event.record.turn), event.pages
        if event.finished:
            prompts.update(pages.prompt)
            everything.update(pages.prompt, pages.answer)
            finished[key] = pages
            continue
        full = prefix(pages, everything, size) * size
        only_prompts = prefix(pages, prompts, size) * size
        exact, offered = _with_tails(pages, finished.get((key[0], key[1] - 1)), full)
        mode = full if run.environment.mode == "full_offload" else only_prompts
        found[key] = Ceilings(offered, exact, full, only_prompts, mode)
    return found


def usable(pages: Pages, page_size: int) -> tuple[int, ...]:
    """The prompt's pages that can be served: SGLang computes at least the last token anew."""
    return pages.prompt[: max(0, pages.prompt_tokens - 1) // page_size]


def prefix(pages: Pages, held: set[int], page_size: int) -> int:
    """How many pages a cache that holds `held` can serve."""
    count = 0
    for page in usable(pages, page_size):
        if page not in held:
            break
        count += 1
    return count


def _with_tails(pages: Pages, previous: Pages | None, full: int) -> tuple[int, int]:
    """`exact` and `offered`, from the previous turn of the same dialogue."""
    if previous is None or pages.prompt[: len(previous.prompt)] != previous.prompt:
        return full, full
    most = pages.prompt_tokens - 1
    offered = max(full, min(previous.prompt_tokens + previous.output_tokens - 1, most))
    chain = previous.prompt + previous.answer
    continues = pages.prompt[: len(chain)] == chain[: len(pages.prompt)]
    return (offered if continues else full), offered
