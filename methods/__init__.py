"""The fine-tuning methods: one file = one method or one family, and here the one table of them.

A method is a frozen part that may run ahead of time and a trainable part (`methods/contract.py`). To add one, write
`methods/<idea>/<name>.py` with a docstring (paper, what is added where, what trains, departures from the paper), a
frozen `Config`, the modules and `METHOD = Method(...)`, and add its name, module and title to the table below: every
command, table, plot and contract test then knows it. Methods that differ by a line each share a file, whose
`METHODS` has them by name.

Legend of all `Shape:` sections: B batch, H W image, N tokens, M kept tokens, P prompt tokens, D backbone width,
S side width, A heads, E head width, L layers, R rank or bottleneck, C classes.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from methods.contract import Method

    METHODS: dict[str, Method]

# Module and title by name, in the order of tables and plots; a method's colour and marker go with its place, so add at
# the end. The modules import torch, which takes seconds that tables and plots have no use for.
_TABLE = {
    "full": ("full", "Full fine-tuning"),
    "linear": ("probes.linear", "Linear probe"),
    "lora": ("low_rank.lora", "LoRA"),
    "vpt": ("prompts.vpt", "VPT-Deep"),
    "vpt_shallow": ("prompts.vpt_shallow", "VPT-Shallow"),
    "adapter": ("adapters.adapter", "Adapter"),
    "fpt": ("side.fpt", "FPT"),
    "fpt_plus": ("side.fpt_plus", "FPT+"),
    "bitfit": ("selective.bitfit", "BitFit"),
    "layernorm": ("selective.layernorm", "Norm tuning"),
    "attention": ("selective.attention", "Attention tuning"),
    "partial": ("selective.partial", "Partial fine-tuning"),
    "adaptformer": ("adapters.adaptformer", "AdaptFormer"),
    "houlsby": ("adapters.houlsby", "Adapter (Houlsby)"),
    "adapter_plus": ("adapters.adapter_plus", "Adapter+"),
    "difffit": ("selective.difffit", "DiffFit"),
    "ssf": ("adapters.ssf", "SSF"),
    "convpass": ("adapters.convpass", "Convpass"),
    "repadapter": ("adapters.repadapter", "RepAdapter"),
    "fact_tt": ("low_rank.fact_tt", "FacT-TT"),
    "fact_tk": ("low_rank.fact_tk", "FacT-TK"),
    "ep": ("probes.ep", "Efficient probing"),
    "attentive_probe": ("probes.attentive_probe", "Attentive probe"),
    "vqt": ("side.vqt", "VQT"),
    "synqt": ("side.synqt", "SynQT"),
    "side_tuning": ("side.side_tuning", "Side-Tuning"),
    "lst": ("side.lst", "LST"),
    "res_tuning_bypass": ("side.res_tuning_bypass", "Res-Tuning-Bypass"),
    "unipt": ("side.unipt", "UniPT"),
    "dtl": ("side.dtl", "DTL"),
    "dtl_plus": ("side.dtl_plus", "DTL+"),
    "knn": ("probes.knn", "Nearest neighbours"),
    "simpleshot": ("probes.simpleshot", "SimpleShot"),
    "head2toe": ("probes.head2toe", "Head2Toe"),
    "dora": ("low_rank.peft_family", "DoRA"),
    "rslora": ("low_rank.peft_family", "rsLoRA"),
    "pissa": ("low_rank.peft_family", "PiSSA"),
    "eva": ("low_rank.peft_family", "EVA"),
    "lora_ga": ("low_rank.peft_family", "LoRA-GA"),
    "adalora": ("low_rank.peft_family", "AdaLoRA"),
    "vera": ("low_rank.peft_family", "VeRA"),
    "ia3": ("low_rank.peft_family", "IA3"),
    "lokr": ("low_rank.peft_family", "LoKr"),
    "loha": ("low_rank.peft_family", "LoHa"),
    "oft": ("low_rank.peft_family", "OFT"),
    "boft": ("low_rank.peft_family", "BOFT"),
    "hra": ("low_rank.peft_family", "HRA"),
    "fourierft": ("low_rank.peft_family", "FourierFT"),
    "randlora": ("low_rank.peft_family", "RandLoRA"),
    "miss": ("low_rank.peft_family", "MiSS"),
    "road": ("low_rank.peft_family", "RoAd"),
    "shira": ("low_rank.shira", "SHiRA"),
    "hira": ("low_rank.peft_family", "HiRA"),
    "delora": ("low_rank.peft_family", "DeLoRA"),
    "peft": ("low_rank.any_tuner", "peft"),
}
TITLES = {name: title for name, (_, title) in _TABLE.items()}
IDEAS = {name: module.partition(".")[0] for name, (module, _) in _TABLE.items()}
# The ideas in the order of tables; what is in no folder here is a plugin's, or known from stored records alone.
IDEA_TITLES = {
    "full": "Full fine-tuning",
    "probes": "Probes",
    "selective": "Selective",
    "adapters": "Adapters",
    "prompts": "Prompts",
    "low_rank": "Low rank",
    "side": "Side networks",
    "plugins": "Others",
}


def idea_of(name: str) -> str:
    """The key of a method's idea in `IDEA_TITLES`."""
    return IDEAS.get(name, "plugins")


def __getattr__(name: str) -> Any:
    """The methods by name, imported when they are first asked for."""
    if name != "METHODS":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    modules = {method: import_module(f"methods.{module}") for method, (module, _) in _TABLE.items()}
    globals()["METHODS"] = {
        method: module.METHODS[method] if hasattr(module, "METHODS") else module.METHOD
        for method, module in modules.items()
    }
    return globals()["METHODS"]
