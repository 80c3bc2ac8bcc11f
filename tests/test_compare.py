"""Which of two systems is better: on what both were asked, with what certainty, said plainly."""

import json
import random
from dataclasses import replace

import pytest

from spftcore.compare import compare, main, read_system, to_json
from spftcore.compare_text import sentences
from spftcore.errors import SpftError, UsageError
from spftcore.metrics import bootstrap, holm, mcnemar, paired_interval
from spftcore.metrics.groups import groups_of
from spftcore.metrics.paired import compare_scores
from spftcore.metrics.records import FILE, Scored, write_scores
from spftcore.pairs import Pair
from spftcore.store import Answer, Store


def records(marks, metric="spider", databases=8, **values):
    """One record per mark: 1 right, 0 wrong, x excluded, - not judged, u right on an unstable
    gold."""
    found = []
    for i, mark in enumerate(marks):
        scores = {} if mark in "x-" else {metric: float(mark in "1u")}
        one = Scored(
            id=f"q{i}",
            database=f"db{i % databases}",
            question=f"Question {i}?",
            gold=f"select {i}",
            sql=f"select {i} -- {mark}",
            hardness=("easy", "extra")[i % 2],
            clauses=("where",) if i % 3 == 0 else (),
            joins=i % 5,
            excluded="no database" if mark == "x" else "",
            unstable="ties" if mark == "u" else "",
            scores=scores,
        )
        found.append(replace(one, **values))
    return found


def write(folder, name, marks, **values):
    (folder / name).mkdir()
    write_scores(folder / name / FILE, records(marks, **values))
    return str(folder / name)


def test_only_questions_that_count_for_both_are_compared():
    first, second = records("1101x-11"), records("1100111-")
    paired = compare_scores(first, second[1:], "spider")
    assert paired.questions == 4  # q1, q2, q3, q6
    assert (paired.better, paired.worse) == (("q3",), ())
    assert dict(paired.left_out) == {
        "only in the first": 1,
        "excluded (no database)": 1,
        "not judged in the first": 1,
        "not judged in the second": 1,
    }


def test_the_order_of_the_files_does_not_matter():
    first, second = records("1101001101" * 4), records("0101101100" * 4)
    shuffled = random.Random(1).sample(second, len(second))
    assert compare_scores(first, shuffled, "spider") == compare_scores(first, second, "spider")


def test_right_and_wrong_is_tested_by_mcnemar_with_newcombes_interval():
    first, second = "1" * 60 + "0" * 20, "1" * 45 + "0" * 25 + "1" * 10
    paired = compare_scores(records(first), records(second), "spider")
    a, b = ([mark == "1" for mark in marks] for marks in (first, second))
    assert paired.difference == paired_interval(a, b)
    assert paired.difference.p == mcnemar(a, b).p
    assert (len(paired.better), len(paired.worse)) == (15, 10)
    values = [float(x) - float(y) for x, y in zip(a, b, strict=True)]
    assert paired.over_databases == bootstrap(values, [f"db{i % 8}" for i in range(80)])


def test_other_metrics_are_tested_by_the_paired_bootstrap():
    draw = random.Random(2)
    first, second = records("1" * 40, "soft_f1"), records("1" * 40, "soft_f1")
    first = [replace(one, scores={"soft_f1": draw.random()}) for one in first]
    second = [replace(one, scores={"soft_f1": draw.random() / 2}) for one in second]
    paired = compare_scores(first, second, "soft_f1")
    values = [x.scores["soft_f1"] - y.scores["soft_f1"] for x, y in zip(first, second, strict=True)]
    assert paired.difference == bootstrap(values)
    assert paired.first.value == pytest.approx(sum(o.scores["soft_f1"] for o in first) / 40)


