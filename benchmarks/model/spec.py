"""The name of a backbone with all that tells it from others: `vit_large_patch16_224[init_values=1e-05,pool=cls]`."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast, get_args

from benchmarks.errors import UserError
from benchmarks.storage.plain_yaml import numbers, read_yaml
from methods.backbone import Pool

POOLS = get_args(Pool)


@dataclass(frozen=True)
class Spec:
    """A backbone as it is asked for.

    Attributes:
        name: Of timm, of our own table, or of a plugin.
        args: Arguments of the network's constructor beside its name's.
        pool: How tokens become features.
    """

    name: str
    args: Mapping[str, Any] = field(default_factory=dict)
    pool: Pool = "native"

    def __str__(self) -> str:
        """The one text of it: arguments in the order of their names, the pooling last, defaults left out."""
        settings = [f"{key}={_text(value)}" for key, value in sorted(self.args.items())]
        settings += [] if self.pool == "native" else [f"pool={self.pool}"]
        return f"{self.name}[{','.join(settings)}]" if settings else self.name


def parse_spec(text: str) -> Spec:
    """Reads a backbone's name with its settings.

    Raises:
        UserError: What stands in brackets is no list of settings, or names an unknown pooling.
    """
    found = re.fullmatch(r"(.*?)\[(.*)\]", text, flags=re.DOTALL)
    return Spec(text) if found is None else make_spec(found[1], re.split(r",(?=\s*\w+=)", found[2]))


def make_spec(name: str, settings: Iterable[str], pool: str = "native") -> Spec:
    """A backbone with settings such as `depth=24`; `pool=cls` among them is its pooling.

    Raises:
        UserError: A setting is not of the form, given twice, or an unknown pooling.
    """
    args: dict[str, Any] = {}
    for setting in settings:
        key, _, value = (part.strip() for part in setting.partition("="))
        if not (key.isidentifier() and value):
            raise UserError(f"backbone argument must be like depth=24, got {setting!r}")
        if key in args:
            raise UserError(f"backbone arguments must each be given once, got {key!r} twice")
        try:
            args[key] = numbers(read_yaml(value))
        except UserError as error:
            raise UserError(f"backbone argument must have a value that YAML can read, got {setting!r}") from error
    pool = args.pop("pool", pool)
    if pool not in POOLS:
        raise UserError(f"pool must be one of {', '.join(POOLS)}, got {pool!r}")
    return Spec(name, args, cast(Pool, pool))


def joined(backbone: str, settings: Iterable[str], pool: str | None) -> str:
    """The one text of a backbone whose settings are given partly in its name, partly beside it.

    Args:
        backbone: Its name, settings in brackets behind it or none.
        settings: More of them, such as `depth=24`.
        pool: Its pooling; None leaves that of the settings.

    Raises:
        UserError: A setting is not of the form, given twice, or an unknown pooling.
    """
    given = parse_spec(backbone)
    own = [f"{key}={_text(value)}" for key, value in given.args.items()]
    own += [] if given.pool == "native" else [f"pool={given.pool}"]
    return str(make_spec(given.name, [*own, *settings, *([] if pool is None else [f"pool={pool}"])]))


def _text(value: Any) -> str:
    """A value as YAML reads it back."""
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
