"""Settings come from defaults, a YAML file and the command line, and a wrong one is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from spftcore.config import (
    Config,
    OptionParser,
    add_options,
    nest,
    options_given,
    read_yaml,
    resolve,
    settings,
)
from spftcore.errors import UsageError
from spftcore.train import main
from spftcore.train import settings as train_settings


def options(*argv: str) -> dict[str, Any]:
    parser = OptionParser(allow_abbrev=False)
    add_options(parser)
    return options_given(parser.parse(argv))


def from_command_line(*argv: str) -> Config:
    return resolve([("the command line", options(*argv))])


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test starts or finds a run of the repository."""
    monkeypatch.chdir(tmp_path)


# -- options ------------------------------------------------------------------------------------


def test_every_setting_is_a_dotted_option_with_a_description() -> None:
    names = [name for name, _, _ in settings()]
    assert {"run.seed", "data.databases", "self_play.lam", "vbi.learning_rate"} <= set(names)
    assert len(names) == len(set(names))
    assert [name for name, _, description in settings() if not description] == []


def test_nothing_given_means_the_defaults() -> None:
    assert options() == {}
    assert from_command_line() == Config()


@pytest.mark.parametrize(
    ("argv", "value"),
    [
        (["--run.seed", "7"], 7),
        (["--run.seed=7"], 7),
        (["--self_play.lam", "0.1"], 0.1),
        (["--base.learning_rate", "1e-3"], 1e-3),  # no dot: text to YAML, a number to the user
        (["--model.chat_template", "false"], False),
        (["--run.name", "2026"], "2026"),  # a name stays text
        (["--data.databases", "some/where"], Path("some/where")),
        (["--baselines", "sft, dpo"], ("sft", "dpo")),
        (["--baselines", ""], ()),
    ],
)
def test_an_option_sets_its_setting_with_its_type(argv: list[str], value: object) -> None:
    config: Any = from_command_line(*argv)
    for part in argv[0].lstrip("-").partition("=")[0].split("."):
        config = getattr(config, part)
    assert config == value
    assert type(config) is type(value) or isinstance(value, Path)


def test_a_section_given_in_part_keeps_its_other_defaults() -> None:
    config = from_command_line("--base.steps", "9")
    assert (config.base.steps, config.base.learning_rate) == (9, Config().base.learning_rate)


# -- precedence ---------------------------------------------------------------------------------


def test_command_line_beats_yaml_beats_recipe_beats_defaults(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("vbi:\n  rounds: 3\n  count: 30\nrun: {seed: 5}\n")
    recipe = {"vbi": {"rounds": 2, "count": 20, "steps": 200}}
    config = resolve(
        [
            ("recipe", recipe),
            (str(file), read_yaml(file)),
            ("the command line", options("--vbi.rounds", "4")),
        ]
    )
    assert (config.vbi.rounds, config.vbi.count, config.vbi.steps) == (4, 30, 200)
    assert (config.run.seed, config.vbi.clip) == (5, Config().vbi.clip)


def test_resolve_leaves_its_layers_as_they_were() -> None:
    first, second = {"run": {"seed": 1}}, {"run": {"seed": 2}}
    assert resolve([("a", first), ("b", second)]).run.seed == 2
    assert (first, second) == ({"run": {"seed": 1}}, {"run": {"seed": 2}})


def test_resolved_settings_read_back_from_their_yaml(tmp_path: Path) -> None:
    config = from_command_line(
        "--run.name", "7", "--data.pairs", "p.json", "--baselines", "dpo", "--base.steps", "3"
    )
    file = tmp_path / "config.yaml"
    file.write_text(config.to_yaml())
    assert resolve([(str(file), read_yaml(file))]) == config
    assert list(yaml.safe_load(config.to_yaml())) == list(Config.model_fields)


def test_an_empty_yaml_file_gives_the_defaults(tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").write_text("# nothing yet\n")
    assert read_yaml(tmp_path / "empty.yaml") == {}


def test_nest_spells_a_dotted_name_out() -> None:
    assert nest("a.b", 1) == {"a": {"b": 1}}
    assert nest("baselines", ()) == {"baselines": ()}


# -- mistakes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "key", "nearest"),
    [
        ({"self_play": {"lamda": 1}}, "self_play.lamda", "self_play.lam"),
        ({"sel_play": {"lam": 1}}, "sel_play", "self_play"),
        ({"base": {"learning_rat": 1}}, "base.learning_rat", "base.learning_rate"),
    ],
)
def test_an_unknown_key_is_answered_with_the_nearest_valid_one(
    values: dict[str, Any], key: str, nearest: str
) -> None:
    with pytest.raises(UsageError) as caught:
        resolve([("a file", values)])
    assert f"'{key}'" in str(caught.value)
    assert f"'{nearest}'" in str(caught.value)


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"run": {"seed": "many"}}, "run.seed"),
        ({"base": {"steps": -1}}, "base.steps"),
        ({"self_play": {"loss": "ppo"}}, "self_play.loss"),
        ({"baselines": ["sft", "ppo"]}, "baselines"),
        ({"vbi": 3}, "vbi"),
    ],
)
def test_a_value_that_does_not_fit_is_named_with_its_key(values: dict[str, Any], key: str) -> None:
    with pytest.raises(UsageError) as caught:
        resolve([("a file", values)])
    assert key in str(caught.value)


