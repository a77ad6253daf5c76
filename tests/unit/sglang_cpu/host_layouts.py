"""What the copies must do, said one token at a time; shared by the copy tests."""

from __future__ import annotations

from dataclasses import dataclass

import torch

PAGE_SIZE = 4
PAGES = 9
SLOTS = PAGES * PAGE_SIZE
LAYERS = 3

LAYOUT_AND_BACKEND = [
    ("layer_first", "direct"),
    ("layer_first", "kernel"),
    ("page_first", "kernel"),
    ("page_first_direct", "direct"),
    ("page_head", "kernel"),
]


@dataclass(frozen=True)
class Shape:
    """Of one token in one layer. Rows of 2x8 elements divide by 8 bytes, rows of 3x5 do not."""

    heads: int
    dim: int
    dtype: torch.dtype

    @property
    def item_size(self) -> int:
        return self.heads * self.dim * self.dtype.itemsize


def random_device(shape: Shape) -> list[torch.Tensor]:
    """A device buffer a layer: [slots, heads, dim]."""
    return [_random(SLOTS, shape.heads, shape.dim, dtype=shape.dtype) for _ in range(LAYERS)]


def random_host(layout: str, shape: Shape) -> torch.Tensor:
    heads, dim = shape.heads, shape.dim
    dims = {
        "layer_first": (LAYERS, SLOTS, heads, dim),
        "page_first": (SLOTS, LAYERS, heads, dim),
        "page_first_direct": (PAGES, LAYERS, PAGE_SIZE, heads, dim),
        "page_head": (PAGES, heads, PAGE_SIZE, LAYERS, dim),
    }[layout]
    return _random(*dims, dtype=shape.dtype)


def host_token(host: torch.Tensor, layout: str, layer: int, slot: int) -> torch.Tensor:
    """The [heads, dim] view of one token in one layer."""
    page, offset = divmod(slot, PAGE_SIZE)
    if layout == "layer_first":
        return host[layer, slot]
    if layout == "page_first":
        return host[slot, layer]
    if layout == "page_first_direct":
        return host[page, layer, offset]
    return host[page, :, offset, layer]


def host_after_backup(
    device: list[torch.Tensor], host: torch.Tensor, layout: str, pairs: list[tuple[int, int]]
) -> torch.Tensor:
    """A copy of `host` with every (device slot, host slot) of `pairs` written in all layers."""
    expected = host.clone()
    for device_slot, host_slot in pairs:
        for layer in range(LAYERS):
            host_token(expected, layout, layer, host_slot)[:] = device[layer][device_slot]
    return expected


def device_layer_after_load(
    host: torch.Tensor,
    device_layer: torch.Tensor,
    layout: str,
    layer: int,
    pairs: list[tuple[int, int]],
) -> torch.Tensor:
    """A copy of `device_layer` with every (device slot, host slot) of `pairs` read back."""
    expected = device_layer.clone()
    for device_slot, host_slot in pairs:
        expected[device_slot] = host_token(host, layout, layer, host_slot)
    return expected


def slots_of(pages: list[int]) -> torch.Tensor:
    """The token slots of whole pages, in page order."""
    return torch.tensor(
        [page * PAGE_SIZE + offset for page in pages for offset in range(PAGE_SIZE)],
        dtype=torch.int64,
    )


def address_table(layers: list[torch.Tensor]) -> torch.Tensor:
    return torch.tensor([layer.data_ptr() for layer in layers], dtype=torch.uint64)


def _random(*dims: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(dims).to(dtype)
