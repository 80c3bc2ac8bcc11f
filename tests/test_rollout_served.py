"""The engine that asks a server: against a small one in this process, which answers as vLLM does;
`test_rollout_vllm.py` asks a real one."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fake_vllm as fake
import pytest

from spftcore.errors import SpftError, UsageError
from spftcore.rollout.requests import Sampling
from spftcore.rollout.served import ServedEngine
from spftcore.rollout.vllm_engine import draw_seed

KEY = "sk-very-secret"


class Server(ThreadingHTTPServer):
    """Completions of the fake model. `plan` holds what happens to the next requests instead: a
    status, or `cut` for a connection that ends without an answer."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.plan: list[int | str] = []
        self.bodies: list[dict[str, Any]] = []
        self.keys: set[str | None] = set()
        self.forget = self.end = ""
        self.adapters: dict[str, str] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *_: Any) -> None:
        pass

    def reply(self, status: int, content: Any) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        self.server.keys.add(self.headers.get("Authorization"))
        self.reply(200, {"data": [{"id": "base", "max_model_len": fake.CONTEXT}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.bodies.append(body)
        if self.server.plan:
            step = self.server.plan.pop(0)
            if step == "cut":
                self.connection.close()
                self.close_connection = True
                return
            said = f"not now, {self.headers.get('Authorization')}"
            self.reply(int(step), {"error": {"message": said}})
        elif self.path.endswith("/load_lora_adapter"):
            name = body["lora_name"]
            if name in self.server.adapters and not body.get("load_inplace"):
                said = f"The lora adapter '{name}' has already been loaded. If you want to"
                self.reply(400, {"error": {"message": said}})
                return
            self.server.adapters[name] = body["lora_path"]
            self.reply(200, "loaded")
        else:
            self.complete(body)

    def complete(self, body: dict[str, Any]) -> None:
        if fake.RAISES in body["prompt"]:
            self.reply(400, {"error": {"message": "this prompt is bad"}})
            return
        new: list[int] = []
        seed = body.get("seed", 0) + (body["model"] in self.server.adapters)
        while len(new) < body["max_tokens"] and fake.END not in new:
            new.append(fake.token(body["prompt"] + new, seed))
        choice = {
            "text": " ".join(map(str, new)),
            "token_ids": new,
            "logprobs": {"token_logprobs": [-token / 8 for token in new]},
            "finish_reason": self.server.end or ("stop" if fake.END in new else "length"),
        }
        choice.pop(self.server.forget, None)
        self.reply(200, {"choices": [choice]})


@pytest.fixture
def server() -> Iterator[Server]:
    found = Server()
    thread = threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield found
    found.shutdown()
    thread.join()
    found.server_close()


@pytest.fixture
def engine(server: Server) -> ServedEngine:
    return ServedEngine(server.url, pauses=(0.0, 0.0, 0.0), concurrency=4)


def expected(ids: list[int], seed: int, limit: int) -> tuple[int, ...]:
    new: list[int] = []
    while len(new) < limit and fake.END not in new:
        new.append(fake.token(ids + new, seed))
    return tuple(new)


PROMPTS = [[3, 5], [7, 9, 11], [20], [4, 4, 4, 4]]


def test_every_sample_comes_once_with_its_own_seed(engine: ServedEngine, server: Server) -> None:
    sampling = Sampling(samples=3, temperature=0.7, max_new_tokens=6, seed=9, stop=(";",))
    got = {(c.prompt, c.sample): c for c in engine.generate(PROMPTS, sampling)}
    assert sorted(got) == [(i, j) for i in range(4) for j in range(3)]
    for (i, j), completion in got.items():
        assert completion.ids == expected(PROMPTS[i], draw_seed(9, i, j), 6)
        assert completion.logprobs == tuple(-token / 8 for token in completion.ids)
        assert completion.finish == ("stop" if fake.END in completion.ids else "length")
    assert len(server.bodies) == 12
    for body in server.bodies:
        assert (body["temperature"], body["stop"], body["model"]) == (0.7, [";"], "base")


def test_greedy_completions_are_asked_for_once_and_copied(
    engine: ServedEngine, server: Server
) -> None:
    got = list(engine.generate(PROMPTS[:2], Sampling(samples=3, max_new_tokens=4)))
    assert Counter((c.prompt, c.ids) for c in got) == {
        (i, expected(PROMPTS[i], 0, 4)): 3 for i in range(2)
    }
    assert sorted(c.sample for c in got) == [0, 0, 1, 1, 2, 2]
    assert len(server.bodies) == 2


@pytest.mark.parametrize("trouble", [429, 500, 503, "cut"])
def test_a_busy_server_and_a_lost_connection_are_tried_again(
    trouble: int | str, engine: ServedEngine, server: Server
) -> None:
    server.plan = [trouble, trouble]
    got = {c.prompt: c.ids for c in engine.generate(PROMPTS, Sampling(max_new_tokens=5))}
    assert got == {i: expected(ids, 0, 5) for i, ids in enumerate(PROMPTS)}
    assert engine.retries == 2


def test_a_server_that_stays_busy_is_an_error(engine: ServedEngine, server: Server) -> None:
    server.plan = [503] * 50
    with pytest.raises(SpftError, match=r"did not answer in 4 tries \(503: not now"):
        list(engine.generate(PROMPTS, Sampling(max_new_tokens=5)))


def test_prompts_that_cannot_be_answered_leave_the_others_alone(
    engine: ServedEngine,
) -> None:
    prompts = [[5] * fake.CONTEXT, [3, 5], [fake.RAISES]]
    got = {c.prompt: c for c in engine.generate(prompts, Sampling(max_new_tokens=4))}
    assert [got[i].finish for i in range(3)] == ["too_long", "stop", "failed"]
    assert engine.failures == {"400: this prompt is bad": 1}


def test_the_key_comes_from_the_environment_and_is_never_told(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    engine = ServedEngine(server.url, key_variable="MY_KEY", pauses=())
    assert server.keys == {f"Bearer {KEY}"}
    for status, match in ((401, "MY_KEY"), (429, "not now")):
        server.plan = [status]
        with pytest.raises(SpftError, match=match) as raised:
            list(engine.generate(PROMPTS[:1], Sampling(max_new_tokens=4)))
        assert KEY not in str(raised.value)
    assert KEY not in repr(vars(engine))


def test_adapters_are_loaded_into_the_server_and_asked_for_by_name(
    engine: ServedEngine, server: Server, tmp_path: Path
) -> None:
    engine.load_adapter("first", tmp_path)
    assert list(server.adapters.values()) == [str(tmp_path.resolve())]
    (got,) = engine.generate([[3, 5]], Sampling(max_new_tokens=5), adapter="first")
    assert got.ids == expected([3, 5], 1, 5)
    with pytest.raises(SpftError, match=r"'third'.*first"):
        list(engine.generate([[3]], Sampling(), adapter="third"))
    server.plan = [404]
    with pytest.raises(SpftError, match=r"VLLM_ALLOW_RUNTIME_LORA_UPDATING=1"):
        engine.load_adapter("second", tmp_path)


def test_an_adapter_that_the_server_has_already_is_taken_and_a_rewritten_one_is_another(
    engine: ServedEngine, server: Server, tmp_path: Path
) -> None:
    weights = tmp_path / "adapter_model.safetensors"
    weights.write_bytes(b"one")
    engine.load_adapter("first", tmp_path)
    # Another process of the run, one resumed, or a request repeated after a lost answer.
    other = ServedEngine(server.url)
    other.load_adapter("first", tmp_path)
    assert len(server.adapters) == 1
    (got,) = other.generate([[3, 5]], Sampling(max_new_tokens=5), adapter="first")
    assert got.ids == expected([3, 5], 1, 5)
    weights.write_bytes(b"two")
    other.load_adapter("first", tmp_path)
    assert len(server.adapters) == 2
    for asker, place in ((engine, 0), (other, 1)):
        list(asker.generate([[3, 5]], Sampling(max_new_tokens=2), adapter="first"))
        assert server.bodies[-1]["model"] == list(server.adapters)[place]


@pytest.mark.parametrize("broken", ["{}\nX: y", "{}\u20ac"])
def test_a_key_that_no_header_can_hold_is_not_told(
    broken: str, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPFT_API_KEY", f"{KEY}\n")  # as a file's last line
    ServedEngine(server.url)
    assert server.keys == {f"Bearer {KEY}"}
    monkeypatch.setenv("SPFT_API_KEY", broken.format(KEY))
    with pytest.raises(UsageError, match="SPFT_API_KEY") as raised:
        ServedEngine(server.url)
    assert KEY not in str(raised.value)


def test_a_completion_that_the_server_broke_off_has_failed(
    engine: ServedEngine, server: Server
) -> None:
    server.end = "abort"
    (got,) = engine.generate([[3, 5]], Sampling(max_new_tokens=5))
    assert (got.finish, got.text) == ("failed", "")
    assert engine.failures == {"it ended with 'abort'": 1}


def test_grammars_are_sent_with_their_prompts(engine: ServedEngine, server: Server) -> None:
    sampling = Sampling(max_new_tokens=2, grammars=(None, "root ::= x"))
    list(engine.generate(PROMPTS[:2], sampling))
    sent = {tuple(body["prompt"]): body.get("structured_outputs") for body in server.bodies}
    assert sent == {(3, 5): None, (7, 9, 11): {"grammar": "root ::= x"}}


@pytest.mark.parametrize("missing", ["token_ids", "logprobs"])
def test_a_server_that_does_not_tell_what_is_needed_is_an_error(
    missing: str, engine: ServedEngine, server: Server
) -> None:
    server.forget = missing
    with pytest.raises(SpftError, match="without what is needed"):
        list(engine.generate(PROMPTS, Sampling(max_new_tokens=3)))


def test_bad_addresses_are_errors(server: Server) -> None:
    with pytest.raises(UsageError, match="must be like http"):
        ServedEngine("localhost:8000")
    for url in ("http://localhost:80000/v1", "http://localhost:x/v1", "http://[::1/v1"):
        with pytest.raises(UsageError, match="must be like http"):
            ServedEngine(url)
    with pytest.raises(SpftError, match="did not answer in 1 tries"):
        ServedEngine("http://127.0.0.1:9/v1", pauses=())
    with pytest.raises(SpftError, match=r"no model 'other'.*base"):
        ServedEngine(server.url, model="other")


def test_an_abandoned_stream_stops_asking(engine: ServedEngine, server: Server) -> None:
    stream = engine.generate([[3, 5]] * 500, Sampling(max_new_tokens=4))
    next(stream)
    stream.close()
    (got,) = engine.generate([[3, 5]], Sampling(max_new_tokens=4))
    assert got.ids == expected([3, 5], 0, 4)
    assert len(server.bodies) < 400


def test_whole_weights_cannot_be_sent_to_a_server(engine: ServedEngine) -> None:
    with pytest.raises(SpftError, match=r"generation\.engine=vllm or hf"):
        engine.load_weights("somewhere")
