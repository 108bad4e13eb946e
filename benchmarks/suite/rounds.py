"""A suite that adds seeds until the answer stands: its rounds, each an ordinary plan, and what is said after each.

The rule is that of `benchmarks.analysis.stopping`. A look is taken from the stored records of the runs that were asked
for up to it, whatever else is stored by then: the same command, begun again, comes by the same looks to where it was.
"""

import dataclasses
import json
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import torch

from benchmarks.analysis.evidence import load_evidence
from benchmarks.analysis.stopping import (
    DECIDED,
    LOOK_LEVEL,
    LOOKS,
    MARGIN,
    RULE,
    Key,
    Standing,
    look_at,
    seeds_of_looks,
)
from benchmarks.analysis.summary import summary
from benchmarks.environment import device_name
from benchmarks.records.frame import load_frame, settings_of
from benchmarks.records.stored import UNDONE
from benchmarks.suite.estimate import expected_seconds, runs_by_kind
from benchmarks.suite.options import SuiteOptions
from benchmarks.suite.plan import make_plan
from benchmarks.suite.planned import Cell, Plan
from benchmarks.suite.suite import Work
from benchmarks.suite.tuning import tuned_runs

_SECONDS = 3600  # an hour


@dataclass
class Place:
    """A dataset at a resolution.

    Attributes:
        cells: By method, with the runs of all looks.
        asked: Of each look so far, the methods that were to have its seeds.
        out: Methods that get no more seeds.
        end: Why none does; None where some do.
        decided: Whether that is an answer.
    """

    cells: dict[Key, Cell]
    asked: list[list[Key]]
    out: set[Key] = field(default_factory=set)
    end: str | None = None
    decided: bool = False

    @property
    def title(self) -> str:
        """For people."""
        run = next(iter(self.cells.values())).runs[0]
        return f"{run.dataset_label or run.config.dataset} at {run.config.resolution} px"

    def finish(self, why: str, decided: bool = False) -> None:
        """No method gets more seeds."""
        self.end, self.decided = why, decided


