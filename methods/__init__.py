"""The fine-tuning methods: one file = one method, and here the one table of them.

A method is a frozen part that may run ahead of time and a trainable part (`methods/contract.py`). To add one, write
`methods/<name>.py` with a docstring (paper, what is added where, what trains, departures from the paper), a frozen
`Config`, the modules and `METHOD = Method(...)`, and add a line to the table below: every command, table, plot and
contract test then knows it.

Legend of all `Shape:` sections: B batch, H W image, N tokens, M kept tokens, P prompt tokens, D backbone width,
S side width, A heads, E head width, L layers, R rank or bottleneck, C classes.
"""

from methods import adapter, fpt, fpt_plus, full, linear, lora, vpt, vpt_shallow
from methods.contract import Method

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        full.METHOD,
        linear.METHOD,
        lora.METHOD,
        vpt.METHOD,
        vpt_shallow.METHOD,
        adapter.METHOD,
        fpt.METHOD,
        fpt_plus.METHOD,
    )
}
