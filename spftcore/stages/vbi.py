"""Stage 1, verification-based iterative fine-tuning (SPFT-SQL §3.1), and the models before it.

One round: SQL filled from templates and checked by running it; questions written by the
SQL-to-Text model; fine-tuning on real and synthesized pairs; answers to a synthesized feedback set,
of which the right ones train the SQL-to-Text model and the wrong ones weigh the next templates.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from spftcore import models
from spftcore.errors import SpftError
from spftcore.models import LanguageModel
from spftcore.pairs import Pair, question_key
from spftcore.stages.context import RunContext
from spftcore.stages.continuing import continued
from spftcore.store import StageWriter
from spftcore.synthesis import SynthesizedSQL, TemplatePool, canonical, synthesize_sql
from spftcore.synthesis.mentions import Mentions
from spftcore.synthesis.placeholders import mask_draft, mask_literals
from spftcore.synthesis.questions import Task, WrittenQuestions, write_questions
from spftcore.synthesis.verbalise import verbalise
from spftcore.training.groups import TokenSequence
from spftcore.training.objectives import Supervised

QUERIES_PER_PAIR = 1.2  # a few queries get no question that passes the checks
TEMPLATE_FLOOR = 0.5  # a template that met no wrong answer keeps half its weight


def corpus(context: RunContext, pairs: Sequence[Pair]) -> list[str]:
    """What the tiny model's tokenizer is trained on: prompts and completions."""
    return [
        text
        for pair in pairs
        for text in (
            context.renderer.text_to_sql(pair.question, pair.database, pair.evidence),
            pair.sql,
        )
    ]


def _start(context: RunContext, purpose: str) -> LanguageModel:
    """The model that training begins from: the user's, or a tiny one with random weights."""
    source = context.config.model.name_or_path
    if source is not None:
        return context.load(source, new_adapter=True)
    tiny = models.build_tiny(
        context.config.model, corpus(context, seeds(context)), context.seed(purpose)
    )
    tiny.model.to(context.device)
    return tiny


def base(context: RunContext, stage: StageWriter) -> None:
    """The base model: the user's as it is, or the tiny one trained on the seeds."""
    source = context.config.model.name_or_path
    if source is not None:
        context.load(source)  # fails now, with a clear message, rather than later
        stage.result = {"path": source}
        return
    model = _start(context, "base")
    items = context.text_to_sql_set(model, seeds(context))
    context.train(stage, model, items, Supervised(), context.config.base, dropout=True)
    stage.result = {"path": context.save(model, "base")}


def seeds(context: RunContext) -> list[Pair]:
    """The seed pairs of the training split."""
    return context.store.pairs(stage="prepare", split="train")


def sft(context: RunContext, stage: StageWriter) -> None:
    """Baseline: the base fine-tuned on the seeds for as many steps as all VBI rounds together."""
    vbi = context.config.vbi
    settings = vbi.model_copy(update={"steps": vbi.steps * vbi.rounds})
    start = context.store.result("base")["path"]
    if not seeds(context):  # nothing to train on: the baseline is the base
        stage.result = {"path": start}
        return
    model = context.load(start, new_adapter=True)
    items = context.text_to_sql_set(model, seeds(context))
    context.train(stage, model, items, Supervised(), settings, dropout=True)
    stage.result = {"path": context.save(model, "sft")}


# -- SQL-to-Text --------------------------------------------------------------------------------


def sql_to_text(context: RunContext, stage: StageWriter, round_: int) -> None:
    """Trains the SQL-to-Text model: at first (round 0) on the seeds, then also on y⁺, the pairs of
    the feedback sets that the text-to-SQL model answered right (Eq. 1).

    While there are no such pairs there is no such model: rules write the questions.
    """
    pairs = seeds(context)
    for number in range(1, round_ + 1):
        answers = context.store.answers(f"vbi_{number}_feedback", "feedback")
        feedback = context.store.pairs(stage=f"vbi_{number}_synthesize", split="feedback")
        pairs += [p for p in feedback if answers[p.id].verdict == "right"]
    before = _question_model(context, round_)
    if not pairs:
        stage.result = {"path": before, "pairs": 0}
        return
    model = _start(context, "sql-to-text") if before is None else context.load(before)
    items = context.training_set(pairs, partial(_question_sequence, context, model))
    settings = context.config.sql_to_text
    if round_ == 0 and context.config.model.name_or_path is None:
        settings = settings.model_copy(update={"steps": settings.scratch_steps})
    context.train(stage, model, items, Supervised(), settings, dropout=True)
    stage.result = {"path": context.save(model, stage.stage), "pairs": len(items)}


