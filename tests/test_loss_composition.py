"""The losses under torch.compile, checkpointing, autocast, DDP and FSDP: the same gradients."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from spftcore.losses import LossConfig
from spftcore.self_play_loss import IGNORED, SelfPlayLoss, SelfPlayOutput

VOCABULARY, WIDTH, LENGTH = 33, 12, 8
PAIRS = 3  # process 0 gets one of them, process 1 two


class Body(nn.Module):
    """Token ids [B, T] -> hidden states [B, T, H]; stands for a transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.layer = nn.Linear(WIDTH, WIDTH)

    def forward(self, ids: Tensor) -> Tensor:
        return torch.tanh(self.layer(self.embedding(ids).cumsum(1)))


class Training(nn.Module):
    """Body, head and loss in one forward, as DDP and FSDP want it."""

    def __init__(self, head: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = Body()
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=head == "trained")
        if head == "tied":
            self.head.weight = self.body.embedding.weight
        self.head.requires_grad_(head != "frozen")
        self.loss = SelfPlayLoss(self.head, LossConfig("spft", 0.4, nll_weight=0.1))

    def forward(self, batch: dict[str, Any]) -> SelfPlayOutput:
        hidden = self.body(batch["ids"])
        arguments = {name: value for name, value in batch.items() if name != "ids"}
        return self.loss(hidden, **arguments)


