"""Stage 2, self-play fine-tuning (SPFT-SQL §3.2, Algorithm 1), and the preference baselines.

An iteration has two stages: the opponent answers the training questions and is judged by execution
(`answers`), and the main model trains against these answers with the opponent's log-probs as
reference (`train`). The baselines run through the same two functions with other settings.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch

from spftcore import models
from spftcore.errors import SpftError
from spftcore.losses import LossConfig, LossKind
from spftcore.models import LanguageModel
from spftcore.pairs import Pair
from spftcore.stages import references
from spftcore.stages.context import BLOCK, RunContext
from spftcore.stages.references import Known, tokens_digest
from spftcore.stages.vbi import rank, seeds, training_pairs
from spftcore.store import Answer, Candidate, Scored, StageWriter
from spftcore.training.attention import completion_logprobs
from spftcore.training.batches import passes
from spftcore.training.groups import TokenSequence
from spftcore.training.items import TrainingSet, digest
from spftcore.training.loop import TOKENS_PER_PASS
from spftcore.training.objectives import Preference, PreferencePair
from spftcore.training.self_check import choose as choose_attention


@dataclass(frozen=True, slots=True)
class Match:
    """Who plays whom: checkpoint folders, and names for the record."""

    main: str
    main_path: str
    opponent: str
    opponent_path: str


def choose(candidates: Sequence[Candidate], base: str) -> Match:
    """Main = the candidate with the highest accuracy on the ranking set, opponent = the lowest.

    Args:
        candidates: the pool, the oldest first. Among equals the later one is main and the earlier
            one is opponent.
        base: the model the first candidate was trained from; it plays where the pool holds one.
    """
    main = best(candidates)
    if len(candidates) == 1:
        return Match(main.id, str(main.path), "base", base)
    worst = min(candidates, key=lambda c: c.ranking_accuracy)
    return Match(main.id, str(main.path), worst.id, str(worst.path))


def best(candidates: Sequence[Candidate]) -> Candidate:
    """The candidate with the highest accuracy on the ranking set; the latest among equals."""
    return max(reversed(candidates), key=lambda c: c.ranking_accuracy)


def _match(context: RunContext, system: str, iteration: int) -> Match:
    """The models of an iteration of SPFT-SQL (`self_play`) or of a baseline.

    SPIN and ExSPIN play against their own previous version, beginning with the SFT model. DPO
    trains the best VBI-FT model on its own first answers.
    """
    store = context.store
    if system == "self_play":
        return choose(store.candidates(), store.result("base")["path"])
    if system == "dpo":
        rounds = [c for c in store.candidates() if c.id.startswith("vbi_")]
        start = best(rounds)
        main = (
            str(start.path)
            if iteration == 1
            else store.result(f"dpo_{iteration - 1}_train")["path"]
        )
        name = start.id if iteration == 1 else f"dpo_{iteration - 1}"
        return Match(name, main, start.id, str(start.path))
    name = "sft" if iteration == 1 else f"{system}_{iteration - 1}"
    path = store.result(name if iteration == 1 else f"{name}_train")["path"]
    return Match(name, path, name, path)


def answers(context: RunContext, stage: StageWriter, system: str, iteration: int) -> None:
    """The opponent's answers to the training questions, their verdicts, and its log-probs of the
    golds and of its answers, computed once, kept in the store, and reused by later iterations with
    the same opponent."""
    match = _match(context, system, iteration)
    if system == "dpo" and iteration > 1:
        # The reference of DPO stays the model it began with, and so do its answers.
        stage.result = {**asdict(match), "answers": f"{system}_1_answers"}
        return
    if system in ("self_play", "dpo"):
        rounds = context.config.vbi.rounds
        pairs = training_pairs(context, rounds, feedback_to=rounds)
    else:
        pairs = seeds(context)
    opponent = context.load(match.opponent_path)
    pairs = [
        pair
        for pair in pairs
        if context.within_limits(context.text_to_sql_sequence(opponent, pair))
    ]
    stage.rejections("answers", context.take_dropped())
    wanted = context.config.self_play.pairs
    if 0 < wanted < len(pairs):
        pairs = random.Random(context.seed(stage.stage)).sample(pairs, wanted)
    weights = models.digest(opponent)
    known = references.known(context.store, system, iteration, weights)
    judged = _answers(context, opponent, match.opponent, pairs, known)
    stage.answers("opponent", judged)
    for scored in _scored(context, opponent, match.opponent, weights, pairs, judged, known):
        stage.opponent_logprobs(scored)
    verdicts = [answer.verdict for answer in judged]
    stage.result = {
        **asdict(match),
        "answers": stage.stage,
        **{verdict: verdicts.count(verdict) for verdict in ("right", "wrong", "unjudged")},
    }


def _answers(
    context: RunContext,
    opponent: LanguageModel,
    name: str,
    pairs: list[Pair],
    known: Known,
) -> list[Answer]:
    """The opponent's answers in the order of the pairs; those it gave to the same prompt in an
    earlier iteration are not generated again (decoding is greedy)."""
    keys = {}
    for pair in pairs:
        (sequence,) = context.text_to_sql_group(opponent, pair, pair.sql).separate()
        keys[pair.id] = pair.id, tokens_digest(sequence.prompt, sequence.completions[0])
    new = [pair for pair in pairs if keys[pair.id] not in known.answers]
    given = {answer.pair: answer for answer in context.answer(opponent, name, new, training=True)}
    return [
        given.get(pair.id) or replace(known.answers[keys[pair.id]], candidate=name)
        for pair in pairs
    ]


def _scored(
    context: RunContext,
    opponent: LanguageModel,
    name: str,
    weights: str,
    pairs: list[Pair],
    judged: list[Answer],
    known: Known,
) -> Iterator[Scored]:
    """The opponent's log-probs of each gold and answer; known ones are read, the others computed
    (a pair with one known completion is computed whole: its prompt is encoded anyway)."""
    tokens = []
    for pair, answer in zip(pairs, judged, strict=True):
        group = context.text_to_sql_group(opponent, pair, pair.sql, answer.sql)
        gold, other = (tokens_digest(group.prompt, ids) for ids in group.completions)
        tokens.append((gold, other))
    new = [i for i, both in enumerate(tokens) if not known.logprobs.keys() >= set(both)]
    own = context.processes.share(new)
    computed = logprobs(context, opponent, [pairs[i] for i in own], [judged[i].sql for i in own])
    fresh = dict(zip(new, context.processes.merged(computed), strict=True))
    for i, (pair, both) in enumerate(zip(pairs, tokens, strict=True)):
        for number, role in enumerate(("gold", "answer")):
            values = (
                fresh[i][number].numpy().tobytes() if i in fresh else known.logprobs[both[number]]
            )
            yield Scored(pair.id, role, name, weights, both[number], values)


def logprobs(
    context: RunContext, model: LanguageModel, pairs: list[Pair], answers: list[str]
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Log-probs [tokens] fp32 of each pair's gold and of the answer to it, in the order of the
    pairs; the prompt of both is encoded once."""
    attention = choose_attention(model, context.config.training.attention)
    result: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
    with attention.on(model), torch.no_grad():
        # A block at a time: only its pairs are held as tokens.
        for start in range(0, len(pairs), BLOCK):
            groups = [
                (i, context.text_to_sql_group(model, pairs[i], pairs[i].sql, answers[i]))
                for i in range(start, min(start + BLOCK, len(pairs)))
            ]
            for part in passes(groups, lambda item: len(item[1]), min(TOKENS_PER_PASS, 4096)):
                batch = attention.pack(model, [group for _, group in part])
                values = completion_logprobs(model, batch, attention).float().cpu()
                lengths = batch.cu_seqlens.diff().tolist()
                completions = [completion.clone() for completion in values.split(lengths)]
                for (index, _), gold, answer in zip(
                    part, completions[::2], completions[1::2], strict=True
                ):
                    result[index] = gold, answer
                context.progress(len(result), len(pairs), "opponent log-probs")
    return [result[index] for index in range(len(pairs))]


