"""The options of every command that asks a model: which one, how, and with which settings."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from spftcore.config import add_options, options_given
from spftcore.inference.strategies import REPAIRS, Strategy

if TYPE_CHECKING:
    from spftcore.inference.opening import ModelSource

_SETTINGS = ("prompt.", "model.", "generation.", "limits.", "data.sensitive", "run.device")
# They describe a tiny model that is built anew.
_BUILDING = {f"model.{name}" for name in ("name_or_path", "hidden_size", "layers", "heads")} | {
    "model.dropout",
    "model.vocabulary",
}


def add_model_options(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """Adds `--model`, `--candidate`, the strategy, and the settings that bear on asking."""
    default = Strategy()
    model = parser.add_argument_group("model")
    model.add_argument(
        "--model",
        required=required,
        metavar="MODEL",
        help="a run (runs/NAME), the folder of a checkpoint or adapter, or a hub id",
    )
    model.add_argument("--candidate", metavar="ID", help="of the run (default: its best one)")
    answers = parser.add_argument_group("how an answer is found")
    answers.add_argument(
        "--samples",
        type=int,
        default=default.samples,
        metavar="K",
        help="draw K answers beside the greedy one, and take the result that most agree on "
        "(default: %(default)s)",
    )
    answers.add_argument(
        "--temperature",
        type=float,
        default=default.temperature,
        metavar="T",
        help="of the K answers (default: %(default)s)",
    )
    answers.add_argument(
        "--repair",
        choices=REPAIRS,
        default=default.repair,
        help="a second try for an answer that does not run (errors), or also for one that "
        "returns nothing (empty) (default: %(default)s)",
    )
    answers.add_argument(
        "--seed", type=int, default=default.seed, help="of the K answers (default: %(default)s)"
    )
    add_options(parser, lambda name: name.startswith(_SETTINGS) and name not in _BUILDING)


def model_given(arguments: argparse.Namespace) -> tuple[ModelSource, Strategy]:
    """The model and the strategy that the options name.

    Raises:
        SpftError: as `ModelSource.find`.
        UsageError: an option is out of range.
    """
    # Both load PyTorch, which takes seconds.
    from transformers.utils.logging import disable_progress_bar

    from spftcore.inference.opening import ModelSource

    disable_progress_bar()

    strategy = Strategy(arguments.samples, arguments.temperature, arguments.repair, arguments.seed)
    source = ModelSource.find(arguments.model, arguments.candidate, options_given(arguments))
    return source, strategy
