"""A verdict in plain sentences, and as data for programs."""

import re
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks.analysis.next_step import NextStep
from benchmarks.analysis.power import MOST_SEEDS
from benchmarks.analysis.verdict import Candidate, Limits, Verdict

COSTS = {
    "parameters": "fewest trainable parameters",
    "time": "fastest to train",
    "storage": "least to store for each task",
}
MIB, GIB = 2**20, 2**30
MOST_NAMED = 8  # methods in a sentence
_FEW_PLACES = 3  # of which all is said
_WIDTH = 80  # of a terminal
_WHOLE_WORDS: dict[str, Any] = {"break_on_hyphens": False, "break_long_words": False}
NOT_EQUAL = (
    "Not told apart is not shown to be equal: --margin 0.02 asks which methods are shown to lie within 2 points of "
    "full fine-tuning."
)


def heading(verdict: Verdict) -> str:
    """The place, and what the verdict rests on."""
    place = verdict.place
    fewest = "" if verdict.fewest_seeds == verdict.seeds else f"{verdict.fewest_seeds} to "
    seeds = f"{fewest}{verdict.seeds} seed{'' if verdict.seeds == 1 else 's'}"
    unit = "test patients (or other groups)" if verdict.unit == "group" else "test images"
    tested = f", {verdict.units:,} {unit}" if verdict.units else ""
    sources = sorted({found.memory_source for found in (*verdict.candidates, *verdict.others) if found.memory_source})
    memory = f", memory {' and '.join(sources)}" if sources else ""
    return f"{place['dataset_label']} at {place['resolution']} px ({seeds}{tested}{memory})"


def short(verdict: Verdict) -> str:
    """The answer in a few words."""
    if verdict.best is None:
        return "Nothing to choose from"
    chosen = verdict.choice or f"{len(verdict.candidates)} methods alike"
    return f"No conclusion yet; {chosen} as it stands" if verdict.forbids else f"Use {chosen}"


def in_terminal(found: Sequence[Verdict], limits: Limits, commands: Sequence[str | None] = ()) -> Iterator[str]:
    """The verdicts in lines of a terminal, each place under its heading.

    Args:
        found: The verdicts.
        limits: Those they were made for.
        commands: Command lines of the next steps, in the order of the verdicts; none by default.
    """
    for number, verdict in enumerate(found):
        yield textwrap.fill(heading(verdict), _WIDTH, **_WHOLE_WORDS)
        yield from map(_bullet, sentences(verdict, limits))
        if commands and (command := commands[number]):
            yield from ["- The command for more seeds:", "", *command_lines(command, _WIDTH)]
        yield ""
    if found and limits.margin is None:
        yield textwrap.fill(NOT_EQUAL, _WIDTH)


def first_lines(found: Sequence[Verdict]) -> Iterator[str]:
    """The same where other things follow: of many places only the answers."""
    if len(found) <= _FEW_PLACES:
        yield from in_terminal(found, Limits())
        return
    for verdict in found:
        yield _bullet(f"{heading(verdict)}: {short(verdict)}.")
    yield "bench.py advise says how sure that is, and what would decide more."


def _bullet(line: str) -> str:
    return textwrap.fill(line, _WIDTH, initial_indent="- ", subsequent_indent="  ", **_WHOLE_WORDS)


def command_lines(command: str, width: int) -> list[str]:
    """A command line of a shell in lines of at most so many characters, if its words let it, to be pasted as they are.

    Args:
        command: Words and operators with spaces between; a space inside a word is quoted.
        width: Of a line, with the backslash at its end.
    """
    lines = ["   "]
    for word in re.findall(r"""(?:'[^']*'|"[^"]*"|[^\s'"])+""", command):
        if lines[-1].strip() and len(lines[-1]) + len(word) + 3 > width:
            lines.append("     ")
        lines[-1] += f" {word}"
    return [f"{line} \\" for line in lines[:-1]] + lines[-1:]


def sentences(verdict: Verdict, limits: Limits) -> Iterator[str]:
    """What to use, what else it could be, what is ruled out, what forbids a conclusion, what would decide more.

    Args:
        verdict: Of a place.
        limits: Those it was made for.
    """
    answer = _answer(verdict, limits)
    if verdict.forbids:
        yield f"No conclusion yet: {'; '.join(verdict.forbids)}."
        answer = f"As it stands: {answer[0].lower()}{answer[1:]}"
    yield answer
    if len(verdict.candidates) > 1:
        cheapest: dict[str, list[str]] = {}
        for cost in (cost for cost in COSTS if cost in verdict.cheapest):
            cheapest.setdefault(verdict.cheapest[cost], []).append(COSTS[cost])
        yield from (f"{label}, of these: {', '.join(words)}." for label, words in cheapest.items())
    if verdict.others:
        told = [f"{found.label} {points(found.auc)}{why_not(found, limits)}" for found in verdict.others]
        what = "Ruled out" if limits.margin is None else f"Not shown to be within {points(limits.margin)} of it"
        yield f"{what}: {_listed(told)}."
    too_dear = [found.label for found in verdict.candidates if found.fits is False]
    if too_dear:
        yield f"Over the limits: {_listed(too_dear)}."
    unknown = [found.label for found in verdict.candidates if found.fits is None]
    if unknown:
        yield f"Not known to keep to the limits, for want of memory or time: {_listed(unknown)}."
    if verdict.left_out:
        yield left_out_words(verdict)
    if verdict.next_step:
        yield next_words(verdict.next_step)


