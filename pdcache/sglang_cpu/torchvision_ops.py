"""Let `import torchvision` succeed where its compiled extension does not load."""

from __future__ import annotations

import torch

# A torch.library.Library withdraws its operators when it is collected.
_declared: list[torch.library.Library] = []


def declare_missing_operators() -> None:
    """Declare `torchvision::nms` and `qnms`, unless torchvision's extension did.

    PyPI's torchvision is linked against libtorch_cuda, so on CPU torch the extension fails to
    load, which torchvision 0.28 tolerates, and then `torchvision._meta_registrations` registers
    fakes for the two operators and raises because they do not exist. The operators declared
    here have no implementation: SGLang never calls them.
    """
    schema = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
    missing = [name for name in ("nms", "qnms") if not hasattr(torch.ops.torchvision, name)]
    if missing:
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in missing:
            library.define(name + schema)
        _declared.append(library)
