"""Runs the stages of a plan in worker processes, side by side where they are independent.

Workers are spawned (never forked: open SQLite connections do not survive a fork), live as long as
the run, and end with their parent. A stage is complete when its transaction is in the run store;
anything else is repeated on resume. Processes that a launcher has started run the stages
themselves, one after the other and each of them together (`run_together`).
"""

from __future__ import annotations

import fcntl
import logging
import math
import multiprocessing
import multiprocessing.connection
import os
import queue
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from spftcore.config import Config
from spftcore.errors import SpftError, explain
from spftcore.processes import FailedElsewhere, Processes, lost_connection
from spftcore.stages.plan import Stage, plan
from spftcore.store import StageWriter, Store
from spftcore.training.checkpoints import training_folder
from spftcore.training.stopping import Stop, Stopped

if TYPE_CHECKING:
    from spftcore.rollout.engines import Engines
    from spftcore.stages.context import RunContext

PROGRESS_SECONDS = 0.2  # how often a worker reports, at most
LOCK_SECONDS = 15.0  # how long the workers of a killed run may take to notice
STOP_SECONDS = 120.0  # how long training may take to end its step and save its state
STOP_PATIENCE = 1.0  # a stop that takes longer is explained


# -- locks --------------------------------------------------------------------------------------


@contextmanager
def run_lock(directory: Path) -> Iterator[None]:
    """Holds a run's directory for this process.

    Raises:
        SpftError: another process works on the run.
    """
    with (directory / ".lock").open("w") as handle:
        _lock(handle, fcntl.LOCK_EX, 0.0, directory)
        # A run that was killed leaves workers behind for a moment: wait until they are gone.
        with (directory / ".workers").open("w") as workers:
            _lock(workers, fcntl.LOCK_EX, LOCK_SECONDS, directory)
        yield


def _lock(handle: IO[str], kind: int, patience: float, directory: Path) -> None:
    deadline = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(handle, kind | fcntl.LOCK_NB)
            return
        except OSError:
            if time.monotonic() >= deadline:
                raise SpftError(
                    f"Another process is working on the run in {directory}. Wait for it, stop it, "
                    "or choose another --run.name."
                ) from None
            time.sleep(0.1)


# -- the worker's side --------------------------------------------------------------------------

_worker: dict[str, Any] = {}


def _start_worker(
    config: Config, directory: Path, databases: Path, threads: int, messages: Any
) -> None:
    parent = multiprocessing.parent_process()
    # Whatever is no training ends at once: its stage is repeated on resume.
    stop = Stop(otherwise=_leave)
    stop.on_signals(signal.SIGTERM)

    def watch() -> None:
        if parent is not None:
            parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    lock = (directory / ".workers").open("w")
    fcntl.flock(lock, fcntl.LOCK_SH)
    _quiet_libraries(threads)
    from spftcore.rollout.engines import Engines

    _worker.update(
        engines=Engines(),
        config=config,
        directory=directory,
        databases=databases,
        messages=messages,
        lock=lock,
        stop=stop,
        store=Store(directory / "run.sqlite"),
        stages={stage.name: stage for stage in plan(config)},
    )


def _quiet_libraries(threads: int) -> None:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    import torch
    import transformers

    torch.set_num_threads(threads)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    logging.getLogger("transformers").setLevel(logging.ERROR)


def _run_stage(name: str) -> None:
    from spftcore.stages.context import RunContext

    last = 0.0

    def progress(done: int, total: int, text: str) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= PROGRESS_SECONDS or done == total:
            last = now
            _worker["messages"].put((name, done, total, text))

    directory, store, stop = _worker["directory"], _worker["store"], _worker["stop"]
    config, databases = _worker["config"], _worker["databases"]
    context = RunContext(
        config, directory, store, databases, progress, stop, engines=_worker["engines"]
    )
    try:
        _complete(_worker["stages"][name], context)
    except SpftError:
        raise
    except Stopped:
        _leave()
    except Exception as error:
        raise explain(error, directory) from None
    finally:
        if stop.requested:
            _leave()
        context.close()


def _complete(stage: Stage, context: RunContext) -> None:
    """Runs a stage and stores what it has produced."""
    from spftcore.tracking import track, write_curves

    name, directory = stage.name, context.directory
    with context.store.stage(name) as writer:
        _work(stage, context, writer)
        write_curves(directory / "tensorboard" / name, writer.metrics())
    track(context.config, directory, name, writer.metrics())
    shutil.rmtree(training_folder(directory, name), ignore_errors=True)


