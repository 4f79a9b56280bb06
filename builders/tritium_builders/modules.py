"""Torch modules -> the files of a bundle, after checks that name what cannot be served."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import safetensors.torch
import torch
from tokenizers import Tokenizer
from torch import nn

from tritium_builders.bundle import GOLDEN_TENSORS, SAMPLES, TOKENIZER
from tritium_builders.bundle_schema import (
    EXPORTED,
    EncoderEntry,
    FeatureKind,
    FusionHeadEntry,
)
from tritium_builders.errors import BundleError
from tritium_builders.export import (
    export_fusion_head,
    export_image_encoder,
    export_text_encoder,
    takes_mask,
)
from tritium_builders.models.known import KnownModule
from tritium_builders.preprocessing import ImagePreprocessing, TextPreprocessing
from tritium_builders.reference import Answer, FusionModel, golden_sample, golden_tensors
from tritium_builders.samples import Sample, modalities_key, sample_files
from tritium_builders.tasks import ENTRY_POINTS, answer_tensor
from tritium_builders.tolerances import TOLERANCES
from tritium_client.contract import Modality, Task

BOTH: tuple[Modality, ...] = ("text", "image")
ONE_VECTOR: tuple[Task, ...] = ("classification", "multilabel", "regression")
"""Tasks whose answer to both modalities together is one vector."""
DEFAULT_MAX_LENGTH = 128
WEIGHTS = "model.safetensors"
CONFIG = "config.json"
GRAPH = "model.onnx"


@dataclass(frozen=True)
class ModuleSet:
    """What `Bundle.from_modules` was given."""

    text_encoder: nn.Module
    image_encoder: nn.Module
    fusion_head: nn.Module
    tokenizer: Any
    text: TextPreprocessing | None
    image: ImagePreprocessing
    labels: tuple[str, ...]
    reference: Callable[[str, bytes], Any] | None
    entry_points: Sequence[Sequence[Modality]] | None
    fusion: str
    task: Task = "classification"


def write_modules(
    modules: ModuleSet, sets: Mapping[str, Sequence[Sample]], folder: Path
) -> dict[str, Any]:
    """Check the modules on the golden samples and write tokenizer, components and samples.

    Args:
        modules: The modules and their preprocessing.
        sets: The three sample sets by name.
        folder: An empty folder.

    Returns:
        The manifest's fields that follow from the modules.

    Raises:
        BundleError, ExportError: why the modules cannot be served as they are.
    """
    tokenizer, text = _read_tokenizer(modules)
    (folder / TOKENIZER).write_text(tokenizer.to_str(), encoding="utf-8")
    tokenizer.enable_truncation(max_length=text.max_length)
    with _evaluating(modules.text_encoder, modules.image_encoder, modules.fusion_head):
        model = FusionModel(
            modules.text_encoder,
            modules.image_encoder,
            modules.fusion_head,
            tokenizer,
            text,
            modules.image,
            modules.task,
        )
        entry_points = _find_entry_points(modules, model, sets["golden"])
        answers = _answer_golden(modules, model, sets["golden"], entry_points)
        _check_longest_text(model)
        text_entry, image_entry = _describe_encoders(modules, answers[0])
        _check_padding(model, answers)
        _write_components(modules, model, text_entry, image_entry, entry_points, folder)
    golden = [
        golden_sample(sample, answer, modules.labels, modules.task)
        for sample, answer in zip(sets["golden"], answers, strict=True)
    ]
    _write_samples({**sets, "golden": golden}, folder)
    tensors = golden_tensors(answers, text_entry.features, image_entry.features)
    # The order that these answers were given in: labels that are swapped later do not match it.
    order = {"labels": json.dumps(modules.labels)}
    safetensors.numpy.save_file(tensors, folder / GOLDEN_TENSORS, metadata=order)
    size = len(answers[0].values[modalities_key(entry_points[0])])
    return {
        **({"embedding_size": size} if modules.task == "embedding" else {}),
        "entry_points": entry_points,
        "text": text,
        "text_encoder": text_entry,
        "image_encoder": image_entry,
        "fusion_head": FusionHeadEntry(
            architecture=_architecture(modules.fusion_head),
            strategy=modules.fusion,
            takes_mask=takes_mask(model, BOTH, text_entry.features),
        ),
    }


def _read_tokenizer(modules: ModuleSet) -> tuple[Tokenizer, TextPreprocessing]:
    given = modules.tokenizer
    backend = getattr(given, "backend_tokenizer", given)  # Hugging Face's fast tokenizers
    try:
        source = backend if isinstance(backend, bytes) else backend.to_str().encode()
        tokenizer = Tokenizer.from_buffer(source)
    except Exception as error:
        # tokenizers raises a bare Exception for a damaged file.
        raise BundleError(
            file="tokenizer",
            problem=f"{type(given).__name__} cannot be used ({error})",
            fix="give a fast Hugging Face tokenizer or a tokenizers.Tokenizer",
        ) from error
    text = modules.text or _text_preprocessing(given, tokenizer)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer, text


def _text_preprocessing(given: Any, tokenizer: Tokenizer) -> TextPreprocessing:
    longest = getattr(given, "model_max_length", None) or (tokenizer.truncation or {}).get(
        "max_length", DEFAULT_MAX_LENGTH
    )
    padding = tokenizer.padding or {}
    return TextPreprocessing(
        # A tokenizer that knows no limit says so with a huge number.
        max_length=longest if longest <= 8192 else DEFAULT_MAX_LENGTH,
        padding_side=getattr(given, "padding_side", None) or padding.get("direction", "right"),
        pad_id=getattr(given, "pad_token_id", None) or padding.get("pad_id", 0),
    )


@contextlib.contextmanager
def _evaluating(*modules: nn.Module) -> Iterator[None]:
    """Put modules into evaluation mode for a while; dropout must not decide an answer."""
    training = [module for part in modules for module in part.modules() if module.training]
    for module in modules:
        module.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _find_entry_points(
    modules: ModuleSet, model: FusionModel, golden: Sequence[Sample]
) -> list[list[Modality]]:
    if modules.entry_points is not None:
        return [list(given) for given in modules.entry_points]
    main, *others = ENTRY_POINTS[modules.task]
    found: list[list[Modality]] = [list(main)]
    for given in others:
        # Whatever a head raises when a modality is None means that it cannot do without it.
        with contextlib.suppress(Exception):
            model.answer(golden[0].text, golden[0].image, [given])
            found.append(list(given))
    return found


def _answer_golden(
    modules: ModuleSet,
    model: FusionModel,
    golden: Sequence[Sample],
    entry_points: Sequence[Sequence[Modality]],
) -> list[Answer]:
    answers = []
    for sample in golden:
        where = {"file": "examples", "field": f"sample {sample.id}"}
        try:
            answer = model.answer(sample.text, sample.image, entry_points)
        except BundleError:
            raise
        except Exception as error:
            # Somebody else's modules may raise anything; the sample says where to look.
            raise BundleError(
                **where,
                problem=f"the modules raised {type(error).__name__}: {error}",
                fix="check it with the same modules on the CPU, in float32",
            ) from error
        _check_answer(answer, modules, where)
        answers.append(_with_reference(modules, sample, answer, where))
    return answers


def _check_answer(answer: Answer, modules: ModuleSet, where: Mapping[str, str]) -> None:
    labels = modules.labels
    for key, values in answer.values.items():
        if values.shape[-1] != len(labels) and modules.task != "embedding":
            raise BundleError(
                file="fusion_head",
                field="forward",
                problem=f"gives {values.shape[-1]} logits for {len(labels)} labels",
                fix="give one label for each logit",
            )
        if not np.isfinite(values).all():
            raise BundleError(
                **where,
                problem=f"the {answer_tensor(modules.task)} with {key} are not finite",
                fix="look for overflow or division by zero in the modules",
            )


def _with_reference(
    modules: ModuleSet, sample: Sample, answer: Answer, where: Mapping[str, str]
) -> Answer:
    """Put their own code's probabilities in place of ours, once both are known to agree."""
    if modules.reference is None:
        return answer
    if modules.task not in ONE_VECTOR:
        raise BundleError(
            file="reference",
            problem=f"is not compared for the task {modules.task}",
            fix="leave it out; parity then compares with the modules",
        )
    theirs = np.asarray(modules.reference(sample.text, sample.image), dtype=np.float32).reshape(-1)
    ours = answer.values[modalities_key(BOTH)]
    tolerance = TOLERANCES["fp32"].probabilities
    difference = float(np.abs(theirs - ours).max()) if theirs.shape == ours.shape else float("inf")
    if not difference <= tolerance:
        raise BundleError(
            **where,
            problem=(
                f"reference(...) gives shape {list(theirs.shape)}, the modules "
                f"{list(ours.shape)}; largest difference {difference:.3g}, tolerance {tolerance}"
            ),
            fix="compare image_preprocessing and the tokenizer with what the reference does",
        )
    return replace(answer, values={**answer.values, modalities_key(BOTH): theirs})