class Rounds:
    """The rounds of a suite, and how far they are.

    Args:
        options: Of the suite; its seeds are those of the first look, and of all trials.

    Attributes:
        looks: The seeds of each look, those before it included.
        deadline: On the clock of `time.monotonic`, after which no run starts; None without one.
        places: What the rule is followed for, each apart.
    """

    def __init__(self, options: SuiteOptions) -> None:
        self.looks = seeds_of_looks(options.seeds)
        self.margin = MARGIN if options.margin is None else options.margin
        self.mix_code, self.hours = options.mix_code, options.max_hours
        self.deadline = None if self.hours is None else time.monotonic() + _SECONDS * self.hours
        self._whole = make_plan(options.model_copy(update={"seeds": tuple(self.looks[-1])}))
        by_place: dict[tuple[str, int], dict[Key, Cell]] = {}
        for cell in self._whole.cells:
            by_place.setdefault(_place(cell), {})[_key(cell)] = cell
        self.places = {place: Place(cells, [list(cells)]) for place, cells in by_place.items()}

    def plan(self, looks: Iterable[int] | None = None) -> Plan:
        """What is asked for at some looks, numbered from 0; of all so far by default."""
        numbers = list(range(LOOKS) if looks is None else looks)
        cells = (self._cell(cell, numbers) for cell in self._whole.cells)
        return dataclasses.replace(self._whole, cells=[cell for cell in cells if cell.runs])

    def _cell(self, cell: Cell, looks: Sequence[int]) -> Cell:
        place, key = self.places[_place(cell)], _key(cell)
        by_seed = {run.config.seed: run for run in cell.runs}
        runs = [
            dataclasses.replace(by_seed[seed], stopping=self._stated(look, place.asked[look]))
            for look in looks
            if look < len(place.asked) and key in place.asked[look]
            for seed in self._new_seeds(look)
        ]
        return Cell([trial for trial in cell.trials if trial.config.seed in self.looks[0]], runs)

    def _new_seeds(self, look: int) -> list[int]:
        return self.looks[look][len(self.looks[look - 1]) if look else 0 :]

    def _stated(self, look: int, asked: Sequence[Key]) -> dict[str, Any]:
        """What the record of a run says, see `records.schema.Stopping`."""
        methods = [{"method": method, "settings": json.loads(settings)} for method, settings in asked]
        numbers = {"look": look + 1, "looks": LOOKS, "level": LOOK_LEVEL, "margin": self.margin}
        return {"rule": RULE} | numbers | {"asked": methods}

    def begin(self, work: Work, num_processes: int) -> Plan | None:
        """What is to be done first; None where the hours would not do."""
        plan = self.plan([0])
        if not self._too_long(plan, load_frame(work.results)[0], work, num_processes):
            return plan
        _say(f"not begun: the {self.hours:g} hours would not do for the first look, as stored times say")
        return None

    def next(self, work: Work, num_processes: int) -> Plan | None:
        """Takes the look that is due, says what it shows, and gives what is to be done next; None where nothing is.

        Args:
            work: Of the suite, whose plans so far have been run.
            num_processes: That share it.
        """
        under_way = [place for place in self.places.values() if place.end is None]
        look = len(under_way[0].asked) - 1
        frame, _ = load_frame(work.results)  # what is damaged has been said, and was done again
        for place in under_way:
            self._take_look(place, look, frame, work)
        under_way = [place for place in under_way if place.end is None]
        if look == LOOKS - 1:
            for place in under_way:
                place.finish(f"looks are used up: {LOOKS}, the last with {len(self.looks[-1])} seeds")
        else:
            for place in under_way:
                place.asked.append([key for key in place.cells if key not in place.out])
        plan = self.plan([look + 1])
        if plan.cells and self._too_long(plan, frame, work, num_processes):
            for place in under_way:
                place.asked.pop()
                place.finish(f"the {self.hours:g} hours would not do for the next look, as stored times say")
        for place in self.places.values():
            if place.end is not None and len(place.asked) == look + 1:
                _say(f"{place.title}: {'decided' if place.decided else 'not decided'}, {place.end}")
        left = [place for place in under_way if place.end is None]
        if not left:
            return None
        _say(f"{len(plan.runs)} more runs, to {len(self.looks[look + 1])} seeds of methods that are still in question")
        return plan

    def _take_look(self, place: Place, look: int, frame: pd.DataFrame, work: Work) -> None:
        cells = [self._cell(cell, range(LOOKS)) for cell in place.cells.values()]
        runs = [run.config.run_id for cell in cells for run in tuned_runs(cell, work.results) or ()]
        rows = frame[frame["run_id"].isin(runs)]
        if len(rows) < sum(len(cell.runs) for cell in cells) or rows["state"].isin(UNDONE).any():
            over = self.deadline is not None and time.monotonic() > self.deadline
            why = f"the {self.hours:g} hours are over" if over else "runs were interrupted or could not be stored"
            place.finish(f"{why} before look {look + 1} of {LOOKS}; the same command goes on")
            return
        evidence, problems = load_evidence(work.results, rows)
        for problem in problems:
            _say(problem)
        found = look_at(summary(rows, self.mix_code), evidence, place.out, self.margin)
        place.out |= found.worse.keys() | found.lost.keys()
        for line in _told(found):
            _say(f"look {look + 1} of {LOOKS}, {place.title}, {len(self.looks[look])} seeds: {line}")
        if found.end is not None:
            place.finish(found.why, found.end in DECIDED)

    def _too_long(self, plan: Plan, frame: pd.DataFrame, work: Work, num_processes: int) -> bool:
        """Whether stored times say that what is due would end after the hours."""
        if self.deadline is None:
            return False
        alike = runs_by_kind(frame, device_name(torch.device(plan.runs[0].places.device)))
        runs = [run for cell in plan.cells for run in tuned_runs(cell, work.results) or cell.runs]
        due = [run for run in (*plan.trials, *runs) if work.stored_of(run).is_due(run.config.run_id)]
        seconds = sum(expected_seconds(run.config, alike) or 0.0 for run in due)
        return time.monotonic() + seconds / num_processes > self.deadline

    def say_most(self) -> None:
        """Says how far it may go."""
        most, first = self._whole, self.plan([0])
        _say(
            f"this is the first look; more seeds are added until the answer stands, at most {LOOKS} looks with "
            f"{', '.join(str(len(seeds)) for seeds in self.looks)} seeds: at most {len(most.runs)} runs, "
            f"{len(most.runs) - len(first.runs)} of them beyond these"
        )


def _place(cell: Cell) -> tuple[str, int]:
    return cell.runs[0].places.dataset, cell.runs[0].config.resolution


def _key(cell: Cell) -> Key:
    config = cell.runs[0].config
    return config.method, json.dumps(settings_of(dataclasses.asdict(config)), sort_keys=True)


def _told(found: Standing) -> Iterator[str]:
    """What a look shows of single methods, and that it goes on."""
    for key, p in found.worse.items():
        shown = "under 0.0001" if p < 0.0001 else f"{p:.4f}"
        yield f"{found.labels[key]} is worse than the best (p {shown}, level {LOOK_LEVEL:g}) and gets no more seeds"
    for key, why in found.lost.items():
        yield f"{found.labels[key]} is not compared ({why}) and gets no more seeds"
    if found.end is None:
        yield found.why


def _say(line: str) -> None:
    print(line, file=sys.stderr)
