"""Lists the benchmarks, or runs them all small: python -m benchmarks [--quick]."""

import argparse
from collections.abc import Callable

from benchmarks import convolution, depth_as_data

# What each is called with so that all of them end within a few minutes. Such small sizes show
# that the benchmarks run, not what they are there to show.
QUICK: dict[Callable[[list[str]], None], str] = {
    depth_as_data.main: "--last 5 --batch-size 16 --steps 1 --repeats 3 --samples 4",
    convolution.main: "--repeats 3 --limit 1 --shapes 2",
}


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="run all of them, at small sizes")
    options = parser.parse_args()
    for run, arguments in QUICK.items():
        name = run.__module__
        if options.quick:
            print(f"\n== python -m {name} {arguments}", flush=True)
            run(arguments.split())
        else:
            summary = (__import__(name, fromlist=["__doc__"]).__doc__ or "").splitlines()[0]
            print(f"python -m {name}\n    {summary}")


if __name__ == "__main__":
    main()
