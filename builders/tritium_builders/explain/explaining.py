"""From a bundle and one item to an explanation."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from tritium_builders.bundle import Bundle
from tritium_builders.bundle_schema import EXPORTED, BundleManifest
from tritium_builders.errors import ExplainError
from tritium_builders.explain.answering import Answering, GraphAnswering, ModuleAnswering
from tritium_builders.explain.attributions import Attributions, regions
from tritium_builders.explain.item import ExplainedItem, prepare_item
from tritium_builders.explain.outputs import choose_output, choose_word, output_labels
from tritium_builders.explain.records import (
    GRID,
    Explanation,
    Method,
    ModalityShare,
    TokenAttribution,
)
from tritium_builders.graphs import architectures, load_model, write_graphs
from tritium_builders.reference import FusionModel
from tritium_client.contract import MODALITIES, Modality

BEST = 5


def explain(
    bundle: Bundle | str | os.PathLike[str],
    *,
    text: str,
    image: bytes | str | os.PathLike[str],
    method: Method | None = None,
    label: str | None = None,
    word: str | None = None,
    progress: bool = False,
) -> Explanation:
    """Say what each token and each region of the picture adds to an answer.

    Args:
        bundle: A bundle, or its folder.
        text: The text.
        image: An encoded picture, or its path.
        method: Default: integrated gradients; occlusion for a bundle that keeps graphs.
        label: Whose output is explained. Default: the highest; of a regression the first.
        word: Of an app that tags words, the one whose tag is explained, as the text has it.
            Default: the one that is surest to be in an entity.
        progress: Whether methods that take long show how far they are, on stderr.

    Raises:
        ExplainError: the item cannot be read, the label or the word is unknown, or the bundle
            cannot be explained like this.
        BundleError: the bundle cannot be used.
        MissingExtraError: when captum is not installed.
    """
    if not isinstance(bundle, Bundle):
        bundle = Bundle.load(bundle)
    manifest = bundle.manifest
    model = load_model(bundle)
    graphs_only = EXPORTED in architectures(bundle).values()
    chosen: Method = method or ("occlusion" if graphs_only else "integrated_gradients")
    if graphs_only and chosen != "occlusion":
        raise ExplainError(
            f"{manifest.app} keeps graphs of its modules, which have no gradients and show no "
            "attention; take --method occlusion"
        )
    item = prepare_item(model, text, read_image(image))
    with tempfile.TemporaryDirectory(prefix="tritium-explain-") as folder:
        graphs = write_graphs(bundle, Path(folder)) if graphs_only else None

        def asked(own: ExplainedItem) -> Answering:
            if graphs is None:
                return ModuleAnswering(model, own.tagged)
            return GraphAnswering(graphs, manifest, own.tagged)

        item = choose_word(manifest, asked, item, word)
        return _explain(manifest, model, asked(item), item, chosen, label, progress)


def read_image(image: bytes | str | os.PathLike[str]) -> bytes:
    """The bytes of a picture that is given as such or by its path.

    Raises:
        ExplainError: when it cannot be read.
    """
    if isinstance(image, bytes):
        return image
    try:
        return Path(image).read_bytes()
    except OSError as error:
        raise ExplainError(f"{image}: cannot be read ({error.strerror}); check the path") from error


def _explain(
    manifest: BundleManifest,
    model: FusionModel,
    ask: Answering,
    item: ExplainedItem,
    method: Method,
    label: str | None,
    progress: bool,
) -> Explanation:
    answers = ask(item.ids, item.pixels)[0]
    index, labels = choose_output(manifest, answers, label), output_labels(manifest)
    output = float(answers[index])
    found = _attribute(model, ask, item, index, method, progress)
    grid = None
    if found.pixels is not None:
        count = min(GRID, *found.pixels.shape)
        grid = regions(found.pixels, count, averaged=found.averaged)
    sums = {
        "text": None if found.tokens is None else float(found.tokens.sum()),
        "image": None if grid is None else float(grid.sum()),
    }
    gap = None
    if found.baseline is not None:
        gap = output - found.baseline - sum(value or 0.0 for value in sums.values())
    tokens = [0.0] * len(item.tokens) if found.tokens is None else found.tokens.tolist()
    ordered = answers.argsort(descending=True)[:BEST].tolist()
    shares = {
        modality: _share(manifest, ask, item, index, modality, sums, found.baseline is not None)
        for modality in MODALITIES
    }
    return Explanation(
        app=manifest.app,
        task=manifest.task,
        method=method,
        label=labels[index],
        word=None if item.tagged is None else item.tagged.word,
        output=output,
        best={labels[place]: float(answers[place]) for place in ordered},
        baseline=found.baseline,
        gap=gap,
        tokens=[
            TokenAttribution(
                token=token, start=start, end=end, special=bool(special), attribution=value
            )
            for token, (start, end), special, value in zip(
                item.tokens, item.spans, item.special, tokens, strict=True
            )
        ],
        regions=[] if grid is None else grid.tolist(),
        text=shares["text"],
        image=shares["image"],
        notes=list(found.notes),
    )


def _attribute(
    model: FusionModel,
    ask: Answering,
    item: ExplainedItem,
    index: int,
    method: Method,
    progress: bool,
) -> Attributions:
    from tritium_builders.explain.attention import attention
    from tritium_builders.explain.gradients import gradient, integrated_gradients
    from tritium_builders.explain.occlusion import occlusion

    match method:
        case "integrated_gradients":
            return integrated_gradients(model, item, index)
        case "gradient":
            return gradient(model, item, index)
        case "attention":
            return attention(model, item)
        case "occlusion":
            return occlusion(ask, item, index, progress=progress)


def _share(
    manifest: BundleManifest,
    ask: Answering,
    item: ExplainedItem,
    index: int,
    modality: Modality,
    sums: Mapping[str, float | None],
    adds_up: bool,
) -> ModalityShare:
    others = [other for other in MODALITIES if other != modality]
    without = None
    # A vector of one modality is no answer to how similar both are.
    if others in manifest.entry_points and manifest.task != "embedding":
        without = float(ask(item.ids, item.pixels, others)[0, index])
    total = sum(abs(value or 0.0) for value in sums.values())
    own = sums[modality]
    if not adds_up or own is None:
        return ModalityShare(attribution=None, share=None, without=without)
    return ModalityShare(attribution=own, share=abs(own) / total if total else 0.5, without=without)
