"""Generation by an OpenAI-compatible server, asked with token ids (`vllm serve` and its like)."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from spftcore.errors import SpftError, UsageError
from spftcore.rollout.requests import Completion, Finish, Sampling
from spftcore.rollout.vllm_engine import draw_seed

RETRIED = (408, 425, 429, 500, 502, 503, 504)
PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)  # seconds before each further try


class _Refused(Exception):
    """The server says that this request cannot be answered."""


class ServedEngine:
    """An `Engine` whose model runs behind `/v1/completions` of a server.

    Each sample is a request of its own, with its own seed, so that a lost connection costs one
    sample and a repeated request gives the same one. Busy or failing servers (429, 5xx) and lost
    connections are tried again with longer and longer pauses.

    Beside the OpenAI interface the server must take token ids as a prompt and tell the token ids
    of what it wrote (`return_token_ids`), as vLLM does.

    Args:
        url: address up to and with `/v1`.
        model: name of the base model there; None: the first one that the server lists.
        key_variable: environment variable with the API key; unset: no key is sent.
        concurrency: requests under way at a time.
        seconds: silence allowed in one request.
        pauses: seconds before each further try.
        say: told of what the user should know.

    Raises:
        UsageError: the address is no http or https address.
        SpftError: no server answers there, or it does not have the model.

    Attributes:
        retries: requests that were sent again.
        failures: prompts that the server refused, by what it said.
    """

    def __init__(
        self,
        url: str,
        *,
        model: str | None = None,
        key_variable: str = "SPFT_API_KEY",
        concurrency: int = 64,
        seconds: float = 300.0,
        pauses: Sequence[float] = PAUSES,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError as error:  # a port that is none, half a bracket
            raise UsageError(
                f"generation.url is no address ({error}); it must be like http://localhost:8000/v1."
            ) from None
        if parts.scheme not in ("http", "https") or not host:
            raise UsageError(
                f"generation.url is '{url}'; it must be like http://localhost:8000/v1."
            )
        self.retries = 0
        self.failures: dict[str, int] = {}
        self._secure = parts.scheme == "https"
        self._host, self._port = host, port
        self._path = parts.path.rstrip("/")
        self._url = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{self._path}"
        self._key_variable = key_variable
        self._concurrency = concurrency
        self._seconds = seconds
        self._pauses = tuple(pauses)
        self._say = say
        self._adapters: dict[str, str] = {}  # our names, and theirs
        self._lock = threading.Lock()
        listed = self._listed()
        known = {str(entry.get("id")): entry for entry in listed}
        self.model = model or next(iter(known), "")
        if self.model not in known:
            raise SpftError(
                f"The server at {self._url} has no model '{self.model}'. It has: "
                f"{', '.join(known) or 'none'}. Set generation.served_model."
            )
        limit = known[self.model].get("max_model_len")
        self.context: int | None = int(limit) if limit else None

    def _listed(self) -> list[dict[str, Any]]:
        try:
            with _Connection(self) as connection:
                found = connection.ask("GET", "/models", None)
        except _Refused as error:
            raise SpftError(f"The server at {self._url} lists no models: {error}.") from None
        listed = found.get("data")
        return [entry for entry in listed if isinstance(entry, dict)] if listed else []

    def load_adapter(self, name: str, folder: str | Path) -> None:
        """Has the server load an adapter from a folder that it sees under the same path (vLLM with
        `--enable-lora` and VLLM_ALLOW_RUNTIME_LORA_UPDATING=1).

        It is named by its content there, so that one that is there already, from another process
        of the run or before a resume, is the one that is meant, and no cached prefix is another's.

        Raises:
            SpftError: there is no such folder, or the server refuses.
        """
        known = f"{name}@{_content(Path(folder))}"
        body = {"lora_name": known, "lora_path": str(Path(folder).resolve())}
        try:
            with _Connection(self) as connection:
                connection.ask("POST", "/load_lora_adapter", body, text=True)
        except _Refused as error:
            if "already been loaded" not in str(error):
                raise SpftError(
                    f"The server at {self._url} does not load the adapter '{folder}' ({error}). "
                    "Start it as VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 vllm serve BASE --enable-lora "
                    "--max-lora-rank R, where it sees this folder."
                ) from None
        self._adapters[name] = known

    def load_weights(self, model: str | Path) -> None:
        """A server's weights cannot be changed from here.

        Raises:
            SpftError: always.
        """
        raise SpftError(
            f"The server at {self._url} cannot take the weights of '{model}'. A run that trains "
            "whole models needs generation.engine=vllm or hf; with adapters (lora.rank) a server "
            "of their base will do."
        )

    def close(self) -> None:
        """Nothing is kept open between calls."""

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        *,
        adapter: str | None = None,
    ) -> Iterator[Completion]:
        """Completions as the server gives them (`Engine.generate`).

        Args:
            prompts, sampling, adapter: as for every engine.
                Grammars are sent as vLLM's `structured_outputs`.

        Raises:
            SpftError: no adapter has that name, or the server is gone or answers what we cannot
                read.
        """
        if adapter is not None and adapter not in self._adapters:
            known = ", ".join(sorted(self._adapters)) or "none"
            raise SpftError(f"No adapter is called '{adapter}'. Loaded: {known}.")
        drawn = sampling.temperature > 0
        waiting: queue.SimpleQueue[tuple[int, int]] = queue.SimpleQueue()
        asked = 0
        for place, prompt in enumerate(prompts):
            for sample in range(sampling.samples if drawn else min(1, sampling.samples)):
                if self.context is not None and len(prompt) >= self.context:
                    yield from _copies(Completion(place, sample, "", (), (), "too_long"), sampling)
                else:
                    waiting.put((place, sample))
                    asked += 1

        def body(place: int, sample: int) -> dict[str, Any]:
            room = sampling.max_new_tokens
            if self.context is not None:
                room = min(room, self.context - len(prompts[place]))
            found: dict[str, Any] = {
                "model": self.model if adapter is None else self._adapters[adapter],
                "prompt": list(prompts[place]),
                "max_tokens": room,
                "temperature": sampling.temperature,
                "logprobs": 0,
                "n": 1,
                "stop": list(sampling.stop) or None,
                "return_token_ids": True,
            }
            if drawn:
                found["seed"] = draw_seed(sampling.seed, sampling.key(place), sample)
            if grammar := sampling.grammar(place):
                found["structured_outputs"] = {"grammar": grammar}
            return found

        told = sum(self.failures.values())
        done: queue.SimpleQueue[Completion | BaseException] = queue.SimpleQueue()
        stop = threading.Event()

        def work() -> None:
            try:
                with _Connection(self) as connection:
                    while not stop.is_set():
                        place, sample = waiting.get_nowait()
                        done.put(self._completion(connection, place, sample, body(place, sample)))
            except queue.Empty:
                pass
            except BaseException as error:  # is raised where completions are waited for
                done.put(error)

        threads = [
            threading.Thread(target=work, daemon=True) for _ in range(min(self._concurrency, asked))
        ]
        for thread in threads:
            thread.start()
        try:
            for _ in range(asked):
                found = done.get()
                if isinstance(found, BaseException):
                    raise found
                yield from _copies(found, sampling)
        finally:
            stop.set()
        if refused := sum(self.failures.values()) - told:
            reason = [*self.failures][-1]
            self._say(f"The server refused {refused} prompts; the last new reason: {reason}")

    def _completion(
        self, connection: _Connection, place: int, sample: int, body: dict[str, Any]
    ) -> Completion:
        try:
            answer = connection.ask("POST", "/completions", body)
        except _Refused as error:
            return self._failed(place, sample, str(error))
        try:
            choice = answer["choices"][0]
            if choice["finish_reason"] not in ("stop", "length"):
                return self._failed(place, sample, f"it ended with '{choice['finish_reason']}'")
            ids = tuple(int(token) for token in choice["token_ids"])
            logprobs = tuple(float(value) for value in choice["logprobs"]["token_logprobs"])
            finish: Finish = "length" if choice["finish_reason"] == "length" else "stop"
            return Completion(place, sample, str(choice["text"]), ids, logprobs, finish)
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise SpftError(
                f"The server at {self._url} answers without what is needed ({error!r}): it must "
                "tell `token_ids` and `logprobs` of a completion, as vLLM 0.11 and later do."
            ) from None

    def _failed(self, place: int, sample: int, reason: str) -> Completion:
        with self._lock:
            self.failures[reason] = self.failures.get(reason, 0) + 1
        return Completion(place, sample, "", (), (), "failed")

    def _key(self) -> str:
        """The key, '' for none. One that no header can hold would be told by the error."""
        key = os.environ.get(self._key_variable, "").strip()
        if not (key.isascii() and key.isprintable()):
            raise UsageError(
                f"The key in the environment variable {self._key_variable} holds characters that "
                "no key can have (a line break?). Set it again."
            )
        return key

    def _headers(self) -> dict[str, str]:
        key = self._key()
        found = {"Content-Type": "application/json"}
        return found | {"Authorization": f"Bearer {key}"} if key else found

    def _told(self, text: str) -> str:
        """A server's message without the key, which some repeat."""
        key = self._key()
        return text.replace(key, "***") if key else text


