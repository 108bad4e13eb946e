"""Writes what in README.md and docs/ can be counted: their marked tables, and the drawing of the architecture.

python -m docs.make            rewrites what is stale
python -m docs.make --check    changes nothing; ends with status 1 where something is stale
"""

import argparse
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from benchmarks.environment import ROOT
from docs.architecture import draw, is_drawn
from docs.tables import BLOCKS

DOCS = ROOT / "docs"
PAGES = (*(ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "CHANGELOG")), *sorted(DOCS.glob("*.md")))
DRAWING = DOCS / "architecture.svg"
BLOCK = re.compile(r"(<!-- made by docs/make.py: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def rewritten(page: str, blocks: dict[str, Callable[[], str]]) -> str:
    """A page with each of its marked blocks made anew.

    Raises:
        ValueError: A block has a name that is not in `blocks`.
    """

    def fill(match: re.Match[str]) -> str:
        start, name, end = match.groups()
        if name not in blocks:
            raise ValueError(f"block must be one of {', '.join(blocks)}, got {name!r}")
        return f"{start}\n{blocks[name]()}\n\n{end}"

    return BLOCK.sub(fill, page)


def stale_pages(pages: Iterable[Path], write: bool) -> list[Path]:
    """The pages whose blocks say something else than they would now; with `write`, they no longer do."""
    stale = []
    for path in pages:
        page = path.read_text()
        new = rewritten(page, BLOCKS)
        if new != page:
            stale.append(path)
            if write:
                path.write_text(new)
    return stale


def main() -> int:
    """Rewrites or checks; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m docs.make", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing, end with status 1 if anything is stale")
    check = parser.parse_args().check
    stale = stale_pages(PAGES, write=not check)
    if not is_drawn(DRAWING):
        stale.append(DRAWING)
        if not check:
            draw(DRAWING)
    for path in stale:
        print(f"{path.relative_to(ROOT)} {'is stale: make docs' if check else 'written'}", file=sys.stderr)
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
