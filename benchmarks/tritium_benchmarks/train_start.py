"""How long `tritium train` takes from the start of its process to its first step of training.

    python -m tritium_benchmarks.train_start recipes/openmoji.toml

Runs the command several times and stops it at the first step of its optimiser. The first run fills
the cache and is not counted. Prints wall-clock seconds, and processor seconds, which say the same
on a machine that others use, too.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence

REPEATS = 5
_COMMAND = """
import json, os, sys, time
started = time.time() - float(open("/proc/uptime").read().split()[0])
ticks = int(open("/proc/self/stat").read().rpartition(")")[2].split()[19])
started += ticks / os.sysconf("SC_CLK_TCK")

class Watch:
    # Torch is imported when it is needed, not here: that is part of what is measured.
    def find_spec(self, name, path=None, target=None):
        if name == "tritium_builders.training.folds":
            import torch

            def step(self, *_, **__):
                print(json.dumps({"wall_s": time.time() - started, "cpu_s": time.process_time()}))
                sys.stdout.flush()
                os._exit(0)

            torch.optim.AdamW.step = step
        return None

sys.meta_path.insert(0, Watch())
from tritium_client.cli import main
main()
"""


def measure(recipe: str, repeats: int = REPEATS) -> list[dict[str, float]]:
    """Start the training of a recipe again and again.

    Args:
        recipe: Its path.
        repeats: How often, beside the first.

    Returns:
        For each run `wall_s` and `cpu_s` up to the first step.

    Raises:
        subprocess.CalledProcessError: when the training cannot start.
    """
    runs = []
    for _ in range(repeats + 1):
        done = subprocess.run(
            [sys.executable, "-c", _COMMAND, "train", recipe],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
        runs.append(json.loads(done.stdout.splitlines()[-1]))
    return runs[1:]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print the medians."""
    parser = argparse.ArgumentParser(description="Time from start to first training step.")
    parser.add_argument("recipe")
    parser.add_argument("--repeats", type=int, default=REPEATS)
    given = parser.parse_args(arguments)
    runs = measure(given.recipe, given.repeats)
    for name, what in (("wall_s", "wall clock"), ("cpu_s", "processor")):
        values = [run[name] for run in runs]
        print(f"{what}: median {statistics.median(values):.2f} s of {len(values)} "  # noqa: T201
              f"({min(values):.2f} to {max(values):.2f})")  # fmt: skip


if __name__ == "__main__":
    main()
