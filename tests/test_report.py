"""The report of a run: one page of all it left, whole whatever is missing, all of it escaped."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image
from stand_ins import tiny_config

from autogrow_jax.data import load_dataset
from autogrow_jax.models import build_network, estimate_cost
from autogrow_jax.models.cost import Cost
from autogrow_jax.report import page
from autogrow_jax.report.costs import format_flops
from autogrow_jax.report.markup import escape, tag
from autogrow_jax.report.page import write_report
from autogrow_jax.reporting import QuietReporter, Workdir
from autogrow_jax.reporting.__main__ import main
from autogrow_jax.reporting.metrics import read
from autogrow_jax.reporting.predictions import Predictions
from autogrow_jax.training import load, run

pytestmark = [pytest.mark.reports, pytest.mark.usefixtures("quick_compilation")]

SECTIONS = {
    *("growth", "cost", "stages", "time", "samples", "confusion", "mistakes", "doubts"),
    *("calibration", "config", "use"),
}
# What HTML has no end for.
VOID = {"meta", "img"}


class Page(HTMLParser):
    """What a test asks of a page: elements, texts, and that every element is closed."""

    def __init__(self, html):
        super().__init__()
        self.open, self.elements, self.texts = [], [], []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"style", "title"} & set(self.open):
            self.texts.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def text(self):
        return re.sub(r"\s+", " ", " ".join(self.texts))


def _open(workdir):
    html = (workdir / "report.html").read_text(encoding="utf-8")
    # Nothing is fetched and nothing runs.
    assert not re.search(r"https?:|<script|<link|@import|url\((?!#)| on[a-z]+=", html)
    page = Page(html)
    assert all(image["src"].startswith("data:image/png;base64,") for image in page.all("img"))
    assert all(image["alt"] for image in page.all("img"))
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    links = {link["href"] for link in page.all("a")}
    assert links <= {f"#{name}" for name in ids}
    return page


def _config(**changes):
    own = {"growth.max_epochs": 3, "finetune.epochs": 2}
    return tiny_config(**own | changes)


@pytest.fixture(scope="module")
def grown(quick_compilation, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    return workdir, run(_config(), workdir, reporter=QuietReporter())


def _write_run(root, *, names=("ant", "bee"), images=40, finished=True, mode="grow", **known):
    """The files of a run that never was, whose data are nowhere."""
    workdir = Workdir(root)
    part = {"images": images, "class_counts": [images, *[0] * (len(names) - 1)], "fingerprint": ""}
    known = {
        "name": "npz:gone.npz",
        "where": "gone.npz",
        "class_names": names,
        "image_shape": [8, 8, 1],
        "source_size": [8, 8],
        "mean": [0.0],
        "std": [1.0],
        "parts": dict.fromkeys(("train", "validation", "test"), part),
        **known,
    }
    root.mkdir(parents=True, exist_ok=True)
    workdir.dataset.write_text(json.dumps(known))
    config = {"mode": mode, "seed": 3, "data": {"name": known["name"], "validation": "held-out"}}
    config["model"] = {"family": "plain3"}
    workdir.config.write_text(json.dumps(config))
    phases = ["growth"] * 3 + ["finetune"] if mode == "grow" else ["scratch"] * 4
    depths = [[1, 1, 1], [2, 1, 1], [2, 2, 1], [2, 2, 1]] if mode == "grow" else [[3, 1, 1]] * 4
    losses = {"train_loss": 0.5, "validation_loss": 0.6, "train_accuracy": 70.0}
    lines = [
        {"epoch": i, "phase": phase, "depths": depth, "learning_rate": 0.1, "seconds": 2.0}
        | losses
        | {"validation_accuracy": 60.0 + i}
        for i, (phase, depth) in enumerate(zip(phases, depths, strict=True))
    ]
    workdir.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    rng = np.random.default_rng(0)
    labels = rng.integers(0, len(names), images).astype(np.int32)
    chances = rng.random((images, len(names)), np.float32) + 1e-3
    chances /= chances.sum(axis=1, keepdims=True)
    predicted = chances.argmax(axis=1).astype(np.int32)
    found = Predictions(
        chances,
        predicted,
        labels,
        np.arange(images, dtype=np.uint64),
        np.array(names),
        np.array([], dtype=str),
    )
    if finished:
        result = {
            "family": "plain3",
            "dataset": known["name"],
            "depths": depths[-1],
            "test_accuracy": 100 * float((labels == predicted).mean()),
            "best_validation_accuracy": 63.0,
            "validation": "held-out",
            "test_examples": images,
            "num_params": 1,
            "seconds": {"total": 10.0, "train": 6.0},
            "versions": {"jax": "0.1"},
        }
        workdir.result.write_text(json.dumps(result))
        found.write(workdir.test_predictions)
    return found


def test_a_page_has_all_its_parts(grown):
    page = _open(grown[0])
    assert {section["id"] for section in page.all("section")} == SECTIONS
    assert len(page.all("svg")) == 6
    assert page.all("html") == [{"lang": "en"}]
    (viewport,) = [meta for meta in page.all("meta") if meta.get("name") == "viewport"]
    assert "width=device-width" in viewport["content"]


def test_what_scrolls_can_be_reached_by_keys_and_has_a_name(grown):
    scrolled = [div for div in _open(grown[0]).all("div") if div.get("class") == "wide"]
    assert len(scrolled) >= 8
    assert all(div["tabindex"] == "0" and div["aria-label"] for div in scrolled)


def test_the_answer_is_that_of_the_result(grown):
    workdir, result = grown
    text = _open(workdir).text
    assert "-".join(map(str, result.depths)) in text
    assert f"{result.test_accuracy:.1f} % on 359 test images" in text
    assert f"The commonest answer alone, 0: {100 * 38 / 359:.1f} %" in text
    assert f"{result.num_params:,} parameters" in text
    network = build_network("plain3", result.depths, 10, 1)
    cost = estimate_cost(network, (8, 8, 1))
    assert f"{cost.flops / 1e6:.3g} MFLOPs an image" in text
    assert "in which the net grew 3 times" in text
    # The keys that are set are told with their defaults, those that follow from others are not.
    assert "data.fraction 0.1 1.0" in text and "learning_rate 0.01 None" not in text


def test_predictions_are_those_of_the_evaluation(grown):
    workdir, result = grown
    there = Workdir(workdir)
    tested = Predictions.read(there.test_predictions)
    assert 100 * (tested.predicted == tested.labels).mean() == pytest.approx(result.test_accuracy)
    np.testing.assert_array_equal(tested.predicted, tested.probabilities.argmax(axis=1))
    np.testing.assert_allclose(tested.probabilities.sum(axis=1), 1, rtol=1e-5)
    by_class = np.diag(tested.confusion()) / tested.confusion().sum(axis=1)
    np.testing.assert_allclose(list(result.more["class_accuracy"].values()), 100 * by_class)
    validated = Predictions.read(there.validation_predictions)
    last = read(there.metrics)[-1]["validation_accuracy"]
    assert 100 * (1 - validated.wrong.mean()) == pytest.approx(last)
    dataset = load_dataset("digits", fraction=0.1)
    np.testing.assert_array_equal(tested.ids, dataset.test.ids)
    np.testing.assert_array_equal(validated.labels, dataset.validation.labels)
    again = load(workdir).predict(dataset.test.images)
    np.testing.assert_allclose(tested.probabilities, again, atol=1e-4)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"growth.capacity": 0}, marks=pytest.mark.slow),
        pytest.param({"data.on_device": "no"}, marks=pytest.mark.slow),
        pytest.param(
            {"data.validation": "test", "data.flip": "yes", "data.crop_padding": 0},
            marks=pytest.mark.slow,
        ),
        {"mode": "scratch", "optimizer.ema": 0.5, "data.crop_padding": 0},
    ],
    ids=lambda changes: "-".join(map(str, changes.values())),
)
def test_every_way_of_feeding_predicts_what_it_evaluates(changes, tmp_path):
    changes = {"growth.max_epochs": 2, "finetune.epochs": 1, **changes}
    result = run(_config(**changes), tmp_path, reporter=QuietReporter())
    for part in ("test", "validation"):
        found = Predictions.read(tmp_path / f"{part}_predictions.npz")
        accuracy = 100 * (found.predicted == found.labels).mean()
        expected = result.test_accuracy
        if part == "validation":
            expected = read(tmp_path / "metrics.jsonl")[-1]["validation_accuracy"]
        assert accuracy == pytest.approx(expected)
    text = _open(tmp_path).text
    assert ("nothing grew" in text) == (changes.get("mode") == "scratch")
    assert ("steered growth, too" in text) == (changes.get("data.validation") == "test")
    assert ("mirrored" in text) == ("data.flip" in changes)
    assert ("Nothing is changed" in text) == (changes.get("mode") == "scratch")


def test_without_the_key_nothing_is_written(tmp_path):
    run(_config(**{"log.report": False, "mode": "scratch", "finetune.epochs": 1}), tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} & {".html", ".npz"} == set()


def test_a_report_that_fails_is_a_line_and_the_run_ends_well(tmp_path, monkeypatch, capsys):
    def fail(*_):
        raise RuntimeError("no more ink")

    monkeypatch.setattr(page, "write_report", fail)
    result = run(_config(**{"mode": "scratch", "finetune.epochs": 1}), tmp_path)
    assert json.loads((tmp_path / "result.json").read_text())["epochs"] == result.epochs == 1
    assert "the report could not be written (RuntimeError: no more ink)" in capsys.readouterr().out


def test_what_a_finished_run_lacks_of_what_is_drawn_is_drawn_by_the_next_start(tmp_path):
    """A run that was killed once its result was there had no picture and no page, for ever."""
    config = _config(**{"mode": "scratch", "finetune.epochs": 1})
    run(config, tmp_path)
    drawn = tmp_path / "report.html", tmp_path / "plots" / "growth.png"
    for path in drawn:
        path.unlink()
    run(config, tmp_path)
    assert all(path.stat().st_size > 0 for path in drawn)


@pytest.mark.slow
def test_a_front_is_compared_and_the_recommended_net_is_named(tmp_path):
    _write_run(tmp_path)
    path = tmp_path / "result.json"
    result = json.loads(path.read_text())
    numbers = {"num_params": 1000, "flops": 10**6, "milliseconds": 0.25, "growth_epochs": 3}
    numbers |= {"validation_accuracy": 61.5, "standard_error": 2.5, "finetune_epochs": 9}
    nets = [{"depths": [1, 1, 1], "stopped": True}, {"depths": [2, 2, 1], "stopped": False}]
    nets[1] |= {"brier": 0.5, "brier_behind": 0.0, "brier_error": 0.01234}
    front = {"front": [net | numbers for net in nets], "perturbed": 0.5}
    path.write_text(json.dumps(result | front))
    write_report(tmp_path)
    text = _open(tmp_path).text
    assert "(shaded), from weights moved by 0.5 towards fresh ones." in text
    assert "2 nets that growth passed were fine-tuned; 2-2-1 is recommended (★)" in text
    assert "1-1-1 61.50 ± 2.50 1,000 1 M 0.25 3 9 stopped early" in text
    assert "2-2-1 61.50 ± 2.50 0.0000 ± 0.0123 1,000 1 M 0.25 3 9 recommended" in text
    assert "★ test ○ other nets that were fine-tuned" in text
    # What the run itself counted is shown where the family is not registered.
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"model": {"family": "mine"}}))
    write_report(tmp_path)
    text = _open(tmp_path).text
    assert "cannot be counted: config.model.family is 'mine'" in text
    assert "1-1-1 61.50 ± 2.50 1,000 1 M 0.25 3 9 stopped early" in text


def test_names_of_all_kinds_are_escaped(tmp_path):
    names = ("<script>alert(1)</script>", "a \"b\" & 'c'", "bell\x07", "\udcff", "x" * 300)
    _write_run(tmp_path, names=names, where="</section><img src=http://a.b onerror=x>")
    html = write_report(tmp_path).read_text(encoding="utf-8")
    assert "<script>" not in html and "<img src=http" not in html and "\x07" not in html
    text = Page(html).text
    assert names[0] in text and names[1] in text and "bell" in text and names[4] in text
    assert tag("i", "<", title='"') == '<i title="&quot;">&lt;</i>'
    assert escape(["<", None, False, 0]) == "&lt;0"


def test_where_the_data_are_gone_the_rest_is_shown(tmp_path):
    found = _write_run(tmp_path)
    write_report(tmp_path)
    page = _open(tmp_path)
    assert {section["id"] for section in page.all("section")} == SECTIONS
    assert page.text.count("cannot be shown: ") == 2 and "gone.npz" in page.text
    assert page.all("img") == [] and "no longer there" in page.text
    assert f"{found.wrong.sum()} of 40 test images got a wrong answer" in page.text


def test_a_run_under_way_and_one_that_has_not_begun_have_pages(tmp_path, capsys):
    _write_run(tmp_path, finished=False)
    assert main([str(tmp_path)]) == 0
    assert f"wrote {tmp_path / 'report.html'}" in capsys.readouterr().out
    text = _open(tmp_path).text
    assert "2-2-1 so far, 63.0 % at best on 40 held-out images" in text
    assert "4 epochs done, in fine-tuning" in text and "keeps its answers when it ends" in text
    Workdir(tmp_path).metrics.unlink()
    write_report(tmp_path)
    assert "No epoch is done yet" in _open(tmp_path).text


def test_while_a_front_is_fine_tuned_by_turns_each_of_its_nets_is_told_once(tmp_path):
    """Each turn of a net was a line of the table and a point of the plot, with its name."""
    _write_run(tmp_path, finished=False)
    path = Workdir(tmp_path).metrics
    lines = read(path)[:3]
    turns = [(1, 70.0), (0, 64.0), (0, 65.5), (1, 72.5), (0, 66.0)]
    for epoch, (candidate, accuracy) in enumerate(turns, start=3):
        depths = [[1, 1, 1], [2, 2, 1]][candidate]
        more = {"epoch": epoch, "phase": "finetune", "depths": depths, "candidate": candidate}
        lines.append(lines[0] | more | {"validation_accuracy": accuracy})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    write_report(tmp_path)
    text = _open(tmp_path).text
    assert "1-1-1 so far, 66.0 % at best" in text
    assert text.count("1-1-1 fine-tuning") == text.count("2-2-1 fine-tuning") == 1
    assert "2-2-1 fine-tuning 2 72.50" in text and "1-1-1 fine-tuning 3 66.00" in text
    assert "All of them (5)" in text
    assert "Fine-tuning took 5 epochs of 2 nets by turns" in text
    assert "○ other nets that were fine-tuned" in text


@pytest.mark.parametrize("missing", ["config.json", "dataset.json", "result.json"])
@pytest.mark.parametrize("content", [None, "{", "[]"])
def test_a_file_that_is_missing_or_damaged_costs_its_own_part_alone(missing, content, tmp_path):
    _write_run(tmp_path, mode="scratch")
    path = tmp_path / missing
    path.unlink() if content is None else path.write_text(content)
    write_report(tmp_path)
    page = _open(tmp_path)
    sections = {section["id"] for section in page.all("section")}
    assert {"growth", "confusion", "doubts", "use", "config"} <= sections
    assert "3-1-1" in page.text


@pytest.mark.parametrize(
    "macs, told",
    [
        (0, "0"),
        (499_850, "1 M"),
        (499_999_000, "1 G"),
        (381, "762"),
        (3_810_000, "7.62 M"),
        (1e15, "2 P"),
    ],
)
def test_flops_have_three_figures_and_the_unit_that_suits_them(macs, told):
    assert format_flops(Cost(1, int(macs))) == told


def test_a_thousand_classes_are_a_picture_and_their_table_is_behind_a_click(tmp_path):
    _write_run(tmp_path, names=[f"class {i}" for i in range(1000)], images=3000)
    write_report(tmp_path)
    page = _open(tmp_path)
    (heat,) = [image for image in page.all("img") if "heat" in image["class"]]
    assert "1,000 classes" in heat["alt"]
    assert "Every class, the least found first (1,000)" in page.text
    assert (tmp_path / "report.html").stat().st_size < 2_000_000


def test_a_confusion_matrix_has_the_counts_and_the_percent_of_each_class(tmp_path):
    matrix = _write_run(tmp_path, images=200).confusion()
    write_report(tmp_path)
    text = _open(tmp_path).text
    (ant, bee), percent = matrix, (100 * matrix / matrix.sum(axis=1, keepdims=True)).round()
    assert f"ant bee ant {ant[0]} {ant[1]} bee {bee[0]} {bee[1]}" in text
    ant, bee = percent.astype(int)
    assert f"ant bee ant {ant[0]} {ant[1]} bee {bee[0]} {bee[1]}" in text


@pytest.fixture
def photos(tmp_path):
    """Two classes of images, of which the ones of a class are copies but for two."""
    rng = np.random.default_rng(0)
    for name in ("cats", "d<o>gs"):
        for part, count in (("train", 12), ("test", 4)):
            folder = tmp_path / "photos" / part / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 255, (10, 12, 3), np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
    copied = tmp_path / "photos" / "test" / "cats"
    (copied / "9.png").write_bytes((copied / "3.png").read_bytes())
    (copied / "broken.txt").write_bytes(b"no image")
    return tmp_path / "photos"


def test_files_are_named_in_the_order_of_their_images(photos, tmp_path):
    dataset = load_dataset(f"folder:{photos}", cache_directory=str(tmp_path / "cache"))
    for part in ("validation", "test"):
        files, images = dataset.files[part], dataset.parts[part]
        assert len(set(files)) == len(files) == len(images.labels)
        for file, pixels, label in zip(files, images.images, images.labels, strict=True):
            np.testing.assert_array_equal(np.asarray(Image.open(file)), pixels)
            assert f"/{dataset.class_names[label]}/" in file
    assert all("/train/" in file for file in dataset.files["validation"])
    assert load_dataset("digits").files == {}


def test_a_page_of_files_shows_them_with_their_names(photos, tmp_path):
    changes = {
        **{"data.name": f"folder:{photos}", "data.cache_dir": str(tmp_path / "cache")},
        **{"data.fraction": 1.0, "data.batch_size": 8, "growth.max_epochs": 1},
        "finetune.epochs": 1,
    }
    run(_config(**changes), tmp_path / "run", reporter=QuietReporter())
    page = _open(tmp_path / "run")
    assert "d<o>gs/0.png" in page.text and "cats/9.png" in page.text
    found = Predictions.read(tmp_path / "run" / "test_predictions.npz")
    assert found.files.shape == (9,)
    # Redrawn from the files alone it is the same page.
    before = (tmp_path / "run" / "report.html").read_text()
    write_report(tmp_path / "run")
    assert (tmp_path / "run" / "report.html").read_text() == before
