"""Trains a text-to-SQL model by SPFT-SQL: `python -m spftcore.train`.

Without options: the embedded databases and a tiny model. With your own:
`python -m spftcore.train --data.databases DIR --data.pairs FILE --model.name_or_path PATH_OR_ID`.
On several GPUs: `accelerate launch -m spftcore.train …`, with the same options.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from spftcore.config import (
    Config,
    OptionParser,
    add_options,
    nest,
    options_given,
    read_yaml,
    resolve,
)
from spftcore.errors import SpftError, UsageError, explain
from spftcore.processes import FailedElsewhere, Processes

# Settings that may differ when a run is continued: it may have been moved, and a machine short of
# memory may need fewer workers (whose number of threads can change the last bits of a sum).
_FREE_ON_RESUME = {
    "run.directory",
    "run.name",
    "run.tracker",
    "run.workers",
    "training.save_seconds",
    "training.save_steps",
}


def parser() -> OptionParser:
    """The command line; every setting of `spftcore.config` is an option."""
    options = OptionParser(
        prog="python -m spftcore.train",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    options.add_argument("--config", type=Path, metavar="FILE", help="YAML file of settings")
    options.add_argument("--resume", action="store_true", help="continue a run that was stopped")
    options.add_argument(
        "--dry-run",
        action="store_true",
        help="show the stages, sizes, memory and time, and do nothing",
    )
    add_options(options)
    return options


def settings(arguments: argparse.Namespace) -> Config:
    """Resolves the settings: defaults, the embedded recipe, the YAML file, the command line.

    A run that is resumed keeps its stored settings.

    Raises:
        UsageError: an unknown key, an invalid value, or settings that differ from the stored ones.
    """
    given: list[tuple[str, dict[str, Any]]] = []
    if arguments.config is not None:
        given.append((str(arguments.config), read_yaml(arguments.config)))
    given.append(("the command line", options_given(arguments)))
    config = _with_recipe(_after_its_predecessor(given))
    stored = config.run_directory / "config.yaml"
    if not stored.exists():
        if arguments.resume and hasattr(arguments, "run.name"):
            raise UsageError(
                f"There is no run {config.run_directory} to continue. Check --run.name and "
                "--run.directory, or leave --resume out to start it."
            )
        return config
    if arguments.dry_run and not arguments.resume:
        return config
    if not arguments.resume:
        raise UsageError(
            f"The run {config.run_directory} exists. Continue it with --resume, or choose another "
            "--run.name."
        )
    before = resolve([(str(stored), read_yaml(stored))])
    now = resolve([(str(stored), before.model_dump()), *given])
    changed = [
        name
        for name in _differences(before.model_dump(), now.model_dump())
        if name not in _FREE_ON_RESUME
    ]
    if changed:
        raise UsageError(
            f"The run {config.run_directory} was started with other settings: "
            f"{', '.join(changed)}. Resume it without them, or choose another --run.name."
        )
    return now


def _after_its_predecessor(given: list[tuple[str, dict[str, Any]]]) -> list[Any]:
    """The settings given, after those of the finished run that `run.continues` names."""
    from spftcore.stages.continuing import continued

    asked = resolve(given)
    previous = continued(asked)
    if previous is None:
        return given
    name = nest("run.name", f"{previous.directory.resolve().name}-continued")
    inputs = previous.inputs(databases=asked.data.databases is not None)
    return [(str(previous.directory), inputs), ("its name", name), *given]


def _with_recipe(given: list[tuple[str, dict[str, Any]]]) -> Config:
    from spftcore.demo import SETTINGS
    from spftcore.stages.prepare import is_demo

    config = resolve(given)
    # The recipe of the tiny model serves whenever no checkpoint is given.
    if config.model.name_or_path is None:
        config = resolve([("spftcore.demo", SETTINGS), *given])
    if config.run.name is None:
        folder = config.data.databases
        name = "demo" if is_demo(config) or folder is None else folder.resolve().name
        config = resolve([("settings", config.model_dump()), ("name", nest("run.name", name))])
    return config


def _differences(first: dict[str, Any], second: dict[str, Any], prefix: str = "") -> list[str]:
    names = []
    for key, value in first.items():
        if isinstance(value, dict):
            names += _differences(value, second[key], f"{prefix}{key}.")
        elif value != second[key]:
            names.append(prefix + key)
    return names


def train(config: Config, console: Console, processes: Processes) -> Path:
    """Runs (or continues) a run to its end.

    Args:
        config: resolved settings.
        console: where progress and the result table go.
        processes: that a launcher has started for it; each of them calls this.

    Returns:
        The path of the report.

    Raises:
        SpftError: bad input, or a stage that failed; finished stages are kept.
    """
    from spftcore.report import print_results, write_report
    from spftcore.runner import run_lock, run_stages, run_together
    from spftcore.stages.prepare import databases_folder
    from spftcore.store import Store

    directory = config.run_directory
    if not processes.first:
        databases = processes.once(Path)
        run_together(config, directory, databases, None, processes, console)
        return directory
    _check(config, console, processes)
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SpftError(f"Cannot make the run's folder {directory}: {error.strerror}.") from None
    with run_lock(directory):
        stored = directory / "config.yaml"
        if not stored.exists():
            partial = stored.with_suffix(".partial")
            partial.write_text(config.to_yaml(), encoding="utf-8")
            partial.rename(stored)
        databases = databases_folder(config, directory)
        store = Store(directory / "run.sqlite")
        try:
            processes.once(lambda: databases)
            if processes.size > 1:
                run_together(config, directory, databases, store, processes, console)
            else:
                run_stages(config, directory, databases, store, console)
            report = write_report(directory)
            print_results(store, console)
        finally:
            store.close()
    return report


def _check(config: Config, console: Console, processes: Processes) -> None:
    """Complains before anything is written."""
    from spftcore.tracking import check_tracker

    check_tracker(config)
    processes.check_device(config.run.device)
    for message in _check_inputs(config):
        console.print(f"Left out: {message}", highlight=False, markup=False)
    if config.model.name_or_path is not None:
        from spftcore.forecast import require_memory

        for line in require_memory(config, processes):
            console.print(line, highlight=False, markup=False)


def _check_inputs(config: Config) -> list[str]:
    """What the run can do without: one message for each database that cannot be read."""
    from spftcore.databases import Catalogue
    from spftcore.models import load_tokenizer
    from spftcore.stages.context import catalogue_folder
    from spftcore.stages.prepare import is_demo, read_inputs

    unreadable: list[str] = []
    if not is_demo(config):
        assert config.data.databases is not None
        cache = catalogue_folder(config.run_directory) if config.run_directory.is_dir() else None
        catalogue = Catalogue.from_settings(config.data, config.data.databases, cache)
        unreadable = list(catalogue.unreadable.values())
    read_inputs(config)
    if config.model.name_or_path is not None:
        load_tokenizer(config.model.name_or_path, config)
    return unreadable


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Returns its exit code: 0, 1 (the run failed or was stopped), 2 (usage)."""
    console = Console()
    errors = Console(stderr=True)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    config: Config | None = None
    try:
        processes = Processes.joined()
        arguments = processes.once(lambda: parser().parse(argv))
        config = processes.once(lambda: settings(arguments))
        _work(config, arguments.dry_run, console, processes)
        return 0
    except FailedElsewhere as error:
        if os.environ.get("RANK") == "0":  # it is the others that know more
            errors.print(f"[bold red]Error:[/] {_plain(error)}", highlight=False)
        return 1
    except UsageError as error:
        errors.print(f"[bold red]Error:[/] {_plain(error)}", highlight=False)
        return 2
    except SpftError as error:
        errors.print(f"[bold red]Error:[/] {_plain(error)}", highlight=False)
        return 1
    except KeyboardInterrupt:
        message = "Stopped before anything was done." if config is None else config.stopped_message
        errors.print(f"\n{_plain(message)}", highlight=False)
        return 1


def _work(config: Config, dry_run: bool, console: Console, processes: Processes) -> None:
    """Trains, or forecasts; whatever else goes wrong becomes a message."""
    try:
        if dry_run:
            from spftcore.forecast import print_forecast

            if processes.size == 1:
                print_forecast(config, console)
            elif processes.first:
                raise UsageError(
                    "A dry run measures one process. Start it without the launcher: python -m "
                    "spftcore.train … --dry-run."
                )
            return
        report = train(config, console, processes)
        model = config.run_directory / "model"
        if processes.first:
            console.print(f"\nReport: {report}\nModel:  {model}", highlight=False, markup=False)
    except SpftError:
        raise
    except Exception as error:
        raise explain(error, config.run_directory) from None


def _plain(text: object) -> str:
    from rich.markup import escape

    return escape(str(text))


if __name__ == "__main__":
    sys.exit(main())
