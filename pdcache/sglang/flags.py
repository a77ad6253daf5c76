"""Settings to the command line of ``sglang.launch_server``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pdcache.topology.setting import Setting

_FLAG_NAMES = {
    "disaggregation_decode_enable_offload_kvcache": "--disaggregation-decode-enable-offload-kvcache"
}


def flag(name: str) -> str:
    """SGLang's flag for an argument name (sglang 0.5.23 ``arg_groups/fields``)."""
    return _FLAG_NAMES.get(name, "--" + name.lstrip("-").replace("_", "-"))


def emit(settings: Mapping[str, Setting]) -> list[str]:
    """Flags in the order of the settings; None and False are left out, True is a bare flag."""
    return [word for name, setting in settings.items() for word in words(name, setting.value)]


def words(name: str, value: Any) -> Iterable[str]:
    """The words of one flag."""
    if value is None or value is False:
        return []
    if value is True:
        return [flag(name)]
    return [flag(name), str(value)]