def _question_model(context: RunContext, round_: int) -> str | None:
    """The SQL-to-Text model that a round's training begins with; None: there is none yet."""
    if round_ > 0:
        return context.store.result(f"sql_to_text_{round_ - 1}")["path"]

    def of_predecessor() -> str | None:
        previous = continued(context.config)
        writer = None if previous is None else previous.question_writer()
        return None if writer is None else str(writer)

    return context.processes.once(of_predecessor)


def _question_sequence(context: RunContext, model: LanguageModel, pair: Pair) -> TokenSequence:
    sql, question, literals = mask_literals(pair.sql, context.renderer.question(pair.question))
    rng = random.Random(context.seed("draft", pair.id))
    draft = verbalise(pair.sql, context.catalogue[pair.database], rng) or ""
    task = Task(pair.database, sql, mask_draft(draft, literals))
    return context.encode(model, _question_prompt(context, model, task), question, pair.id)


def _question_prompt(context: RunContext, model: LanguageModel, task: Task) -> str:
    return context.question_prompt(model, task.sql, task.database, task.draft)


# -- a round ------------------------------------------------------------------------------------


def synthesize(context: RunContext, stage: StageWriter, round_: int) -> None:
    """Writes the round's pairs: SQL from templates, questions from the SQL-to-Text model."""
    settings, store = context.config.vbi, context.store
    templates = store.templates("prepare" if round_ == 1 else f"vbi_{round_ - 1}_feedback")
    pool = TemplatePool.from_dicts(templates)
    known = store.pairs()
    # Neither what is evaluated on nor what is already there may be written again.
    exclude = {
        (pair.database, canonical(pair.sql, context.catalogue[pair.database])) for pair in known
    }
    weights = database_weights(context)
    wanted = settings.count + settings.feedback + (settings.ranking if round_ == 1 else 0)
    context.progress(0, 1, "filling templates")
    synthesized = context.processes.once(
        lambda: synthesize_sql(
            pool,
            [context.catalogue[name] for name in sorted(weights)],
            context.executor,
            round(wanted * QUERIES_PER_PAIR),
            random.Random(context.seed(stage.stage)),
            exclude,
            weights,
            settings.mix.shares(),
        )
    )
    stage.rejections("sql", synthesized.rejections)
    coverage = {
        "templates": len(pool),
        "templates used": synthesized.templates_used,
        "tables with rows": synthesized.tables,
        "tables used": synthesized.tables_used,
        **{f"{name} queries": count for name, count in synthesized.difficulties.items()},
    }
    for name, value in coverage.items():
        stage.metric(round_, name, value)
    written = _write_questions(context, stage, round_, synthesized.queries)
    pairs = written.pairs[:wanted]
    stage.rejections("question", written.rejections)
    random.Random(context.seed(stage.stage, "split")).shuffle(pairs)
    counts = {"feedback": settings.feedback, "ranking": settings.ranking if round_ == 1 else 0}
    # A small harvest is shared out in the wanted proportions rather than all going to one split.
    scale = min(1.0, len(pairs) / wanted)
    splits = [name for name, count in counts.items() for _ in range(int(count * scale))]
    if any(count and name not in splits for name, count in counts.items()):
        raise SpftError(
            f"Round {round_} kept only {len(pairs)} of {wanted} pairs, too few to share out. Give "
            "more seed pairs, or lower vbi.feedback and vbi.ranking."
        )
    splits += ["train"] * (len(pairs) - len(splits))
    pairs = [replace(pair, split=split) for pair, split in zip(pairs, splits, strict=True)]
    stage.pairs(pairs)
    writers = Counter(f"written by {pair.checks['writer']}" for pair in pairs)
    stage.result = {
        "queries": len(synthesized.queries),
        "question checks": written.table(),
        **Counter(splits),
        **writers,
        **coverage,
    }


def database_weights(context: RunContext) -> dict[str, float]:
    """How often queries are drawn from each database: as often as the seeds ask about it.

    One without seeds counts as an average one, unless it is there to be evaluated on: accuracy on
    databases that training has not seen must stay what it says.
    """
    seeded = Counter(pair.database for pair in seeds(context))
    evaluated = {p.database for p in context.store.pairs(stage="prepare") if p.split != "train"}
    average = sum(seeded.values()) / len(seeded) if seeded else 1.0
    unseeded = [
        name
        for name, database in context.catalogue.items()
        if name not in seeded and name not in evaluated and any(t.rows for t in database.tables)
    ]
    weights = {**dict.fromkeys(unseeded, average), **seeded}
    # Without any other, what is evaluated on serves: its queries and questions are kept out.
    return weights or dict.fromkeys(sorted(evaluated), 1.0)