def test_parts_are_corrected_for_the_number_of_looks():
    paired = compare_scores(records("1" * 60), records("10" * 30), "spider")
    assert [one.value for one in paired.slices if one.kind == "hardness"] == ["easy", "extra"]
    assert [one.value for one in paired.slices if one.kind == "joins"] == [
        "0",
        "1",
        "2",
        "3 or more",
    ]
    assert [one.adjusted_p for one in paired.slices] == holm(
        [one.difference.p for one in paired.slices]
    )
    extra = next(one for one in paired.slices if one.value == "extra")
    assert (extra.questions, extra.first, extra.second) == (30, 1.0, 0.0)
    # Thirty questions that only one answers: 2 / 2^30, times the number of looks.
    assert extra.adjusted_p == pytest.approx(len(paired.slices) * 2 / 2**30, rel=0.2)


def test_a_question_is_in_the_slices_of_its_gold():
    one = Scored("1", "d", "q", "g", "s", hardness="hard", difficulty="simple", joins=7)
    keys = groups_of(replace(one, clauses=("where", "limit")))
    assert set(keys) == {
        ("joins", "3 or more"),
        ("clause", "where"),
        ("clause", "limit"),
        ("database", "d"),
        ("hardness", "hard"),
        ("difficulty", "simple"),
    }


def test_unstable_golds_are_stated_apart():
    paired = compare_scores(records("uu11110000"), records("0011110000"), "spider")
    assert (paired.unstable, paired.difference.value) == (2, 0.2)
    assert paired.stable is not None
    assert paired.stable.value == 0
    assert compare_scores(records("10"), records("01"), "spider").stable is None


def test_mistakes_are_counted_by_the_first_class_of_each_answer():
    first, second = records("0000"), records("0000")
    first = [replace(one, mistakes=("column", "value")) for one in first]
    second = [replace(one, mistakes=("value",)) for one in second[:3]] + [
        replace(second[3], mistakes=("column",), near_miss=True)
    ]
    found = compare_scores(first, second, "spider").mistakes
    assert list(found.items()) == [("column", (4, 0)), ("value", (0, 3))]


def test_few_databases_say_nothing_about_others():
    paired = compare_scores(records("1100", databases=5), records("1010", databases=5), "spider")
    assert paired.over_databases is None


@pytest.mark.parametrize("field", ["database", "question", "gold"])
def test_other_benchmarks_are_refused(field):
    other = [replace(one, **{field: "something else"}) for one in records("11")]
    with pytest.raises(SpftError, match=f"q0 has another {field}"):
        compare_scores(records("11"), other, "spider")
    other = [replace(one, id=f"other{one.id}") for one in records("11")]
    with pytest.raises(SpftError, match="no question in common"):
        compare_scores(records("11"), other, "spider")


def test_white_space_in_a_gold_is_no_other_gold():
    other = [replace(one, gold=one.gold.replace(" ", "\n ")) for one in records("11")]
    assert compare_scores(records("11"), other, "spider").questions == 2


def test_nothing_to_compare_says_why():
    with pytest.raises(SpftError, match="No question has a score of 'spider' in both: 2 excluded"):
        compare_scores(records("xx"), records("11"), "spider")


# -- what is said -------------------------------------------------------------------------------


def said(tmp_path, first, second, **values):
    systems = [
        read_system(write(tmp_path, name, marks, **values))
        for name, marks in (("a", first), ("b", second))
    ]
    return " ".join(sentences(compare(systems)[0])).replace(str(tmp_path) + "/", "")


def test_a_real_difference_is_called_real_with_the_better_first(tmp_path):
    text = said(tmp_path, "0" * 40 + "1" * 40, "1" * 80)
    assert text.startswith("b is better than a by 50.0 points (95 % interval −60.")
    assert "p < 0.001): not noise. It should hold on other databases" in text


def test_noise_is_called_noise(tmp_path):
    text = said(tmp_path, "1" * 6 + "0" * 34, "0" * 4 + "1" * 2 + "0" * 34)
    # 4 against 0: p = 2 / 2^4.
    assert "a and b differ by 10.0 points" in text
    assert "p = 0.12): noise. Two equal systems would differ by as much in 12 of 100" in text
    assert "In no part alone is it more than noise" in text


def test_equal_scores_are_said_to_be_equal(tmp_path):
    assert said(tmp_path, "1010", "1010").startswith("a and b score the same on every question.")


