from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path
from random import Random
from statistics import mean, median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdcache.errors import ReplayError
from pdcache.replay import Session, dump_sessions
from pdcache.traces.agent import generate_agents
from pdcache.traces.distributions import FORMS, Distribution, parse_arrivals
from pdcache.traces.documents import generate_documents
from pdcache.traces.times import with_times


def many(text: str, number: int = 20_000) -> list[float]:
    distribution, rng = Distribution.parse(text), Random(1)
    return [distribution.draw(rng) for _ in range(number)]


def texts(session: Session) -> list[str]:
    return [turn.user or "" for turn in session.turns]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("7", 7), ("constant:value=7", 7), ("uniform:low=100,high=300", 200),
        ("exponential:mean=5", 5), ("lognormal:mean=200,sigma=0.5", 200), ("poisson:mean=4", 4),
        ("poisson:mean=300", 300),
    ],
)  # fmt: skip
def test_the_mean_is_the_one_asked_for(text: str, expected: float) -> None:
    assert mean(many(text)) == pytest.approx(expected, rel=0.03)


def test_lognormal_has_its_median_below_its_mean() -> None:
    assert median(many("lognormal:mean=200,sigma=1")) == pytest.approx(200 / 2.71828**0.5, rel=0.03)


def test_zipf_halves_the_second_rank() -> None:
    counts = Counter(many("zipf:alpha=1,max=5", 50_000))
    assert set(counts) == {1, 2, 3, 4, 5}
    assert counts[2] / counts[1] == pytest.approx(1 / 2, rel=0.05)
    assert counts[5] / counts[1] == pytest.approx(1 / 5, rel=0.05)


@given(seed=st.integers(), form=st.sampled_from([form.example for form in FORMS.values()]))
def test_every_example_draws_numbers_from_0_and_the_same_for_a_seed(seed: int, form: str) -> None:
    first, second = (Distribution.parse(form).draw(Random(seed)) for _ in range(2))
    assert first == second >= 0


def test_arrivals_have_a_rate() -> None:
    gaps = parse_arrivals("poisson:rate=4")
    rng = Random(1)
    assert mean(gaps.draw(rng) for _ in range(20_000)) == pytest.approx(0.25, rel=0.03)
    assert parse_arrivals("constant:rate=4").draw(rng) == 0.25
    assert parse_arrivals("2").draw(rng) == 2


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("normal:mean=3", "no distribution 'normal'"),
        ("lots", "value is no number"),
        ("lognormal:mean=3", "sigma is no number from 0 to 5"),
        ("lognormal:mean=-3,sigma=1", "mean is no number"),
        ("uniform:low=1,high=2,mid=3", "'mid' is no parameter"),
        ("constant:value=nan", "value is no number"),
        ("uniform:low=3,high=1", "low is above high"),
    ],
)
def test_a_wrong_distribution_is_named(text: str, says: str) -> None:
    with pytest.raises(ReplayError, match=says) as caught:
        Distribution.parse(text, "--turns")
    assert str(caught.value).startswith("--turns: ")


def digest(sessions: list[Session], tmp_path: Path) -> str:
    dump_sessions(sessions, tmp_path / "out")
    return hashlib.sha256((tmp_path / "out").read_bytes()).hexdigest()[:16]


def test_a_seed_gives_the_same_sessions_on_every_machine(tmp_path: Path) -> None:
    sizes = Distribution.parse("lognormal:mean=50,sigma=1")
    agents = list(generate_agents(5, sizes, tool_words=sizes, seed=7))
    readers = list(generate_documents(5, documents=2, document_words=sizes, seed=7))
    assert digest(agents, tmp_path) == "57830e457c3f2427"
    assert digest(readers, tmp_path) == "455df332e42706ac"
    assert list(generate_agents(5, sizes, tool_words=sizes, seed=8)) != agents


def test_an_agent_calls_tools_until_it_answers() -> None:
    agents = list(
        generate_agents(30, 5, tool_words=Distribution.parse("uniform:low=50,high=90"),
                        call_tokens=20, answer_tokens=300)
    )  # fmt: skip
    for agent in agents:
        assert [turn.max_tokens for turn in agent.turns] == [20, 20, 20, 20, 300]
        outputs = texts(agent)[1:]
        assert all(52 <= len(output.split()) <= 92 for output in outputs)
    assert len({agent.system for agent in agents}) == 1
    assert len({texts(agent)[0] for agent in agents}) == 30


def test_sessions_share_documents_popular_ones_more_often() -> None:
    sessions = list(generate_documents(400, 2, documents=5, popularity=1, document_words=40))
    counts = Counter(texts(session)[0].partition("\n\n")[0] for session in sessions)
    assert len(counts) == 5
    assert counts.most_common()[0][1] > 2 * counts.most_common()[-1][1]
    assert len({texts(session)[0] for session in sessions}) > 390


def test_drawn_times_leave_the_texts_alone() -> None:
    plain = list(generate_documents(50, 3, documents=2, document_words=9))
    arrivals, think = parse_arrivals("poisson:rate=2"), Distribution.parse("exponential:mean=4")
    timed = list(with_times(plain, arrivals, think, seed=3))
    assert [texts(session) for session in timed] == [texts(session) for session in plain]
    starts = [session.start_s for session in timed]
    assert starts[0] == 0
    assert starts == sorted(starts)
    assert starts[-1] == pytest.approx(25, rel=0.5)
    thoughts = [turn.think_s for session in timed for turn in session.turns[1:]]
    assert mean(thoughts) == pytest.approx(4, rel=0.3)
    assert all(session.turns[0].think_s == 0 for session in timed)


@pytest.mark.parametrize("make", [generate_agents, generate_documents])
def test_no_session_is_refused(make: object) -> None:
    with pytest.raises(ReplayError, match="sessions is 0"):
        list(make(0))  # type: ignore[operator]
