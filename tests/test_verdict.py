"""What stored results say to use: against the statistics of the table, and in every state that forbids a conclusion."""

import dataclasses
import json
import shlex
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from fixed_records import METHOD_FACTS, make_record, store_with_predictions
from inside import finish_inside

from benchmarks.analysis.evidence import Evidence, load_evidence
from benchmarks.analysis.next_step import NextStep
from benchmarks.analysis.power import Need
from benchmarks.analysis.significance import add_significance
from benchmarks.analysis.summary import summary
from benchmarks.analysis.verdict import Limits, Verdict, verdicts
from benchmarks.commands import COMMANDS
from benchmarks.commands.command_line import make_parser
from benchmarks.memory.needs import needed_bytes
from benchmarks.records.frame import load_frame
from benchmarks.records.record import store_run
from benchmarks.report.advice import as_data, command_lines, heading, in_terminal, sentences
from benchmarks.report.missing_runs import seed_commands
from benchmarks.suite.suite_file import read_options
from methods import TITLES

GIB = 2**30
SKILLS = {"full": 2.2, "linear": 0.6, "lora": 2.3, "vpt": 0.9, "adapter": 2.2, "fpt": 2.0, "fpt_plus": 2.1}
REAL: Mapping[str, Any] = {"dataset": {"synthetic": False}}


def store(results: Path, seeds: int = 5, num_images: int = 120, resolution: int = 448, **changes: Any) -> None:
    for method, skill in SKILLS.items():
        for seed in range(seeds):
            record = make_record(method, resolution, seed, **{**REAL, **changes})
            store_with_predictions(results, record, skill, num_images=num_images)


def read(results: Path) -> tuple[pd.DataFrame, dict[str, Evidence]]:
    frame, problems = load_frame(results)
    evidence, damaged = load_evidence(results, frame)
    assert not problems and not damaged
    return add_significance(summary(frame), evidence), evidence


def decide(results: Path, limits: Limits | None = None) -> Verdict:
    (found,) = verdicts(*read(results), limits or Limits())
    return found


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    store(folder)
    return folder


def title(method: str) -> str:
    return TITLES[method]


def test_candidates_are_those_not_told_apart_from_the_best(results: Path) -> None:
    table, _ = read(results)
    found = decide(results)
    open_rows = table[table["is_best"] | (table["vs_best_p"] > 0.05)]
    assert {candidate.label for candidate in found.candidates} == set(open_rows["label"])
    assert {candidate.label for candidate in found.others} == set(table["label"]) - set(open_rows["label"])
    assert {title("linear"), title("vpt")} == {candidate.label for candidate in found.others}
    assert found.best == found.candidates[0].label == table["label"].iloc[int(table["auc_mean"].argmax())]
    aucs = [candidate.auc for candidate in found.candidates]
    assert aucs == sorted(aucs, reverse=True)
    assert found.forbids == [] and found.left_out == {}
    assert (found.seeds, found.units, found.unit) == (5, 120, "image")


def test_the_choice_is_the_leanest_of_them(results: Path) -> None:
    found = decide(results)
    methods = {candidate.label: candidate.method for candidate in found.candidates}
    peaks = {label: max(METHOD_FACTS[method][4:6], key=lambda peak: peak or 0) for label, method in methods.items()}
    least = min(peak for peak in peaks.values() if peak is not None)
    assert found.choice is not None and peaks[found.choice] == least
    assert found.cheapest["parameters"] == title("lora")
    assert found.cheapest["storage"] == found.cheapest["parameters"]
    first = next(candidate for candidate in found.candidates if candidate.label == found.choice)
    assert first.storage_bytes == 4 * (METHOD_FACTS[first.method][1] + 3_845)


def test_a_margin_asks_what_is_shown_to_be_no_worse(results: Path) -> None:
    table, _ = read(results)
    for margin in (0.0, 0.02, 0.06, 0.5, 1.0):
        found = decide(results, Limits(margin=margin))
        shown = table[table["is_full"] | (table["vs_full_low"] > -margin)]
        assert {candidate.label for candidate in found.candidates} == set(shown["label"]), margin
    assert {candidate.label for candidate in decide(results, Limits(margin=0.0)).candidates} == {title("full")}
    assert len(decide(results, Limits(margin=1.0)).candidates) == len(SKILLS)