def train(context: RunContext, stage: StageWriter, system: str, iteration: int) -> None:
    """Trains the main model on the pairs (gold, opponent's answer) with the system's loss.

    R(y′) = 1 where the answer is wrong and 0 where it is right (Eq. 2); unjudged answers are left
    out. SPIN calls every answer wrong.
    """
    play = context.store.result(f"{system}_{iteration}_answers")
    settings = context.config.self_play
    kind: LossKind = "spft" if system == "self_play" else system  # type: ignore[assignment]
    model = context.load(play["main_path"], new_adapter=True)
    items = _preference_pairs(context, model, play["answers"], kind)
    if all(item is None for item in items):  # nothing to learn from: the main model stays as it is
        stage.rejections("train", context.take_dropped())
        stage.result = {"path": play["main_path"], "pairs": 0}
        return
    objective = Preference(LossConfig(kind, settings.lam, settings.nll_weight))
    context.train(stage, model, items, objective, settings, dropout=False)
    name = f"{system}_{iteration}"
    path = context.save(model, name)
    stage.result = {"path": path, "pairs": len(items)}
    if system == "self_play":
        if models.is_sharded(model):  # it answers with all of its weights
            del model
            model = context.load(path)
        right, total = rank(context, stage, model, name)
        stage.candidate(name, play["main"], path, right, total)
        stage.result["ranking accuracy"] = right / max(1, total)


