"""The page's answer for my card and the AUC that I would give up: word for word that of `bench.py advise`."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from browser import browser, console, set_width
from fixed_records import METHOD_FACTS, make_record, store_with_predictions
from selenium.webdriver import Chrome, Keys
from test_page import find, settle, texts
from test_verdict import SKILLS, read

import bench
from benchmarks.analysis.verdict import Limits, verdicts
from benchmarks.choices import CARDS
from benchmarks.memory.needs import GIB, needed_bytes, parse_memory
from benchmarks.records.record import write_record
from benchmarks.report.advice import sentences
from benchmarks.report.html_page import write_report
from benchmarks.report.page_verdict import MARGINS, card_names

CARD_SIZES = (None, 4, 6, 8, 12, 24, 192)
SETTINGS = [*itertools.product(CARD_SIZES, (None, 0.0, 0.005, 0.02, 0.05, 0.1)), *((6, margin) for margin in MARGINS)]


def store_place(
    results: Path, name: str, methods: list[str], seeds: int, resolution: int = 448, **changes: Any
) -> None:
    changes["dataset"] = {"name": name, "title": name, "synthetic": False} | changes.get("dataset", {})
    changes["config"] = {"dataset": name} | changes.get("config", {})
    for method in methods:
        for seed in range(seeds):
            record = make_record(method, seed=seed, tag=name, **changes)
            store_with_predictions(results, record, SKILLS[method], num_images=120)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Places where all is known, nothing may be concluded, full fine-tuning is missing, or memory has two sources."""
    folder = tmp_path_factory.mktemp("results")
    every = list(METHOD_FACTS)
    store_place(folder, "eyes", every, 4)
    store_place(folder, "drawn", every, 1, dataset={"synthetic": True})
    store_place(folder, "headless", [name for name in every if name != "full"], 2)
    store_place(folder, "halves", ["full", "lora"], 2)
    store_place(folder, "halves", ["fpt", "linear", "fpt_plus"], 2, measured=False)
    write_record(
        folder, make_record("full", 224, state="oom", phase="train", dataset={"name": "eyes", "title": "eyes"})
    )
    write_report(folder, folder / "report.html")
    return folder


@pytest.fixture(scope="module")
def chrome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    with browser(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


@pytest.fixture
def page(chrome: Chrome, results: Path) -> Iterator[Chrome]:
    set_width(chrome, 1280, 900)
    console(chrome)
    chrome.get((results / "report.html").as_uri())
    settle(chrome)
    yield chrome
    assert console(chrome) == []


def advised(results: Path, card: int | None, margin: float | None, capsys: pytest.CaptureFixture[str]) -> list[Any]:
    limits = ["--gpu-memory", f"{card}GB"] * (card is not None) + ["--margin", str(margin)] * (margin is not None)
    bench.main(["advise", "--results", str(results), "--format", "json", *limits])
    return list(json.loads(capsys.readouterr().out))


def test_the_sliders_answer_as_advise_does(page: Chrome, results: Path) -> None:
    table, evidence = read(results)
    said = set()
    for card, margin in SETTINGS:
        limits = Limits(margin, None if card is None else card * GIB, needed_bytes)
        expected = [list(sentences(verdict, limits)) for verdict in verdicts(table, evidence, limits)]
        place = None if margin is None else MARGINS.index(margin)
        shown = page.execute_script(
            "const asked = { card: arguments[0], margin: arguments[1] };"
            "return ADVICE.places.map((place) => sentencesOf(place, asked))",
            *(card, place),
        )
        assert shown == expected, (card, margin)
        said |= {line.split()[0] for lines in expected for line in lines}
    assert {"No", "As", "Use", "Ruled", "Not", "Over"} <= said  # every kind of sentence was compared


def test_the_sliders_move_by_keyboard_and_are_in_the_address(
    page: Chrome, results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    opened = page.current_url
    before = texts(page, "#verdicts li")
    assert before == [line for place in advised(results, None, None, capsys) for line in place["sentences"]]
    find(page, "#my-card").send_keys(Keys.HOME, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    find(page, "#margin").send_keys(*[Keys.ARROW_RIGHT] * 5)
    expected = advised(results, 6, 0.02, capsys)
    assert texts(page, "#verdicts li") == [line for place in expected for line in place["sentences"]] != before
    assert find(page, "#my-card-size").text == "6 GB" == find(page, "#card-size").text  # of what fits my card, too
    assert find(page, "#margin-size").text == "up to 2.0 points below full fine-tuning"
    assert find(page, "#advise").text == "python bench.py advise --gpu-memory 6GB --margin 0.02"
    assert parse_qs(urlsplit(page.current_url).query) == {"my-card": ["6"], "margin": ["0.02"]}
    shared = page.current_url
    page.get("about:blank")
    page.get(shared)
    settle(page)
    assert texts(page, "#verdicts li") == [line for place in expected for line in place["sentences"]]
    assert page.current_url == shared
    find(page, "#my-card").send_keys(Keys.HOME)
    find(page, "#margin").send_keys(Keys.HOME)
    assert page.current_url == opened and texts(page, "#verdicts li") == before


def test_caveats_stay_in_sight_whatever_is_asked_for(page: Chrome) -> None:
    for keys in (Keys.HOME, Keys.END):
        find(page, "#my-card").send_keys(keys)
        find(page, "#margin").send_keys(keys)
        (line,) = [text for text in texts(page, "#verdicts summary") if "drawn" in text]
        assert line.startswith("No conclusion yet")


def test_cards_are_named_as_they_are_sold() -> None:
    named = card_names()
    assert named["24"][:3] == ["Titan RTX", "RTX 3090", "RTX 4090"] and "RTX 4060 Ti" in named["16"]
    assert {int(size) for size in named} == {size for sizes in CARDS.values() for size in sizes}
    for size, names in named.items():
        for name in names:
            sized = f"{name}-{size}GB" if len(CARDS[name.lower().replace(" ", "")]) > 1 else name
            assert parse_memory(sized) == int(size) * GIB
