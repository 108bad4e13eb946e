"""The options of a suite: one model for the command line and for suite files, with what `-h` says of each."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_core import PydanticCustomError

from benchmarks.choices import DEFAULT_BACKBONE, one_of
from benchmarks.config import (
    Attention,
    Compile,
    Disclosure,
    FrozenWeights,
    Imbalance,
    KeepModels,
    LabelBudget,
    LossName,
    Offload,
    Optimizer,
    Precision,
    Quantize,
    Recompute,
    Uncertain,
)
from benchmarks.memory.needs import parse_memory
from benchmarks.model.choose import check_settings
from benchmarks.storage.files import file_in_the_way
from benchmarks.suite.option_types import OptionModel, as_list, within
from benchmarks.suite.slurm_settings import SlurmSettings, as_mapping

POLICIES = ("only_missing", "retry_failed", "overwrite")  # options that exclude each other


@dataclass(frozen=True)
class Option:
    """How the command line shows a field.

    Attributes:
        help: What `-h` says; with the default, where the type does not say it.
        group: Its heading there; None for that of the command itself.
        metavar: Stands for a value; None where the type names the values, or there is none to give.
        several: Whether it takes more than one value.
        repeats: Whether it may be given again to add to them.
        flag: Its name there, where the field has another.
    """

    help: str
    group: str | None = None
    metavar: str | None = None
    several: bool = False
    repeats: bool = False
    flag: str | None = None


def _card(text: Any) -> int:
    """Bytes of a card's memory; a suite file may hold a number."""
    return parse_memory(str(text))


def _no_file(folder: Path) -> Path:
    """A folder that is to be written may be missing, but no file may stand in its place."""
    file = file_in_the_way(folder)
    if file is not None:
        raise PydanticCustomError("folder", "{file}", {"file": str(file)})
    return folder


def _rates(value: Any) -> Any:
    """The word `grid`, or rates."""
    values = as_list(value)
    if len(values) > 1 and "grid" in values:
        raise ValueError("lr must be rates or the word grid alone, got both; leave one out")
    return "grid" if list(values) == ["grid"] else values


def _distinct(values: Any) -> Any:
    return tuple(dict.fromkeys(values)) if isinstance(values, tuple) else values


def _settings(values: tuple[str, ...]) -> tuple[str, ...]:
    check_settings(values)
    return values


def _backbone_settings(values: tuple[str, ...]) -> tuple[str, ...]:
    from benchmarks.model.spec import make_spec  # this and the next import torch, which many commands do without

    make_spec("", values)
    return values


def _pool(value: str) -> str:
    from benchmarks.model.spec import POOLS

    return one_of("pool", POOLS, value)


Rate = Annotated[float, within("lr")]
Switch = Annotated[bool, Field(strict=True)]
Folder = Annotated[Path, AfterValidator(_no_file)]
Texts = Annotated[tuple[str, ...], BeforeValidator(as_list), AfterValidator(_distinct)]
Rates = Annotated[tuple[Rate, ...] | Literal["grid"], BeforeValidator(_rates), AfterValidator(_distinct)]