def test_a_card_and_hours_leave_out_what_is_too_dear(results: Path) -> None:
    found = decide(results, Limits(card_bytes=4 * GIB, needed_bytes=needed_bytes))
    dear = {title(method) for method in ("full", "lora", "adapter")}
    assert {candidate.label for candidate in found.candidates if candidate.fits is False} == dear
    assert found.choice in {title("fpt"), title("fpt_plus")}
    assert set(found.cheapest.values()).isdisjoint(dear)
    slow = decide(results, Limits(hours=41 / 3600))  # training takes 41.25 s
    assert [candidate.fits for candidate in slow.candidates] == [False] * len(slow.candidates)
    assert "None of the methods to choose from keeps to the limits." in "\n".join(sentences(slow, Limits()))
    fast = decide(results, Limits(hours=42 / 3600))
    assert {candidate.label for candidate in fast.candidates if candidate.fits} == dear  # features take 125 s more


def test_the_next_step_is_between_the_best_and_the_choice(results: Path) -> None:
    found = decide(results)
    assert found.next_step is not None and found.best is not None
    assert found.next_step.labels[0] == found.best
    other = found.choice if found.choice != found.best else found.candidates[1].label
    assert found.next_step.labels[1] == other
    by_label = {candidate.label: candidate for candidate in found.candidates}
    assert found.next_step.change == pytest.approx(by_label[found.best].auc - by_label[str(other)].auc)
    assert (found.next_step.seeds_now, found.next_step.units_now) == (5, 120)


FORBIDDEN: list[tuple[str, dict[str, Any]]] = [
    ("images that a program drew", {"dataset": {"synthetic": True}}),
    ("random weights", {"weights": {"source": "none"}}),
    ("a fallback backbone", {"weights": {"fallback": True}}),
    ("one seed", {"seeds": 1}),
    ("the rarest class has 4 test images: with fewer than 5", {"num_images": 8}),
    ("the rarest class has 8 test images: under 10", {"num_images": 16}),
]


@pytest.mark.parametrize(("why", "changes"), FORBIDDEN, ids=[why for why, _ in FORBIDDEN])
def test_what_forbids_a_conclusion_is_said_first(tmp_path: Path, why: str, changes: dict[str, Any]) -> None:
    store(tmp_path, **changes)
    found = decide(tmp_path)
    assert [reason for reason in found.forbids if reason.startswith(why)]
    said = list(sentences(found, Limits()))
    assert said[0].startswith("No conclusion yet: ") and why in said[0]
    assert said[1].startswith("As it stands: ")


def test_failures_edges_and_a_missing_reference_are_said(tmp_path: Path) -> None:
    for method, skill in SKILLS.items():
        for seed in range(2):
            if method == "full":
                record = make_record(method, 448, seed, state="oom", **REAL)
            elif (method, seed) == ("adapter", 1):
                record = make_record(method, 448, seed, state="failed", message="killed", **REAL)
            else:
                record = make_record(method, 448, seed, **REAL)
                if method == "lora":
                    record["run"]["tuning"] = {"chosen": 1e-2, "num_trials": 2, "at_edge": True}
            if record["status"]["state"] == "ok":
                store_with_predictions(tmp_path, record, skill)
            else:
                store_run(tmp_path, record, None)
    found = decide(tmp_path, Limits(margin=0.02))
    assert found.left_out == {title("full"): "out of memory", title("adapter"): "only 1 of 2 seeds finished"}
    assert "full fine-tuning has no result here, so that the margin cannot be tested" in found.forbids
    assert f"runs failed or were interrupted: {title('adapter')}" in found.forbids
    assert f"the best learning rate lies at the edge of its grid: {title('lora')}" in found.forbids
    assert found.candidates == []
    assert "As it stands: no method is shown to be within 2.0 of" in "\n".join(sentences(found, Limits(margin=0.02)))


def test_memory_of_two_kinds_names_no_leanest(tmp_path: Path) -> None:
    for method in ("lora", "fpt"):
        for seed in range(2):
            store_with_predictions(tmp_path, make_record(method, 448, seed, measured=method == "fpt", **REAL), 2.0)
    found = decide(tmp_path)
    assert {candidate.memory_source for candidate in found.candidates} == {"measured", "predicted"}
    assert found.choice is None and "memory" not in found.cheapest
    assert "so none is called leanest" in "\n".join(sentences(found, Limits()))


def test_a_method_without_a_prediction_leaves_the_leanest_of_the_others(results: Path) -> None:
    table, evidence = read(results)
    before = decide(results).choice
    other = next(label for label in table["label"] if label != before)
    table.loc[table["label"] == other, ["memory_bytes", "memory_source"]] = None
    (found,) = verdicts(table, evidence, Limits())
    assert found.choice == before


def test_every_sentence_speaks_of_the_place(results: Path) -> None:
    found = decide(results)
    assert heading(found) == "Demo at 448 px (5 seeds, 120 test images, memory measured)"
    assert heading(dataclasses.replace(found, fewest_seeds=3)).startswith("Demo at 448 px (3 to 5 seeds, 120")
    assert heading(dataclasses.replace(found, fewest_seeds=1, seeds=1)).startswith("Demo at 448 px (1 seed, 120")
    said = list(sentences(found, Limits()))
    assert said[0].startswith(f"Use {found.choice}: of {len(found.candidates)} methods not told apart from the best, ")
    assert said[-2].startswith("Ruled out: ") and title("linear") in said[-2]
    assert " apart with 5 seeds" in said[-1]


