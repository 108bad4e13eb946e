"""What is wrong with the options of a suite, a line each: a value against its rule, and options beside each other."""

import reprlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from benchmarks.choices import nearest, not_one_of
from benchmarks.errors import UserError
from benchmarks.suite.options import POLICIES, SuiteOptions, choices_of
from benchmarks.suite.slurm_settings import SlurmSettings


def faults(content: Mapping[str, Any], where: str = "") -> list[str]:
    """What is wrong with options one by one, a line each.

    Args:
        content: Values by name of the field, of YAML's types or as typed.
        where: Stands behind each name in messages.
    """
    try:
        SuiteOptions.model_validate(content)
    except ValidationError as error:
        return list(_faults(error, where))
    return []


def check_together(options: SuiteOptions) -> None:
    """Checks what no option alone can break.

    Raises:
        UserError: Options do not fit together, or no method is named.
    """
    if not options.methods:
        raise UserError("methods must be named, e.g. --methods fpt lora, or --methods all, got none")
    chosen = [name for name in POLICIES if getattr(options, name)]
    if len(chosen) > 1:
        raise UserError(f"{chosen[0]} must be used without {chosen[1]}, got both")
    if options.keep_steps and all(budget.is_whole for budget in options.label_budgets):
        raise UserError("keep_steps must be used with fewer labels (--train-fraction or --shots), got all of them")
    _check_stopping(options)
    if options.launcher == "slurm":
        if options.jobs is not None or options.device != ("auto",):
            raise UserError("jobs and device must be left to SLURM, got both a launcher and one of them; see --slurm")
        if options.slurm is None:
            about = SlurmSettings.model_fields["minutes"].description
            raise UserError(f"slurm must have minutes, {about}; got none")
    elif options.slurm is not None:
        raise UserError("slurm must be used with --launcher slurm, got it alone")


def _check_stopping(options: SuiteOptions) -> None:
    if not options.until_decided:
        for name in ("margin", "max_hours"):
            if getattr(options, name) is not None:
                raise UserError(f"{name} must be used with --until-decided, got it alone")
    elif len(options.seeds) < 2:
        raise UserError(
            f"seeds must be at least two with --until-decided, got {options.seeds[0]} alone; one says nothing of "
            "training anew: --seeds 0 1 2"
        )
    elif len(options.label_budgets) > 1:
        raise UserError(
            f"until_decided must be used with one number of labels, got {len(options.label_budgets)}; name one of "
            "--train-fraction and --shots, once for each"
        )
    elif options.launcher == "slurm":
        raise UserError(
            "until_decided must be used with --launcher local, got slurm: looks are taken by this command, which would "
            "end before the jobs"
        )


def _faults(error: ValidationError, where: str) -> Iterator[str]:
    """A line for each field: a value that fits none of several types breaks the rule of the first."""
    seen = set()
    for found in error.errors(include_url=False):
        field, *inside = map(str, found["loc"])
        name = f"{inside[0]} of {field}" if field == "slurm" and inside else field
        if name not in seen:
            seen.add(name)
            yield _fault(found, field, name + where)


_RULES = {
    "bool_type": "true or false",
    "bounds": "{rule}",
    "folder": "a folder and no file ({file} is one)",
    "list_type": "a value or a list of values",
    "path_type": "a path",
    "string": "a text",
}


def _fault(found: ErrorDetails, field: str, name: str) -> str:
    """The line; pydantic's kinds of error are `int_parsing`, `int_type`, `greater_than` and so on."""
    kind, value, more = found["type"], found["input"], found.get("ctx", {})
    if kind == "value_error":
        return str(more["error"])
    if kind == "literal_error":
        return not_one_of(name, choices_of(field), value)
    if kind in ("extra_forbidden", "missing"):
        return _fault_of_key(kind, str(found["loc"][-1]))
    value = str(value) if isinstance(value, Path) else value
    if kind == "bounds" and choices_of(field) and more["rule"].startswith("a "):  # no number at all
        return _number_or_word(name, more["rule"], choices_of(field), value)
    rule = _RULES.get(kind) or _RULES[kind.partition("_")[0]]
    return f"{name} must be {rule.format(**more)}, got {reprlib.repr(value)}"


def _number_or_word(name: str, rule: str, words: Sequence[str], value: Any) -> str:
    near = nearest(words, value) if isinstance(value, str) else None
    hint = f"; did you mean {near}?" if near else ""
    return f"{name} must be {' or '.join([rule, *words])}, got {reprlib.repr(value)}{hint}"


def _fault_of_key(kind: str, key: str) -> str:
    if kind == "missing":
        return f"slurm must have {key}, {SlurmSettings.model_fields[key].description}; got none"
    return not_one_of("key of slurm", SlurmSettings.model_fields, key)