@pytest.mark.parametrize("text", ["- a\n- b\n", "just text\n"])
def test_yaml_that_holds_no_sections_is_refused_by_name(tmp_path: Path, text: str) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text(text)
    with pytest.raises(UsageError, match=r"settings\.yaml"):
        resolve([(str(file), read_yaml(file))])


def test_unreadable_settings_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"missing\.yaml"):
        read_yaml(tmp_path / "missing.yaml")
    (tmp_path / "broken.yaml").write_text("run: {seed: 1\n")
    with pytest.raises(UsageError, match=r"broken\.yaml"):
        read_yaml(tmp_path / "broken.yaml")


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--self_play.lamda", "1"], ["--self_play.lamda", "--self_play.lam"]),
        (["--run.sed=1"], ["--run.sed", "--run.seed"]),
        (["--resum"], ["--resum", "--resume"]),
        (["stray"], ["stray"]),
        (["--run.seed"], ["run.seed", "expected one argument"]),
        (["--run.seed", "many"], ["run.seed", "many"]),
        (["--run.device", "[cpu"], ["run.device", "[cpu"]),
        (["--config", "missing.yaml"], ["missing.yaml"]),
        (["--data.pairs", "p.json"], ["--data.databases"]),
        (["--data.databases", "d"], ["--data.pairs"]),
    ],
)
def test_a_wrong_command_line_gives_one_message_and_exit_code_2(
    argv: list[str], said: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(argv) == 2
    captured = capsys.readouterr()
    message = " ".join(captured.err.split())
    assert message.startswith("Error: ")
    assert "Traceback" not in message
    for part in said:
        assert part in message
    assert captured.out == ""
    assert list(tmp_path.iterdir()) == []  # nothing was begun


def test_a_wrong_key_in_the_yaml_gives_exit_code_2(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "own.yaml").write_text("vbi: {round: 3}\n")
    assert main(["--config", "own.yaml"]) == 2
    assert "'vbi.rounds'" in " ".join(capsys.readouterr().err.split())


def test_a_model_that_cannot_be_built_is_refused_before_the_run() -> None:
    # 130 does not divide by 4 heads; rotary positions need an even width per head.
    for sizes in (["--model.hidden_size", "130"], ["--model.hidden_size", "12"]):
        with pytest.raises(UsageError, match="heads"):
            from_command_line(*sizes, "--model.heads", "4")


# -- the run that the settings name -------------------------------------------------------------


def settings_of(*argv: str) -> Config:
    from spftcore.train import parser

    return train_settings(parser().parse(argv))


@pytest.mark.parametrize(
    ("values", "remedy"),
    [
        ({"cluster": {"engines": 2}}, "cluster.address"),
        ({"cluster": {"workers": 2}}, "cluster.address"),
        ({"cluster": {"address": "auto"}, "run": {"workers": 2}}, "run.workers=1"),
        (
            {
                "cluster": {"address": "auto", "engines": 2},
                "generation": {"engine": "served", "url": "http://localhost:8000/v1"},
            },
            "cluster.engines=0",
        ),
    ],
)
def test_settings_of_a_cluster_that_contradict_others_are_refused(
    values: dict[str, Any], remedy: str
) -> None:
    with pytest.raises(UsageError, match=remedy):
        resolve([("a file", values)])


def test_a_run_is_named_after_the_demo_or_the_folder_of_databases(tmp_path: Path) -> None:
    assert settings_of().run_directory == Path("runs/demo")
    own = settings_of("--data.databases", str(tmp_path / "shop"), "--data.pairs", "p.json")
    assert own.run_directory == Path("runs/shop")


def test_the_recipe_of_the_tiny_model_gives_way_to_a_checkpoint() -> None:
    assert settings_of().prompt.style == "linked"
    assert settings_of("--prompt.style", "ddl").prompt.style == "ddl"
    assert settings_of("--model.name_or_path", "some/model").prompt == Config().prompt


def test_an_existing_run_is_neither_overwritten_nor_continued_with_other_settings() -> None:
    stored = settings_of("--base.steps", "3")
    stored.run_directory.mkdir(parents=True)
    (stored.run_directory / "config.yaml").write_text(stored.to_yaml())
    with pytest.raises(UsageError, match="--resume"):
        settings_of()
    with pytest.raises(UsageError, match=r"base\.steps"):
        settings_of("--resume", "--base.steps", "4")
    assert settings_of("--resume") == stored
    assert settings_of("--resume", "--base.steps", "3") == stored
    assert settings_of("--resume", "--run.workers", "1").run.workers == 1


def test_dry_run_starts_nothing(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["--dry-run"]) == 0
    assert "vbi_1_train" in capsys.readouterr().out
    assert not (tmp_path / "runs" / "demo" / "run.sqlite").exists()


@pytest.mark.parametrize(
    "values", [{"model": {"quantize": "nf4"}}, {"lora": {"target_modules": ["q_proj"]}}]
)
def test_settings_of_adapters_need_adapters(values: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"lora\.rank"):
        resolve([("test", values)])
    assert resolve([("test", values | {"lora": {**values.get("lora", {}), "rank": 4}})])


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_a_quantized_base_is_not_answered_for_by_vllm(kind: str) -> None:
    given: dict[str, Any] = {"model": {"quantize": kind}, "lora": {"rank": 4}}
    with pytest.raises(UsageError, match=r"full precision.*generation\.engine=hf"):
        resolve([("test", given | {"generation": {"engine": "vllm"}})])
    assert resolve([("test", given)]).model.quantize == kind
    assert resolve([("test", {"generation": {"engine": "vllm"}})]).generation.engine == "vllm"