def _work(stage: Stage, context: RunContext, writer: StageWriter) -> None:
    stage.run(context, writer)
    writer.rejections("prompt", context.prompt_notes())
    writer.rejections("cluster", context.cluster_notes())
    writer.result |= context.answer_counts()


def _leave() -> None:
    os._exit(128 + signal.SIGTERM)  # as a process that the signal ended


# -- the parent's side --------------------------------------------------------------------------


def workers_and_threads(config: Config) -> tuple[int, int]:
    """How many worker processes, and threads in each."""
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    workers = config.run.workers
    if workers == 0:
        import torch

        on_gpu = config.run.device == "cuda" or (
            config.run.device == "auto" and torch.cuda.is_available()
        )
        # On a cluster the stages take turns, each with all of its workers.
        alone = on_gpu or config.cluster.address != "none"
        workers = 1 if alone else min(2, cores)
    return workers, config.run.threads or max(1, cores // workers)


def run_stages(
    config: Config, directory: Path, databases: Path, store: Store, console: Console
) -> None:
    """Runs every stage that is not complete.

    Raises:
        SpftError: a stage failed; what other stages finished is kept.
        KeyboardInterrupt: stopped by the user; likewise.
    """
    stages = plan(config)
    finished = _cleared(store, directory)
    waiting = [stage for stage in stages if stage.name not in finished]
    if not waiting:
        return
    workers, threads = workers_and_threads(config)
    context = multiprocessing.get_context("spawn")
    messages = context.Queue()
    pool = ProcessPoolExecutor(
        workers,
        mp_context=context,
        initializer=_start_worker,
        initargs=(config, directory, databases, threads, messages),
    )
    display = _Display(console, len(stages), len(finished & {s.name for s in stages}))
    running: dict[Future[None], Stage] = {}
    try:
        with display:
            while waiting or running:
                for stage in list(waiting):
                    if len(running) < workers and finished.issuperset(stage.needs):
                        waiting.remove(stage)
                        running[_submit(pool, stage.name)] = stage
                        display.started(stage.name)
                done, _ = wait(running, timeout=0.1, return_when=FIRST_COMPLETED)
                display.update(messages)
                for future in done:
                    stage = running.pop(future)
                    _raise_failure(future, stage)
                    finished.add(stage.name)
                    display.finished(stage.name, store)
    finally:
        if running:
            _stop_workers(list((pool._processes or {}).values()), console)
        pool.shutdown(wait=True, cancel_futures=True)


def _cleared(store: Store, directory: Path) -> set[str]:
    """The finished stages, of which nothing is left behind: a run may have been killed between a
    stage's end and the clearing up."""
    finished = store.finished()
    for name in finished:
        shutil.rmtree(training_folder(directory, name), ignore_errors=True)
    return finished


def run_together(
    config: Config,
    directory: Path,
    databases: Path,
    store: Store | None,
    processes: Processes,
    console: Console,
) -> None:
    """Runs every stage that is not complete, as one of the processes that a launcher has started.

    The first process writes the run store; the others read a snapshot of it that is made before
    each stage. The run's folder must be one that all of them see.

    Args:
        config, directory, databases: of the run.
        store: of the first process; None in the others.
        processes: all of them; every one calls this.
        console: where the first process shows how it goes.

    Raises:
        SpftError: a stage failed; what other stages finished is kept.
    """

    def leave() -> None:
        if store:
            console.print(f"\n{config.stopped_message}", highlight=False, markup=False)
        _leave()

    stop = Stop(otherwise=leave)
    stop.on_signals(signal.SIGTERM, signal.SIGINT)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    _quiet_libraries(config.run.threads or max(1, (cores or 1) // processes.on_machine))
    from spftcore.rollout.engines import Engines

    stages, engines = plan(config), Engines()
    finished = processes.once(lambda: _cleared(_owned(store), directory))
    done = len(finished & {stage.name for stage in stages})
    snapshot = directory / ".run.snapshot.sqlite"
    with _Display(console, len(stages), done) if store else nullcontext() as display:
        for stage in stages:
            if stage.name in finished:
                continue
            if display:
                display.started(stage.name)
            if not stage.by_one:
                processes.once(lambda: _owned(store).snapshot(snapshot))
            if store or not stage.by_one:
                own = store or Store.of_snapshot(snapshot)
                alone = Processes() if stage.by_one else processes
                _run_together(
                    stage, config, directory, databases, own, alone, engines, stop, display
                )
                if not store:
                    own.close()
            processes.wait()
            if display and store:
                display.finished(stage.name, store)
    engines.close()
    if store:
        snapshot.unlink(missing_ok=True)


def _owned(store: Store | None) -> Store:
    assert store is not None, "only the first process has the run store, and only it asks for it"
    return store


def _run_together(
    stage: Stage,
    config: Config,
    directory: Path,
    databases: Path,
    store: Store,
    processes: Processes,
    engines: Engines,
    stop: Stop,
    display: _Display | None,
) -> None:
    from spftcore.stages.context import RunContext

    messages: queue.Queue[tuple[str, int, int, str]] = queue.Queue()

    def progress(done: int, total: int, text: str) -> None:
        if display:
            messages.put((stage.name, done, total, text))
            display.update(messages)

    context = RunContext(config, directory, store, databases, progress, stop, processes, engines)
    try:
        if display:
            _complete(stage, context)
        else:
            _work(stage, context, StageWriter(stage.name))
    except SpftError as error:
        if isinstance(error, FailedElsewhere):
            raise
        raise SpftError(f"Stage {stage.name}: {error}") from None
    except Stopped:
        stop.end()
    except Exception as error:
        if processes.size > 1 and lost_connection(error):
            # The other's own words are in error.log, where ours would take their place.
            first = str(error).strip().splitlines()[0]
            raise SpftError(
                f"Stage {stage.name}: the connection to another process of this run was lost, most "
                f"likely because it has ended; see what it said ({first})."
            ) from None
        raise explain(error, directory) from None
    finally:
        if stop.requested:
            stop.end()
        context.close()


def _stop_workers(processes: list[Any], console: Console) -> None:
    """Ends the workers: training saves its state first, other stages are repeated on resume."""
    deadline = time.monotonic() + STOP_SECONDS
    patience = time.monotonic() + STOP_PATIENCE
    left = [process for process in processes if process.pid is not None]
    for process in left:
        with suppress(OSError, ValueError):  # it has ended by itself
            process.terminate()
    try:
        while left and time.monotonic() < deadline:
            # Not join(): the pool's own thread reaps the processes too.
            ended = multiprocessing.connection.wait([p.sentinel for p in left], timeout=0.1)
            left = [process for process in left if process.sentinel not in ended]
            if left and time.monotonic() > patience:
                patience = math.inf
                console.print("Training is being saved; stop once more to leave at once.")
    finally:  # also when the user stops once more
        for process in left:
            with suppress(OSError, ValueError):
                process.kill()


def _submit(pool: ProcessPoolExecutor, name: str) -> Future[None]:
    # A worker that is started here inherits that Ctrl-C is the parent's business. Blocked, not
    # ignored: one that arrives meanwhile is delivered afterwards.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        return pool.submit(_run_stage, name)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _raise_failure(future: Future[None], stage: Stage) -> None:
    error = future.exception()
    if error is None:
        return
    if isinstance(error, SpftError):
        raise SpftError(f"Stage {stage.name}: {error}")
    if isinstance(error, BrokenProcessPool):
        raise SpftError(
            f"The worker of stage {stage.name} died, most likely for lack of memory. Lower "
            "--run.workers or the batch sizes, and go on with --resume."
        )
    raise error


class _Display:
    """Progress bars on a terminal; one line per finished stage elsewhere."""

    def __init__(self, console: Console, total: int, done: int) -> None:
        self._console = console
        self._bars = Progress(
            TextColumn("{task.description:<20}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[text]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._all = self._bars.add_task("stages", total=total, completed=done, text="")
        self._tasks: dict[str, Any] = {}

    def __enter__(self) -> _Display:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def started(self, name: str) -> None:
        self._tasks[name] = self._bars.add_task(name, total=None, text="starting")

    def update(self, messages: Any) -> None:
        while True:
            try:
                name, done, total, text = messages.get_nowait()
            except queue.Empty:
                return
            if name in self._tasks:
                self._bars.update(self._tasks[name], completed=done, total=total, text=text)

    def finished(self, name: str, store: Store) -> None:
        self._bars.remove_task(self._tasks.pop(name))
        self._bars.advance(self._all)
        result = ", ".join(
            f"{key} {value:.3f}" if isinstance(value, float) else f"{key} {value}"
            for key, value in store.result(name).items()
            if not key.endswith("path")
        )
        line = f"{name:<20} {store.seconds()[name]:6.1f} s  {result}"
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)