def make_batch(pairs: list[int] | None = None) -> dict[str, Any]:
    """Some of PAIRS pairs, golds first; normalised by all of them."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(VOCABULARY, (2 * PAIRS, LENGTH), generator=generator)
    labels = ids.clone()
    labels[:, :2] = IGNORED
    for row in range(2 * PAIRS):
        labels[row, 3 + row % 4 :] = IGNORED
    chosen = pairs if pairs is not None else list(range(PAIRS))
    rows = chosen + [PAIRS + pair for pair in chosen]
    return {
        "ids": ids[rows],
        "labels": labels[rows],
        "reference": torch.linspace(-14, -6, 2 * PAIRS)[rows],
        "reward": torch.tensor([1.0, 0.0, 0.5])[chosen],
        "normaliser": float(PAIRS),
    }


def gradients(module: nn.Module) -> dict[str, Tensor]:
    """Gradients by parameter name, gathered from their shards."""
    found = {}
    for name, parameter in module.named_parameters():
        gradient = parameter.grad
        if gradient is not None:
            whole = gradient.full_tensor() if hasattr(gradient, "full_tensor") else gradient
            found[name.removeprefix("module.")] = whole.clone()
    return found


def single_process(head: str) -> dict[str, Tensor]:
    training = Training(head)
    training(make_batch()).loss.backward()
    return gradients(training)


def packed(training: Training) -> tuple[Tensor, dict[str, Any]]:
    """The batch with only the predicting states [N, H], and the rest of its arguments."""
    batch = make_batch()
    labels = batch["labels"]
    rows, columns = (labels != IGNORED).nonzero(as_tuple=True)
    lengths = (labels != IGNORED).sum(1)
    hidden = training.body(batch["ids"])[rows, columns - 1]
    borders = torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)])
    names = ("reference", "reward", "normaliser")
    rest = {name: batch[name] for name in names} | {"labels": labels[rows, columns]}
    return hidden, rest | {"cu_seqlens": borders}


# ---- torch.compile -------------------------------------------------------------------------------


@pytest.mark.parametrize("head", ["frozen", "trained"])
def test_packed_states_compile_into_one_graph_without_synchronisation(head):
    # Imported here, so that the processes below start without them.
    from functorch.compile import make_boxed_func
    from torch._dynamo.backends.common import aot_autograd

    training = Training(head)
    hidden, arguments = packed(training)
    states = hidden.detach().requires_grad_()
    seen: set[str] = set()

    def keep(graph: torch.fx.GraphModule, _inputs: list[Tensor]) -> Any:
        seen.update(str(node.target) for node in graph.graph.nodes if node.op == "call_function")
        return make_boxed_func(graph.forward)

    torch._dynamo.reset()
    backend = aot_autograd(fw_compiler=keep, bw_compiler=keep)
    torch.compile(training.loss, fullgraph=True, backend=backend)(
        states, **arguments
    ).loss.backward()
    ours = {target for target in seen if target.startswith("spftcore.")}
    expected = {"linear_logprobs", "pair_loss", "pair_loss_gradient"}
    expected |= {"linear_logprobs_head_gradient"} if head == "trained" else set()
    assert ours == {f"spftcore.{name}.default" for name in expected}
    waits = (".item", "nonzero", "local_scalar", "synchronize")
    assert not [target for target in seen if any(word in target for word in waits)]


@pytest.mark.parametrize("head", ["frozen", "trained"])
def test_compiled_forward_and_backward_give_the_eager_gradients(head):
    eager, training = Training(head), Training(head)
    hidden, arguments = packed(eager)
    eager.loss(hidden, **arguments).loss.backward()

    def step(ids: Tensor, rows: Tensor) -> Tensor:
        hidden = training.body(ids).flatten(0, 1).index_select(0, rows)
        return training.loss(hidden, **arguments).loss

    batch = make_batch()
    rows = (batch["labels"] != IGNORED).flatten().nonzero().squeeze(1) - 1
    torch._dynamo.reset()
    torch.compile(step, fullgraph=True, backend="aot_eager")(batch["ids"], rows).backward()
    for name, gradient in gradients(eager).items():
        torch.testing.assert_close(gradients(training)[name], gradient)


@pytest.mark.heavy  # inductor compiles C++
def test_inductor_gives_the_eager_gradients():
    eager, training = Training("trained"), Training("trained")
    hidden, arguments = packed(eager)
    eager.loss(hidden, **arguments).loss.backward()
    torch._dynamo.reset()
    compiled = torch.compile(training.loss, fullgraph=True)
    compiled(packed(training)[0], **arguments).loss.backward()
    for name, gradient in gradients(eager).items():
        torch.testing.assert_close(gradients(training)[name], gradient)


def test_padded_states_break_the_graph_only_to_find_the_completions():
    training = Training("frozen")
    torch._dynamo.reset()
    report = torch._dynamo.explain(training)(make_batch())
    # One place, seen from the loss and from the module around it.
    assert report.graph_break_count <= 2
    assert all("_pick" in reason.reason for reason in report.break_reasons)


# ---- checkpointing, autocast, no synchronisation -------------------------------------------------


@pytest.mark.parametrize("head", ["frozen", "trained"])
def test_checkpointing_of_body_and_of_loss(head):
    training = Training(head)
    batch = make_batch()
    ids = batch.pop("ids")

    def whole(ids: Tensor) -> Tensor:
        return training.loss(training.body(ids), **batch).loss

    checkpoint = torch.utils.checkpoint.checkpoint
    expected = single_process(head)
    for run in (
        lambda: training.loss(checkpoint(training.body, ids, use_reentrant=False), **batch).loss,
        lambda: checkpoint(whole, ids, use_reentrant=False),
    ):
        training.zero_grad()
        run().backward()
        assert gradients(training).keys() == expected.keys()
        for name, gradient in gradients(training).items():
            assert torch.equal(gradient, expected[name]), name


def test_autocast_rounds_the_factors_and_sums_in_fp32():
    torch.manual_seed(0)
    head = nn.Linear(64, 500, bias=False)
    hidden = torch.randn(600, 64, requires_grad=True)  # two completions of 300 tokens
    targets = torch.randint(500, (600,))
    borders = torch.tensor([0, 300, 600])
    loss = SelfPlayLoss(head)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        sums = loss.sequence_logprobs(hidden, targets, borders)
        out = loss(hidden, targets, sums.detach() - 1, cu_seqlens=borders)
    out.loss.backward()
    assert sums.dtype == out.loss.dtype == torch.float32
    assert hidden.grad.dtype == head.weight.grad.dtype == torch.float32
    # The product's factors are bf16; what follows keeps fp32's digits: sums near -2,000 in bf16
    # would be multiples of 8.
    logits = hidden.detach().bfloat16().double() @ head.weight.detach().bfloat16().double().t()
    truth = torch.log_softmax(logits, -1).gather(1, targets[:, None]).view(2, 300).sum(1)
    tolerance = 0.3 if torch.cpu._is_avx512_bf16_supported() else 1e-2
    torch.testing.assert_close(sums.double(), truth, rtol=0, atol=tolerance)


@pytest.fixture
def meta(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A device without values: whatever would make the host wait for a GPU raises there."""
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda _device: False)  # meta has none
    return {"device": "meta"}


