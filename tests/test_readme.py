"""README.md and docs/ are true: their commands parse, their links lead somewhere, their counts are the papers'."""

import re
import shlex
from pathlib import Path

import pytest
from bench_process import options_of

from benchmarks.commands import COMMANDS
from benchmarks.commands.command_line import make_parser
from benchmarks.environment import ROOT
from benchmarks.model.groups import GROUPS
from benchmarks.model.variants import read_variants
from docs.make import PAGES

TEXT = "\n".join(page.read_text() for page in PAGES)
COMMAND_LINES = sorted(
    set(re.findall(r"^python bench\.py (.*?)(?:\s+#.*)?$|`python bench\.py ([^`]+)`", TEXT, re.MULTILINE))
)


def test_there_are_commands() -> None:
    assert len(COMMAND_LINES) >= 20
    readme = (ROOT / "README.md").read_text()
    assert "make bench" in readme and "make test" in readme


@pytest.mark.parametrize("line", [first or second for first, second in COMMAND_LINES])
def test_commands_parse(line: str) -> None:
    words = shlex.split(line)
    if words == ["-h"]:
        return
    name = "run" if words[0].startswith("-") else words.pop(0)
    args = options_of(*words) if name == "run" else make_parser(COMMANDS[name]).parse_args(words)
    plugins = [ROOT / path for path in getattr(args, "plugins", None) or []]
    assert all(path.is_file() for path in plugins)
    for method in getattr(args, "methods", None) or []:
        assert method in {*GROUPS, *(path.stem for path in plugins)} or read_variants(method)


def test_modules_and_scripts_that_are_run_are_there() -> None:
    modules = re.findall(r"python -m ([\w.]+)(?![\w.<])", TEXT)
    scripts = re.findall(r"python ((?!bench\.py)[\w/]+\.py)", TEXT)
    assert modules and scripts
    for path in [*(f"{module.replace('.', '/')}.py" for module in modules), *scripts]:
        assert (ROOT / path).is_file(), path
    makefile = (ROOT / "Makefile").read_text()
    targets = re.findall(r"(?:^|`)make (\w+)", TEXT, re.MULTILINE)
    assert {"bench", "test", "docs"} <= {*targets}
    for target in targets:
        assert re.search(rf"^(\w+ )*{target}( \w+)*:", makefile, re.MULTILINE), target


def headings(page: Path) -> set[str]:
    """The names by which a page's headings are linked to."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", page.read_text()):
        path, _, heading = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), target
        assert not heading or heading in headings(found), target


def test_every_page_is_reached_from_the_readme() -> None:
    linked = {
        (page.parent / target).resolve()
        for page in PAGES
        for target in re.findall(r"\]\(([^)#]+\.md)", page.read_text())
    }
    assert {page for page in PAGES if page.name != "README.md"} <= linked
