"""The page on a phone and a desktop, light and dark, by keyboard; its fronts, learning curves and address."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import browser, console, set_width
from fixed_records import make_record, store_with_predictions
from selenium.webdriver import Chrome, Keys
from selenium.webdriver.support.ui import Select
from test_page import choose, drawn, find, settle, texts
from test_verdict import SKILLS, read

from benchmarks.analysis.front import find_front
from benchmarks.report.html_page import write_report
from benchmarks.report.page_fronts import COSTS

REAL: dict[str, Any] = {"dataset": {"synthetic": False}}
TARGET = 40  # px that a finger needs


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    for method, resolution, seed in itertools.product(SKILLS, (224, 448), range(3)):
        record = make_record(method, resolution, seed, **REAL)
        record["measurements"]["history"] = [{"epoch": epoch, "loss": 1.0, "val_auc": 0.6} for epoch in (1, 2, 3)]
        store_with_predictions(folder, record, SKILLS[method], num_images=120)
    write_report(folder, folder / "report.html")
    return folder


@pytest.fixture(scope="module")
def chrome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    with browser(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


def open_page(chrome: Chrome, results: Path, width: int, scheme: str = "light") -> None:
    set_width(chrome, width)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    console(chrome)
    chrome.get((results / "report.html").as_uri())
    settle(chrome)
    assert console(chrome) == []


@pytest.mark.parametrize("cost", COSTS)
def test_fronts_are_those_of_the_plots(chrome: Chrome, results: Path, cost: str) -> None:
    open_page(chrome, results, 1280)
    Select(find(chrome, "#trade-off-cost")).select_by_value(cost)
    table, _ = read(results)
    column, source = COSTS[cost]
    for number, (resolution, rows) in enumerate(table.groupby("resolution")):
        front = find_front(rows, column, source)
        axis = f"x{number + 1}" if number else "x"
        here = [trace for trace in drawn(chrome, "trade-off-plot") if trace["xaxis"] == axis]
        title = chrome.execute_script("return byId('trade-off-plot').layout.annotations[arguments[0]].text", number)
        assert title == f"<b>{resolution} px</b>"
        lines = {trace["name"]: trace for trace in here if trace["mode"] == "lines"}
        assert front.start is not None and front.low is not None and front.high is not None
        band = lines["not told apart from the best"]
        assert min(band["x"]) == front.start
        assert (min(band["y"]), max(band["y"])) == pytest.approx((100 * front.low, 100 * front.high))
        assert ("best for less" in lines) == bool(front.steps)
        if front.steps:
            steps = list(zip(lines["best for less"]["x"], lines["best for less"]["y"], strict=True))
            assert [x for x, _ in steps[:-1]] == [x for x, _ in front.steps]
            assert [y for _, y in steps[:-1]] == pytest.approx([100 * y for _, y in front.steps])
            assert steps[-1] == pytest.approx((front.start, 100 * front.low))
    before = [trace for trace in drawn(chrome, "trade-off-plot") if trace["mode"] == "lines"]
    choose(chrome, "filter-label", "FPT")
    after = [trace for trace in drawn(chrome, "trade-off-plot") if trace["mode"] == "lines"]
    assert [trace["y"] for trace in after] == [trace["y"] for trace in before]  # of all methods, not of those shown
    assert "Front and band are those of all methods." in find(chrome, "#trade-off-caption").text


def test_validation_and_test_are_on_one_scale(chrome: Chrome, results: Path) -> None:
    open_page(chrome, results, 1280)
    traces = {trace["name"].replace("◊", ""): trace for trace in drawn(chrome, "learning-plot")}
    assert traces["FPT"]["y"] == [60, 60, 60, None] * 2 + [60] * 3
    table, _ = read(results)
    row = table[(table["label"] == "FPT") & (table["resolution"] == 224)].iloc[0]
    tested = traces["FPT, test"]
    assert sum(tested["y"]) / 3 == pytest.approx(100 * row["auc_mean"], rel=1e-5)
    assert min(tested["x"]) > 3 and len(tested["customdata"]) == 3
    layout = "return JSON.stringify(byId('learning-plot').layout.%s)"
    assert chrome.execute_script(layout % "xaxis.ticktext.at(-1)") == '"test"'
    assert chrome.execute_script(layout % "shapes.map(({ y0 }) => y0)") == "[50,0]"
    choose(chrome, "learning-quantity", "Training loss")
    assert not [trace for trace in drawn(chrome, "learning-plot") if trace["name"].endswith(", test")]


def test_on_a_phone_the_table_is_cards(chrome: Chrome, results: Path) -> None:
    open_page(chrome, results, 390)
    assert not find(chrome, "#results-scroll").is_displayed()
    cards = texts(chrome, "#cards > li")
    table, _ = read(results)
    assert cards[0].startswith("Full fine-tuning · 224 px")
    for _, row in table.iterrows():
        (text,) = [text for text in cards if text.startswith(f"{row['label']} · {row['resolution']} px")]
        for number in (f"{100 * row['auc_mean']:.2f}", f"{100 * row['auc_low']:.2f} to {100 * row['auc_high']:.2f}"):
            assert number in text
        assert f"Memory (MiB){row['memory_bytes'] / 2**20:,.0f}" in text and "Trainable (%)" in text
    assert "Accuracy (%)" not in cards[0]
    find(chrome, "#cards summary").send_keys(Keys.ENTER)
    chrome.execute_async_script("setTimeout(arguments[0], 100)")
    assert "Accuracy (%)" in texts(chrome, "#cards > li")[0] and "seed 2" in texts(chrome, "#cards > li")[0]
    choose(chrome, "sort", "AUC (%), highest first")
    shown = [text.split("AUC (%)")[1].split(" ")[0] for text in texts(chrome, "#cards > li")][: len(table)]
    assert shown == [f"{100 * auc:.2f}" for auc in sorted(table["auc_mean"], reverse=True)]
    shared = chrome.current_url
    open_page(chrome, results, 1280)
    chrome.get(shared)  # the same order where the table is one
    settle(chrome)
    assert texts(chrome, "#results th[aria-sort='descending']") == ["AUC (%) ↑ ▼"]
    assert [text.split()[0] for text in texts(chrome, "#results tbody td:nth-child(3)")][: len(table)] == shown


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_scrolls_sideways_unsaid(chrome: Chrome, results: Path, width: int, scheme: str) -> None:
    open_page(chrome, results, width, scheme)
    chrome.execute_script("document.querySelectorAll('details').forEach((panel) => { panel.open = true; })")
    chrome.execute_async_script("setTimeout(arguments[0], 300)")
    wide = (
        "return [...document.querySelectorAll('main *, header *')].filter((element) => element.clientWidth"
        " && element.scrollWidth > element.clientWidth + 1 && getComputedStyle(element).overflowX !== 'visible'"
        " && !element.closest('.plot') && getComputedStyle(element).textOverflow !== 'ellipsis')"
    )
    assert chrome.execute_script("return document.documentElement.scrollWidth") == width
    unsaid = chrome.execute_script(
        f"{wide}.filter((element) => getComputedStyle(element, '::before').content !== '\"Scrolls sideways →\"')"
        ".map((element) => element.outerHTML.slice(0, 90))"
    )
    assert unsaid == []
    assert (width == 390) == (chrome.execute_script(f"{wide}.map(({{ id }}) => id)") != ["results-scroll"])


def test_fingers_find_what_they_press(chrome: Chrome, results: Path) -> None:
    open_page(chrome, results, 390)
    chrome.execute_script("document.querySelectorAll('details').forEach((panel) => { panel.open = true; })")
    chrome.execute_async_script("setTimeout(arguments[0], 300)")
    small = chrome.execute_script(
        "return [...document.querySelectorAll('a, button, select, input, summary, textarea')]"
        ".map((element) => [element, element.type === 'checkbox' ? element.labels[0] : element])"
        ".map(([element, pressed]) => [element, pressed.getBoundingClientRect()])"
        ".filter(([element, { width, height }]) => width && !element.closest('.skip, .plot')"
        " && (height < arguments[0] || width < arguments[0]))"
        ".map(([element, { width, height }]) => `${element.outerHTML.slice(0, 60)} ${width} x ${height}`)",
        TARGET,
    )
    assert small == []


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_keyboard_reaches_every_control_in_sight(chrome: Chrome, results: Path, width: int, scheme: str) -> None:
    open_page(chrome, results, width, scheme)
    wanted = set(
        chrome.execute_script(
            "return [...document.querySelectorAll('select, input, .scroll, nav a, #filters button, summary')]"
            ".filter((element) => element.checkVisibility() && !element.disabled && !element.closest('#cards'))"
            ".map((element, i) => { element.dataset.stop = i; return String(i); })"
        )
    )
    assert len(wanted) > 30
    reached = set()
    for _ in range(400):
        chrome.switch_to.active_element.send_keys(Keys.TAB)
        stop, outline, inside = chrome.execute_script(
            "const element = document.activeElement;"
            "const { left, right, top, bottom } = element.getBoundingClientRect();"
            "return [element.dataset.stop ?? null, getComputedStyle(element).outlineStyle,"
            " bottom > 0 && top < innerHeight && right > 0 && left < innerWidth]"
        )
        if stop is not None:
            assert (outline, inside) == ("solid", True), stop
            reached.add(stop)
        if chrome.execute_script("return document.activeElement === document.body"):
            break
    assert reached == wanted


def test_panels_are_in_the_address(chrome: Chrome, results: Path) -> None:
    open_page(chrome, results, 1280)
    opened = chrome.current_url
    for summary in ("#verdicts summary", "#table details[data-panel] summary, #table > details > summary"):
        find(chrome, summary).send_keys(Keys.ENTER)
    chrome.execute_async_script("setTimeout(arguments[0], 100)")
    shared = chrome.current_url
    assert "closed=" in shared and "open=How+to+read" in shared
    chrome.get("about:blank")
    chrome.get(shared)
    settle(chrome)
    assert texts(chrome, "#address-note p") == [] and chrome.current_url == shared
    assert find(chrome, "#definitions").is_displayed() and not find(chrome, "#verdicts li").is_displayed()
    for summary in ("#verdicts summary", "#table > details > summary"):
        find(chrome, summary).send_keys(Keys.ENTER)
    chrome.execute_async_script("setTimeout(arguments[0], 100)")
    assert chrome.current_url == opened


def test_what_is_drawn_is_in_the_address(chrome: Chrome, results: Path) -> None:
    """Every select that offers more than one thing, and the box, one after the other."""
    open_page(chrome, results, 1280)
    ids = chrome.execute_script(
        "return [...document.querySelectorAll('main select')].filter(({ options, dataset }) =>"
        " options.length > 1 && dataset.view !== 'no').map(({ id }) => id)"
    )
    assert {
        "trade-off-cost",
        "memory-quantity",
        "learning-group",
        "learning-quantity",
        "classes-run",
        "curves-row",
    } <= {*ids}
    chosen = {}
    for name in ids:
        if find(chrome, f"#{name}").is_displayed() and len(Select(find(chrome, f"#{name}")).options) > 1:
            Select(find(chrome, f"#{name}")).select_by_index(1)
            settle(chrome)
            chosen[name] = Select(find(chrome, f"#{name}")).first_selected_option.text
    find(chrome, "#all-columns").send_keys(Keys.SPACE)
    shared = chrome.current_url
    chrome.get("about:blank")
    chrome.get(shared)
    settle(chrome)
    for name, text in chosen.items():
        assert Select(find(chrome, f"#{name}")).first_selected_option.text == text, name
    assert find(chrome, "#all-columns").is_selected() and texts(chrome, "#address-note p") == []
    assert chrome.current_url == shared
