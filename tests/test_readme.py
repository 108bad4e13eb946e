"""README.md and docs/ are true: their commands parse, their links lead somewhere, their counts are the papers'."""

import csv
import io
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from bench_process import options_of

from bench import main
from benchmarks import plugins
from benchmarks.commands import COMMANDS
from benchmarks.commands.command_line import make_parser
from benchmarks.environment import ROOT
from benchmarks.model.groups import GROUPS
from benchmarks.model.variants import read_variants
from docs.make import PAGES
from methods import METHODS

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
    brought = [ROOT / path for path in getattr(args, "plugins", None) or []]
    assert all(path.is_file() for path in brought)
    for method in getattr(args, "methods", None) or []:
        assert method in {*GROUPS, *(path.stem for path in brought)} or read_variants(method)


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


def test_the_readme_is_read_in_minutes() -> None:
    assert len((ROOT / "README.md").read_text().split()) <= 700


@pytest.fixture
def plugins_leave() -> Iterator[None]:
    """What a test loads is gone behind it."""
    tables: tuple[dict[Any, Any], ...] = (METHODS, plugins._LOADED)
    before = [dict(table) for table in tables]
    yield
    for table, content in zip(tables, before, strict=True):
        table.clear()
        table.update(content)


def test_the_method_of_ten_minutes_counts_what_the_page_says(
    plugins_leave: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """25 norms of 768 scales on a ViT-B/16; the other command lines parse."""
    page = (ROOT / "CONTRIBUTING.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    Path("scale_only.py").write_text(code)
    counts, *others = (shlex.split(line) for line in re.findall(r"^\$ python bench\.py (.*)$", page, re.MULTILINE))
    assert main([*counts, "--format", "csv"]) == 0
    rows = {row["method"]: row for row in csv.DictReader(io.StringIO(capsys.readouterr().out))}
    assert rows["scale_only"]["trainable"] == "19200" and "19,200" in page
    assert len(others) == 2
    for words in others:
        name = "run" if words[0].startswith("-") else words.pop(0)
        make_parser(COMMANDS[name]).parse_args(words)


def test_forms_for_issues_ask_for_the_doctor() -> None:
    forms = [yaml.safe_load(path.read_text()) for path in (ROOT / ".github/ISSUE_TEMPLATE").glob("[bm]*.yml")]
    assert len(forms) == 2
    for form in forms:
        assert {"name", "description", "body"} <= form.keys()
        (asked,) = [part["attributes"] for part in form["body"] if part.get("id") == "doctor"]
        assert "python bench.py doctor" in asked["description"]


@pytest.mark.process
def test_torch_comes_from_the_index_that_make_is_told(tmp_path: Path) -> None:
    """In a folder without an environment make would install torch first, from there alone, and then the rest."""
    shutil.copy(ROOT / "Makefile", tmp_path)

    def installed(*more: str) -> list[str]:
        told = subprocess.run(
            ["make", "--dry-run", "environment", *more], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        return [line.strip("; \\") for line in told.stdout.splitlines() if "pip install" in line]

    (project,) = installed()
    assert "index" not in project and project.endswith("--editable '.[dev]'")
    url = "https://download.pytorch.org/whl/cpu"
    first, second = installed(f"TORCH_INDEX={url}")
    assert first.endswith(f"--index-url {url} torch torchvision") and second == project
