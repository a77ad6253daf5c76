"""What checks and plans need to know of a model, gathered without loading it."""

from __future__ import annotations

from pathlib import Path

from pdcache.errors import ModelError
from pdcache.models.builtin import BUILTIN_MODELS
from pdcache.models.cache import model_folder
from pdcache.models.digests import tokenizer_digest, weights_digest
from pdcache.models.facts import model_facts
from pdcache.models.hub import hub_snapshot
from pdcache.models.reference import Kind, kind_of
from pdcache.models.resolve import resolve_model
from pdcache.topology.facts import ModelView


def model_view(reference: str) -> ModelView:
    """The view of one model; a model that cannot be used has ``problem`` set, nothing is raised.

    A built-in model is described before it is made. A hub model that is not on this machine has
    its id for digests; its sizes are those that pdcache ships, else zeros.
    """
    try:
        kind = kind_of(reference)
        if kind is Kind.BUILTIN:
            path = str(model_folder(BUILTIN_MODELS[reference]))
        else:
            path = resolve_model(reference)
        absent = kind is Kind.HUB and hub_snapshot(reference) is None
        facts = model_facts(reference)
        if facts is None:
            return ModelView(path, weights_digest=reference, tokenizer_digest=reference)
        return ModelView(
            path=path,
            kv_values_per_token=facts.kv_values_per_token,
            parameters=facts.parameters,
            max_positions=facts.max_positions,
            is_mla=facts.is_mla,
            weights_digest=reference if absent else weights_digest(reference),
            tokenizer_digest=reference if absent else tokenizer_digest(reference),
            kv_layers=facts.kv_layers,
            weight_bytes=facts.weight_bytes,
            known=absent,
        )
    except ModelError as error:
        return _unusable(reference, error)


def tokenizer_view(reference: str) -> ModelView:
    """The view of a folder that holds a tokenizer only; nothing is raised, as in `model_view`."""
    try:
        return ModelView(reference, tokenizer_digest=tokenizer_digest(reference))
    except ModelError as error:
        return _unusable(reference, error)


def _unusable(reference: str, error: ModelError) -> ModelView:
    return ModelView(
        str(Path(reference).expanduser()),
        problem=f"{error.where or reference}: {error.message}",
        remedy=error.remedy,
    )
