"""Models: what a topology's `model:` names, what is known of it, and the two that are built in.

Importing this package imports neither torch nor transformers; resolving a built-in model imports
numpy, tokenizers and safetensors (and gguf for `smollm2-135m`) when it has to be made.
"""

from pdcache.models.builtin import BUILTIN_MODELS
from pdcache.models.digests import tokenizer_digest, weights_digest
from pdcache.models.facts import ModelFacts, model_facts
from pdcache.models.resolve import resolve_model

__all__ = [
    "BUILTIN_MODELS",
    "ModelFacts",
    "model_facts",
    "resolve_model",
    "tokenizer_digest",
    "weights_digest",
]
