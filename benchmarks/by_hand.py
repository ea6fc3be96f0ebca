"""What growing by hand costs in a fresh process: init, each growth, the first step after it.

Beside it the same in plain Flax: a net is built anew for every depth, the new one is initialised
whole, and each depth's step is compiled. Without JAX's cache of compiled programs.

python -m benchmarks.by_hand [--family NAME] [--growths N] [--batch N] [--json FILE]
"""

import argparse
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from autogrow_jax.growth import grow
from autogrow_jax.models import build_network
from benchmarks.measure import describe_machine, print_machine, print_table, write_json
from benchmarks.unrolled import FlaxBlock, Unrolled

_CLASSES = 10


def _step(network: Any) -> Callable[..., Any]:
    """A step of plain SGD, compiled for this network."""

    def loss(params, stats, images, labels):
        variables = {"params": params, "batch_stats": stats}
        how = {"train": True, "live_depths": None, "mutable": ["batch_stats"]}
        logits, new = network.apply(variables, images, **how)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return losses.mean(), new["batch_stats"]

    @jax.jit
    def step(variables, images, labels):
        given = variables["params"], variables["batch_stats"], images, labels
        grads, stats = jax.grad(loss, has_aux=True)(*given)
        params = jax.tree.map(lambda p, g: p - 0.01 * g, variables["params"], grads)
        return {"params": params, "batch_stats": stats}

    return step


def _init(network: Any, key: jax.Array, images: jax.Array) -> Any:
    return jax.jit(lambda k, x: network.init(k, x, train=True, live_depths=None))(key, images)


def measure(family: str, growths: int, batch: int) -> list[dict[str, Any]]:
    """Times both by turns, so that what else the machine does slows both: a row for each event."""
    images = jax.random.uniform(jax.random.key(0), (batch, 32, 32, 3))
    labels = jnp.arange(batch) % _CLASSES
    rows: list[dict[str, Any]] = []

    def timed(event: str, who: str, call: Callable[[], Any]) -> Any:
        begin = time.perf_counter()
        result = jax.block_until_ready(call())
        if not rows or rows[-1]["event"] != event:
            rows.append({"event": event})
        rows[-1][who] = time.perf_counter() - begin
        return result

    key, depths = jax.random.key(1), [1, 1, 1]
    block = FlaxBlock if family.startswith("plain") else None
    ours, theirs = (
        build_network(family, depths, _CLASSES, 3),
        Unrolled(tuple(depths), family, block),
    )
    mine = timed("init", "ours", lambda: _init(ours, key, images))
    flax = timed("init", "flax", lambda: _init(theirs, key, images))
    mine = timed("first step", "ours", lambda: _step(ours)(mine, images, labels))
    flax = timed("first step", "flax", lambda: _step(theirs)(flax, images, labels))
    for number in range(growths):
        depths[1] += 1
        name = "-".join(map(str, depths))
        how = {"stage": 1, "key": jax.random.key(number), "initializer": "gaussian"}
        begin = time.perf_counter()
        ours, mine = grow(ours, mine, **how)
        jax.block_until_ready(mine)
        rows.append({"event": f"growth to {name}", "ours": time.perf_counter() - begin})
        theirs = Unrolled(tuple(depths), family, block)
        flax = timed(f"growth to {name}", "flax", lambda net=theirs: _init(net, key, images))
        after = f"first step of {name}"
        mine = timed(after, "ours", lambda net=ours, v=mine: _step(net)(v, images, labels))
        flax = timed(after, "flax", lambda net=theirs, v=flax: _step(net)(v, images, labels))
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints a table of seconds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--family", default="plain3", choices=("plain3", "basic3"))
    parser.add_argument("--growths", type=int, default=4)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--json", default="", metavar="FILE")
    options = parser.parse_args(arguments)
    jax.config.update("jax_enable_compilation_cache", False)
    machine = describe_machine()
    print_machine(machine)
    rows = measure(options.family, options.growths, options.batch)
    shown = [(row["event"], row["ours"], row["flax"], row["ours"] / row["flax"]) for row in rows]
    print_table(("seconds", "ours", "plain Flax", "ours / Flax"), shown)
    if options.json:
        write_json(options.json, {"options": vars(options), "machine": machine, "rows": rows})


if __name__ == "__main__":
    main()
