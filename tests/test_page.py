"""The page in a real browser: it loads clean and offline, its controls change what is shown, names stay text."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from browser import browser, console, requests, set_width
from fixed_records import MIB, make_record
from report_folder import HOSTILE_CLASS, HOSTILE_DATASET, add_details, make_folder, predictions
from selenium.common.exceptions import NoAlertPresentException
from selenium.webdriver import ActionChains, Chrome, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import Select, WebDriverWait
from test_report import as_shown

from benchmarks.records.record import write_record
from benchmarks.report.html_page import write_report
from benchmarks.report.latex import escape_latex

pytestmark = pytest.mark.browser

GIB = 2**30


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    results = tmp_path_factory.mktemp("results")
    make_folder(results)
    write_report(results, results / "report.html")
    return results


@pytest.fixture(scope="module")
def chrome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    with browser(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


def settle(chrome: Chrome) -> None:
    """Waits until what the page unpacks at its start is there."""
    chrome.execute_async_script("FIRST_SCREEN.then(() => Promise.all(LOADED.values())).then(arguments[0])")


@pytest.fixture
def page(chrome: Chrome, folder: Path) -> Iterator[Chrome]:
    """The page, freshly loaded; whatever a test does, the console stays silent and the page asks for nothing else."""
    set_width(chrome, 1280, 900)
    address = (folder / "report.html").as_uri()
    chrome.get("about:blank")
    console(chrome)
    requests(chrome)
    chrome.get(address)
    settle(chrome)
    yield chrome
    assert console(chrome) == []
    assert [request.split("#")[0] for request in requests(chrome)] == [address]


def find(page: Chrome, selector: str) -> WebElement:
    return page.find_element(By.CSS_SELECTOR, selector)


def texts(page: Chrome, selector: str) -> list[str]:
    found: list[str] = page.execute_script(
        "return [...document.querySelectorAll(arguments[0])].map((element) => element.textContent)", selector
    )
    return found


def choose(page: Chrome, name: str, text: str) -> None:
    Select(page.find_element(By.ID, name)).select_by_visible_text(text)


def column(page: Chrome, title: str) -> list[str]:
    titles = [re.sub(r"[ ↑↓▲▼]+$", "", text) for text in texts(page, "#results thead th")]
    return texts(page, f"#results tbody tr > :nth-child({titles.index(title) + 1})")


def drawn(page: Chrome, plot: str) -> list[dict[str, Any]]:
    """The traces of a figure as plotly holds them."""
    return list(json.loads(page.execute_script(f"return JSON.stringify(document.getElementById('{plot}').data)")))


def test_all_parts_are_drawn_offline(page: Chrome) -> None:
    assert len(column(page, "Method")) == 28
    for plot in ("trade-off-plot", "memory-plot", "learning-plot"):
        assert texts(page, f"#{plot} svg .points path"), plot
    assert texts(page, ".empty") == [""] * 9
    for kind in ("ROC", "precision and recall", "reliability", "reliability, temperature scaled"):
        choose(page, "curves-kind", kind)
        assert [trace["name"] for trace in drawn(page, "curves-plot")][-2:] == ["95 % band", "Full fine-tuning"]
    assert "42 runs of 7 methods on 2 datasets at 2 resolutions" in find(page, "#about").text
    assert "rank nothing" in find(page, "#warnings").text


def test_filters_hold_for_the_whole_page(page: Chrome) -> None:
    choose(page, "filter-label", "FPT")
    choose(page, "filter-resolution", "448 px")
    assert column(page, "Method") == ["FPT"] * 2 and column(page, "Image side") == ["448 px"] * 2
    assert find(page, "#shown").text == "2 of 28 rows"
    assert [trace["name"] for trace in drawn(page, "trade-off-plot")] == ["Pareto front", "FPT, training alone", "FPT"]
    assert {trace["name"] for trace in drawn(page, "learning-plot")} == {"FPT", "FPT, test"}
    assert texts(page, "#fits tbody th") == ["FPT"]
    choose(page, "filter-dataset", HOSTILE_DATASET)
    assert find(page, "#shown").text == "1 of 28 rows"
    find(page, "#filters button").click()
    WebDriverWait(page, 5).until(lambda _: len(column(page, "Method")) == 28)


def test_a_view_is_shared_by_its_address(chrome: Chrome, folder: Path) -> None:
    address = (folder / "report.html").as_uri()
    chrome.get(address)
    settle(chrome)
    assert chrome.current_url == address
    choose(chrome, "filter-label", "FPT")
    choose(chrome, "filter-dataset", HOSTILE_DATASET)
    chrome.execute_script(
        "const card = byId('card'); card.value = 1;"
        "for (const event of ['input', 'change']) card.dispatchEvent(new Event(event, { bubbles: true }))"
    )
    shared, rows, size = chrome.current_url, column(chrome, "Image side"), find(chrome, "#card-size").text
    chrome.get("about:blank")
    chrome.get(shared)
    settle(chrome)
    assert column(chrome, "Method") == ["FPT"] * len(rows) and column(chrome, "Image side") == rows
    assert find(chrome, "#filter-dataset").get_attribute("value") == HOSTILE_DATASET
    assert find(chrome, "#card-size").text == size
    hostile = "<img src=x onerror=alert(1)>"
    asked = {"filter-label": hostile, "filter-none": "x", "records": "1", "my-card": "<b>", "margin": "0.3"}
    asked |= {"curves-row": hostile, "all-columns": "2", "open": "nothing", "trade-off-cost": "money", "card": "4"}
    chrome.get(f"{address}?{urlencode(asked)}")
    settle(chrome)
    assert len(column(chrome, "Method")) == 28 and not chrome.find_elements(By.CSS_SELECTOR, "img")
    notes = texts(chrome, "#address-note p")
    assert len(notes) == len(asked)
    for name, value in asked.items():
        assert any(f"{'a panel' if name == 'open' else name} “{value}”" in note for note in notes), name
    assert chrome.current_url == address
    assert console(chrome) == []


def test_the_table_is_copied_as_latex(page: Chrome) -> None:
    choose(page, "filter-dataset", HOSTILE_DATASET)
    find(page, "#copy-latex").click()
    WebDriverWait(page, 5).until(lambda _: find(page, "#copied").text != "")
    lines = str(find(page, "#latex").get_attribute("value")).splitlines()
    first, last = lines.index(r"\midrule"), lines.index(r"\bottomrule")
    methods = [line.partition(" & ")[0] for line in lines[first + 1 : last]]
    assert methods == [escape_latex(name) for name in column(page, "Method")]
    page.execute_script("DATA.rows[0].cells[0][0] = \"a--b,,  c''d\"")
    assert page.execute_script("return tex(DATA.rows[0].cells[0][0])") == escape_latex("a--b,,  c''d")
    assert all(line.endswith(r" \\") for line in lines[first + 1 : last])
    assert lines[1].count("r") > 5 and len({line.count(" & ") for line in lines[first + 1 : last]}) == 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_in_light_and_dark(page: Chrome, scheme: str) -> None:
    """WCAG's contrast of text on the page and of quiet text, at least 4.5."""
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    paper = luminance(page, "body", "backgroundColor")
    for selector in ("body", ".note", "#results th", "#filters label", "nav a"):
        text = luminance(page, selector, "color")
        assert (max(text, paper) + 0.05) / (min(text, paper) + 0.05) >= 4.5, selector
    assert (paper > 0.5) == (scheme == "light")
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def luminance(page: Chrome, selector: str, name: str) -> float:
    """The relative luminance of a colour (WCAG 2.2)."""
    colour = page.execute_script(
        "return getComputedStyle(document.querySelector(arguments[0]))[arguments[1]]", selector, name
    )
    shares = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    red, green, blue = (share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_filters_that_match_nothing_say_so(page: Chrome) -> None:
    blocks = [option.text for option in Select(find(page, "#filter-block")).options]
    choose(page, "filter-dataset", HOSTILE_DATASET)
    other = next(block for block in blocks[1:] if block not in column(page, "Protocol"))
    choose(page, "filter-block", other)
    for name in ("results", "trade-off", "learning", "classes"):
        assert "Nothing matches the filters" in find(page, f"#{name}-empty").text
    assert not find(page, "#results").is_displayed() and not find(page, "#trade-off-plot").is_displayed()


def test_card_slider_shows_what_fits(page: Chrome) -> None:
    needs = page.execute_script("return memoryPoints().map((point) => point.needs)")
    slider = find(page, "#card")
    seen = []
    for key, card in ((Keys.HOME, 4), (Keys.ARROW_RIGHT, 6), (Keys.END, 192)):
        slider.send_keys(key)
        assert find(page, "#card-size").text == f"{card} GB" == slider.get_attribute("aria-valuetext")
        assert find(page, "#my-card-size").text == f"{card} GB"
        assert f"fit a {card} GB card" in find(page, "#card-summary").text
        seen.append(len(texts(page, "#fits td.yes")))
        assert seen[-1] == sum(need is not None and need <= card * GIB for need in needs)
        line = page.execute_script("return document.getElementById('memory-plot').layout.shapes[0].y0")
        assert line == card * GIB
    assert seen == sorted(seen) and seen[0] < seen[-1]
    assert not any("✗" in text for text in texts(page, "#fits td"))  # 192 GB hold everything here
    caption = find(page, "#memory-caption").text
    assert "Neither measured nor predicted: Adapter at 512 px, Adapter at 1024 px, VPT-Deep at 512 px" in caption
    assert "More sides, predicted: python bench.py memory --predict --methods" in caption
    choose(page, "memory-quantity", "peak allocated, preloading")
    assert {trace["name"] for trace in drawn(page, "memory-plot")} == {"FPT", "FPT+", "Linear probe"}


def test_sorting_by_keyboard(page: Chrome) -> None:
    before = column(page, "Method")
    headers = [text.strip() for text in texts(page, "#results thead th")]
    place = next(i for i, text in enumerate(headers) if text.startswith("AUC"))
    page.execute_script("document.querySelectorAll('#results thead button')[arguments[0]].focus()", place)
    for key, direction, sign in ((Keys.ENTER, "descending", -1), (Keys.SPACE, "ascending", 1)):
        page.switch_to.active_element.send_keys(key)
        cell = page.execute_script("return document.activeElement.closest('th')")
        assert cell.get_attribute("aria-sort") == direction and cell.text.startswith("AUC (%)")
        values = [float(text.split()[0]) for text in column(page, "AUC (%)")]
        assert values == sorted(values, key=lambda value: sign * value)
    page.switch_to.active_element.send_keys(Keys.ENTER)
    assert column(page, "Method") == before
    orders = page.execute_script("return [...document.querySelectorAll('th[aria-sort]')].map((e) => e.ariaSort)")
    assert set(orders) == {"none"}


def test_names_stay_text(page: Chrome) -> None:
    with pytest.raises(NoAlertPresentException):
        _ = page.switch_to.alert
    options = [option.text for option in Select(find(page, "#filter-dataset")).options]
    assert HOSTILE_DATASET in options
    assert HOSTILE_DATASET in column(page, "Dataset")
    for table in ("class-auc", "confusion", "class-results"):
        assert HOSTILE_CLASS in texts(page, f"#{table} th"), table
    assert page.execute_script("return document.querySelectorAll('main img, main script, main b, main i').length") == 0
    scripts = page.execute_script(
        "return [...document.scripts].map(({ id }) => id).filter((id) => !id.startsWith('part-'))"
    )
    assert scripts == ["", "plotly", "data", ""]  # what plotly is made of comes first, in the head
    assert {"<i>gpu7</i>", "host 12ab34cd"} <= set(texts(page, "#machines td"))
    shown = page.execute_async_script(
        "const [name, answer] = arguments; const plot = byId('trade-off-plot');"
        "draw('trade-off-plot', [{ name: plain(name), x: [1, 2], y: [1, 2] }], {}).then(() => answer("
        "[plot.querySelector('.legendtext').textContent, plot.querySelectorAll('a, img, script').length]));",
        "<a href='javascript:alert(3)'>x</a>&amp;",
    )
    assert shown[0] == "<a href='javascript:alert(3)'>x</a>&amp;"
    assert shown[1] == page.execute_script("return document.querySelectorAll('#learning-plot a').length")


def test_the_answer_comes_first_and_follows_the_filters(page: Chrome) -> None:
    stored = page.execute_script(
        "return ADVICE.places.map((place) => ({ ...place, dataset: DATA.groups[place.group].dataset,"
        " short: shortOf(place, limits()), sentences: sentencesOf(place, limits()) }))"
    )
    assert page.execute_script("return document.querySelector('main section').id") == "verdict"
    assert texts(page, "#verdicts summary") == [f"{entry['short']} · {entry['heading']}" for entry in stored]
    assert texts(page, "#verdicts details[open] li") == []  # more than three places are a line each
    resolution = str(stored[0]["resolution"])
    Select(find(page, "#filter-dataset")).select_by_visible_text(HOSTILE_DATASET)
    Select(find(page, "#filter-resolution")).select_by_value(resolution)
    shown = [
        entry for entry in stored if entry["dataset"] == HOSTILE_DATASET and str(entry["resolution"]) == resolution
    ]
    assert len(shown) == len(texts(page, "#verdicts summary"))
    assert texts(page, "#verdicts details[open] li") == [line for entry in shown for line in entry["sentences"]]


def test_cost_and_dataset_change_the_trade_off(page: Chrome) -> None:
    shown = panels(page)
    assert [panel["FPT"]["x"] for panel in shown] == [[int(1_730 * 0.5**2.4 * MIB)], [1_730 * MIB]]
    assert shown[1]["FPT, training alone"]["x"] == [1_730 * MIB, 1_222 * MIB, None]
    names = {name.split(",")[0] for panel in shown for name in panel if "training alone" in name}
    assert names == {"Linear probe", "FPT", "FPT+"}
    assert "Lighter marks: training alone" in find(page, "#trade-off-caption").text
    assert set(shown[0]["FPT"]["marker"]["symbol"]) == {"x"}  # measured: filled
    choose(page, "trade-off-cost", "trainable parameters, head included")
    assert [panel["Linear probe"]["x"] for panel in panels(page)] == [[3_845]] * 2
    choose(page, "trade-off-cost", "GPU memory of training alone")
    shown = panels(page)
    assert [panel["FPT"]["x"] for panel in shown] == [[int(1_222 * 0.5**2.4 * MIB)], [1_222 * MIB]]
    assert not [name for panel in shown for name in panel if "training alone" in name]
    choose(page, "trade-off-cost", "GPU memory of the whole run")
    Select(find(page, "#trade-off-group")).select_by_index(1)  # the laptop's, synthetic, comes last
    assert "predicted, not measured" in find(page, "#trade-off-caption").text
    assert "this ranks nothing" in find(page, "#trade-off-caption").text
    assert set(panels(page)[0]["FPT"]["marker"]["symbol"]) == {"x-open"}


def panels(page: Chrome) -> list[dict[str, Any]]:
    """The traces of AUC against cost by name, for each resolution."""
    traces = drawn(page, "trade-off-plot")
    return [{trace["name"]: trace for trace in traces if trace["xaxis"] == axis} for axis in ("x", "x2")]


def test_a_point_leads_to_its_record(page: Chrome) -> None:
    page.execute_script("byId('trade-off').scrollIntoView()")
    point = find(page, "#trade-off-plot .points path")
    ActionChains(page).move_to_element(point).pause(0.3).click().perform()
    WebDriverWait(page, 5).until(lambda _: find(page, "#record h3"))
    name = find(page, "#record h3").text
    assert page.execute_script("return document.activeElement.textContent") == name
    assert page.current_url.endswith(f"#record={name}")
    assert "c0ffee" in find(page, "#record").text and "NVIDIA A100-SXM4-40GB" in find(page, "#record").text
    assert find(page, "#record a[href^='runs/']").get_dom_attribute("href") == f"runs/{name}.json"
    find(page, "#record a[href^='#record=']").click()  # the other seed
    WebDriverWait(page, 5).until(lambda _: find(page, "#record h3").text != name)
    assert json.loads(texts(page, "#record pre")[0])["run_id"] == find(page, "#record h3").text


def test_table_links_to_the_same_records(page: Chrome) -> None:
    link = find(page, "#results tbody a")
    link.send_keys(Keys.ENTER)
    WebDriverWait(page, 5).until(lambda _: find(page, "#record h3"))
    assert find(page, "#record h3").text == link.get_attribute("title")


def test_confusion_matrix_counts_the_test_images(page: Chrome) -> None:
    choose(page, "classes-run", "FPT+, seed 1")
    assert sum(map(int, texts(page, "#confusion td"))) == 40
    assert sum(map(int, texts(page, "#class-results td:nth-child(2)"))) == 40
    choose(page, "learning-quantity", "Training loss")


def test_learning_curves_show_chance(page: Chrome) -> None:
    shapes = "return document.getElementById('learning-plot').layout.shapes.map(({ y0 }) => y0)"
    assert page.execute_script(shapes) == [50, 0]  # chance, and what parts the test from the epochs
    choose(page, "learning-quantity", "Training loss")
    assert page.execute_script(shapes) == []


def test_learning_curves_ring_the_epoch_that_was_picked(page: Chrome) -> None:
    choose(page, "learning-quantity", "Training loss")
    traces = drawn(page, "learning-plot")
    assert len(traces) == 7  # methods; their two seeds with a gap between them
    assert traces[0]["x"] == [*range(1, 9), None, *range(1, 9)]
    assert traces[0]["y"][:8] == pytest.approx([2 / epoch for epoch in range(1, 9)], rel=1e-5)
    ringed = [epoch == 7 for epoch in range(1, 9)]
    assert [size > 0 for size in traces[0]["marker"]["line"]["width"]] == [*ringed, False, *ringed]


def test_records_are_those_that_were_stored(page: Chrome, folder: Path) -> None:
    shown = page.execute_async_script(
        "Promise.all([...new Set(DATA.runs.part), 'measured'].map(loadPart))"
        ".then((parts) => arguments[0](parts.map(({ contents }) => JSON.stringify(contents))))"
    )
    records = {name: record for part in shown for name, record in json.loads(part).items()}
    paths = [*(folder / "runs").glob("*.json"), *(folder / "measured").glob("*/*.json")]
    assert len(records) == len(paths) > 30
    for path in paths:
        name = path.stem if path.parent.name == "runs" else f"measured/{path.parent.name}/{path.stem}"
        assert records[name] == as_shown(path)


def test_many_seeds_are_offered_when_asked_for(chrome: Chrome, tmp_path: Path) -> None:
    for seed in range(12):
        record, made = make_record("fpt", seed=seed), predictions(seed)
        add_details(record, seed, made)
        record["run"]["selection"] = {"best_epoch": 7}
        write_record(tmp_path, record)
    path, _ = write_report(tmp_path, tmp_path / "report.html")
    chrome.get(path.as_uri())
    settle(chrome)
    assert console(chrome) == []
    assert texts(chrome, "#results summary") == ["12 seeds"] and not texts(chrome, "#results tbody a")
    find(chrome, "#results summary").send_keys(Keys.ENTER)
    WebDriverWait(chrome, 5).until(lambda _: len(texts(chrome, "#results tbody a")) == 12)
    lines, rings, _ = drawn(chrome, "learning-plot")
    assert (lines["mode"], lines["x"].count(None), rings["x"]) == ("lines", 11, [7] * 12)
    assert len(texts(chrome, "#record-choice option")) == 1
    find(chrome, "#record-choice").send_keys(Keys.TAB)  # it is focused first
    assert len(texts(chrome, "#record-choice option")) == 13


def test_all_columns_on_demand(page: Chrome) -> None:
    assert "kappa mean" not in texts(page, "#results thead th button")
    find(page, "#all-columns").send_keys(Keys.SPACE)
    assert "kappa mean" in texts(page, "#results thead th button")


@pytest.mark.parametrize("width", [390, 320])
def test_a_phone_scrolls_down_only(page: Chrome, width: int) -> None:
    set_width(page, width)
    WebDriverWait(page, 5).until(lambda _: find(page, "#memory-plot svg").size["width"] <= width)
    assert page.execute_script("return [innerWidth, document.documentElement.scrollWidth]") == [width, width]
    assert page.execute_script("return document.getElementById('memory-plot').layout.dragmode") is False


def test_keyboard_reaches_everything_by_name(page: Chrome) -> None:
    unnamed = page.execute_script(
        "return [...document.querySelectorAll('select, input')].filter((e) => !e.labels.length).map((e) => e.id)"
    )
    assert unnamed == []
    names = page.execute_script(
        "return [...document.querySelectorAll('button, summary, a')].map((e) => e.textContent.trim() || e.ariaLabel)"
    )
    assert all(names)
    find(page, "body").send_keys(Keys.TAB)
    skip = page.switch_to.active_element
    assert skip.text == "Skip to the table" and skip.rect["x"] >= 0
    outline = page.execute_script("return getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"


def test_a_page_without_runs_says_what_to_do(chrome: Chrome, tmp_path: Path) -> None:
    path, _ = write_report(tmp_path, tmp_path / "report.html")
    chrome.get(path.as_uri())
    assert console(chrome) == []
    for name in ("results", "trade-off", "learning", "classes", "records"):
        assert "python bench.py --methods full lora fpt" in find(chrome, f"#{name}-empty").text
    assert "bench.py memory --measure" in find(chrome, "#memory-empty").text
    assert chrome.execute_script("return document.documentElement.scrollHeight") < 4000


def test_a_run_that_failed_is_shown_as_such(chrome: Chrome, tmp_path: Path) -> None:
    write_record(tmp_path, make_record("full", state="oom", phase="train", message="CUDA out of memory"))
    (tmp_path / "runs" / "broken.json").write_text("{")
    path, _ = write_report(tmp_path, tmp_path / "report.html")
    chrome.get(path.as_uri() + "#record=full_448_0_a")
    settle(chrome)
    assert console(chrome) == []
    assert "record must be readable" in find(chrome, "#warnings").text
    assert column(chrome, "AUC (%)") == ["OOM§"]
    assert "No finished run here has both an AUC and this cost" in find(chrome, "#trade-off-empty").text
    assert "No run here stored a history" in find(chrome, "#learning-empty").text
    assert "No run here has finished" in find(chrome, "#classes-empty").text
    assert "Out of memory: Full fine-tuning at 448 px on NVIDIA A100" in find(chrome, "#memory-caption").text
    assert "oom: train: CUDA out of memory" in find(chrome, "#record").text


@pytest.mark.parametrize(("ci", "outcome"), [("", pytest.skip.Exception), ("1", pytest.fail.Exception)])
def test_without_a_browser_the_tests_say_how_to_get_one_and_fail_in_ci(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ci: str, outcome: type[BaseException]
) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setenv("CI", ci)
    with pytest.raises(outcome, match=r"NO BROWSER.*apt-get install -y chromium"), browser(tmp_path):
        pass
