"""The storage backends by the name that SGLang gives them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pdcache.store import dynamic, file, given, hf3fs, mooncake
from pdcache.store.backend import Ground, PageObjects, PageShape, StoreLayout, Traits


@dataclass(frozen=True)
class Backend:
    """One backend: what it is, how it is laid out, and how it names the objects of a page."""

    traits: Traits
    lay_out: Callable[[Ground], StoreLayout]
    page_objects: Callable[[PageShape, Any], PageObjects]


BACKENDS = {
    "mooncake": Backend(mooncake.TRAITS, mooncake.MooncakeLayout, mooncake.page_objects),
    "hf3fs": Backend(hf3fs.TRAITS, hf3fs.Hf3fsLayout, hf3fs.page_objects),
    "file": Backend(file.TRAITS, file.FileLayout, file.page_objects),
    "nixl": Backend(given.NIXL, given.nixl, given.no_page_objects),
    "aibrix": Backend(given.AIBRIX, given.aibrix, given.no_page_objects),
    "eic": Backend(given.EIC, given.eic, given.no_page_objects),
    "simm": Backend(given.SIMM, given.simm, given.no_page_objects),
    "dynamic": Backend(dynamic.TRAITS, dynamic.DynamicLayout, given.no_page_objects),
}
