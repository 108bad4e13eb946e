"""The commands of bench.py: here the one table of them."""

from benchmarks.commands import check, clean, fit, listing, memory, params, preload, prepare, reproduce, run, stored
from benchmarks.commands.contract import Command

COMMANDS: dict[str, Command] = {
    command.name: command
    for command in (
        run.COMMAND,
        params.COMMAND,
        memory.COMMAND,
        fit.COMMAND,
        prepare.COMMAND,
        check.COMMAND,
        stored.TABLES,
        stored.PLOTS,
        stored.REPORT,
        reproduce.COMMAND,
        preload.COMMAND,
        listing.COMMAND,
        clean.COMMAND,
    )
}
