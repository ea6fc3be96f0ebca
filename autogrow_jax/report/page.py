"""report.html: what a run found, how, at what cost and with which mistakes, in one file.

It is made of the files of the workdir alone, so it can be drawn while a run goes on and again
later; the data are only needed for the pictures. Nothing in it runs or is fetched.
"""

from pathlib import Path

from autogrow_jax.data import Augmentation, Dataset
from autogrow_jax.report import costs, sections
from autogrow_jax.report.facts import Facts, gather
from autogrow_jax.report.markup import Markup, escape, tag
from autogrow_jax.report.mistakes import show_predictions
from autogrow_jax.reporting.numbers import format_depths
from autogrow_jax.reporting.workdir import replace_file
from autogrow_jax.settings_files import load_config


def write_report(
    root: Path,
    dataset: Dataset | None = None,
    augmentation: Augmentation | None = None,
    *,
    config: str = "",
) -> Path:
    """Writes report.html into the workdir `root` and returns its path.

    The data, and an augmentation of one's own, are found again where they are not given; where
    that fails the page says why and shows the rest. `config` is a file that registers what else is
    of one's own. UserError where metrics.jsonl or that file cannot be used.
    """
    if config:
        load_config(config)
    facts = gather(root, dataset, augmentation)
    page = render(facts)
    replace_file(facts.workdir.report, page.encode("utf-8"))
    return facts.workdir.report


def render(facts: Facts) -> str:
    """The page as a text."""
    parts = [
        ("growth", "How it went", sections.show_growth(facts)),
        ("cost", "Accuracy and cost", costs.show_costs(facts)),
        ("stages", "What each stage was given", costs.show_stages(facts)),
        ("time", "Where the time went", sections.show_time(facts)),
        ("samples", "What it was trained on", sections.show_samples(facts)),
        *show_predictions(facts),
        ("config", "The config", sections.show_config(facts)),
        ("use", "Use the net", sections.show_use(facts)),
    ]
    shown = [(key, title, content) for key, title, part in parts if (content := escape(part))]
    links = (tag("li", tag("a", title, href=f"#{key}")) for key, title, _ in shown)
    main = (
        tag("section", tag("h2", title, id=f"{key}-h"), content, id=key, aria_labelledby=f"{key}-h")
        for key, title, content in shown
    )
    style = Path(__file__).with_name("report.css").read_text(encoding="utf-8")
    depths = format_depths(facts.depths) or "no epoch yet"
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", f"{depths}: {facts.family} on {facts.data_name}"),
        tag("style", Markup(style)),
    )
    body = tag(
        "body",
        tag("a", "Skip to the results", href="#main", class_="skip"),
        tag("header", sections.show_answer(facts)),
        tag("nav", tag("ul", links), aria_label="Sections"),
        tag("main", main, id="main"),
        tag("footer", sections.show_versions(facts)),
    )
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"