def test_three_systems_are_compared_in_pairs_with_corrected_p_values(tmp_path, capsys):
    marks = {"a": "1" * 50, "b": "1" * 42 + "0" * 8, "c": "1" * 43 + "0" * 7}
    names = [write(tmp_path, name, text) for name, text in marks.items()]
    results = compare([read_system(name) for name in names])
    assert [(r.first.name[-1], r.second.name[-1]) for r in results] == [
        ("a", "b"),
        ("a", "c"),
        ("b", "c"),
    ]
    assert [r.adjusted_p for r in results] == holm([r.paired.difference.p for r in results])
    assert main(names) == 0
    assert "corrected for 3 pairs" in capsys.readouterr().out


# -- the command --------------------------------------------------------------------------------


def test_the_command_shows_who_where_and_which_questions(tmp_path, capsys):
    first = write(tmp_path, "a", "1" * 30 + "0" * 10 + "xx")
    second = write(tmp_path, "b", "1" * 20 + "0" * 19 + "1xx")
    assert main([first, f"{second}/{FILE}", "--questions", "1"]) == 0
    out = capsys.readouterr().out
    for text in (
        "spider on 40 questions of 8 databases",
        "Left out: 2 excluded (no database).",
        "hardness",
        "db0",
        "alone scores higher on 10, 1 of them:",
        "q20 (db4) Question 20?",
        "gold: select 20",
        f"{first}: select 20 -- 1",
    ):
        assert text in out
    assert "Question 21?" not in out


@pytest.mark.parametrize("argument", [[], ["--json"]])
def test_what_a_model_wrote_neither_steers_the_terminal_nor_ends_the_command(
    tmp_path, capfd, argument
):
    evil = "\x1b[31mselect \ud800 \u202e [bold]"
    a = write(tmp_path, "a", "11", sql=evil, question=evil)
    b = write(tmp_path, "b", "01", sql=evil, question=evil)
    assert main([a, b, *argument]) == 0
    out = capfd.readouterr().out
    assert not {"\x1b", "\u202e", "\ud800"} & set(out)
    assert argument or "\\u001b[31mselect \\ud800 \\u202e [bold]" in out


def test_a_single_score_says_nothing_about_noise(tmp_path, capsys):
    records_of = {"a": 0.3, "b": 0.7, "c": 0.3}
    for name, value in records_of.items():
        write(tmp_path, name, "1", metric="soft_f1", scores={"soft_f1": value})
    paths = [str(tmp_path / name) for name in records_of]
    assert main(paths[:2]) == 0
    assert "differ by 40.0 points on 1 question of 1 database: too few" in capsys.readouterr().out
    assert main(paths) == 0
    assert "nan" not in capsys.readouterr().out


GOOD = {"id": "1", "database": "d", "question": "q", "gold": "g", "sql": "s", "scores": {"bag": 1}}


@pytest.mark.parametrize(
    "record",
    [
        {"scores": {"bag": float("nan")}},
        {"scores": {"bag": float("inf")}},
        {"scores": {"bag": "1"}},
        {"scores": {"bag": None}},
        {"scores": None},
        {"scores": [1]},
        {"id": 5},
        {"sql": None},
        {"joins": "x"},
        {"clauses": [[]]},
        {"clauses": "where"},
        {"mistakes": None},
        {"hardness": ["easy"]},
        {"excluded": 3},
        {"unknown": 1},
    ],
    ids=str,
)
def test_a_record_that_no_evaluation_wrote_is_named(tmp_path, capsys, record):
    path = tmp_path / FILE
    path.write_text(json.dumps(GOOD) + "\n" + json.dumps(GOOD | {"id": "2"} | record) + "\n")
    assert main([str(path), str(path)]) == 1
    assert f"line 2 of {path} is not a scored question" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("second", "said"),
    [
        (json.dumps(GOOD), "has the id '1', as line 1 of"),
        ("", "is not a scored question"),
        ("[" * 100_000, "is nested too deeply"),
    ],
    ids=["double", "blank", "deep"],
)
def test_a_line_that_is_no_other_question_is_named(tmp_path, capsys, second, said):
    path = tmp_path / FILE
    path.write_text(json.dumps(GOOD) + "\n" + second + "\n")
    assert main([str(path), str(path)]) == 1
    err = capsys.readouterr().err
    assert f"line 2 of {path}" in err
    assert said in err


