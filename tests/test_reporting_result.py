"""result.json and its text."""

import math

import pytest

from autogrow_jax.errors import UserError
from autogrow_jax.reporting.numbers import format_duration, round_percent
from autogrow_jax.reporting.result import (
    RESULT_KEYS,
    describe_validation,
    format_result,
    read_result,
    validation_label,
    write_result,
)

_RESULT = {
    "family": "basic3",
    "dataset": "cifar10",
    "seed_depths": (1, 1, 1),
    "depths": (3, 2, 2),
    "test_accuracy": 91.234,
    "best_validation_accuracy": 90.5,
    "validation": "0.1",
    "validation_examples": 143,
    "num_params": 123456,
    "growth": [{"epoch": 3 * i, "stage": i % 3, "depths": [1, 1, 1]} for i in range(4)],
    "epochs": 212,
    "seconds": {
        "total": 200.0,
        "train": 100.0,
        "evaluate": 40.0,
        "compile": 20.0,
        "growth": 6.0,
        "checkpoint": 4.0,
    },
    "compilations": 3,
    "seed": 7,
    "versions": {"jax": "1.2.3"},
}


def test_a_result_is_read_as_it_was_written(tmp_path):
    path = tmp_path / "deep" / "result.json"
    write_result(path, _RESULT)
    expected = {**_RESULT, "seed_depths": [1, 1, 1], "depths": [3, 2, 2]}
    assert read_result(path) == expected
    write_result(path, {**_RESULT, "test_accuracy": math.nan})
    assert read_result(path)["test_accuracy"] is None
    assert [file.name for file in path.parent.iterdir()] == ["result.json"]


def test_an_accuracy_is_not_rounded_to_all_or_none():
    """One wrong answer of SVHN's 26,032 read "100.00 %"."""
    one = {"test_accuracy": 100 * 26031 / 26032, "best_validation_accuracy": 100 / 26032}
    text = format_result(_RESULT | one | {"class_accuracy": {"a": 99.97, "b": 100.0, "c": 0.02}})
    assert "test accuracy        99.99 %" in text and "  0.01 % at best" in text
    assert "a 99.9, b 100.0, c 0.1" in text
    text = format_result(_RESULT | {"test_accuracy": 100.0, "best_validation_accuracy": 0.0})
    assert "100.00 %" in text and "0.00 % at best" in text
    assert round_percent(math.nan) == "nan" and round_percent(99.994) == "99.99"


@pytest.mark.parametrize("key", RESULT_KEYS)
def test_no_key_of_the_contract_may_be_missing(tmp_path, key):
    with pytest.raises(ValueError, match=rf"missing: \['{key}'\]"):
        write_result(tmp_path / "result.json", {k: v for k, v in _RESULT.items() if k != key})
    assert not list(tmp_path.iterdir())


def test_what_was_compiled_beside_is_no_part_of_the_time():
    ahead = {**_RESULT, "seconds": {**_RESULT["seconds"], "compile_ahead": 50.0}}
    text, plain = format_result(ahead), format_result(_RESULT)
    assert text.startswith(plain)
    assert text.removeprefix(plain).split() == ["beside:", "compile", "50.0", "s"]


def test_a_failed_write_leaves_the_old_result(tmp_path, monkeypatch):
    path = tmp_path / "result.json"
    write_result(path, _RESULT)

    def fail(descriptor):
        raise OSError("no space")

    monkeypatch.setattr("autogrow_jax.reporting.workdir.os.fsync", fail)
    with pytest.raises(OSError, match="no space"):
        write_result(path, {**_RESULT, "seed": 8})
    assert read_result(path)["seed"] == 7
    assert [file.name for file in tmp_path.iterdir()] == ["result.json"]


@pytest.mark.parametrize("content", ["", '{"a": 1', "[1]"])
def test_a_damaged_result_is_named(tmp_path, content):
    path = tmp_path / "result.json"
    with pytest.raises(UserError, match="no result file"):
        read_result(path)
    path.write_text(content)
    with pytest.raises(UserError, match=r"result\.json .*Delete it and run again"):
        read_result(path)