def _answer(verdict: Verdict, limits: Limits) -> str:
    if verdict.best is None:
        return "Nothing to choose from: no method finished all its seeds."
    able = [found for found in verdict.candidates if found.fits is not False]
    if not verdict.candidates:
        return f"No method is shown to be within {points(limits.margin)} of full fine-tuning."
    if not able:
        return "None of the methods to choose from keeps to the limits."
    chosen = next((found for found in able if found.label == verdict.choice), None)
    named = _listed([f"{found.label} {points(found.auc)}{interval(found)}" for found in able])
    if limits.margin is not None:
        among = f"shown to lie no more than {points(limits.margin)} below full fine-tuning"
    else:
        among = f"not told apart from the best, {verdict.best}"
    if len(able) == 1:
        only = able[0]
        what = f"the only method {among}" if limits.margin is not None or only.label != verdict.best else "the best"
        return f"Use {only.label} (AUC {points(only.auc)}{interval(only)}): {what}{memory_words(only)}."
    if chosen is None:
        return f"{len(able)} methods are {among}: {named}. Their memory is not known alike, so none is called leanest."
    least = f"it takes the least memory{memory_words(chosen)}"
    return f"Use {chosen.label}: of {len(able)} methods {among}, {least}. AUC: {named}."


def left_out_words(verdict: Verdict) -> str:
    """Which methods were not compared, and why."""
    return f"Not compared: {_listed([f'{label} ({why})' for label, why in verdict.left_out.items()])}."


def memory_words(found: Candidate) -> str:
    """What its whole run takes, as it goes on a sentence; empty where that is not known."""
    if found.memory_bytes is None:
        return ""
    size = found.memory_bytes
    text = f"{size / GIB:.1f} GiB" if size >= GIB else f"{size / MIB:,.0f} MiB"
    return f", {text} for the whole run{' (predicted)' if found.memory_source == 'predicted' else ''}"


def why_not(found: Candidate, limits: Limits) -> str:
    """In brackets, why a method is not among those to choose from."""
    if limits.margin is None:
        return "" if found.p_best is None else f" (p {_p(found.p_best)})"
    if found.to_full_low is None:
        return " (not tested)"
    return f" (may lie {-found.to_full_low * 100:.1f} below)"


def _p(value: float) -> str:
    return "under 0.001" if value < 0.001 else f"{value:.3f}"


def interval(found: Candidate) -> str:
    """The interval of its AUC in percent, as it follows the AUC; empty where none is known."""
    return "" if found.low is None or found.high is None else f" [{points(found.low)}, {points(found.high)}]"


def points(value: float | None) -> str:
    """An AUC or a margin (0-1) in percent."""
    return "–" if value is None else f"{100 * value:.1f}"


def _listed(words: Sequence[str]) -> str:
    more = len(words) - MOST_NAMED
    return ", ".join(words[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def next_words(step: NextStep) -> str:
    """The next step in a sentence."""
    first, second = step.labels
    ways = []
    if step.need.seeds is not None:
        ways.append(f"about {step.need.seeds} seeds in all")
    if step.need.units is not None:
        ways.append(f"about {step.need.units:,} test images or patients")
    if step.need.together is not None:
        seeds, units = step.need.together
        ways.append(f"about {seeds} seeds in all together with {units:,} test images or patients")
    apart = f"{first} and {second} are {100 * abs(step.change):.1f} apart with {step.seeds_now} seeds"
    if not ways:
        return f"{apart}: {MOST_SEEDS} seeds and a thousand times the test images would not tell them apart."
    return f"{apart}; to tell them apart with a chance of 80 %: {' or '.join(ways)}."


def as_data(verdict: Verdict, limits: Limits) -> dict[str, Any]:
    """The verdict as plain data: AUC and differences 0-1, bytes, seconds."""
    place = verdict.place
    return {
        "dataset": str(place["dataset"]),
        "dataset_label": str(place["dataset_label"]),
        "protocol": str(place["block"]),
        "resolution": int(place["resolution"]),
        "margin": limits.margin,
        "choice": verdict.choice,
        "best": verdict.best,
        "candidates": [found._asdict() for found in verdict.candidates],
        "others": [found._asdict() for found in verdict.others],
        "cheapest": verdict.cheapest,
        "left_out": verdict.left_out,
        "fewest_seeds": verdict.fewest_seeds,
        "seeds": verdict.seeds,
        "units": verdict.units,
        "unit": verdict.unit,
        "forbids": verdict.forbids,
        "next_step": _step_data(verdict.next_step),
        "sentences": list(sentences(verdict, limits)),
    }


def _step_data(step: NextStep | None) -> dict[str, Any] | None:
    if step is None:
        return None
    now = {"labels": list(step.labels), "change": step.change, "seeds_now": step.seeds_now, "units_now": step.units_now}
    return now | step.need._asdict()
