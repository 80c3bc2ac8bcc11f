"""`python -m spftcore.train` as a user types it: whole runs, killed runs, own models, bad input."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from spftcore.report import result_table
from spftcore.stages.plan import plan
from spftcore.store import Store
from spftcore.train import main, parser, settings

# A whole run in little time: enough training that some synthesized pairs pass their checks.
QUICK = {
    "base.steps": 60,
    "sql_to_text.scratch_steps": 120,
    "sql_to_text.steps": 10,
    "vbi.steps": 10,
    "vbi.count": 80,
    "vbi.feedback": 20,
    "vbi.ranking": 20,
    "self_play.steps": 5,
    "self_play.iterations": 1,
    "self_play.pairs": 40,
    "data.max_test": 30,
    "prompt.max_completion_tokens": 48,
}
TABLES = ("pairs", "templates", "rejections", "candidates", "answers", "opponent_logprobs")


def _options(directory: Path, name: str, **more: object) -> list[str]:
    values = {"run.directory": directory, "run.name": name, **QUICK, **more}
    return [f"--{key}={value}" for key, value in values.items()]


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "spftcore.train", *arguments]


def _offline() -> dict[str, str]:
    return {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def _train(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        _command(*arguments), env=_offline(), text=True, capture_output=True, check=False
    )


def _content(run: Path) -> dict[str, list[tuple[object, ...]]]:
    """Everything a run's store holds that must not depend on how often the run was stopped."""
    connection = sqlite3.connect(run / "run.sqlite")
    content = {
        table: sorted(map(repr, connection.execute(f"select * from {table}"))) for table in TABLES
    }
    connection.close()
    # Checkpoints lie in the run's own folder, whose name differs.
    return json.loads(json.dumps(content).replace(str(run), "RUN"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run on the embedded databases."""
    directory = tmp_path_factory.mktemp("runs")
    done = _train(*_options(directory, "whole"))
    assert done.returncode == 0, done.stderr
    assert "SPFT-SQL" in done.stdout
    return directory / "whole"


def test_a_run_ends_with_every_system_in_the_table_a_report_and_a_model(finished: Path) -> None:
    store = Store(finished / "run.sqlite")
    systems = [result.name for result in result_table(store)]
    store.close()
    assert systems == ["base", "SFT", "SPIN", "VBI-FT", "SPFT-SQL"]
    assert (finished / "report.html").stat().st_size > 10_000
    assert list((finished / "tensorboard").glob("*/events*"))


def test_the_exported_model_loads_with_plain_transformers(finished: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(finished / "model")
    tokenizer = AutoTokenizer.from_pretrained(finished / "model")
    ids = tokenizer("clinic | how many patients are there? =>", return_tensors="pt")["input_ids"]
    assert model.generate(ids, max_new_tokens=3).shape[1] > ids.shape[1]


def test_no_synthesized_query_is_an_evaluation_query(finished: Path) -> None:
    from spftcore.databases import Catalogue
    from spftcore.synthesis import canonical

    catalogue = Catalogue.open(finished / "databases")
    store = Store(finished / "run.sqlite")
    pairs = store.pairs()
    store.close()

    def queries(source: str) -> set[tuple[str, str]]:
        return {
            (p.database, canonical(p.sql, catalogue[p.database]))
            for p in pairs
            if p.source == source
        }

    assert queries("synthesized")
    assert not queries("synthesized") & queries("benchmark")
    assert not queries("synthesized") & queries("seed")


def test_rewards_are_kept_with_one_opponent_logprob_per_token(finished: Path) -> None:
    store = Store(finished / "run.sqlite")
    answers = store.answers("self_play_1_answers", "opponent")
    rows = store.query("select pair, role, length(logprobs) from opponent_logprobs")
    store.close()
    assert {answer.verdict for answer in answers.values()} <= {"right", "wrong", "unjudged"}
    assert {(pair, role) for pair, role, _ in rows} >= {
        (pair, role) for pair in answers for role in ("gold", "answer")
    }
    assert all(size > 0 and size % 4 == 0 for _, _, size in rows)


def test_a_finished_run_is_continued_with_new_pairs(finished: Path, tmp_path: Path) -> None:
    new = tmp_path / "new.jsonl"
    question = {"database": "clinic", "question": "How many doctors earn over 1?"}
    before = Store(finished / "run.sqlite")
    old = [*before.pairs(split="train"), *before.pairs(split="feedback")]
    expected = {(p.question, p.sql) for p in before.pairs(stage="prepare", split="test")}
    before.close()
    again = next(pair for pair in old if pair.source == "seed")
    lines = [
        {**question, "sql": "select count(*) from doctor where 1 < 2"},
        # The same pair once more, in other letters.
        {"database": again.database, "question": again.question, "sql": f"  {again.sql} "},
    ]
    new.write_text("\n".join(map(json.dumps, lines)))
    less = {"vbi.rounds": 1, "self_play.iterations": 0, "baselines": "", "vbi.ranking": 10}
    values = {"run.directory": tmp_path, "run.continues": finished, "data.pairs": new, **less}
    done = _train(*(f"--{key}={value}" for key, value in values.items()))
    assert done.returncode == 0, done.stderr

    run = tmp_path / "whole-continued"
    store = Store(run / "run.sqlite")
    seeds = store.pairs(stage="prepare", split="train")
    tested = {(p.question, p.sql) for p in store.pairs(stage="prepare", split="test")}
    base = Path(store.result("base")["path"])
    store.close()
    assert base == finished / "model"
    assert question["question"] in {pair.question for pair in seeds}
    assert {pair.source for pair in old} == {"seed", "synthesized"}
    # What the old run trained on is trained on again; its test stays its test.
    taken = {pair.id.partition(":")[2] for pair in seeds if "run" in pair.checks}
    assert taken == {pair.id for pair in old} - {again.id}
    assert sum(pair.question == again.question for pair in seeds) == 1
    assert tested == expected
    assert (run / "model").is_dir()


def test_only_a_finished_run_can_be_continued(finished: Path, tmp_path: Path) -> None:
    missing = _train(f"--run.continues={tmp_path / 'none'}", f"--run.directory={tmp_path}")
    assert (missing.returncode, "no run in" in missing.stderr) == (2, True)
    shutil.copytree(finished, tmp_path / "half", ignore=shutil.ignore_patterns("model"))
    half = _train(f"--run.continues={tmp_path / 'half'}", f"--run.directory={tmp_path}")
    assert (half.returncode, "--resume" in half.stderr) == (2, True)


def test_a_finished_run_is_not_overwritten(finished: Path) -> None:
    again = _train(*_options(finished.parent, "whole"))
    assert again.returncode == 2
    assert "--resume" in again.stderr


def test_resuming_with_other_settings_is_refused(finished: Path) -> None:
    again = _train(*_options(finished.parent, "whole", **{"vbi.count": 81}), "--resume")
    assert again.returncode == 2
    assert "vbi.count" in again.stderr


def _kill_during(stage: str, run: Path, options: list[str]) -> None:
    """Starts or continues a run and kills it with SIGKILL as soon as `stage` can be at work."""
    arguments = parser().parse([*options, *_resume_if_begun(run)])
    needs = {s.name: set(s.needs) for s in plan(settings(arguments))}[stage]
    process = subprocess.Popen(
        _command(*options, *_resume_if_begun(run)),
        env=_offline(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stderr is not None
    while not needs <= _finished_stages(run):
        assert process.poll() is None, process.stderr.read().decode()
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)  # the parent alone: its workers must notice
    process.wait()


def _resume_if_begun(run: Path) -> list[str]:
    return ["--resume"] if (run / "config.yaml").exists() else []


def _finished_stages(run: Path) -> set[str]:
    if not (run / "run.sqlite").exists():
        return set()
    connection = sqlite3.connect(run / "run.sqlite", timeout=30)
    try:
        return {row[0] for row in connection.execute("select name from stages")}
    except sqlite3.OperationalError:  # the store is just being made
        return set()
    finally:
        connection.close()


def _killed_and_resumed(finished: Path, stages: list[str], name: str) -> Path:
    options = _options(finished.parent, name)
    run = finished.parent / name
    for stage in stages:
        _kill_during(stage, run, options)
    done = _train(*options, "--resume")
    assert done.returncode == 0, done.stderr
    return run


def test_a_run_killed_and_resumed_holds_what_an_uninterrupted_one_holds(finished: Path) -> None:
    run = _killed_and_resumed(finished, ["base", "vbi_1_synthesize", "self_play_1_train"], "killed")
    assert _content(run) == _content(finished)


@pytest.mark.heavy
def test_a_run_killed_in_every_stage_holds_the_same(finished: Path) -> None:
    arguments = parser().parse(_options(finished.parent, "every"))
    stages = [stage.name for stage in plan(settings(arguments))]
    run = _killed_and_resumed(finished, stages, "every")
    assert _content(run) == _content(finished)


def test_ctrl_c_stops_cleanly_and_says_how_to_go_on(tmp_path: Path) -> None:
    options = _options(tmp_path, "stopped")
    process = subprocess.Popen(
        _command(*options),
        env=_offline(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while "prepare" not in _finished_stages(tmp_path / "stopped"):
        assert process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # what a terminal does
    _, errors = process.communicate()
    assert process.returncode == 1
    assert "--resume --run.name stopped" in " ".join(errors.split())
    assert "Traceback" not in errors
    assert _finished_stages(tmp_path / "stopped") >= {"prepare"}


def test_a_run_at_work_is_not_entered_twice(finished: Path) -> None:
    import fcntl

    with (finished / ".lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        second = _train(*_options(finished.parent, "whole"), "--resume")
    assert second.returncode == 1
    assert "Another process" in second.stderr


# -- own databases and models ------------------------------------------------------------------


@pytest.fixture(scope="module")
def own_data(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A folder with two databases and a file of pairs, as a user might have them."""
    folder = tmp_path_factory.mktemp("own")
    databases = folder / "databases"
    databases.mkdir()
    for name in ("clinic", "shop"):
        shutil.copy(finished / "databases" / f"{name}.sqlite", databases)
    store = Store(finished / "run.sqlite")
    pairs = [p for p in store.pairs(stage="prepare") if p.database in ("clinic", "shop")]
    store.close()
    (folder / "pairs.jsonl").write_text("".join(f"{pair.to_json()}\n" for pair in pairs[:120]))
    return databases, folder / "pairs.jsonl"


@pytest.mark.parametrize(("checkpoint", "rank"), [("qwen2_folder", 0), ("llama_folder", 4)])
def test_own_databases_and_checkpoint_train_in_full_or_with_lora(
    own_data: tuple[Path, Path],
    tmp_path: Path,
    request: pytest.FixtureRequest,
    checkpoint: str,
    rank: int,
) -> None:
    databases, pairs = own_data
    options = {
        "data.databases": databases,
        "data.pairs": pairs,
        "model.name_or_path": request.getfixturevalue(checkpoint),
        "lora.rank": rank,
        "run.directory": tmp_path,
        "run.name": "own",
        "vbi.rounds": 1,
        "vbi.count": 20,
        "vbi.feedback": 4,
        "vbi.ranking": 4,
        "vbi.steps": 2,
        "sql_to_text.steps": 2,
        "self_play.iterations": 1,
        "self_play.steps": 2,
        "self_play.pairs": 8,
        "prompt.max_completion_tokens": 32,
        "prompt.style": "linked",
        "prompt.max_prompt_tokens": 256,
        "data.max_test": 8,
    }
    done = _train(*[f"--{key}={value}" for key, value in options.items()])
    assert done.returncode == 0, done.stderr
    model = tmp_path / "own" / "model"
    assert (model / "adapter_config.json").exists() == (rank > 0)


def test_databases_without_any_pair_train_on_what_is_written_from_them(
    own_data: tuple[Path, Path], tmp_path: Path, qwen2_folder: Path
) -> None:
    options = {
        "data.databases": own_data[0],
        "model.name_or_path": qwen2_folder,
        "run.directory": tmp_path,
        "run.name": "none",
        "vbi.rounds": 2,
        "vbi.count": 20,
        "vbi.feedback": 4,
        "vbi.ranking": 4,
        "vbi.steps": 2,
        "sql_to_text.steps": 2,
        "self_play.iterations": 1,
        "self_play.steps": 2,
        "self_play.pairs": 8,
        "prompt.max_completion_tokens": 16,
        "prompt.style": "compact",
        "prompt.max_prompt_tokens": 480,
    }
    done = _train(*[f"--{key}={value}" for key, value in options.items()])
    assert done.returncode == 0, done.stderr
    store = Store(tmp_path / "none" / "run.sqlite")
    pairs = store.pairs()
    trained = store.result("vbi_2_train")["pairs"]
    store.close()
    assert {pair.source for pair in pairs} == {"synthesized"}
    assert {pair.database for pair in pairs} == {"clinic", "shop"}
    assert {pair.checks["writer"] for pair in pairs if pair.id.startswith("vbi_1")} == {"rules"}
    assert trained >= 40
    assert (tmp_path / "none" / "model" / "model.safetensors").is_file()


def test_databases_without_pairs_need_a_model(
    own_data: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, message = _refused(
        capsys, f"--data.databases={own_data[0]}", f"--run.directory={tmp_path}"
    )
    assert code == 2
    assert "--model.name_or_path" in message
    assert "spftcore.synthesize" in message


# -- bad input ---------------------------------------------------------------------------------


def _refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    code = main(arguments)
    return code, " ".join(capsys.readouterr().err.split())


def test_a_wrong_option_names_the_nearest_one(capsys: pytest.CaptureFixture[str]) -> None:
    code, message = _refused(capsys, "--self_play.lamda=1")
    assert code == 2
    assert "--self_play.lam" in message


def test_a_wrong_key_in_yaml_names_the_nearest_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "c.yaml").write_text("vbi: {round: 3}\n")
    code, message = _refused(capsys, "--config", str(tmp_path / "c.yaml"))
    assert code == 2
    assert "vbi.rounds" in message


def test_missing_empty_and_broken_database_folders_are_named(
    own_data: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, pairs = own_data
    fixed = [f"--data.pairs={pairs}", f"--run.directory={tmp_path / 'runs'}"]
    code, message = _refused(capsys, f"--data.databases={tmp_path / 'nowhere'}", *fixed)
    assert code == 1
    assert "nowhere" in message
    (tmp_path / "empty").mkdir()
    code, message = _refused(capsys, f"--data.databases={tmp_path / 'empty'}", *fixed)
    assert code == 1
    assert "empty" in message
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "x.sqlite").write_text("not a database, only some text")
    code, message = _refused(capsys, f"--data.databases={tmp_path / 'broken'}", *fixed)
    assert code == 1
    assert "x.sqlite" in message
    assert not (tmp_path / "runs").exists()


def test_pairs_of_unknown_databases_and_golds_that_fail_are_counted(
    own_data: tuple[Path, Path], tmp_path: Path
) -> None:
    databases, pairs = own_data
    lines = pairs.read_text().splitlines()
    lines.append(json.dumps({"database": "nowhere", "question": "Q?", "sql": "select 1"}))
    lines.append(json.dumps({"database": "clinic", "question": "Q?", "sql": "select x from y"}))
    mixed = tmp_path / "mixed.jsonl"
    mixed.write_text("\n".join(lines))
    options = [f"--data.databases={databases}", f"--data.pairs={mixed}"]
    process = subprocess.Popen(
        _command(*options, f"--run.directory={tmp_path}", "--run.name=mixed"),
        env=_offline(),
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while "prepare" not in _finished_stages(tmp_path / "mixed"):
        assert process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGTERM)
    process.communicate()
    store = Store(tmp_path / "mixed" / "run.sqlite")
    causes = dict(store.query("select cause, message from excluded_pairs"))
    store.close()
    assert set(causes) == {"unknown database", "gold does not run"}
    assert "no such table" in causes["gold does not run"]


def test_an_empty_pairs_file_and_missing_halves_are_refused(
    own_data: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    databases, pairs = own_data
    code, message = _refused(capsys, f"--data.pairs={pairs}")
    assert code == 2
    assert "--data.databases" in message
    code, message = _refused(capsys, f"--data.databases={databases}")
    assert code == 2
    assert "--data.pairs" in message
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    code, message = _refused(
        capsys,
        f"--data.databases={databases}",
        f"--data.pairs={empty}",
        f"--run.directory={tmp_path / 'runs'}",
    )
    assert code == 1
    assert "empty" in message


def test_a_model_without_tokenizer_is_refused_before_any_work(
    qwen2_folder: Path, tmp_path: Path
) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(qwen2_folder / name, bare)
    done = _train(f"--model.name_or_path={bare}", f"--run.directory={tmp_path}", "--run.name=bare")
    assert done.returncode == 1
    assert "tokenizer" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("size", ["200k", "3m"])  # full in the parent, and in a worker
def test_a_full_disk_stops_with_one_message_and_loses_nothing(tmp_path: Path, size: str) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("a small disk can be mounted by root only")
    try:
        options = _options(disk, "full", **{"base.steps": 2, "sql_to_text.scratch_steps": 2})
        done = _train(*options)
        assert done.returncode == 1
        message = " ".join(done.stderr.split())
        assert "is full" in message
        assert "--resume" in message
        assert "Traceback" not in message
        if size == "3m":
            assert "prepare" in _finished_stages(disk / "full")
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_dry_run_names_every_stage_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*_options(tmp_path, "dry"), "--dry-run"]) == 0
    shown = capsys.readouterr().out
    for stage in ("vbi_1_synthesize", "self_play_1_train", "evaluate_self_play"):
        assert stage in shown
    assert not (tmp_path / "dry").exists()


# -- real data ---------------------------------------------------------------------------------


@pytest.mark.heavy
@pytest.mark.parametrize(("checkpoint", "rank"), [("qwen2_folder", 0), ("llama_folder", 4)])
def test_spider_trains_from_its_official_files_and_says_what_it_could_not_run(
    data: Path, tmp_path: Path, request: pytest.FixtureRequest, checkpoint: str, rank: int
) -> None:
    options = {
        "data.databases": data / "spider" / "database",
        "data.pairs": data / "spider" / "train_spider.json",
        "data.test": data / "spider" / "dev.json",
        "data.max_pairs": 400,
        "data.max_test": 20,
        "model.name_or_path": request.getfixturevalue(checkpoint),
        "lora.rank": rank,
        "run.directory": tmp_path,
        "run.name": "spider",
        "prompt.style": "linked",
        "prompt.max_completion_tokens": 24,
        "vbi.rounds": 1,
        "vbi.count": 40,
        "vbi.feedback": 8,
        "vbi.ranking": 8,
        "vbi.steps": 4,
        "sql_to_text.steps": 4,
        "self_play.iterations": 1,
        "self_play.steps": 4,
        "self_play.pairs": 24,
    }
    done = _train(*[f"--{key}={value}" for key, value in options.items()])
    assert done.returncode == 0, done.stderr
    # 3 of the 166 databases are missing and 3 golds do not run (the data's own README).
    assert "left out (gold does not run) 3" in done.stdout
    assert "left out (unknown database) 158" in done.stdout
    assert (tmp_path / "spider" / "model" / "adapter_config.json").exists() == (rank > 0)