def test_json_holds_everything_and_is_valid(tmp_path, capsys):
    first, second = write(tmp_path, "a", "1101"), write(tmp_path, "b", "0101")
    assert main([first, second, "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["first_system"], found["second_system"]) == (first, second)
    assert (found["metric"], found["first"]["value"]) == ("spider", 0.75)
    assert found["better"] == ["q0"]
    assert found["difference"]["value"] == 0.25
    assert found["over_databases"] is None
    assert found == json.loads(
        json.dumps(to_json(compare([read_system(first), read_system(second)])))[1:-1]
    )


def test_the_metric_is_the_evaluations_first_or_the_one_asked_for(tmp_path):
    both = [replace(one, scores={"bag": 1.0, "bird": 0.0}) for one in records("11")]
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_scores(tmp_path / name / FILE, both)
    systems = [read_system(str(tmp_path / name)) for name in ("a", "b")]
    assert compare(systems)[0].paired.metric == "bird"
    summary = json.dumps({"settings": {"metrics": ["bag", "bird"]}})
    (tmp_path / "a" / "summary.json").write_text(summary)
    systems = [read_system(str(tmp_path / name)) for name in ("a", "b")]
    assert compare(systems)[0].paired.metric == "bag"
    assert compare(systems, "bird")[0].paired.metric == "bird"
    with pytest.raises(UsageError, match="no scores of 'ts'; it has bag, bird"):
        compare(systems, "ts")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["{a}"], 2, "Name two systems or more"),
        (["{a}", "nowhere"], 1, "There is no nowhere"),
        (["{a}", "{empty}"], 1, "holds neither scores.jsonl nor run.sqlite"),
        (["{a}", "{bad}"], 1, "not a scored question"),
        (["{a}", "{other}"], 1, "another gold"),
        (["{a}", "{a}", "--metric", "ts"], 2, "no scores of 'ts'"),
        (["{a}", "{a}", "--metrik", "ts"], 2, "Did you mean '--metric'"),
    ],
)
def test_bad_input_is_one_message(tmp_path, capsys, arguments, code, message):
    places = {"a": write(tmp_path, "a", "110"), "empty": str(tmp_path), "bad": ""}
    places["other"] = write(tmp_path, "other", "110", gold="select 9")
    (tmp_path / "bad.jsonl").write_text("{not json\n")
    places["bad"] = str(tmp_path / "bad.jsonl")
    assert main([text.format(**places) for text in arguments]) == code
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""


# -- runs ---------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    store = Store(folder / "run.sqlite")
    pairs = [
        Pair(f"t{i}", "shop", f"Question {i}?", f"select a from t where a = {i}", split="test")
        for i in range(4)
    ]
    with store.stage("prepare") as stage:
        stage.pairs(pairs)
    for system, verdicts in (
        ("sft", ("right", "wrong", "wrong", "unjudged")),
        ("vbi", ("right", "right", "wrong", "right")),
    ):
        with store.stage(f"evaluate_{system}") as stage:
            stage.answers(
                "test",
                [
                    Answer(pair.id, system, f"select '{system}'", "ok", verdict)
                    for pair, verdict in zip(pairs, verdicts, strict=True)
                ],
            )
    store.close()
    return folder


def test_two_systems_of_a_run_are_compared(run):
    (result,) = compare([read_system(f"{run}:vbi"), read_system(f"{run}:sft")])
    assert (result.paired.metric, result.paired.questions) == ("bag", 3)
    assert result.paired.better == ("t1",)
    assert dict(result.paired.left_out) == {"not judged in the second": 1}
    assert {one.value for one in result.paired.slices if one.kind == "clause"} == {"where"}


def test_a_run_stands_for_its_last_system(run):
    assert read_system(str(run)).name == f"{run}:vbi"


def test_a_system_that_a_run_lacks_is_named_with_those_it_has(run):
    with pytest.raises(SpftError, match=r"no answers of 'dpo'; there are sft, vbi"):
        read_system(f"{run}:dpo")
