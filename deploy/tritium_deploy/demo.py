"""`tritium demo`: from packaged weights to verified answers of a real Triton server.

Trains and builds the demo app where that was not done yet, serves it on free ports, asks it about
pictures that training never saw, and shows what came back.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tritium_builders import Bundle, build
from tritium_builders.inspect import choice_line, parity_table
from tritium_builders.release import Release
from tritium_builders.samples import Sample
from tritium_builders.training import train
from tritium_builders.training.report import TrainingReport
from tritium_builders.training.run import REPORT
from tritium_client import Classification, Client
from tritium_deploy.ports import Ports
from tritium_deploy.server import serve

IN_FLIGHT = 4


@dataclass(frozen=True)
class Answers:
    """What the server says about one item, with each set of modalities."""

    sample: Sample
    both: Classification
    text: Classification
    image: Classification


def run_demo(recipe: Path, bundle: Path, repository: Path, console: Console) -> None:
    """Run the whole way of the data once and print what it gave.

    Args:
        recipe: The demo recipe.
        bundle: Where its bundle is, or will be written.
        repository: The Triton model repository.
        console: Where to print.
    """
    steps: dict[str, float] = {}
    with _step(console, steps, "train"):
        trained = train(recipe, out=bundle, reuse=True)
    with _step(console, steps, "build"):
        release = build(trained, repository=repository)
    with _step(console, steps, "serve"):
        server = serve(repository, ports=Ports.free(), apps=[release.app])
    with server, Client(server.grpc_url, app=release.app) as client:
        with _step(console, steps, "ask"):
            answers = ask(client, trained.validation)
        with _step(console, steps, "stop"):
            server.close()
    shown = answers[: len(release.labels)]
    console.print(answers_table(shown))
    console.print(modalities_table(shown))
    console.print(accuracy_table(answers, trained))
    console.print(parity_table(release.parity))
    if release.choice is not None:
        console.print(choice_line(release.choice))
    _print_end(console, release, repository, steps)


def ask(client: Client, samples: Sequence[Sample]) -> list[Answers]:
    """Ask about every sample with both modalities and with each alone.

    Args:
        client: Of the demo app.
        samples: Labelled items.
    """
    client.classify(text=samples[0].text, image=samples[0].image)  # connect, fetch the labels

    def one(sample: Sample) -> Answers:
        return Answers(
            sample,
            client.classify(text=sample.text, image=sample.image, timeout_s=30),
            client.classify(text=sample.text, timeout_s=30),
            client.classify(image=sample.image, timeout_s=30),
        )

    # One at a time for those that are shown: their latency is one request's, not a queue's.
    shown = [one(sample) for sample in one_of_each(samples)]
    asked = {item.sample.id for item in shown}
    with ThreadPoolExecutor(IN_FLIGHT) as pool:
        return shown + list(pool.map(one, (s for s in samples if s.id not in asked)))


def one_of_each(samples: Sequence[Sample]) -> list[Sample]:
    """Take the middle item of every label: neighbours in the data set look alike."""
    by_label: dict[str | None, list[Sample]] = {}
    for sample in samples:
        by_label.setdefault(sample.label, []).append(sample)
    return [items[len(items) // 2] for items in by_label.values()]


def answers_table(answers: Sequence[Answers]) -> Table:
    """Show what text and picture together were taken for."""
    table = Table(
        "picture", "text", "truth", "answer", "probability", "latency",
        title="Held-out items, text + picture", title_justify="left",
    )  # fmt: skip
    for item in answers:
        row = _marked(item.both, item.sample.label)
        table.add_row(
            item.sample.id,
            item.sample.text,
            item.sample.label,
            row,
            f"{item.both.probability:.0%}",
            f"{item.both.timing.total_s * 1000:.0f} ms",
        )
    return table


def modalities_table(answers: Sequence[Answers]) -> Table:
    """Show the same items with one modality left out."""
    table = Table(
        "text", "truth", "text only", "picture only",
        title="The same items with one modality left out", title_justify="left",
    )  # fmt: skip
    for item in answers:
        truth = item.sample.label
        table.add_row(
            item.sample.text,
            truth,
            f"{_marked(item.text, truth)} {item.text.probability:.0%}",
            f"{_marked(item.image, truth)} {item.image.probability:.0%}",
        )
    return table


def accuracy_table(answers: Sequence[Answers], bundle: Bundle) -> Table:
    """Compare the served accuracy with models of one modality, on the same held-out items."""
    report = TrainingReport.model_validate_json((bundle.folder / REPORT).read_bytes())
    ways: dict[str, Callable[[Answers], Classification]] = {
        "text + picture": lambda item: item.both,
        "text only": lambda item: item.text,
        "picture only": lambda item: item.image,
    }
    alone = {
        "text + picture": "",
        "text only": f"{report.text_model.mean:.1%}",
        "picture only": f"{report.image_model.mean:.1%}",
    }
    table = Table(
        "callers give", "served accuracy", "a model trained on that alone",
        title=f"Accuracy on {len(answers)} held-out items", title_justify="left",
    )  # fmt: skip
    for name, way in ways.items():
        right = sum(way(item).label == item.sample.label for item in answers)
        table.add_row(name, f"{right / len(answers):.1%}", alone[name])
    seeds = len(report.text_model.by_seed)
    table.caption = (
        f"right column: mean of {seeds} seeds; fusion gains {report.gain_points:+.1f} points"
    )
    return table


def _marked(answer: Classification, truth: str | None) -> str:
    return f"[green]{answer.label}[/]" if answer.label == truth else f"[red]{answer.label}[/]"


@contextmanager
def _step(console: Console, steps: dict[str, float], name: str) -> Iterator[None]:
    started = time.perf_counter()
    with console.status(name):
        yield
    steps[name] = time.perf_counter() - started
    console.print(f"{name}: {steps[name]:.1f} s")


def _print_end(
    console: Console, release: Release, repository: Path, steps: dict[str, float]
) -> None:
    folder = repository / release.alias(release.entry_points[0]) / str(release.number)
    console.print(f"{release.app} release {release.number} lies in {folder}", highlight=False)
    spent = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in steps.items())
    console.print(f"{spent}; Triton is stopped. Keep it serving with: make serve", highlight=False)
