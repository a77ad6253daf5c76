"""The pages of `docs/` say what the code does: generated ones exactly, written ones by name."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from pdcache.checks import RULES

ROOT = Path(__file__).resolve().parents[3]
DOCS = ROOT / "docs"


@pytest.fixture(scope="module")
def docs() -> ModuleType:
    """`scripts/docs.py` as a module."""
    spec = importlib.util.spec_from_file_location("docs_script", ROOT / "scripts" / "docs.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_generated_pages_are_those_of_this_code(docs: ModuleType) -> None:
    assert docs.main(["--check"]) == 0, "run: python scripts/docs.py"


def test_check_names_a_page_that_differs_and_writes_nothing(
    docs: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert docs.main([], tmp_path) == 0
    assert docs.main(["--check"], tmp_path) == 0
    (tmp_path / "cli.md").write_text("another text\n")
    assert docs.main(["--check"], tmp_path) == 1
    assert "cli.md differ" in capsys.readouterr().err
    assert (tmp_path / "cli.md").read_text() == "another text\n"


def test_an_unknown_argument_is_wrong_usage(docs: ModuleType) -> None:
    assert docs.main(["--chekc"]) == 2


def test_the_terminal_does_not_change_the_help(
    docs: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = docs.cli_page()
    for variable in ("COLUMNS", "TERMINAL_WIDTH"):
        monkeypatch.setenv(variable, "40")
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert docs.cli_page() == before
    assert "\x1b" not in before


def test_every_key_of_the_topology_has_a_description(docs: ModuleType) -> None:
    described = {key.path: key.description for key in docs.topology_keys()}
    sections = {"decode", *docs.SECTIONS}
    assert [path for path, text in described.items() if not text and path not in sections] == []
    assert set(docs.DESCRIPTIONS) <= set(described)


def test_every_rule_can_have_a_severity(docs: ModuleType) -> None:
    assert all(docs.severities(rule) for rule in RULES.values())


def test_architecture_has_a_sentence_for_every_module() -> None:
    sections = re.split(r"^### `pdcache/`$|^### `(\w+)/`", architecture(), flags=re.M)
    described = {
        (folder or "", name)
        for folder, text in zip(sections[1::2], sections[2::2], strict=True)
        for name in re.findall(r"^\* `([\w.]+)`", text, flags=re.M)
    }
    assert modules() - described == set()
    assert described - modules() - {("sglang_cpu", "__init__")} == set()


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    text = page.read_text()
    for target in re.findall(r"\]\(([^)]+)\)", text):
        file, _, anchor = target.partition("#")
        other = DOCS / file if file else page
        assert other.is_file(), target
        headings = re.findall(r"^#+ (.+)$", other.read_text(), flags=re.M)
        assert not anchor or anchor in {heading_anchor(heading) for heading in headings}, target


def architecture() -> str:
    return (DOCS / "architecture.md").read_text().partition("## Dependency direction")[0]


def modules() -> set[tuple[str, str]]:
    """(folder, module) of every module of pdcache but `__init__` and the lane's own folder."""
    package = ROOT / "pdcache"
    found = set()
    for path in package.rglob("*.py"):
        folder, *rest = path.relative_to(package).with_suffix("").parts
        if path.stem != "__init__" and "pythonpath" not in rest:
            found.add((folder, ".".join(rest)) if rest else ("", folder))
    return found


def heading_anchor(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
