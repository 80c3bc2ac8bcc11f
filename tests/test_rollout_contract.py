"""The `hf` engine keeps the contract of all engines."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from conftest import CPU
from engine_contract import EngineContract, EngineUnderTest, Make
from engine_contract import checkpoint as checkpoint

from spftcore.config import Config
from spftcore.models import load
from spftcore.rollout.hf import HfEngine


class TestHf(EngineContract):
    @pytest.fixture(scope="class", params=[3, 32])
    def made(self, request: pytest.FixtureRequest) -> Make:
        def make(folder: Path, *, adapters: Mapping[str, Path]) -> EngineUnderTest:
            engine = HfEngine(load(folder, Config(), device=CPU), batch_size=request.param)
            for name, adapter in adapters.items():
                engine.load_adapter(name, adapter)
            return EngineUnderTest(engine)

        return make
