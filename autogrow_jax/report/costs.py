"""The parts of a report that weigh what nets cost against what they are good for."""

from collections.abc import Iterator
from itertools import pairwise

from autogrow_jax.models.cost import Cost
from autogrow_jax.report.facts import Facts
from autogrow_jax.report.figures import draw_costs
from autogrow_jax.report.markup import Markup, details, note, paragraph, table, tag
from autogrow_jax.reporting.metrics import growth_events
from autogrow_jax.reporting.numbers import format_behind, format_depths, round_percent

PHASES = {"growth": "growth", "finetune": "fine-tuning", "scratch": "training from scratch"}
# Of more growths of a stage the first ones are named.
_SHOWN = 12


def format_flops(cost: Cost) -> str:
    """FLOPs with the prefix of their unit, such as "7.62 M"."""
    units = ((1e15, " P"), (1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k"), (0, ""))
    flops = float(f"{cost.flops:.3g}")  # Or 999.9 million would be "1e+03 M".
    unit, name = next(pair for pair in units if flops >= pair[0])
    return f"{flops / (unit or 1):.3g}{name}"


def share_bar(share: float) -> Markup:
    """A share as a number and a bar."""
    bar = tag("span", class_="bar", style=f"width:{5 * share:.2f}em", aria_hidden="true")
    return tag("span", bar, f"{100 * share:.0f} %", class_="share")


def show_costs(facts: Facts) -> Iterator[Markup]:
    """Accuracy against cost, at all depths on the way."""
    passed = [(p, p.cost, p.best) for p in facts.passed if p.cost and p.best is not None]
    if not passed:
        if facts.no_costs:
            yield note(f"What nets of these depths cost cannot be counted: {facts.no_costs}.")
        yield from _show_front(facts)
        return
    grew = any(each.phase == "growth" for each, *_ in passed)
    yield paragraph(
        "Every depth that the run passed, its cost, and the best validation accuracy meanwhile."
        " Hollow: during growth, not trained to its end; filled: after fine-tuning."
        if grew
        else "What the net costs, and the best validation accuracy that it had."
    )
    if grew:
        words = tag("figcaption", "validation accuracy in percent")
        yield tag(
            "figure",
            words,
            draw_costs(
                [each for each, *_ in passed],
                facts.front,
                facts.depths if facts.front else (),
                is_over=bool(facts.result),
            ),
            class_="single",
        )
    yield from _show_front(facts)
    rows = [
        (
            format_depths(each.depths),
            PHASES.get(each.phase, each.phase),
            each.epochs,
            round_percent(best),
            f"{cost.num_params:,}",
            format_flops(cost),
        )
        for each, cost, best in passed
    ]
    head = ("depths", "phase", "epochs", "best validation, %", "parameters", "FLOPs an image")
    shown = table("Depths on the way", head, rows)
    yield details(f"All of them ({len(rows):,})", shown) if grew else shown


def _show_front(facts: Facts) -> Iterator[Markup]:
    """The nets that were fine-tuned, where these are several."""
    if not facts.front:
        return
    yield paragraph(
        f"{len(facts.front)} nets that growth passed were fine-tuned;"
        f" {format_depths(facts.depths)} is recommended (★). Bars: a standard error."
    )
    rows = []
    for net in facts.front:
        state = "stopped early" if net["stopped"] else ""
        state = "recommended" if tuple(net["depths"]) == facts.depths else state
        rows.append(
            (
                format_depths(net["depths"]),
                f"{round_percent(net['validation_accuracy'])} ± {net['standard_error']:.2f}",
                format_behind(net),
                f"{net['num_params']:,}",
                format_flops(Cost(net["num_params"], net["flops"] // 2)),
                f"{ms:,.0f}" if (ms := net["milliseconds"]) >= 999.5 else f"{ms:.3g}",
                net["growth_epochs"],
                net["finetune_epochs"],
                state,
            )
        )
    costs = "parameters", "FLOPs", "ms an image", "growth", "fine-tuned", ""
    head = ("depths", "validation, %", "Brier score, behind", *costs)
    yield table("The front", head, rows)


def show_stages(facts: Facts) -> Iterator[Markup]:
    """What each stage got, and what that costs."""
    whole = facts.cost(facts.depths)
    if not facts.lines or facts.pieces is None or facts.network is None or whole is None:
        return
    first, events = facts.passed[0].depths, growth_events(facts.lines)
    steps = list(pairwise([first, *(event["depths"] for event in events)]))
    parts = [("stem and head", "", "", facts.pieces.stem_and_head, "")]
    for stage, depth in enumerate(facts.depths):
        grew = [
            str(event["epoch"])
            for event, (old, new) in zip(events, steps, strict=True)
            if old[stage] != new[stage] and new[stage] <= depth
        ]
        more = f", ... {len(grew):,} times" if len(grew) > _SHOWN else ""
        blocks = f"{first[stage]} → {depth}" if grew else f"{depth}"
        width = f"{facts.network.family.widths[stage]:,}"
        when = ", ".join(grew[:_SHOWN]) + more if grew else "never"
        parts.append((f"stage {stage}", width, blocks, facts.pieces.stage(stage, depth), when))
    rows = [
        (
            name,
            width,
            blocks,
            f"{cost.num_params:,}",
            share_bar(cost.num_params / whole.num_params),
            format_flops(cost),
            share_bar(cost.macs / whole.macs),
            when,
        )
        for name, width, blocks, cost, when in parts
    ]
    head = ("", "channels", "blocks", "parameters", "", "FLOPs", "", "grew before epoch")
    yield table("Blocks and cost of each stage", head, rows)
