"""The fine-tuning methods: one file = one method, and here the one table of them.

A method is a frozen part that may run ahead of time and a trainable part (`methods/contract.py`). To add one, write
`methods/<name>.py` with a docstring (paper, what is added where, what trains, departures from the paper), a frozen
`Config`, the modules and `METHOD = Method(...)`, and add its name to the table below: every command, table, plot and
contract test then knows it.

Legend of all `Shape:` sections: B batch, H W image, N tokens, M kept tokens, P prompt tokens, D backbone width,
S side width, A heads, E head width, L layers, R rank or bottleneck, C classes.
"""

from importlib import import_module

from methods.contract import Method

# In the order of tables and plots; a method's colour and marker go with its place, so add at the end.
_NAMES = (
    "full",
    "linear",
    "lora",
    "vpt",
    "vpt_shallow",
    "adapter",
    "fpt",
    "fpt_plus",
)
METHODS: dict[str, Method] = {name: import_module(f"methods.{name}").METHOD for name in _NAMES}
