"""Groups of methods by what they have in common, as `--methods` takes them: by idea, by cost, and all."""

from collections.abc import Callable

from benchmarks.choices import DEFAULT_BACKBONE
from benchmarks.model.backbone import described, lacks
from methods import IDEA_TITLES, METHODS, idea_of


def is_lean(name: str) -> bool:
    """Whether a method needs no backward pass through the backbone: its frozen part may run ahead of time."""
    return METHODS[name].has_extractor


def is_parameter_efficient(name: str) -> bool:
    """Whether a method at its defaults trains less than half of the default backbone."""
    backbone = described(DEFAULT_BACKBONE)
    if lacks(DEFAULT_BACKBONE, METHODS[name]):
        return True  # of a plugin, which asks for another backbone and so trains what only that has
    num_backbone = sum(parameter.numel() for parameter in backbone.trunk.parameters())
    return METHODS[name].count(backbone, METHODS[name].config()) < num_backbone / 2


def _of_idea(idea: str) -> Callable[[str], bool]:
    return lambda name: idea_of(name) == idea


# `full` is a method, and the only one of its idea.
COSTS = ("lean", "peft")  # groups that are no idea's
GROUPS: dict[str, Callable[[str], bool]] = {
    "all": lambda name: True,
    "lean": is_lean,
    "peft": is_parameter_efficient,
    **{idea: _of_idea(idea) for idea in IDEA_TITLES if idea != "full"},
}


def members(group: str) -> list[str]:
    """The methods of a group, in the order of the table."""
    return [name for name in METHODS if GROUPS[group](name)]
