"""The parts of a report that tell what was found, how, at what cost, and what was asked for."""

import shlex
from collections.abc import Iterator
from itertools import pairwise

import autogrow_jax
from autogrow_jax.report.costs import PHASES, format_flops, share_bar
from autogrow_jax.report.facts import Facts
from autogrow_jax.report.figures import draw_growth_panels, draw_samples
from autogrow_jax.report.markup import (
    Markup,
    details,
    escape,
    note,
    paragraph,
    scrolled,
    table,
    tag,
)
from autogrow_jax.reporting.metrics import best_accuracy, growth_events
from autogrow_jax.reporting.numbers import (
    count_times,
    format_count,
    format_depths,
    format_duration,
    round_percent,
)
from autogrow_jax.reporting.predictions import wilson
from autogrow_jax.reporting.result import (
    AHEAD,
    describe_machine,
    describe_validation,
    on_trial,
    split_time,
)
from autogrow_jax.settings import all_keys


def format_percent(accuracy: float | None, of: int = 0) -> str:
    """An accuracy with as many digits as `of` images can tell apart."""
    digits = 2 if of > 1000 else 1
    return "not a number" if accuracy is None else f"{round_percent(accuracy, digits)}\xa0%"


def show_answer(facts: Facts) -> Iterator[Markup]:
    """What was found, in words."""
    result, lines = facts.result, facts.lines
    seed = facts.config.get("seed", result.get("seed"))
    words = f"{facts.family} on {facts.data_name}" + ("" if seed is None else f", seed {seed}")
    yield paragraph(words, class_="kicker")
    validation = result.get("validation", facts.config.get("data.validation"))
    validated = facts.known.parts["validation"].images if facts.known else None
    validated = validated or result.get("validation_examples")
    steered = describe_validation(validation, validated) if validation else "validation images"
    depths = tag("b", format_depths(facts.depths))
    if result:
        yield from _show_tested(facts, depths, steered)
    elif lines:
        best = format_percent(best_accuracy(lines))
        yield tag("h1", depths, f" so far, {best} at best on {steered}")
        yield paragraph(
            f"The run has not finished: {format_count(lines[-1]['epoch'] + 1, 'epoch')} done, in"
            f" {PHASES.get(lines[-1].get('phase', ''), 'training')}. The command that began it"
            " goes on where it stopped."
        )
    else:
        yield tag("h1", "No epoch is done yet")


def _show_tested(facts: Facts, depths: Markup, steered: str) -> Iterator[Markup]:
    """What a finished run found; `steered` says which images steered growth."""
    result = facts.result
    tested, accuracy = result.get("test_examples") or 0, result.get("test_accuracy")
    images = format_count(tested, "test image") if tested else "the test images"
    yield tag("h1", depths, f", {format_percent(accuracy, tested)} on {images}")
    words = []
    if tested and accuracy is not None:
        ends = (format_percent(x, tested) for x in wilson(round(accuracy * tested / 100), tested))
        words.append("95 % interval {} to {} (Wilson).".format(*ends).replace("\xa0% to", " to"))
    if "commonest_class_accuracy" in result:
        share = format_percent(result["commonest_class_accuracy"], tested)
        words.append(f"The commonest answer alone, {result['commonest_class']}: {share}.")
    if result.get("validation") == "test":
        words.append("These images steered growth, too (the paper's protocol): it flatters a bit.")
    elif "best_validation_accuracy" in result:
        best = format_percent(result["best_validation_accuracy"])
        words.append(f"{best} at best on {steered}, which steered growth.")
    yield paragraph(" ".join(words), class_="lead")
    words = [f"{result['num_params']:,} parameters"] if "num_params" in result else []
    if cost := facts.cost(facts.depths):
        words.append(f"{format_flops(cost)}FLOPs an image")
    if total := (result.get("seconds") or {}).get("total"):
        machine = describe_machine(result["devices"]) if "devices" in result else "one machine"
        words.append(f"{format_duration(total)} on {machine}")
    yield paragraph(", ".join(words), ".")


def _show_start(facts: Facts) -> str:
    """Where the net came from, to stand behind its depths; "" where it came from nowhere."""
    if not (path := facts.config.get("init_from")):
        return ""
    if start := facts.result.get("init_from"):
        kept = format_count(len(start["classes_kept"]), "class").replace("classs", "classes")
        return f", the net that {path} found on {start['dataset']} ({kept} of the same name),"
    return f", the net that {path} found,"