@torch.inference_mode()
def _check_longest_text(model: FusionModel) -> None:
    ids = torch.ones((1, model.text.max_length), dtype=torch.int64)
    try:
        model.encode_text(ids, torch.ones_like(ids))
    except Exception as error:
        raise BundleError(
            file="text_encoder",
            field="forward",
            problem=f"cannot take {model.text.max_length} tokens ({error})",
            fix="pass text_preprocessing=TextPreprocessing(max_length=...) that it can take",
        ) from error


@torch.inference_mode()
def _check_padding(model: FusionModel, answers: Sequence[Answer]) -> None:
    """The server packs texts of unequal length: padding must not change an answer."""
    shortest = min(answers, key=lambda answer: len(answer.input_ids))
    length = min(len(shortest.input_ids) + 3, model.text.max_length)
    ids = torch.full((1, length), model.text.pad_id)
    mask = torch.zeros_like(ids)
    own = len(shortest.input_ids)
    ids[0, :own] = torch.from_numpy(shortest.input_ids)
    mask[0, :own] = 1
    starts = shortest.word_starts
    words = None if starts is None else torch.from_numpy(starts)[None]
    padded = model.encode_text(ids, mask, words)[0].float().numpy()
    if padded.ndim == 2 and words is None:
        padded = padded[:own]
    scale = float(np.abs(shortest.text_features).max()) or 1.0
    difference = float(np.abs(padded - shortest.text_features).max()) / scale
    tolerance = TOLERANCES["fp32"].features_relative
    if difference > tolerance:
        raise BundleError(
            file="text_encoder",
            field="attention_mask",
            problem=(
                f"padding changes its features (relative difference {difference:.3g}, "
                f"tolerance {tolerance})"
            ),
            fix="leave positions whose attention_mask is 0 out of attention and pooling",
        )