def _write_questions(
    context: RunContext, stage: StageWriter, round_: int, queries: list[SynthesizedSQL]
) -> WrittenQuestions:
    """One question per query: the SQL-to-Text model's, and where that fails a check, the
    rule-based one."""
    known = context.store.pairs()
    path = context.store.result(f"sql_to_text_{round_ - 1}")["path"]
    model = None if path is None else context.load(path)
    answers = None
    if context.config.sql_to_text.round_trip:
        current = "base" if round_ == 1 else f"vbi_{round_ - 1}_train"
        solver = context.load(context.store.result(current)["path"])

        def answers(pairs: Sequence[Pair]) -> list[str]:
            return [answer.verdict for answer in context.answer(solver, current, pairs)]

    return write_questions(
        queries,
        context.catalogue,
        random.Random(context.seed(stage.stage, "rules")),
        model=None if model is None else partial(_model_questions, context, model),
        seen={(pair.database, question_key(pair.question)) for pair in known},
        mentions=Mentions(
            (pair.question, pair.sql, context.catalogue[pair.database]) for pair in seeds(context)
        ),
        answers=answers,
        prefix=stage.stage,
    )


def _model_questions(context: RunContext, model: LanguageModel, tasks: Sequence[Task]) -> list[str]:
    return context.generate(model, [_question_prompt(context, model, task) for task in tasks])


def train(context: RunContext, stage: StageWriter, round_: int) -> None:
    """Fine-tunes on the seeds and all synthesized pairs so far, from the last round's model."""
    store = context.store
    previous = "base" if round_ == 1 else f"vbi_{round_ - 1}_train"
    model = context.load(store.result(previous)["path"], new_adapter=True)
    items = context.text_to_sql_set(model, training_pairs(context, round_))
    context.train(stage, model, items, Supervised(), context.config.vbi, dropout=True)
    stage.result = {"path": context.save(model, f"vbi_{round_}"), "pairs": len(items)}


def training_pairs(
    context: RunContext, round_: int, *, feedback_to: int | None = None
) -> list[Pair]:
    """Seeds, the synthesized pairs of rounds 1 … round_, and the feedback sets that have already
    served (those of earlier rounds, or up to `feedback_to`)."""
    pairs = seeds(context)
    for number in range(1, round_ + 1):
        name = f"vbi_{number}_synthesize"
        pairs += context.store.pairs(stage=name, split="train")
        if number <= (round_ - 1 if feedback_to is None else feedback_to):
            pairs += context.store.pairs(stage=name, split="feedback")
    return pairs


def feedback(context: RunContext, stage: StageWriter, round_: int) -> None:
    """The round's model answers the ranking set and the round's feedback set (§3.1.3)."""
    store = context.store
    candidate = f"vbi_{round_}"
    path = store.result(f"{candidate}_train")["path"]
    model = context.load(path)
    right, total = rank(context, stage, model, candidate)
    parent = None if round_ == 1 else f"vbi_{round_ - 1}"
    stage.candidate(candidate, parent, path, right, total)
    pairs = store.pairs(stage=f"{candidate}_synthesize", split="feedback")
    answers = context.answer(model, candidate, pairs)
    stage.answers("feedback", answers)
    wrong = [
        pair.template
        for pair, answer in zip(pairs, answers, strict=True)
        if answer.verdict == "wrong"
    ]
    pool = TemplatePool.from_dicts(store.templates("prepare"))
    pool.reweight(wrong, TEMPLATE_FLOOR)
    for entry in pool:
        stage.template(entry.template.id, entry.template.text, entry.weight, entry.sources)
    judged = [answer for answer in answers if answer.verdict != "unjudged"]
    stage.result = {
        "ranking accuracy": right / max(1, total),
        "feedback accuracy": sum(a.verdict == "right" for a in judged) / max(1, len(judged)),
    }


def rank(
    context: RunContext, stage: StageWriter, model: LanguageModel, candidate: str
) -> tuple[int, int]:
    """(right, judged) of a candidate on the ranking set, which is never trained on."""
    pairs = context.store.pairs(stage="vbi_1_synthesize", split="ranking")
    answers = context.answer(model, candidate, pairs)
    stage.answers("ranking", answers)
    judged = [answer for answer in answers if answer.verdict != "unjudged"]
    return sum(answer.verdict == "right" for answer in judged), len(judged)
