"""Memory of a whole run: what a GPU must hold for all of its phases."""

from collections.abc import Collection, Mapping

EVERY_RUN = ("setup", "eval")  # phases that no run goes without
# Others, with the column that tells of them.
SOME_RUNS = {"preload": "cache_bytes", "prepare": "seconds_prepare", "train": "lr"}
WHOLE_RUN = "whole run"  # stands in the place of a phase's name


def highest_phase(peaks: Mapping[str, int | None], also: Collection[str] = ()) -> tuple[str, int] | None:
    """The phase of a run with the highest peak, and that peak in bytes.

    Args:
        peaks: Of one source (all measured, or all predicted), by phase; None where unknown.
        also: Phases that the run goes through beside those of every run.

    Returns:
        None unless the peak of each phase that the run goes through is known: the highest of some may not be the run's.
    """
    known = {phase: peak for phase, peak in peaks.items() if peak is not None}
    if not {*EVERY_RUN, *also} <= known.keys():
        return None
    return max(known.items(), key=lambda item: item[1])
