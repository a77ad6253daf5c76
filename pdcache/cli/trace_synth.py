"""``trace synth``: sessions from a seed."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from pdcache.cli.trace_files import Out, write_sessions
from pdcache.replay import Session, generate_chat
from pdcache.traces.agent import generate_agents
from pdcache.traces.distributions import FORMS, Distribution, parse_arrivals
from pdcache.traces.documents import generate_documents
from pdcache.traces.times import with_times

_DRAWN = f"DIST is a number or one of {', '.join(form.example for form in FORMS.values())}."

app = typer.Typer(no_args_is_help=True, help=f"Sessions from a seed. {_DRAWN}")

Sessions = Annotated[int, typer.Option("--sessions", min=1, help="How many.")]
Turns = Annotated[str, typer.Option("--turns", metavar="DIST", help="Turns a session.")]
AnswerTokens = Annotated[
    str, typer.Option("--answer-tokens", metavar="DIST", help="Tokens of an answer.")
]
SystemWords = Annotated[
    int, typer.Option("--system-words", min=0, help="Words of the system prompt that all share.")
]
Arrivals = Annotated[
    str,
    typer.Option(
        "--arrivals", metavar="DIST",
        help="Seconds between starts of sessions, or poisson:rate=R, constant:rate=R a second.",
    ),
]  # fmt: skip
Think = Annotated[
    str, typer.Option("--think", metavar="DIST", help="Seconds between an answer and a question.")
]
Seed = Annotated[int, typer.Option("--seed", help="Another seed gives other sessions.")]


@app.command("chat")
def chat_command(
    out_file: Out,
    sessions: Sessions = 8,
    turns: Turns = "4",
    system_words: SystemWords = 200,
    first_words: Annotated[
        str, typer.Option("--first-words", metavar="DIST", help="Words of the first question.")
    ] = "100",
    question_words: Annotated[
        str, typer.Option("--question-words", metavar="DIST", help="Words of later questions.")
    ] = "lognormal:mean=45,sigma=0.5",
    answer_tokens: AnswerTokens = "128",
    arrivals: Arrivals = "0",
    think: Think = "3",
    seed: Seed = 0,
) -> None:
    """Write chats of several turns on one shared system prompt.

    Example: pdcache trace synth chat --sessions 100 --turns poisson:mean=4 --out sessions.jsonl
    """
    made = generate_chat(
        sessions,
        _size(turns, "--turns"),
        first_words=_size(first_words, "--first-words"),
        question_words=_size(question_words, "--question-words"),
        answer_tokens=_size(answer_tokens, "--answer-tokens"),
        shared_system_words=system_words,
        seed=seed,
    )
    _write(out_file, made, arrivals, think, seed)


@app.command("agent")
def agent_command(
    out_file: Out,
    sessions: Sessions = 8,
    turns: Turns = "8",
    system_words: SystemWords = 600,
    tool_words: Annotated[
        str, typer.Option("--tool-words", metavar="DIST", help="Words of a tool's output.")
    ] = "lognormal:mean=400,sigma=1",
    call_tokens: Annotated[
        str, typer.Option("--call-tokens", metavar="DIST", help="Tokens that call a tool.")
    ] = "40",
    answer_tokens: AnswerTokens = "200",
    arrivals: Arrivals = "0",
    think: Think = "1",
    seed: Seed = 0,
) -> None:
    """Write agents that call tools: short answers, long outputs, a context that grows.

    Example: pdcache trace synth agent --tool-words lognormal:mean=400,sigma=1 --out agents.jsonl
    """
    made = generate_agents(
        sessions,
        _size(turns, "--turns"),
        system_words=system_words,
        tool_words=_size(tool_words, "--tool-words"),
        call_tokens=_size(call_tokens, "--call-tokens"),
        answer_tokens=_size(answer_tokens, "--answer-tokens"),
        seed=seed,
    )
    _write(out_file, made, arrivals, think, seed)


@app.command("documents")
def documents_command(
    out_file: Out,
    sessions: Sessions = 8,
    turns: Turns = "3",
    documents: Annotated[
        int, typer.Option("--documents", min=1, max=100_000, help="Different documents.")
    ] = 4,
    popularity: Annotated[
        float, typer.Option("--popularity", min=0, max=10, help="Exponent of Zipf's law.")
    ] = 1.0,
    document_words: Annotated[
        str, typer.Option("--document-words", metavar="DIST", help="Words of a document.")
    ] = "3000",
    question_words: Annotated[
        str, typer.Option("--question-words", metavar="DIST", help="Words of a question.")
    ] = "25",
    answer_tokens: AnswerTokens = "150",
    arrivals: Arrivals = "0",
    think: Think = "10",
    seed: Seed = 0,
) -> None:
    """Write questions on long documents that several sessions share.

    Example: pdcache trace synth documents --sessions 50 --documents 10 --out questions.jsonl
    """
    made = generate_documents(
        sessions,
        _size(turns, "--turns"),
        documents=documents,
        popularity=popularity,
        document_words=_size(document_words, "--document-words"),
        question_words=_size(question_words, "--question-words"),
        answer_tokens=_size(answer_tokens, "--answer-tokens"),
        seed=seed,
    )
    _write(out_file, made, arrivals, think, seed)


def _size(text: str, option: str) -> Distribution:
    return Distribution.parse(text, option)


def _write(path: Path, sessions: Iterable[Session], arrivals: str, think: str, seed: int) -> None:
    between, pause = parse_arrivals(arrivals, "--arrivals"), _size(think, "--think")
    write_sessions(path, with_times(sessions, between, pause, seed))
