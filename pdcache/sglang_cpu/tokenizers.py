"""A server and its children share one tokenizer, which takes more than a second of a core to load.

SGLang 0.5.23 loads it four times: in the tokenizer manager, the detokenizer, the scheduler and its
`TpModelWorker`. With children that are forks (`processes`) once is enough.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import Any

from pdcache.sglang_cpu.targets import Target

USERS = tuple(
    Target(f"sglang.srt.managers.{module}", "get_tokenizer")
    for module in ("tokenizer_manager", "detokenizer_manager", "scheduler", "tp_worker")
)

CONTEXT = Target("sglang.srt.runtime_context")


def share() -> None:
    """Keep what was loaded for whoever asks with the same arguments."""
    kept = functools.cache(USERS[0].get())
    for user in USERS:
        user.set(kept)


def load_before_fork() -> None:
    """Load what children will ask for; what goes wrong here goes wrong again where it is needed."""
    get: Callable[..., Any] = USERS[0].get()
    context = CONTEXT.load_module()
    with contextlib.suppress(Exception):
        serving, model = context.get_serving(), context.get_model()
        if serving.skip_tokenizer_init:
            return
        get(
            serving.tokenizer_path,
            tokenizer_mode=serving.tokenizer_mode,
            trust_remote_code=model.trust_remote_code,
            revision=model.revision,
            tokenizer_backend=serving.tokenizer_backend,
        )