def _content(folder: Path) -> str:
    """Names what an adapter's folder holds."""
    found = hashlib.sha256()
    try:
        for path in sorted(folder.glob("adapter_*")):
            found.update(f"{path.name} {path.stat().st_size}\n".encode())
            with path.open("rb") as file:
                found.update(hashlib.file_digest(file, "sha256").digest())
    except OSError as error:
        raise SpftError(
            f"The adapter '{folder}' cannot be read ({error.strerror}); its weights are in "
            "adapter_model.safetensors."
        ) from None
    return found.hexdigest()[:16]


def _copies(completion: Completion, sampling: Sampling) -> Iterator[Completion]:
    """Greedy completions of one prompt are all the same: one is asked for."""
    yield completion
    if sampling.temperature == 0:
        c = completion
        for sample in range(1, sampling.samples):
            yield Completion(c.prompt, sample, c.text, c.ids, c.logprobs, c.finish)


class _Connection:
    """One kept connection to the server, opened again when it is lost."""

    def __init__(self, engine: ServedEngine) -> None:
        self._engine = engine
        self._http: http.client.HTTPConnection | None = None

    def __enter__(self) -> _Connection:
        return self

    def __exit__(self, *error: object) -> None:
        if self._http is not None:
            self._http.close()

    def ask(
        self, method: str, path: str, body: dict[str, Any] | None, *, text: bool = False
    ) -> dict[str, Any]:
        """The answer as JSON (empty for `text`).

        Raises:
            _Refused: the server cannot answer this request.
            SpftError: it is gone, refuses the key, or answers no JSON.
        """
        engine = self._engine
        trouble = ""
        for number in range(len(engine._pauses) + 1):
            if number:
                with engine._lock:
                    engine.retries += 1
                time.sleep(engine._pauses[number - 1])
            try:
                status, content = self._once(method, engine._path + path, body)
            except (OSError, http.client.HTTPException, UnicodeError) as error:
                trouble = f"{type(error).__name__}: {error}"
                if self._http is not None:
                    self._http.close()
                    self._http = None
                continue
            said = engine._told(_message(content))
            if status in (401, 403):
                raise SpftError(
                    f"The server at {engine._url} refuses the key ({status}: {said}). Put it into "
                    f"the environment variable {engine._key_variable}."
                )
            if status in RETRIED:
                trouble = f"{status}: {said}"
                continue
            if status != 200:
                raise _Refused(f"{status}: {said}")
            if text:
                return {}
            try:
                found = json.loads(content)
            except ValueError:
                found = None
            if not isinstance(found, dict):
                raise SpftError(
                    f"What answers at {engine._url} is no OpenAI-compatible server ({path} gave no "
                    "JSON object). Check generation.url."
                )
            return found
        raise SpftError(
            f"The server at {engine._url} did not answer in {len(engine._pauses) + 1} tries "
            f"({trouble}). Check that it runs, and generation.url."
        )

    def _once(self, method: str, path: str, body: dict[str, Any] | None) -> tuple[int, bytes]:
        engine = self._engine
        if self._http is None:
            kind = http.client.HTTPSConnection if engine._secure else http.client.HTTPConnection
            self._http = kind(engine._host, engine._port, timeout=engine._seconds)
        content = None if body is None else json.dumps(body)
        self._http.request(method, path, content, engine._headers())
        response = self._http.getresponse()
        return response.status, response.read()


def _message(content: bytes) -> str:
    """What an error answer says, in one line."""
    try:
        found = json.loads(content)
        said = found.get("error", found)
        text = said.get("message", said) if isinstance(said, dict) else said
    except (ValueError, AttributeError):
        text = content.decode("utf-8", "replace")
    return " ".join(str(text).split())[:300]