def test_the_text_says_what_was_found_and_where_the_time_went():
    text = format_result(_RESULT)
    lines = {line.split("  ")[1]: line for line in text.splitlines()[1:] if line[2] != " "}
    assert text.splitlines()[0] == "basic3 on cifar10"
    assert "3-2-2" in lines["found depths"]
    assert "4 times from 1-1-1" in lines["found depths"]
    assert "91.23 %" in lines["test accuracy"]
    assert "90.50 %" in lines["validation accuracy"]
    assert "at best, on a tenth of train (143 images)" in lines["validation accuracy"]
    assert "123,456" in lines["parameters"]
    assert "212" in lines["epochs"]
    assert "jax 1.2.3" in lines["versions"]
    split = [line.split() for line in text.splitlines() if line.startswith("    ")]
    seconds = {name: float(part) for name, part, *_ in split}
    percents = [float(line[3]) for line in split]
    assert seconds.pop("rest") == pytest.approx(30)
    assert seconds == {k: v for k, v in _RESULT["seconds"].items() if k != "total"}
    assert sum(percents) == pytest.approx(100)


@pytest.mark.parametrize("key", [*RESULT_KEYS, "validation_examples", *_RESULT["seconds"]])
def test_the_text_needs_no_key(key):
    seconds = {k: v for k, v in _RESULT["seconds"].items() if k != key}
    rest = {k: v for k, v in {**_RESULT, "seconds": seconds}.items() if k != key}
    assert format_result(rest) != format_result(_RESULT)


def test_the_text_survives_nulls_and_parts_above_the_total():
    seconds = {**_RESULT["seconds"], "train": 190.0, "growth": None}
    text = format_result({**_RESULT, "test_accuracy": None, "growth": [], "seconds": seconds})
    assert "not a number" in text
    assert "not grown" in text
    assert "-" not in next(line for line in text.splitlines() if line.startswith("    rest"))


# What a run writes as `validation` and `validation_examples`, and what older results may hold.
@pytest.mark.parametrize(
    ("validation", "num_images", "words"),
    [
        ("held-out", 145, "145 held-out images"),
        ("held-out", 5000, "5,000 held-out images"),
        ("held-out", 1, "1 held-out image"),
        ("held-out", None, "held-out images"),
        ("test", 10_000, "the test set (the paper's protocol)"),
        ("0.2", 286, "a fifth of train (286 images)"),
        ("0.2", None, "a fifth of train"),
        ("0.5", None, "half of train"),
        ("0.3333", None, "a third of train"),
        ("0.15", 214, "15 % of train (214 images)"),
        (0.05, None, "a twentieth of train"),
    ],
)
def test_which_images_steered_growth_is_said_in_words(validation, num_images, words):
    assert describe_validation(validation, num_images) == words
    text = format_result({**_RESULT, "validation": validation, "validation_examples": num_images})
    assert f"90.50 % at best, on {words}\n" in text
    label = validation_label(validation, num_images)
    short = words.removesuffix(" (the paper's protocol)")
    assert " ".join(label.split()) == f"validation, on {short}"


def test_the_legend_of_a_run_whose_validation_is_unknown_says_just_that():
    assert validation_label(None) == "validation"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (59.9, "59.9 s"),
        (59.96, "1 min 00 s"),
        (3599.4, "59 min 59 s"),
        (3599.6, "1 h 00 min"),
        (86400 + 60, "24 h 01 min"),
    ],
)
def test_durations_carry_over(seconds, text):
    assert format_duration(seconds) == text


def test_the_accuracy_of_a_class_stands_in_one_line():
    accuracy = {f"class {number}": 100.0 - number for number in range(10)}
    lines = format_result({"class_accuracy": accuracy}).splitlines()[1:]
    assert len(lines) > 1 and max(map(len, lines)) <= 100
    for name, percent in accuracy.items():
        assert sum(f"{name} {percent:.1f}" in line for line in lines) == 1
    many = {f"class {number}": float(number) for number in range(100)}
    text = format_result({"class_accuracy": many})
    assert "the lowest of 100: class 0 0.0, class 1 1.0" in text and "class 50" not in text


@pytest.mark.parametrize(
    "changes",
    [
        {"class_accuracy": "x"},
        {"commonest_class_accuracy": 50.0},
        {"front": [{"depths": [1, 1, 1]}], "recommended": [1, 1, 1]},
        {"front": [{"depths": [1, 1, 1]}]},
    ],
)
def test_a_result_whose_parts_are_damaged_is_one_sentence(changes):
    with pytest.raises(UserError, match=r"the result is damaged \(.*; delete result\.json"):
        format_result({"depths": [1, 1, 1]} | changes)
