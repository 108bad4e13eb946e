"""The fine-tuning methods: one file = one method, and here the one table of them.

A method is a frozen part that may run ahead of time and a trainable part (`methods/contract.py`). To add one, write
`methods/<name>.py` with a docstring (paper, what is added where, what trains, departures from the paper), a frozen
`Config`, the modules and `METHOD = Method(...)`, and add its name and title to the table below: every command, table,
plot and contract test then knows it.

Legend of all `Shape:` sections: B batch, H W image, N tokens, M kept tokens, P prompt tokens, D backbone width,
S side width, A heads, E head width, L layers, R rank or bottleneck, C classes.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from methods.contract import Method

    METHODS: dict[str, Method]

# Name and title, in the order of tables and plots; a method's colour and marker go with its place, so add at the end.
# The methods themselves import torch, which takes seconds that tables and plots have no use for.
TITLES = {
    "full": "Full fine-tuning",
    "linear": "Linear probe",
    "lora": "LoRA",
    "vpt": "VPT-Deep",
    "vpt_shallow": "VPT-Shallow",
    "adapter": "Adapter",
    "fpt": "FPT",
    "fpt_plus": "FPT+",
    "bitfit": "BitFit",
    "layernorm": "Norm tuning",
    "attention": "Attention tuning",
    "partial": "Partial fine-tuning",
    "adaptformer": "AdaptFormer",
    "houlsby": "Adapter (Houlsby)",
    "adapter_plus": "Adapter+",
    "difffit": "DiffFit",
    "ssf": "SSF",
    "convpass": "Convpass",
    "repadapter": "RepAdapter",
    "fact_tt": "FacT-TT",
    "fact_tk": "FacT-TK",
}


def __getattr__(name: str) -> Any:
    """The methods by name, imported when they are first asked for."""
    if name != "METHODS":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()["METHODS"] = {method: import_module(f"methods.{method}").METHOD for method in TITLES}
    return globals()["METHODS"]
