"""Settings of a run: typed, read from YAML files and overridden on the command line.

Every setting has a dotted name (`self_play.lam`) that is the same in YAML and as an option. The
defaults of the classes below suit a pretrained model; the embedded default (`spftcore.demo`)
brings its own values for a model that starts from nothing.
"""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from spftcore.errors import UsageError

Device = Literal["auto", "cpu", "cuda"]
SensitiveMode = Literal["values", "hide", "show"]
Schedule = Literal["linear", "cosine", "constant"]


class Section(BaseModel):
    """A group of settings; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class RunConfig(Section):
    name: str | None = Field(None, description="the run lives in DIRECTORY/NAME")
    directory: Path = Field(Path("runs"), description="folder that holds all runs")
    continues: Path | None = Field(
        None, description="finished run whose model and pairs this one begins with"
    )
    seed: int = Field(1, description="seed of everything that is random")
    workers: int = Field(0, ge=0, description="stages run side by side (0: two on a CPU, else one)")
    threads: int = Field(0, ge=0, description="threads per worker (0: the cores shared out)")
    device: Device = Field("auto", description="where models run")
    tracker: Literal["none", "wandb"] = Field(
        "none", description="where training curves go beside TensorBoard"
    )


class DataConfig(Section):
    databases: Path | None = Field(None, description="folder of SQLite files")
    pairs: Path | None = Field(None, description="seed question-SQL pairs (JSON or JSONL)")
    dev: Path | None = Field(None, description="development pairs, evaluated beside the test pairs")
    test: Path | None = Field(None, description="held-out pairs; split off the seeds if missing")
    tables_json: Path | None = Field(
        None, description="Spider-style schema file with keys and natural names"
    )
    propose_keys: bool = Field(
        True, description="find foreign keys between tables that are unconnected without"
    )
    sensitive: SensitiveMode = Field(
        "values",
        description="columns that look personal or secret: values stay unseen, all hidden, shown",
    )
    sensitive_columns: tuple[str, ...] = Field(
        (), description="more of them (column or table.column, with * and ?); !PATTERN: harmless"
    )
    max_pairs: int = Field(0, ge=0, description="use at most so many seed pairs (0: all)")
    max_test: int = Field(0, ge=0, description="use at most so many dev and test pairs (0: all)")


class ModelConfig(Section):
    name_or_path: str | None = Field(
        None, description="transformers checkpoint or hub id; none: a tiny model from scratch"
    )
    dtype: Literal["float32", "bfloat16", "float16"] = Field("float32", description="weights")
    quantize: Literal["none", "nf4", "int8"] = Field(
        "none", description="base under the adapters in 4 or 8 bits (needs bitsandbytes)"
    )
    trust_remote_code: bool = Field(False, description="run code that a checkpoint brings along")
    chat_template: bool = Field(True, description="use the tokenizer's chat template if it has one")
    hidden_size: int = Field(128, gt=0, description="tiny model: width")
    layers: int = Field(4, gt=0, description="tiny model: layers")
    heads: int = Field(4, gt=0, description="tiny model: attention heads")
    dropout: float = Field(0.0, ge=0, lt=1, description="tiny model: dropout")
    vocabulary: int = Field(1600, ge=300, description="tiny model: tokens of its tokenizer")

    @model_validator(mode="after")
    def _width_fits_heads(self) -> ModelConfig:
        if self.hidden_size % (2 * self.heads):
            raise ValueError("model.hidden_size must be a multiple of twice model.heads")
        return self


class LoraConfig(Section):
    rank: int = Field(0, ge=0, description="rank of the adapters (0: full fine-tuning)")
    alpha: int = Field(32, gt=0, description="scale of the adapters is alpha / rank")
    dropout: float = Field(0.05, ge=0, lt=1, description="dropout before the adapters")
    target_modules: tuple[str, ...] = Field(
        (), description="linear layers to adapt, by name (none: all but the head)"
    )


class PromptConfig(Section):
    style: Literal["ddl", "compact", "linked"] = Field(
        "ddl",
        description="schema as CREATE TABLE, or a line per table; linked: database name alone",
    )
    tables: int = Field(6, ge=0, description="tables shown, beside those that join them (0: all)")
    columns: int = Field(10, ge=0, description="columns shown of each, beside its keys (0: all)")
    values: int = Field(6, ge=0, description="values of the database shown at most")
    reranker: str | None = Field(
        None, description="cross-encoder (transformers folder or hub id) that scores the schema"
    )
    max_prompt_tokens: int = Field(
        2048, gt=0, description="longer prompts are trimmed; what is left over is dropped, counted"
    )
    max_completion_tokens: int = Field(256, gt=0, description="longer SQL is dropped and counted")


class TrainConfig(Section):
    """One supervised stage."""

    steps: int = Field(200, ge=0, description="optimizer steps")
    batch_size: int = Field(16, gt=0, description="examples (or preference pairs) per step")
    learning_rate: float = Field(1e-5, gt=0, description="peak learning rate of AdamW")
    warmup: float = Field(0.05, ge=0, le=1, description="share of the steps with a rising rate")
    schedule: Schedule = Field("linear", description="how the rate falls after the warm-up")
    weight_decay: float = Field(0.01, ge=0, description="weight decay of AdamW")
    clip: float = Field(1.0, gt=0, description="largest gradient norm")


class LoopConfig(Section):
    """How every training runs: arithmetic, memory, and saving its state."""

    precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="arithmetic; bfloat16: autocast, weights stay as they are"
    )
    tokens_per_pass: int = Field(
        16_384, gt=0, description="tokens of one forward pass; a step takes as many as it needs"
    )
    attention: Literal["auto", "parts", "sdpa", "flex", "varlen", "plain"] = Field(
        "auto", description="how prompts are shared; auto: packed, if the model passes a check"
    )
    gradient_checkpointing: bool = Field(
        False, description="recompute activations: less memory, about a third more time"
    )
    save_seconds: float = Field(
        300.0, ge=0, description="save the training state so often (0: not by time)"
    )
    save_steps: int = Field(0, ge=0, description="save it every so many steps (0: not by steps)")


class BaseConfig(TrainConfig):
    """The first training of a tiny model, from random weights."""

    learning_rate: float = Field(2e-3, gt=0, description="peak learning rate of AdamW")


class SqlToTextConfig(TrainConfig):
    """The model that writes questions (one training per round)."""

    scratch_steps: int = Field(600, ge=0, description="steps of a tiny model's first training")
    round_trip: bool = Field(
        True, description="let the text-to-SQL model answer the questions, and choose by that"
    )


class MixConfig(Section):
    """Shares of difficulty (Spider's classes) among synthesized queries; all 0: as the seeds."""

    easy: float = Field(0.0, ge=0, description="share of easy queries")
    medium: float = Field(0.0, ge=0, description="share of medium queries")
    hard: float = Field(0.0, ge=0, description="share of hard queries")
    extra: float = Field(0.0, ge=0, description="share of extra hard queries")

    def shares(self) -> dict[Literal["easy", "medium", "hard", "extra"], float] | None:
        """The shares by class; None when none is asked for."""
        shares: dict[Literal["easy", "medium", "hard", "extra"], float] = {
            "easy": self.easy,
            "medium": self.medium,
            "hard": self.hard,
            "extra": self.extra,
        }
        return shares if any(shares.values()) else None


class VbiConfig(TrainConfig):
    """Stage 1: verification-based iterative fine-tuning (one round)."""

    rounds: int = Field(2, ge=1, description="rounds of synthesis and fine-tuning")
    count: int = Field(3000, gt=0, description="queries synthesized per round")
    feedback: int = Field(300, gt=0, description="of these, pairs that judge the round's model")
    ranking: int = Field(300, gt=0, description="pairs of round 1 kept apart to rank candidates")
    mix: MixConfig = MixConfig()


class SelfPlayConfig(TrainConfig):
    """Stage 2: self-play fine-tuning (one iteration)."""

    iterations: int = Field(2, ge=0, description="iterations of choosing main and opponent")
    lam: float = Field(1.0, gt=0, description="lambda of the loss")
    nll_weight: float = Field(0.0, ge=0, description="weight of an added NLL term on the gold")
    pairs: int = Field(0, ge=0, description="questions the opponent answers (0: all)")


class GenerationConfig(Section):
    engine: Literal["hf", "vllm", "served"] = Field(
        "hf", description="what generates: transformers, vLLM, or an OpenAI-compatible server"
    )
    batch_size: int = Field(32, gt=0, description="prompts decoded together (hf)")
    constrain: bool = Field(
        False, description="only SQL of the database's own names (needs vllm or served)"
    )
    vllm_python: Path | None = Field(
        None, description="interpreter of the environment with vLLM (none: this one)"
    )
    gpu_memory: float = Field(
        0.4, gt=0, le=1, description="share of the GPU's memory that vLLM may take beside training"
    )
    url: str | None = Field(None, description="served: address of the server, up to /v1")
    served_model: str | None = Field(None, description="served: the model's name there")
    api_key: str = Field(
        "SPFT_API_KEY", description="served: environment variable that holds the key, if any"
    )

    @model_validator(mode="after")
    def _engine_is_complete(self) -> GenerationConfig:
        if self.engine == "served" and self.url is None:
            raise ValueError("generation.engine=served needs generation.url")
        if self.engine == "hf" and self.constrain:
            raise ValueError(
                "generation.constrain needs an engine with structured output: set "
                "generation.engine=vllm or served"
            )
        return self


class ClusterConfig(Section):
    """Verification and rollouts on the nodes of a Ray cluster (needs the extra `cluster`)."""

    address: str = Field(
        "none", description="none; auto: the cluster of this machine; local; HOST:PORT; ray://…"
    )
    workers: int = Field(0, ge=0, description="workers that verify (0: all CPUs that are left)")
    worker_cpus: int = Field(1, gt=0, description="CPUs, and threads, of each")
    engines: int = Field(0, ge=0, description="engines that generate there (0: generate here)")
    engine_cpus: int = Field(1, gt=0, description="CPUs of each")
    engine_gpus: float = Field(0.0, ge=0, description="GPUs of each")

    @model_validator(mode="after")
    def _there_is_one(self) -> ClusterConfig:
        asked = [name for name in ("workers", "engines") if getattr(self, name)]
        if self.address == "none" and asked:
            raise ValueError(
                f"cluster.{asked[0]} asks for a cluster, and cluster.address is none: set it to "
                f"auto, local or HOST:PORT, or cluster.{asked[0]} to 0"
            )
        return self


class LimitsConfig(Section):
    steps: int = Field(20_000_000, gt=0, description="SQLite virtual-machine steps per query")
    seconds: float = Field(10.0, gt=0, description="wall-clock back-stop per query")


Baseline = Literal["sft", "spin", "exspin", "dpo"]


class Config(Section):
    """All settings of a run."""

    run: RunConfig = RunConfig()
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    lora: LoraConfig = LoraConfig()
    prompt: PromptConfig = PromptConfig()
    training: LoopConfig = LoopConfig()
    base: BaseConfig = Field(
        BaseConfig(), description="first training of a tiny model on the seeds"
    )
    sql_to_text: SqlToTextConfig = SqlToTextConfig()
    vbi: VbiConfig = VbiConfig()
    self_play: SelfPlayConfig = SelfPlayConfig()
    generation: GenerationConfig = GenerationConfig()
    limits: LimitsConfig = LimitsConfig()
    cluster: ClusterConfig = ClusterConfig()
    baselines: tuple[Baseline, ...] = Field(
        ("sft", "spin"), description="compared in the same run: sft, spin, exspin, dpo"
    )

    @model_validator(mode="after")
    def _updates_survive_rounding(self) -> Config:
        if self.model.dtype == "float16" and self.lora.rank == 0:
            raise ValueError(
                "full fine-tuning in float16 loses its updates to rounding; use "
                "model.dtype=float32 or bfloat16, or adapters (lora.rank)"
            )
        return self

    @model_validator(mode="after")
    def _adapters_are_asked_for(self) -> Config:
        if self.lora.rank == 0 and (self.model.quantize != "none" or self.lora.target_modules):
            raise ValueError(
                "model.quantize and lora.target_modules say how adapters are trained, and there "
                "are none: set lora.rank above 0"
            )
        return self

    @model_validator(mode="after")
    def _the_model_that_trains_answers(self) -> Config:
        if self.model.quantize != "none" and self.generation.engine == "vllm":
            raise ValueError(
                "vLLM would answer with the base in full precision, and model.quantize="
                f"{self.model.quantize} trains on another one: set generation.engine=hf, or "
                "model.quantize=none"
            )
        return self

    @model_validator(mode="after")
    def _one_of_them_generates(self) -> Config:
        if self.generation.engine == "served" and self.cluster.engines:
            raise ValueError(
                "generation.engine=served has a server generate, and cluster.engines the cluster: "
                "set cluster.engines=0, or generation.engine=hf or vllm"
            )
        return self

    @model_validator(mode="after")
    def _stages_on_a_cluster_take_turns(self) -> Config:
        if self.cluster.address != "none" and self.run.workers > 1:
            raise ValueError(
                f"run.workers={self.run.workers} runs stages side by side, and each would want the "
                "cluster's workers and engines for itself: set run.workers=1"
            )
        return self

    @property
    def run_directory(self) -> Path:
        assert self.run.name is not None, "settings() names every run"
        return self.run.directory / self.run.name

    @property
    def stopped_message(self) -> str:
        """What a user who has stopped the run should know."""
        resume = f"--resume --run.name {self.run.name}"
        if self.run.directory != RunConfig().directory:
            resume += f" --run.directory {self.run.directory}"
        return (
            f"Stopped. Finished stages are kept; continue with: python -m spftcore.train {resume}"
        )

    def to_yaml(self) -> str:
        """The resolved settings as YAML that reads back to the same settings."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


def settings(section: type[Section] = Config, prefix: str = "") -> Iterator[tuple[str, Any, str]]:
    """Yields (dotted name, annotation, description) of every leaf setting."""
    for name, field in section.model_fields.items():
        annotation = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, Section):
            yield from settings(annotation, f"{prefix}{name}.")
        else:
            yield prefix + name, annotation, field.description or ""


def _nearest(key: str) -> str:
    names = [name for name, _, _ in settings()]
    sections = list(Config.model_fields)
    close = difflib.get_close_matches(key, names + sections, n=1, cutoff=0.4)
    return f" Did you mean '{close[0]}'?" if close else " See --help for the valid ones."


def resolve(layers: Sequence[tuple[str, dict[str, Any]]]) -> Config:
    """Merges nested dictionaries, later ones over earlier ones, into checked settings.

    Args:
        layers: (where it comes from, nested values), e.g. the defaults of a recipe, a YAML file,
            the command line.

    Raises:
        UsageError: an unknown key (with the nearest valid one) or a value of the wrong type.
    """
    merged: dict[str, Any] = {}
    for source, values in layers:
        _merge(merged, values, source)
    try:
        return Config.model_validate(merged)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise UsageError(f"Unknown setting '{key}'.{_nearest(key)}") from None
        if first["type"] == "value_error":  # our own checks, of settings that go together
            raise UsageError(
                f"The settings do not fit together: {first['ctx']['error']}."
            ) from None
        raise UsageError(
            f"Setting '{key}' = {first.get('input')!r} is not valid: {first['msg']}."
        ) from None


def _merge(target: dict[str, Any], values: Any, source: str) -> None:
    if not isinstance(values, dict):
        raise UsageError(f"{source} must hold sections of settings, not {type(values).__name__}.")
    for key, value in values.items():
        if isinstance(value, dict) and isinstance(target.get(key), dict):
            _merge(target[key], value, source)
        elif isinstance(value, dict):
            target[key] = {}
            _merge(target[key], value, source)
        else:
            target[key] = value


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file of settings as nested dictionaries.

    Raises:
        UsageError: the file is missing or is not YAML.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"Cannot read the settings file {path}: {error.strerror}.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"The settings file {path} is not valid YAML: {error}") from None
    return values or {}


def nest(name: str, value: Any) -> dict[str, Any]:
    """`("a.b", 1)` as `{"a": {"b": 1}}`."""
    for part in reversed(name.split(".")):
        value = {part: value}
    return value


def _placeholder(annotation: Any) -> str:
    if get_origin(annotation) is Literal:
        return "{" + ",".join(str(choice) for choice in get_args(annotation)) + "}"
    if get_origin(annotation) is tuple:
        return "A,B,…"
    names = [a.__name__ for a in (get_args(annotation) or (annotation,)) if a is not type(None)]
    return {"Path": "PATH", "str": "TEXT", "int": "N", "float": "X", "bool": "true|false"}.get(
        names[0], names[0].upper()
    )


def add_options(
    parser: argparse.ArgumentParser, only: Callable[[str], bool] = lambda name: True
) -> None:
    """Adds one option per setting (of those that `only` takes), grouped by section."""
    groups: dict[str, Any] = {}
    for name, annotation, description in settings():
        if not only(name):
            continue
        section = name.rpartition(".")[0]
        if section not in groups:
            field = Config.model_fields.get(section)  # None: a section within a section
            about = "what is compared" if not section else field.description if field else None
            groups[section] = parser.add_argument_group(section or "comparison", about)
        groups[section].add_argument(
            f"--{name}",
            metavar=_placeholder(annotation),
            default=argparse.SUPPRESS,
            help=description.replace("%", "%%"),
        )


def options_given(arguments: argparse.Namespace) -> dict[str, Any]:
    """The settings given on the command line, nested; values are read as YAML scalars.

    Raises:
        UsageError: a value that YAML cannot read.
    """
    nested: dict[str, Any] = {}
    kinds = {name: annotation for name, annotation, _ in settings()}
    for name, text in vars(arguments).items():
        if name not in kinds:
            continue
        if get_origin(kinds[name]) is tuple:
            value: Any = [part.strip() for part in text.split(",") if part.strip()]
        elif kinds[name] in (str, Path, str | None, Path | None):
            value = text
        else:
            try:
                value = yaml.safe_load(text)
            except yaml.YAMLError:
                raise UsageError(f"Option --{name} has an unreadable value: {text!r}.") from None
        _merge(nested, nest(name, value), "the command line")
    return nested


class OptionParser(argparse.ArgumentParser):
    """Reports an unknown option with the nearest valid one, and exits with code 2."""

    def parse(self, argv: Sequence[str] | None) -> argparse.Namespace:
        arguments, unknown = self.parse_known_args(argv)
        if unknown and not unknown[0].startswith("-"):
            raise UsageError(f"There is one argument too many: '{unknown[0]}'. See --help.")
        if unknown:
            key = unknown[0].lstrip("-").partition("=")[0]
            options = [o for action in self._actions for o in action.option_strings]
            close = difflib.get_close_matches(f"--{key}", options, n=1, cutoff=0.4)
            hint = f" Did you mean '{close[0]}'?" if close else " See --help for the valid ones."
            raise UsageError(f"Unknown option '{unknown[0]}'.{hint}")
        return arguments

    def error(self, message: str) -> Any:
        raise UsageError(f"{message[0].upper()}{message[1:]}. See --help.")
