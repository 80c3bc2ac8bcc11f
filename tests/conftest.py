"""Fixtures shared by the tests: a hand-written database, tiny models, and where real data lies."""

from __future__ import annotations

import os
import signal
import sqlite3
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read at import: a test that asks the hub fails fast

import pytest
import torch

from spftcore.config import Config, ModelConfig
from spftcore.databases import Catalogue
from spftcore.models import LanguageModel, build_tiny, load

# A shell's background job ignores Ctrl-C, and so would the tests of it and what they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

CPU = torch.device("cpu")

# Two tables; one city of two words, one with an apostrophe, and one value that two columns hold.
TRAVEL = """
create table city (
    city_id integer primary key, name text not null, country text not null, inhabitants integer);
create table visit (
    visit_id integer primary key, city_id integer not null references city (city_id),
    guest text not null, nights integer not null, day date not null);
insert into city values
    (1, 'Quito', 'Ecuador', 1763), (2, 'Santa Cruz', 'Bolivia', 1903),
    (3, 'L''Aquila', 'Italy', 70), (4, 'Lima', 'Peru', 9752);
insert into visit values
    (1, 1, 'Ada', 3, '2024-05-01'), (2, 1, 'Noor', 1, '2024-05-02'),
    (3, 2, 'Ada', 7, '2024-06-11'), (4, 3, 'Lima', 2, '2024-07-30');
"""

# (question, SQL) on it: what the tiny tokenizer is trained on and what tiny models memorise.
TRAVEL_PAIRS = (
    ("How many cities are there?", "select count(*) from city"),
    ("Which cities lie in Peru?", "select name from city where country = 'Peru'"),
    ("Who stayed longer than 2 nights?", "select guest from visit where nights > 2"),
    ("Name the largest city.", "select name from city order by inhabitants desc limit 1"),
    ("How many visits were there in Quito?", "select count(*) from visit where city_id = 1"),
    ("List all guests.", "select distinct guest from visit"),
)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Small tensors: threads would only wait for each other."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Caches go into the tests' folder, also those of processes that tests start."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real data ($SPFT_DATA, else shared/data beside the repository)."""
    folder = Path(
        os.environ.get("SPFT_DATA", Path(__file__).parents[2] / "shared" / "data")
    ).resolve()
    if not folder.is_dir():
        pytest.skip("no real data: neither $SPFT_DATA nor ../shared/data exists")
    return folder


@pytest.fixture(scope="session")
def travel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the one database `travel`."""
    folder = tmp_path_factory.mktemp("databases")
    connection = sqlite3.connect(folder / "travel.sqlite")
    connection.executescript(TRAVEL)
    connection.close()
    return folder


@pytest.fixture(scope="session")
def catalogue(travel: Path) -> Catalogue:
    return Catalogue.open(travel)


def tiny_settings(dropout: float = 0.0) -> ModelConfig:
    return ModelConfig(hidden_size=32, layers=2, heads=2, vocabulary=360, dropout=dropout)


def corpus() -> list[str]:
    return [text for pair in TRAVEL_PAIRS for text in pair] * 3


@pytest.fixture
def tiny() -> LanguageModel:
    """A fresh two-layer model with random weights: tests may train it."""
    return build_tiny(tiny_settings(), corpus(), seed=1)


def _save_checkpoint(folder: Path, config_class: type, model_class: type) -> Path:
    tokenizer = build_tiny(tiny_settings(), corpus(), seed=1).tokenizer
    torch.manual_seed(7)
    model = model_class(
        config_class(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=256,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def qwen2_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Qwen2 checkpoint with random weights, as a user's folder would be."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    folder = tmp_path_factory.mktemp("checkpoints") / "qwen2"
    return _save_checkpoint(folder, Qwen2Config, Qwen2ForCausalLM)


@pytest.fixture(scope="session")
def llama_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as Llama (whose head is not tied to the embeddings)."""
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("checkpoints") / "llama"
    return _save_checkpoint(folder, LlamaConfig, LlamaForCausalLM)


@pytest.fixture
def qwen2(qwen2_folder: Path) -> LanguageModel:
    return load(qwen2_folder, Config(), device=CPU)


@pytest.fixture
def llama(llama_folder: Path) -> LanguageModel:
    return load(llama_folder, Config(), device=CPU)


def prompts_of(model: LanguageModel, texts: Sequence[str]) -> list[tuple[int, ...]]:
    """Token ids of texts."""
    return [tuple(model.tokenizer(text)["input_ids"]) for text in texts]


def memorise(model: LanguageModel) -> None:
    """Teaches a model TRAVEL_PAIRS by heart, by plain PyTorch on the whole set at once."""
    tokenizer = model.tokenizer
    ids, labels = [], []
    for question, sql in TRAVEL_PAIRS:
        prompt, completion = prompts_of(model, [question, sql])
        row = [*prompt, *completion, tokenizer.eos_token_id]
        padding = 64 - len(row)
        ids.append(row + [tokenizer.pad_token_id] * padding)
        labels.append([-100] * len(prompt) + row[len(prompt) :] + [-100] * padding)
    optimizer = torch.optim.AdamW(model.model.parameters(), lr=1e-2)
    model.model.train()
    for _ in range(100):
        optimizer.zero_grad()
        model.model(input_ids=torch.tensor(ids), labels=torch.tensor(labels)).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.model.parameters(), 1.0)
        optimizer.step()
    model.model.eval()


@pytest.fixture(scope="session")
def travel_run(tmp_path_factory: pytest.TempPathFactory, travel: Path) -> Path:
    """A finished run whose model answers TRAVEL_PAIRS; not to be written to."""
    from inference_engines import memorised_run

    return memorised_run(tmp_path_factory.mktemp("runs") / "travel", travel)