def _preference_pairs(
    context: RunContext, model: LanguageModel, answers_stage: str, kind: LossKind
) -> TrainingSet[PreferencePair]:
    """The pairs a loss learns from, encoded when they are drawn: those that were judged, and of
    them those with a wrong answer for losses that rank only (`exspin`, `dpo`)."""
    store = context.store
    pairs = {pair.id: pair for pair in store.pairs()}
    sources = [
        (pairs[identifier], answer)
        for identifier, answer in store.answers(answers_stage, "opponent").items()
        if answer.verdict != "unjudged" and (answer.verdict == "wrong" or kind in ("spft", "spin"))
    ]

    def make(source: tuple[Pair, Answer]) -> PreferencePair | None:
        pair, answer = source
        group = context.text_to_sql_group(model, pair, pair.sql, answer.sql)
        gold, other = (TokenSequence(group.prompt, ids, pair.id) for ids in group.completions)
        if not (context.within_limits(gold) and context.within_limits(other)):
            return None
        stored = store.opponent_logprobs(answers_stage, pair.id)
        gold_reference, answer_reference = (
            _reference(stored[pair.id, role], sequence)
            for role, sequence in (("gold", gold), ("answer", other))
        )
        reward = 1.0 if kind == "spin" or answer.verdict == "wrong" else 0.0
        return PreferencePair(gold, other, gold_reference, answer_reference, reward, pair.id)

    texts = (
        text for p, answer in sources for text in (p.id, p.question, p.sql, p.evidence, answer.sql)
    )
    return TrainingSet(sources, make, lambda item: len(item.group), digest(texts))


def _reference(scored: Scored, sequence: TokenSequence) -> torch.Tensor:
    """Stored opponent log-probs [tokens] fp32 of the sequence they are of.

    Raises:
        SpftError: they are of other tokens.
    """
    if scored.tokens != tokens_digest(sequence.prompt, sequence.completion):
        raise SpftError(
            f"The log-probs stored for pair '{scored.pair}' ({scored.role}) are of other tokens "
            f"than the main model's: its tokenizer or prompt is not that of the opponent "
            f"'{scored.opponent}'. Main and opponent must share one tokenizer; if the model's "
            "files changed during the run, start anew with another --run.name."
        )
    return torch.from_numpy(np.frombuffer(scored.logprobs, dtype=np.float32).copy())