def _describe_encoders(modules: ModuleSet, answer: Answer) -> tuple[EncoderEntry, EncoderEntry]:
    entries = []
    for name, module, features in (
        ("text_encoder", modules.text_encoder, answer.text_features),
        ("image_encoder", modules.image_encoder, answer.image_features),
    ):
        if features.ndim not in (1, 2):
            raise BundleError(
                file=name,
                field="forward",
                problem=f"gives {features.ndim + 1} axes",
                fix="return [batch, D] or [batch, tokens or patches, D]",
            )
        kind: FeatureKind = "pooled" if features.ndim == 1 else "sequence"
        shape = list(features.shape)
        if name == "text_encoder" and kind == "sequence":
            shape[0] = -1
            kind = "words" if modules.task == "tagging" else "sequence"
        entries.append(EncoderEntry(architecture=_architecture(module), features=kind, shape=shape))
    return entries[0], entries[1]


def _architecture(module: nn.Module) -> str:
    return module.kind if isinstance(module, KnownModule) else EXPORTED


def graph_name(given: Sequence[Modality]) -> str:
    """File of the fusion head's graph for a set of modalities, for instance `text_image.onnx`."""
    return f"{'_'.join(given)}.onnx"


def write_known(module: KnownModule, folder: Path) -> None:
    """Write a module that bundles know by its class: config.json and model.safetensors."""
    config = json.dumps(module.config(), indent=2, sort_keys=True)
    (folder / CONFIG).write_text(f"{config}\n", encoding="utf-8")
    safetensors.torch.save_model(module, str(folder / WEIGHTS))


def _write_components(
    modules: ModuleSet,
    model: FusionModel,
    text: EncoderEntry,
    image: EncoderEntry,
    entry_points: Sequence[Sequence[Modality]],
    folder: Path,
) -> None:
    for name, module in (
        ("text_encoder", modules.text_encoder),
        ("image_encoder", modules.image_encoder),
        ("fusion_head", modules.fusion_head),
    ):
        if isinstance(module, KnownModule):
            (folder / name).mkdir()
            write_known(module, folder / name)
        elif name == "text_encoder":
            export_text_encoder(model, text.features, folder / name / GRAPH)
        elif name == "image_encoder":
            export_image_encoder(model, image.features, folder / name / GRAPH)
        else:
            for given in entry_points:
                export_fusion_head(
                    model,
                    given,
                    (text.features, text.shape[-1]),
                    (image.features, tuple(image.shape)),
                    folder / name / graph_name(given),
                )


def _write_samples(sets: Mapping[str, Sequence[Sample]], folder: Path) -> None:
    for name, samples in sets.items():
        for path, content in sample_files(name, samples).items():
            file = folder / SAMPLES / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
