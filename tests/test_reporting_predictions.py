"""What a net answered: the numbers that a report makes of it, and the file that keeps it."""

import numpy as np
import pytest

from autogrow_jax.errors import UserError
from autogrow_jax.reporting.predictions import Predictions, wilson


def _predictions(labels, predicted, confidence, num_classes=3):
    """Of answers with such confidence; the other classes share the rest."""
    count = len(labels)
    probabilities = np.full((count, num_classes), 0.0, np.float32)
    rest = (1 - np.asarray(confidence)) / (num_classes - 1)
    probabilities += rest[:, None].astype(np.float32)
    probabilities[np.arange(count), predicted] = confidence
    return Predictions(
        probabilities,
        np.asarray(predicted, np.int32),
        np.asarray(labels, np.int32),
        np.arange(count, dtype=np.uint64),
        np.array(["ant", "bee", "cat"][:num_classes]),
        np.array([], dtype=str),
    )


@pytest.fixture
def found():
    #                    right  right  wrong  wrong  wrong  right
    return _predictions([0, 1, 2, 2, 0, 2], [0, 1, 0, 0, 2, 2], [0.9, 0.8, 0.5, 0.7, 0.95, 0.6])


def test_a_confusion_matrix_has_the_true_class_down_and_the_answer_across(found):
    np.testing.assert_array_equal(found.confusion(), [[1, 0, 1], [0, 1, 0], [2, 0, 1]])


def test_the_most_confused_pair_comes_first(found):
    assert found.confused(5) == [(2, 0, 2), (0, 2, 1)]
    assert found.confused(1) == [(2, 0, 2)]
    assert _predictions([0, 1], [0, 1], [0.9, 0.9]).confused(5) == []


def test_the_worst_mistake_is_the_surest_and_the_least_certain_answer_may_be_right(found):
    assert found.worst(2).tolist() == [4, 3]
    assert found.worst(9).tolist() == [4, 3, 2]
    assert found.least_certain(2).tolist() == [2, 5]


def test_calibration_is_that_of_the_answers():
    # Two bins: four answers at 0.9 of which three are right, two at 0.5 of which one is.
    found = _predictions(
        [0, 0, 0, 1, 0, 1], [0, 0, 0, 0, 0, 0], [0.9, 0.9, 0.9, 0.9, 0.5, 0.5], num_classes=2
    )
    calibration = found.calibration()
    assert calibration.counts.tolist() == [2, 4]
    np.testing.assert_allclose(calibration.confidence, [0.5, 0.9], rtol=1e-6)
    np.testing.assert_allclose(calibration.accuracy, [0.5, 0.75])
    assert calibration.error == pytest.approx(4 / 6 * 0.15)


def test_an_answer_of_certainty_has_a_bin():
    assert _predictions([0, 1], [0, 1], [1.0, 1.0]).calibration().counts.tolist() == [2]


@pytest.mark.parametrize(
    ("right", "of", "low", "high"),
    # Of Newcombe (1998), table I: 81 of 263, 15 of 148, 0 of 20, 1 of 29.
    [(81, 263, 25.53, 36.62), (15, 148, 6.24, 16.05), (0, 20, 0, 16.11), (1, 29, 0.61, 17.18)],
)
def test_wilsons_interval_is_the_published_one(right, of, low, high):
    assert wilson(right, of) == pytest.approx((low, high), abs=0.006)


def test_all_right_is_not_certainty():
    low, high = wilson(5, 5)
    assert 50 < low < 60 and high == 100


def test_what_is_written_is_read_again(found, tmp_path):
    found.write(tmp_path / "found.npz")
    again = Predictions.read(tmp_path / "found.npz")
    for name in ("probabilities", "predicted", "labels", "ids", "class_names", "files"):
        np.testing.assert_array_equal(getattr(again, name), getattr(found, name))
    # As tools that know nothing of this package read it.
    with np.load(tmp_path / "found.npz", allow_pickle=False) as arrays:
        assert arrays["labels"].tolist() == [0, 1, 2, 2, 0, 2]


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x03\x04 cut short"])
def test_a_damaged_file_is_refused_in_words(content, tmp_path):
    (tmp_path / "found.npz").write_bytes(content)
    with pytest.raises(UserError, match=r"found\.npz is missing or damaged"):
        Predictions.read(tmp_path / "found.npz")


def test_arrays_that_do_not_fit_are_refused_in_words(found, tmp_path):
    arrays = {name: getattr(found, name) for name in found.__dataclass_fields__}
    np.savez(tmp_path / "found.npz", **arrays | {"labels": found.labels[:3]})
    with pytest.raises(UserError, match="of different lengths"):
        Predictions.read(tmp_path / "found.npz")