def show_growth(facts: Facts) -> Iterator[Markup]:
    """The course of the run."""
    lines, events = facts.lines, growth_events(facts.lines)
    if not lines:
        yield note("Nothing to show before the first epoch is over.")
        return
    first = facts.passed[0].depths
    epochs = {name: sum(line.get("phase") == name for line in lines) for name in PHASES}
    trials = on_trial(sum(line.get("trial") is not None for line in lines))
    words = f"{format_depths(facts.depths)} was trained from scratch: nothing grew."
    if start := _show_start(facts):
        words = f"{format_depths(facts.depths)}{start} was trained on: nothing grew."
    if epochs["growth"]:
        words = (
            f"Growth began with {format_depths(first)}{_show_start(facts)} and took"
            f" {format_count(epochs['growth'], 'epoch')}{trials}, in which the net grew"
            f" {count_times(len(events)) if events else 'not once'}"
            + (f", to {format_depths(events[-1]['depths'])}." if events else ".")
        )
    if epochs["finetune"]:
        nets = f" of {format_count(facts.tuned, 'net')} by turns" if facts.tuned else ""
        words += f" Fine-tuning took {format_count(epochs['finetune'], 'epoch')}{nets} (shaded)"
        moved = facts.result.get("perturbed")
        words += f", from weights moved by {moved:g} towards fresh ones." if moved else "."
    yield paragraph(words)
    panels = draw_growth_panels(
        lines, facts.result.get("test_accuracy"), facts.depths if facts.front else ()
    )
    figures = (tag("figure", tag("figcaption", name), svg) for name, svg in panels.items())
    yield tag("div", figures, class_="plots")
    keys = {"validation": "currentColor", "train": "var(--c5)"}
    keys |= {f"stage {i}": f"var(--c{i % 5})" for i in range(len(first))}
    marks = [tag("span", tag("i", style=f"background:{color}"), f"{name} ")
             for name, color in keys.items()]  # fmt: skip
    both = {"tried, not kept": trials, "other nets that were fine-tuned": facts.tuned}
    dots = "; ".join(text for text, are_there in both.items() if are_there)
    ends = "test_accuracy" in facts.result and "★ test ", bool(dots) and f"○ {dots}"
    yield paragraph(marks, *ends, class_="keys")
    if events:
        best = {each.depths: each.best for each in facts.passed if each.phase == "growth"}
        steps = pairwise([first, *(tuple(event["depths"]) for event in events)])
        rows = [
            (
                event["epoch"],
                "several" if event["stage"] is None else event["stage"],
                format_depths(after),
                *("-" if (x := best.get(d)) is None else round_percent(x) for d in (before, after)),
            )
            for event, (before, after) in zip(events, steps, strict=True)
        ]
        head = ("before epoch", "stage", "depths", "best before, %", "best then, %")
        yield details(f"Every growth ({len(events):,})", table("Every growth", head, rows))


def show_time(facts: Facts) -> Iterator[Markup]:
    """Seconds by what they went on."""
    seconds = facts.result.get("seconds") or {}
    if split := split_time(seconds):
        total = seconds["total"]
        rows = [(name, f"{spent:,.1f}", share_bar(spent / total)) for name, spent in split.items()]
        yield table("Seconds", ("", "seconds", ""), [*rows, ("in all", f"{total:,.1f}", "")])
        if ahead := seconds.get(AHEAD):
            yield paragraph(f"Beside it a thread compiled ahead, for {ahead:,.1f} s.")
    elif facts.lines:
        spent = sum(line.get("seconds") or 0 for line in facts.lines)
        yield paragraph(f"{format_duration(spent)} in epochs so far; the rest is told at the end.")


def show_samples(facts: Facts) -> Iterator[Markup]:
    """Training images, as they are and as the net sees them."""
    if known := facts.known:
        height, width, channels = known.image_shape
        counts = (f"{known.parts[part].images:,}" for part in ("train", "validation", "test"))
        yield paragraph(
            f"{len(known.class_names):,} classes, images of {height}×{width} pixels and"
            f" {format_count(channels, 'channel')}, from {known.where}: "
            + "{} to train on, {} for validation, {} to test on.".format(*counts)
        )
    if facts.dataset is None:
        yield note(f"The images cannot be shown: {facts.no_pictures}.")
    else:
        if facts.dataset.image_shape[-1] not in (1, 3):
            yield note("Of each image the first channel is shown.")
        name = facts.config.get("data.augment", "crop_flip")
        yield from draw_samples(facts.dataset, name, facts.augmentation)


def show_config(facts: Facts) -> Iterator[Markup]:
    """What was asked for: first what is no default."""
    if not facts.config:
        yield note("config.json is missing or damaged.")
        return
    every = [(tag("code", name), tag("code", repr(v))) for name, v in facts.config.items()]
    rows = [
        (tag("code", name), *(tag("code", repr(v)) for v in values), _help(name))
        for name, *values in facts.changed
    ]
    if rows:
        yield table("Keys that differ", ("key", "value", "default", "what it is"), rows)
    else:
        yield paragraph("All keys have their defaults.")
    yield details(f"All keys ({len(every)})", table("All keys", ("key", "value"), every))


def _help(name: str) -> Markup:
    """What a key is: the table's words, in which backquotes are Markdown."""
    keys = all_keys()
    parts = keys[name].help.split("`") if name in keys else []
    return escape(tag("code", part) if i % 2 else part for i, part in enumerate(parts))


def show_use(facts: Facts) -> Iterator[Markup]:
    """How to load the net."""
    if not facts.lines:
        return
    shape = "×".join(map(str, facts.image_shape)) or "height×width×channels"
    code = (
        "from autogrow_jax.training import load\n\n"
        f"net = load({str(facts.workdir.root)!r})\n"
        f"probabilities = net.predict(images)  # uint8, {shape} each\n"
        "names = [net.class_names[i] for i in probabilities.argmax(axis=1)]\n"
    )
    command = f"autogrow predict --workdir={shlex.quote(str(facts.workdir.root))} IMAGES\n"
    yield paragraph("From Python, on any machine, without the data; or by a command:")
    yield scrolled(tag("pre", tag("code", code, "\n", command)), "Code that loads the net")


def show_versions(facts: Facts) -> Markup:
    """What the run and the page were made with."""
    versions = facts.result.get("versions") or {"autogrow_jax": autogrow_jax.__version__}
    return paragraph(", ".join(f"{name} {version}" for name, version in versions.items()))
