"""The commands of bench.py, one file each, and here the one table of them.

A command reads options, calls the rooms below and prints; no room below imports it.
"""

from benchmarks.commands import (
    advise,
    check,
    clean,
    cost,
    doctor,
    evaluate,
    explain,
    export,
    fit,
    listing,
    memory,
    params,
    plots,
    predict,
    preload,
    prepare,
    reach,
    report,
    reproduce,
    run,
    soup,
    split,
    tables,
)
from benchmarks.commands.contract import Command

COMMANDS: dict[str, Command] = {
    command.name: command
    for command in (
        run.COMMAND,
        advise.COMMAND,
        params.COMMAND,
        memory.COMMAND,
        fit.COMMAND,
        prepare.COMMAND,
        split.COMMAND,
        check.COMMAND,
        tables.COMMAND,
        plots.COMMAND,
        report.COMMAND,
        predict.COMMAND,
        evaluate.COMMAND,
        soup.COMMAND,
        explain.COMMAND,
        export.COMMAND,
        cost.COMMAND,
        reach.COMMAND,
        reproduce.COMMAND,
        preload.COMMAND,
        listing.COMMAND,
        clean.COMMAND,
        doctor.COMMAND,
    )
}
