"""Adding seeds until the answer stands: rounds are ordinary runs, what was stopped goes on, records say the rule."""

import json
import signal
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import pytest
from bench_process import TINY, options_of
from inside import finish_inside
from tiny_images import make_images

from benchmarks.analysis.comparison import SameImages
from benchmarks.analysis.stopping import LOOK_LEVEL, LOOKS, Judgement
from benchmarks.analysis.summary import summary
from benchmarks.errors import UserError
from benchmarks.records.frame import load_frame
from benchmarks.suite.plan import make_plan
from benchmarks.suite.rounds import Rounds
from benchmarks.suite.signals import Stop
from benchmarks.suite.suite import Work, _Suite

METHODS = ("linear", "lora", "vpt")
SUITE = ["--methods", *METHODS, *TINY, "--epochs", "1", "--seeds", "0", "1", "--until-decided"]


def judge(tested: SameImages, memory: Sequence[int | None], out: Collection[int], margin: float) -> Judgement:
    """Drops what takes most memory at the first look, and ends at the second."""
    assert margin == 0.03
    left = [number for number in range(len(memory)) if number not in out]
    most = max(left, key=lambda number: memory[number] or 0)
    leanest = min(left, key=lambda number: memory[number] or 0)
    if not out:
        return Judgement({most: 0.001}, [number for number in left if number != most], leanest, None)
    return Judgement({}, left, leanest, "margin")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A suite that is stopped in its second round, and begun again."""
    folder = tmp_path_factory.mktemp("rounds")
    make_images(folder / "images")
    run, count = _Suite._run, 0

    def stopped(self: _Suite, *arguments: Any) -> None:
        nonlocal count
        count += 1
        if count == 8:
            raise Stop(signal.SIGTERM)
        run(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("benchmarks.analysis.stopping.judge", judge)
        with patch.context() as inner:
            inner.setattr(_Suite, "_run", stopped)
            ended = finish_inside(folder, *SUITE, "--margin", "0.03")
        assert ended.returncode == 128 + signal.SIGTERM
        (folder / "first").write_text(ended.stderr)
        ended = finish_inside(folder, *SUITE, "--margin", "0.03")
    assert ended.returncode == 0, ended.stderr
    (folder / "second").write_text(ended.stderr)
    return folder


def stored(folder: Path) -> dict[tuple[str, int], dict[str, Any]]:
    records = [json.loads(path.read_text()) for path in (folder / "results/runs").glob("*.json")]
    return {(found["run"]["config"]["method"], found["run"]["config"]["seed"]): found for found in records}


def test_what_is_told_apart_gets_no_more_seeds_and_the_rest_twice_as_many(folder: Path) -> None:
    found = stored(folder)
    (dropped,) = [name for name in METHODS if (name, 2) not in found]
    assert set(found) == {(name, seed) for name in METHODS for seed in range(2 if name == dropped else 4)}
    said = (folder / "second").read_text()
    assert "look 1 of 5, images at 32 px, 2 seeds: " in said and "(p 0.0010, level 0.01) and gets no more seeds" in said
    assert "4 more runs, to 4 seeds of methods that are still in question" in said
    assert "images at 32 px: decided, " in said and "no more than 3 points below any of them" in said


def test_a_suite_that_was_stopped_goes_on_in_its_round(folder: Path) -> None:
    first, second = ((folder / name).read_text() for name in ("first", "second"))
    assert first.count(": started") == 7 and "the same command goes on" in first
    assert "6 runs, 6 of them stored already" in second and second.count(": started") == 3
    assert "runs: 10 ok" in second


def test_runs_are_those_of_an_ordinary_plan(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    plan = make_plan(options_of("--methods", *METHODS, *TINY, "--epochs", "1", "--seeds", "0", "1", "2", "3"))
    assert {found["run_id"] for found in stored(folder).values()} <= {run.config.run_id for run in plan.runs}


def test_a_record_says_the_rule_and_who_was_asked(folder: Path) -> None:
    found = stored(folder)
    for (_, seed), record in found.items():
        stopping = record["run"]["stopping"]
        assert (stopping["look"], stopping["looks"], stopping["level"]) == (1 + seed // 2, LOOKS, LOOK_LEVEL)
        assert stopping["margin"] == 0.03 and "Bonferroni" in stopping["rule"]
        asked = {one["method"] for one in stopping["asked"]}
        assert asked == {name for name in METHODS if (name, seed) in found}


def test_tables_rank_methods_that_have_what_was_asked_of_them(folder: Path) -> None:
    frame, _ = load_frame(folder / "results")
    rows = summary(frame)
    assert rows["complete"].all() and sorted(rows["seeds_asked"]) == [2, 4, 4]
    text = (folder / "results/tables/results.md").read_text()
    assert "over 2 to 4 seeds" in text
    assert "at most 5 looks, each at the level 0.01, margin 3 points" in text
    plain = summary(frame.assign(stopping_asked=None))
    assert sorted(plain["seeds_asked"]) == [4, 4, 4] and not plain["complete"].all()


def rounds(folder: Path, monkeypatch: pytest.MonkeyPatch, *more: str) -> Rounds:
    monkeypatch.chdir(folder)
    return Rounds(options_of(*SUITE, *more))


def test_trials_are_of_the_first_seeds(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the rate, and with it what runs are, stays what it was at the first look."""
    made = rounds(folder, monkeypatch, "--lr", "1e-4", "1e-3", "--trial-seeds", "all")
    assert {trial.config.seed for trial in made.plan().trials} == {0, 1}
    assert {run.config.seed for run in made.plan([0]).runs} == {0, 1}
    place = next(iter(made.places.values()))
    place.asked.append(list(place.cells)[1:])
    later = made.plan([1])
    assert [len(cell.runs) for cell in later.cells] == [2, 2] and len(later.trials) == 2 * 2 * 2
    assert {run.config.seed for run in later.runs} == {2, 3}
    ordinary = make_plan(options_of(*SUITE[:-4], "--seeds", "2", "3", "--lr", "1e-4", "1e-3"))
    assert {run.config.run_id for run in later.runs} <= {run.config.run_id for run in ordinary.runs}