class SuiteOptions(OptionModel):
    """What a user asked for, in a suite file or on the command line; None leaves the choice to the plan."""

    methods: Annotated[
        Texts,
        Option("names, groups and variants like lora:rank=4|16 (bench.py list methods)", "grid", "M", several=True),
    ] = ()
    datasets: Annotated[
        Texts,
        Option(
            "names, or folders with train/val/test (default: all prepared ones, else demo)", "grid", "D", several=True
        ),
    ] = ()
    folds: Annotated[
        Annotated[int, within("folds")] | None,
        Option("run on all K folds of each dataset, NAME-fold1 and so on, as bench.py split made them", "grid", "K"),
    ] = None
    res: Annotated[
        tuple[Annotated[int, within("res")], ...],
        BeforeValidator(as_list),
        AfterValidator(_distinct),
        Option("image sides (default: 512)", "grid", "PX", several=True),
    ] = (512,)
    seeds: Annotated[
        tuple[Annotated[int, within("seeds")], ...],
        BeforeValidator(as_list),
        AfterValidator(_distinct),
        Option("default: 0", "grid", "N", several=True),
    ] = (0,)
    train_fraction: Annotated[
        tuple[Annotated[float, within("train_fraction")], ...],
        BeforeValidator(as_list),
        AfterValidator(_distinct),
        Option("shares of each class's training labels, smaller within larger (default: 1)", "grid", "X", several=True),
    ] = ()
    shots: Annotated[
        tuple[Annotated[int, within("shots")], ...],
        BeforeValidator(as_list),
        AfterValidator(_distinct),
        Option("training images of each class (patients, where known), beside any shares", "grid", "N", several=True),
    ] = ()
    plugins: Annotated[
        tuple[Path, ...],
        BeforeValidator(as_list),
        AfterValidator(_distinct),
        Option(
            "Python files with a method, dataset or backbone of your own",
            "grid",
            "FILE",
            several=True,
            repeats=True,
            flag="plugin",
        ),
    ] = ()
    backbone: Annotated[
        str, Option(f"any model of timm, or see `list backbones` (default: {DEFAULT_BACKBONE})", "backbone", "B")
    ] = DEFAULT_BACKBONE
    backbone_arg: Annotated[
        Texts,
        AfterValidator(_backbone_settings),
        Option(
            "arguments of its constructor, like init_values=1e-5", "backbone", "KEY=VALUE", several=True, repeats=True
        ),
    ] = ()
    pool: Annotated[
        Annotated[str, AfterValidator(_pool)] | None,
        Option("native, cls, avg or cls+avg: how tokens become features (default: native)", "backbone", "P"),
    ] = None
    normalization: Annotated[
        Literal["dataset", "backbone"],
        Option("whose mean and deviation images are normalised with (default: dataset)", "backbone"),
    ] = "dataset"
    weights: Annotated[str, Option("auto, hub, wheel, none or a file (default: auto)", "backbone", "W")] = "auto"
    resample_patch_embed: Annotated[
        Switch,
        Option("resample a file's patch embedding to the backbone's patch size (default: refuse it)", "backbone"),
    ] = False
    epochs: Annotated[
        Annotated[int, within("epochs")] | None, Option("default: the dataset's, mostly 20", "budget", "N")
    ] = None
    batch_size: Annotated[
        Annotated[int, within("batch_size")] | None, Option("default: the dataset's, mostly 16", "budget", "N")
    ] = None
    lr: Annotated[
        Rates,
        Option(
            "one rate for all methods; several, or `grid` for each method's own five: the best on validation is "
            "chosen for each method, dataset and resolution (default: each method's own rate)",
            "budget",
            "X",
            several=True,
        ),
    ] = ()
    trial_seeds: Annotated[
        Literal["first", "all"], Option("seeds that choose among rates (default: first)", "budget")
    ] = "first"
    stop_hopeless: Annotated[
        Switch, Option("end a trial at half its epochs where it is below the median of those before it", "budget")
    ] = False
    until_decided: Annotated[
        Switch,
        Option(
            "double the seeds of methods still in question, at most four times, and stop when the answer stands; "
            "--seeds are those of the first look",
            "stopping",
        ),
    ] = False
    margin: Annotated[
        Annotated[float, within("margin")] | None,
        Option(
            "with --until-decided: the answer stands too where the leanest method is shown to be no worse than the "
            "others by more than this AUC (default: 0.02)",
            "stopping",
            "AUC",
        ),
    ] = None
    max_hours: Annotated[
        Annotated[float, within("max_hours")] | None,
        Option("with --until-decided: start no run after so many hours of this command", "stopping", "H"),
    ] = None
    warmup_epochs: Annotated[
        int,
        within("warmup_epochs"),
        Option("epochs in which rates rise linearly to their peak (default: 0)", "budget", "N"),
    ] = 0
    decay_all: Annotated[
        Switch, Option("let weight decay reach biases, norms and position embeddings too, as the FPT papers", "budget")
    ] = False
    keep_steps: Annotated[
        Switch,
        Option("with fewer labels, as many steps an epoch as with all (default: one pass, so fewer steps)", "budget"),
    ] = False
    set: Annotated[
        Texts,
        AfterValidator(_settings),
        Option("a method's option, like lora.rank=8", "budget", "M.OPTION=X", several=True, repeats=True),
    ] = ()
    precision: Annotated[Precision | None, Option("default: bf16 on a GPU, fp32 on a CPU", "factors")] = None
    attention: Annotated[Attention, Option("default: sdpa (fused)", "factors")] = "sdpa"
    loss: Annotated[
        LossName | None,
        Option("corn: of classes that are grades (default: cross_entropy, of several findings bce)", "factors"),
    ] = None
    uncertain: Annotated[
        Uncertain,
        Option("what uncertain findings (-1) count as in training: nothing, 0 or 1 (default: ignore)", "factors"),
    ] = "ignore"
    grad_checkpointing: Annotated[Switch, Option("recompute activations in the backward pass", "factors")] = False
    offload: Annotated[
        Offload, Option("activations wait for the backward pass in the host's memory (default: none)", "factors")
    ] = "none"
    recompute: Annotated[
        Recompute,
        Option(
            "cheap: selective checkpointing, attention and most matrix products are kept, the rest is computed again "
            "in the backward pass (default: none)",
            "factors",
        ),
    ] = "none"
    optimizer: Annotated[
        Optimizer, Option("of all that trains; each wants a learning rate of its own (default: adamw)", "factors")
    ] = "adamw"
    frozen_weights: Annotated[
        FrozenWeights,
        Option("type of frozen linear and convolution weights; bf16 with --precision bf16 (default: fp32)", "factors"),
    ] = "fp32"
    quantize: Annotated[
        Quantize,
        Option("frozen weights of the backbone's linear layers in 8 or 4 bits (default: none)", "factors"),
    ] = "none"
    compile: Annotated[
        Compile,
        Option("training steps by torch.compile; reduce-overhead adds CUDA graphs (default: none)", "factors"),
    ] = "none"
    imbalance: Annotated[
        Imbalance, Option("how training meets classes of unequal sizes (default: none, as the papers)", "factors")
    ] = "none"
    preload: Annotated[
        Literal["auto", "on", "off"],
        Option("compute frozen features once, ahead of training (default: auto, where a method has any)", "factors"),
    ] = "auto"
    gpu_memory: Annotated[
        int | None,
        BeforeValidator(_card),
        Option(
            "of the card, like 8GB: as many images at once as fit it are put through the backbone ahead of training "
            "(default: as many as training has room for)",
            "factors",
            "SIZE",
        ),
    ] = None
    device: Annotated[
        Texts,
        Option(
            "auto, cpu, cuda, cuda:<n>; runs are spread over several GPUs (default: auto)", "places", "D", several=True
        ),
    ] = ("auto",)
    data_root: Annotated[Folder, Option("default: data", "places", "DIR")] = Path("data")
    cache: Annotated[
        Folder, Option("weights, resized images, features and predictions (default: .cache)", "places", "DIR")
    ] = Path(".cache")
    results: Annotated[Folder, Option("default: results", "places", "DIR")] = Path("results")
    keep_models: Annotated[
        KeepModels,
        Option(
            "which trained models stay beside their records: lean (all, but of methods that train the whole backbone "
            "the best of each dataset and resolution alone), all, best (of each dataset and resolution, by validation "
            "AUC) or none (default: lean)",
            "places",
        ),
    ] = "lean"
    only_missing: Annotated[Switch, Option("skip runs with a record (default)")] = False
    retry_failed: Annotated[Switch, Option("also do failed runs again")] = False
    overwrite: Annotated[Switch, Option("do all runs again")] = False
    jobs: Annotated[
        Annotated[int, within("jobs")] | None,
        Option(
            "processes to spread runs over, on a GPU each or all on the CPU (default: one a device)", "processes", "N"
        ),
    ] = None
    launcher: Annotated[Literal["local", "slurm"], Option("where runs run (default: local)", "processes")] = "local"
    slurm: Annotated[
        SlurmSettings | None,
        BeforeValidator(as_mapping),
        Option(
            f"what a run asks of SLURM: {', '.join(SlurmSettings.model_fields)}",
            "processes",
            "KEY=VALUE",
            several=True,
        ),
    ] = None
    hang_minutes: Annotated[
        float,
        within("hang_minutes"),
        Option("end a run that shows no sign of life for so long (default: 60)", "processes", "N"),
    ] = 60.0
    track: Annotated[
        str | None,
        Option("also log to tensorboard, mlflow or wandb, where installed (default: none)", "processes", "T"),
    ] = None
    record_host: Annotated[
        Switch, Option("name the machine in records (default: a short digest tells machines apart)", "privacy")
    ] = False
    hash_names: Annotated[
        Switch,
        Option("hash names of images and patients in predictions, with a key that is kept in the dataset", "privacy"),
    ] = False
    verbose: Annotated[
        Switch, Option("show all that runs write to their logs; with --dry-run: all columns", "processes")
    ] = False
    mix_code: Annotated[
        Switch, Option("average seeds of a method that different code has trained (default: leave their mean out)")
    ] = False
    allow_leaks: Annotated[
        Switch, Option("train though byte-identical images lie in two splits, and mark the results (default: stop)")
    ] = False
    verify_data: Annotated[
        Switch, Option("hash every image again before each run, whatever its size and times say, and tell what differs")
    ] = False
    dry_run: Annotated[Switch, Option("show what is stored and to do, what it takes, and stop")] = False
    probe: Annotated[
        Switch,
        Option("with --dry-run or reproduce: time a few steps of each kind of run whose time nothing stored tells"),
    ] = False
    predict_all: Annotated[Switch, Option("with --dry-run: predict memory even for more than 100 new settings")] = False

    @property
    def disclosure(self) -> Disclosure:
        """What records may tell."""
        return Disclosure(self.record_host, self.hash_names)

    @property
    def label_budgets(self) -> list[LabelBudget]:
        """How many labels trainings have, each once; all of them unless others are named."""
        shares = self.train_fraction or (() if self.shots else (1.0,))
        return [LabelBudget(train_fraction=share, keep_steps=self.keep_steps and share < 1) for share in shares] + [
            LabelBudget(shots=shots, keep_steps=self.keep_steps) for shots in self.shots
        ]

    @property
    def whole_backbone(self) -> str:
        """The backbone with all its settings, as runs name it."""
        from benchmarks.model.spec import joined

        return joined(self.backbone, self.backbone_arg, self.pool)

    @property
    def policy(self) -> str:
        """What of stored runs is done again, as `StoredStates` takes it."""
        chosen = [name for name in POLICIES if getattr(self, name)]
        return (chosen or POLICIES)[0].replace("_", "-")


def option_of(name: str) -> Option:
    """How the command line shows a field of `SuiteOptions`."""
    (option,) = [found for found in SuiteOptions.model_fields[name].metadata if isinstance(found, Option)]
    return option


def choices_of(name: str) -> tuple[str, ...]:
    """The values that a field of `SuiteOptions` may have; empty where its type names none."""
    annotation = SuiteOptions.model_fields[name].annotation
    kinds = [kind for kind in (annotation, *get_args(annotation)) if get_origin(kind) is Literal]
    return get_args(kinds[0]) if kinds else ()