def test_the_command_speaks_in_sentences_and_in_data(results: Path) -> None:
    text = finish_inside(results.parent, "advise", "--results", str(results))
    assert text.returncode == 0, text.stderr
    assert text.stdout.startswith("Demo at 448 px (5 seeds, 120 test images, memory measured)\n- Use ")
    assert all(len(line) <= 80 for line in text.stdout.splitlines())
    done = finish_inside(results.parent, "advise", "--results", str(results), "--margin", "0.06", "--format", "json")
    (entry,) = json.loads(done.stdout)
    assert entry == json.loads(json.dumps(as_data(decide(results, Limits(margin=0.06)), Limits(margin=0.06))))
    assert (entry["dataset"], entry["resolution"], entry["margin"]) == ("demo", 448, 0.06)


def test_a_terminal_has_the_command_by_itself(results: Path) -> None:
    lines = list(in_terminal([decide(results)], Limits(), ["python bench.py --seeds 0 1"]))
    assert lines[lines.index("- The command for more seeds:") :][1:4] == ["", "    python bench.py --seeds 0 1", ""]


@pytest.mark.parametrize("width", [20, 50, 200])
def test_a_command_is_pasted_as_it_is(width: int) -> None:
    """A shell gets the words of the command in one line, whatever its width; a quoted space ends no line."""
    command = "printf '%s|' 'a b' \"c  d\" it\"'\"s one two three four && printf '<%s>' five --six=7 'eight  nine'"
    lines = command_lines(command, width)
    words = [len(word) for word in ("printf", "'%s|'", 'it"\'"s', "'eight  nine'")]
    assert all(len(line) <= max(width, 8 + max(words)) for line in lines)
    said = [subprocess.run(["bash", "-c", text], capture_output=True) for text in (command, "\n".join(lines))]
    assert said[0].stdout == said[1].stdout == b"a b|c  d|it's|one|two|three|four|<five><--six=7><eight  nine>"


def test_more_seeds_are_asked_for_by_a_command_that_the_program_takes(results: Path) -> None:
    table, _ = read(results)
    lines = seed_commands(table[table["method"].isin(["lora", "fpt"])], 7)
    methods: list[str] = []
    for line in lines:
        words = shlex.split(line)
        assert words[:2] == ["python", "bench.py"]
        options = read_options(vars(make_parser(COMMANDS["run"]).parse_args(words[2:])))
        methods += options.methods
        assert options.datasets == ("demo",) and options.res == (448,)
        assert options.seeds == tuple(range(7))
        assert (options.epochs, options.batch_size, options.precision) == (20, 16, "bf16")
    assert sorted(name.partition(":")[0] for name in methods) == ["fpt", "lora"]


@pytest.mark.parametrize(
    ("need", "said"),
    [
        (Need(6, 900, None), "about 6 seeds in all or about 900 test images or patients"),
        (Need(None, 900, None), "about 900 test images or patients."),
        (Need(None, None, (12, 900)), "about 12 seeds in all together with 900 test images or patients."),
        (Need(None, None, None), "100 seeds and a thousand times the test images would not tell them apart."),
    ],
)
def test_the_next_step_in_words(results: Path, need: Need, said: str) -> None:
    step = NextStep(("LoRA", "FPT+"), 0.011, 3, 300, need)
    found = dataclasses.replace(decide(results), next_step=step)
    last = list(sentences(found, Limits()))[-1]
    assert last.startswith("LoRA and FPT+ are 1.1 apart with 3 seeds") and said in last


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--margin", "2"), "margin must be at most 1, got '2'"),
        (("--margin", "x", "--train-hours", "0"), "train_hours must be above 0, got '0'"),
        (("--gpu-memory", "A100"), "gpu-memory must say which of this card's sizes, as A100-40GB or A100-80GB"),
        (("--gpu-memory", "lots"), "gpu-memory must be like 24GB, or a card's name like RTX 4090, got 'lots'"),
    ],
)
def test_bad_limits_are_refused(results: Path, options: tuple[str, ...], message: str) -> None:
    found = finish_inside(results.parent, "advise", "--results", str(results), *options)
    assert found.returncode == 2
    assert message in found.stderr and found.stdout == ""


def test_no_runs_no_verdict(tmp_path: Path) -> None:
    found = finish_inside(tmp_path, "advise")
    assert found.returncode == 2
    assert "no records under" in found.stderr