@pytest.fixture
def no_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables and plots are not the point."""
    monkeypatch.setattr("benchmarks.commands.run.show_results", lambda *_: 0)


@pytest.mark.usefixtures("no_tables")
def test_images_that_lack_end_it_at_the_first_look(folder: Path) -> None:
    """Four test images of a class: nothing can be compared."""
    ended = finish_inside(folder, *SUITE)
    assert ended.returncode == 0 and ": started" not in ended.stderr
    assert "not decided, images are what lacks: of the rarest class 4 are tested, and under 5" in ended.stderr


def test_looks_are_used_up(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    made = rounds(folder, monkeypatch)
    place = next(iter(made.places.values()))
    place.asked *= LOOKS
    plan = made.plan([0])
    monkeypatch.setattr(made, "_take_look", lambda *_: None)
    work = Work.make(plan, Path("results"), "only-missing", 1.0)
    assert made.next(work, 1) is None
    assert "not decided, looks are used up: 5, the last with 32 seeds" in capsys.readouterr().err


@pytest.mark.usefixtures("no_tables")
def test_no_run_starts_after_the_hours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_images(tmp_path / "images")
    monkeypatch.setattr(Rounds, "_too_long", lambda *_: False)
    ended = finish_inside(tmp_path, *SUITE, "--max-hours", "1e-9")
    assert ended.returncode == 1 and ": started" not in ended.stderr
    assert "not decided, the 1e-09 hours are over before look 1 of 5" in ended.stderr
    assert "the same command goes on with runs that were interrupted or are not done" in ended.stderr


@pytest.mark.usefixtures("no_tables")
def test_no_round_begins_that_would_end_after_the_hours(folder: Path) -> None:
    ended = finish_inside(folder, *SUITE, "--overwrite", "--max-hours", "1e-5")
    assert ended.returncode == 1 and ": started" not in ended.stderr
    assert "not begun: the 1e-05 hours would not do for the first look, as stored times say" in ended.stderr


def test_the_next_look_is_left_out_where_hours_would_not_do(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = rounds(folder, monkeypatch, "--max-hours", "1", "--margin", "0.03")
    work = Work.make(made.plan([0]), Path("results"), "only-missing", 1.0)
    monkeypatch.setattr("benchmarks.analysis.stopping.judge", judge)
    answers = iter([True])
    monkeypatch.setattr(made, "_too_long", lambda *_: next(answers))
    assert made.next(work, 1) is None
    assert "not decided, the 1 hours would not do for the next look" in capsys.readouterr().err
    assert {run.config.seed for run in made.plan().runs} == {0, 1}


def test_a_dry_run_shows_the_first_round_and_the_most_it_may_become(folder: Path) -> None:
    ended = finish_inside(folder, *SUITE, "--dry-run")
    assert ended.returncode == 0
    assert "6 runs in 3 cells, 0 to do" in ended.stderr
    assert "at most 5 looks with 2, 4, 8, 16, 32 seeds: at most 96 runs, 90 of them beyond these" in ended.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--until-decided"], r"seeds must be at least two with --until-decided, got 0 alone"),
        (["--margin", "0.02"], r"margin must be used with --until-decided, got it alone"),
        (["--max-hours", "2"], r"max_hours must be used with --until-decided, got it alone"),
        (
            ["--until-decided", "--seeds", "0", "1", "--launcher", "slurm", "--slurm", "minutes=5"],
            r"until_decided must be used with --launcher local, got slurm",
        ),
        (["--until-decided", "--seeds", "0", "1", "--max-hours", "0"], r"max_hours must be above 0, got '0'"),
    ],
)
def test_what_does_not_go_together_is_refused(arguments: list[str], message: str) -> None:
    read: Callable[..., Any] = options_of
    with pytest.raises(UserError, match=message):
        read("--methods", "lora", *arguments)