def test_no_value_is_read_on_a_device(meta):
    for frozen in (True, False):
        head = nn.Linear(WIDTH, VOCABULARY, **meta).requires_grad_(not frozen)
        loss = SelfPlayLoss(head)
        hidden = torch.empty(20, WIDTH, requires_grad=True, **meta)
        targets = torch.empty(20, dtype=torch.long, **meta)
        borders = torch.empty(5, dtype=torch.long, **meta)
        out = loss(
            hidden,
            targets,
            torch.empty(4, **meta),
            torch.empty(2, **meta),
            weight=torch.empty(2, **meta),
            cu_seqlens=borders,
        )
        out.loss.backward()
        assert hidden.grad.shape == (20, WIDTH)


def test_padded_labels_on_the_host_spare_the_device_a_wait(meta):
    head = nn.Linear(WIDTH, VOCABULARY, **meta)
    batch = make_batch()
    hidden = torch.empty(2 * PAIRS, LENGTH, WIDTH, **meta, requires_grad=True)
    out = SelfPlayLoss(head)(
        hidden, batch["labels"], batch["reference"].to("meta"), batch["reward"].to("meta")
    )
    out.loss.backward()
    assert hidden.grad.shape == hidden.shape


# ---- several processes ---------------------------------------------------------------------------

SCENARIOS = {
    "DDP, trained head": ("trained", "ddp"),
    "DDP, frozen head": ("frozen", "ddp"),
    "DDP, tied head": ("tied", "ddp"),
    "FSDP, trained head": ("trained", "fsdp"),
    "FSDP, frozen head": ("frozen", "fsdp"),
    "FSDP, tied head": ("tied", "fsdp"),
    "FSDP, trained head, freed between forward and backward": ("trained", "fsdp resharding"),
    "FSDP, trained head, factors in bf16": ("trained", "fsdp bf16"),
    "FSDP, head in shards": ("trained", "fsdp head alone"),
    "FSDP, frozen head in shards": ("frozen", "fsdp head alone"),
}


def worker(rank: int, folder: str) -> None:
    """One of two processes: the gradients of all scenarios, from this process's own pairs."""
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store", 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    results = {name: distributed_gradients(rank, *how) for name, how in SCENARIOS.items()}
    torch.save(results, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def distributed_gradients(rank: int, head: str, how: str) -> dict[str, Tensor]:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    training: nn.Module = Training(head)
    if how == "ddp":
        training = DistributedDataParallel(training)
    else:
        mesh = init_device_mesh("cpu", (2,))
        options: dict[str, Any] = {"mesh": mesh}
        if how == "fsdp bf16":
            options["mp_policy"] = MixedPrecisionPolicy(torch.bfloat16, torch.float32)
        fully_shard(training.body.layer, **options)
        if how == "fsdp head alone":
            fully_shard(training.head, **options)
        if how == "fsdp resharding":
            options["reshard_after_forward"] = True
        fully_shard(training, **options)
    batch = make_batch([0] if rank == 0 else [1, 2])
    batch["normaliser"] /= 2  # gradients are averaged over the two processes
    training(batch).loss.backward()
    return gradients(training)


@pytest.fixture(scope="module")
def both_processes(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, Tensor]]]:
    folder: Path = tmp_path_factory.mktemp("processes")
    mp.spawn(worker, args=(str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_two_processes_get_the_gradients_of_one(both_processes, scenario):
    expected = single_process(SCENARIOS[scenario][0])
    near = {"rtol": 0.05, "atol": 0.01} if "bf16" in scenario else {}
    for results in both_processes:
        got = results[scenario]
        assert got.keys() == expected.keys()
        for name, gradient in got.items():
            said = partial("{}: {}".format, name)
            torch.testing.assert_close(gradient, expected[name], msg=said, **near)
