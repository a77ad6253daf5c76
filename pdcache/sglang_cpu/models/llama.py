"""SGLang's own Llama: the architecture of the built-in models."""

from sglang.srt.models.llama import EntryClass

__all__ = ["EntryClass"]
