"""Bundles: a trained model on disk, the hand-over from training to building.

    bundle.toml                the manifest (bundle_schema.py), with the hash of every other file
    tokenizer.json
    text_encoder/              config.json + model.safetensors for an architecture that we know,
    image_encoder/             or the exported graph, model.onnx, of a module that we do not
    fusion_head/               likewise; as graphs text_image.onnx, text.onnx, image.onnx
    samples/golden.jsonl       inputs with PyTorch's answers; golden.safetensors: every stage's
    samples/calibration.jsonl  inputs for calibrating reduced precision
    samples/validation.jsonl   labelled inputs for accuracy gates

Nothing in it is a pickle, and nothing of it is code.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tomllib
from pydantic import ValidationError

from tritium_builders.bundle_schema import (
    SCHEMA_VERSION,
    BundleManifest,
    FileEntry,
    Sources,
)
from tritium_builders.errors import BundleError
from tritium_builders.preprocessing import ImagePreprocessing, TextPreprocessing
from tritium_builders.samples import Sample, read_samples
from tritium_client.contract import Modality, Task

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from torch import nn

MANIFEST = "bundle.toml"
TOKENIZER = "tokenizer.json"
SAMPLES = "samples"
SETS = ("golden", "calibration", "validation")
GOLDEN_TENSORS = f"{SAMPLES}/golden.safetensors"

Example = Sample | tuple[str, Any] | tuple[str, Any, str]
"""A sample, or (text, image) or (text, image, label); an image is bytes or a path."""
Reference = Callable[[str, bytes], Any]
"""Somebody's own end-to-end code: text and encoded picture -> probabilities [labels]."""


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk that was checked when it was opened.

    Example:
        bundle = Bundle.load("bundles/openmoji")
        print(bundle.manifest.labels, len(bundle.golden))
    """

    folder: Path
    manifest: BundleManifest

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Bundle:
        """Open a bundle and check every file of it.

        Raises:
            BundleError: naming the file, the field and the fix.
        """
        path = Path(folder)
        manifest = read_manifest(path)
        for name, entry in manifest.files.items():
            _check_file(path, name, entry)
        bundle = cls(path, manifest)
        bundle._check_samples()

        from tritium_builders.graphs import check_bundle  # PyTorch knows the architectures

        check_bundle(bundle)
        return bundle

    @classmethod
    def from_modules(
        cls,
        *,
        text_encoder: nn.Module,
        tokenizer: Tokenizer | Any,
        image_encoder: nn.Module,
        image_preprocessing: ImagePreprocessing,
        fusion_head: nn.Module,
        labels: Sequence[str],
        examples: Sequence[Example],
        calibration: Sequence[Example] = (),
        validation: Sequence[Example] = (),
        task: Task = "classification",
        thresholds: Sequence[float] = (),
        units: Sequence[float] = (),
        reference: Reference | None = None,
        text_preprocessing: TextPreprocessing | None = None,
        entry_points: Sequence[Sequence[Modality]] | None = None,
        sources: Sources | None = None,
        fusion: str = "custom",
        app: str = "fusion",
        path: str | os.PathLike[str] | None = None,
        extra_files: Mapping[str, bytes] | None = None,
        overwrite: bool = False,
    ) -> Bundle:
        """Write a bundle from torch modules that somebody trained.

        The modules' classes need not be importable later: what the bundle keeps is their
        exported graph, and what PyTorch answered for the examples.

        Args:
            text_encoder: `(input_ids, attention_mask)`, int64 [B, L] each -> [B, D] or [B, L, D].
            tokenizer: A fast Hugging Face tokenizer, a `tokenizers.Tokenizer`, or the bytes of
                a tokenizer.json.
            image_encoder: `(pixel_values)`, normalised float32 [B, 3, H, W] -> [B, D] or [B, P, D].
            image_preprocessing: From an encoded picture to `pixel_values`.
            fusion_head: `(text, image)` features -> logits [B, labels]. When it takes None for
                an absent modality, callers may leave that modality out. A third argument named
                `text_mask` or `attention_mask` receives the text's mask, int64 [B, L]. To tag, it
                takes the first token of each word, [B, W, D] and a mask [B, W], and gives [B, W,
                labels]; to embed, it is given one modality alone.
            labels: In the order of the logits; of a regression what each score is; of a model
                that embeds, none.
            examples: (text, image) pairs. The first 16 become the golden samples that every
                build and every start of the server is checked with, the others are added to
                the calibration samples.
            calibration: More unlabelled pairs, for reduced precision.
            validation: (text, image, label) triples that training never saw.
            task: What the logits are for: `classification` (softmax), `multilabel` (sigmoid),
                `regression` (as they are), `tagging` (softmax for each word; labels are BIO tags),
                `embedding` (vectors of length 1).
            thresholds: Of a multi-label model, one a label. Default: 0.5 each.
            units: Of a regression, the spread of each score in training. Default: 1 each.
            reference: Their own end-to-end code, preprocessing included; parity then compares
                with its probabilities.
            text_preprocessing: Default: what the tokenizer says of itself.
            entry_points: The sets of modalities that callers may give. Default: found by
                asking the head.
            sources: Where weights and data come from.
            fusion: What to call the fusion strategy.
            app: The name under which the model will be served.
            path: The folder to write. Default: `bundles/<app>`.
            extra_files: More files to keep in the bundle, for instance a training report.
            overwrite: Replace a bundle that is already there.

        Raises:
            BundleError: when the modules cannot be served as they are; says which and why.
            ExportError: when a module cannot be exported.
        """
        from tritium_builders.modules import ModuleSet, write_modules

        modules = ModuleSet(
            text_encoder, image_encoder, fusion_head, tokenizer, text_preprocessing,
            image_preprocessing, tuple(labels), reference, entry_points, fusion, task,
        )  # fmt: skip
        if task == "multilabel":
            thresholds = thresholds or [0.5] * len(labels)
        if task == "regression":
            units = units or [1.0] * len(labels)
        target = Path(path) if path is not None else Path("bundles") / app
        if target.exists() and not overwrite:
            raise BundleError(
                file=str(target),
                problem="is already there",
                fix="choose another path or pass overwrite=True",
            )
        golden, more = split_examples(examples)
        sets = {
            "golden": golden,
            "calibration": (*more, *as_samples(calibration, "calibration")),
            "validation": as_samples(validation, "validation"),
        }
        check_disjoint(sets)
        with staged_folder(target) as folder:
            entries = write_modules(modules, sets, folder)
            for name, content in (extra_files or {}).items():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(content)
            manifest = BundleManifest(
                app=app,
                task=task,
                labels=list(labels),
                thresholds=list(thresholds),
                units=list(units),
                sources=sources or Sources(),
                image=image_preprocessing,
                files=_hash_files(folder),
                **entries,
            )
            write_manifest(folder, manifest)
            cls.load(folder)  # what cannot be opened is not handed over
        return cls(target, manifest)

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the manifest, which holds the hash of every other file."""
        return hashlib.sha256((self.folder / MANIFEST).read_bytes()).hexdigest()

    @cached_property
    def golden(self) -> tuple[Sample, ...]:
        """Inputs with PyTorch's answers."""
        return read_samples(self.folder / SAMPLES, "golden")

    @cached_property
    def calibration(self) -> tuple[Sample, ...]:
        """Inputs for calibrating reduced precision."""
        return read_samples(self.folder / SAMPLES, "calibration")

    @cached_property
    def validation(self) -> tuple[Sample, ...]:
        """Labelled inputs that training never saw."""
        return read_samples(self.folder / SAMPLES, "validation")

    def _check_samples(self) -> None:
        known = set(self.manifest.labels)
        if not self.golden:
            raise BundleError(
                file=f"{SAMPLES}/golden.jsonl",
                problem="holds no samples",
                fix="give at least one example: parity has nothing to compare",
            )
        keys = {",".join(given) for given in self.manifest.entry_points}
        for name in SETS:
            for sample in getattr(self, name):
                where = {"file": f"{SAMPLES}/{name}.jsonl", "field": f"sample {sample.id}"}
                for label in (sample.label, sample.answer):
                    if label is not None and label not in known:
                        raise BundleError(
                            **where,
                            problem=f"label {label!r} is not one of bundle.toml's labels",
                            fix="correct the label or add it to labels",
                        )
                if name == "golden" and set(sample.expected) != keys:
                    raise BundleError(
                        **where,
                        problem=f"has answers for {sorted(sample.expected)}, not {sorted(keys)}",
                        fix="write the bundle again",
                    )
        check_disjoint({name: getattr(self, name) for name in SETS})


def split_examples(
    examples: Sequence[Example], golden: int = 16
) -> tuple[tuple[Sample, ...], tuple[Sample, ...]]:
    """Take the first examples as golden samples; the others are for calibration."""
    samples = as_samples(examples, "examples")
    if not samples:
        raise BundleError(
            file="examples", problem="there are none", fix="give at least one (text, image) pair"
        )
    return samples[:golden], samples[golden:]


def as_samples(examples: Sequence[Example], name: str) -> tuple[Sample, ...]:
    """Turn (text, image[, label]) tuples into samples; ids are `<name>-<index>`."""
    samples = []
    for index, example in enumerate(examples):
        if isinstance(example, Sample):
            samples.append(example)
            continue
        text, image, *more = example
        if not isinstance(image, bytes):
            try:
                image = Path(image).read_bytes()
            except (OSError, TypeError) as error:
                raise BundleError(
                    file=name,
                    field=f"item {index}",
                    problem=f"the image cannot be read ({error})",
                    fix="give the bytes of an encoded picture, or a path",
                ) from error
        label = str(more[0]) if more else None
        samples.append(Sample(f"{name}-{index}", text, image, label))
    return tuple(samples)


def check_disjoint(sets: Mapping[str, Sequence[Sample]]) -> None:
    """Refuse a sample that stands in two sets: a gate must not see what it was tuned on."""
    seen: dict[str, str] = {}
    for name, samples in sets.items():
        for sample in samples:
            other = seen.setdefault(sample.content_hash, name)
            if other != name:
                raise BundleError(
                    file=f"{SAMPLES}/{name}.jsonl",
                    field=f"sample {sample.id}",
                    problem=f"is also in the {other} set",
                    fix="keep the golden, calibration and validation sets apart",
                )


class staged_folder:  # noqa: N801 - reads as the context manager that it is
    """Write a folder beside its place and rename it there only when all of it is written."""

    def __init__(self, target: Path) -> None:
        self._target = target

    def __enter__(self) -> Path:
        self._target.parent.mkdir(parents=True, exist_ok=True)
        self._folder = Path(
            tempfile.mkdtemp(prefix=f".{self._target.name}-", dir=self._target.parent)
        )
        return self._folder

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            return
        self._folder.chmod(0o755)
        if self._target.exists():
            old = Path(tempfile.mkdtemp(prefix=".old-", dir=self._target.parent))
            self._target.rename(old / "bundle")
            self._folder.rename(self._target)
            shutil.rmtree(old, ignore_errors=True)
        else:
            self._folder.rename(self._target)


def write_manifest(folder: Path, manifest: BundleManifest) -> None:
    """Write bundle.toml."""
    document = manifest.model_dump(mode="json", exclude_none=True)
    import tomli_w  # servers read repositories without it

    (folder / MANIFEST).write_text(tomli_w.dumps(document), encoding="utf-8")


def _hash_files(folder: Path) -> dict[str, FileEntry]:
    return {
        path.relative_to(folder).as_posix(): file_entry(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MANIFEST
    }


def file_entry(path: Path) -> FileEntry:
    """Hash one file."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    return FileEntry(sha256=digest.hexdigest(), bytes=path.stat().st_size)


def read_manifest(folder: Path) -> BundleManifest:
    """Read a bundle's manifest alone: quick, and nothing else of it is checked.

    Raises:
        BundleError: naming the field and the fix.
    """
    if not folder.is_dir():
        raise BundleError(
            file=str(folder), problem="is not a folder", fix="give the folder of a bundle"
        )
    try:
        document = tomllib.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BundleError(
            file=MANIFEST, problem=f"is missing in {folder}", fix="give the folder of a bundle"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BundleError(
            file=MANIFEST, problem=f"is not valid TOML ({error})", fix="write the bundle again"
        ) from error
    version = document.get("schema_version")
    if version != SCHEMA_VERSION:
        raise BundleError(
            file=MANIFEST,
            field="schema_version",
            problem=f"{version!r} is not known to this version of tritium",
            fix=f"install a tritium that knows it, or write the bundle again ({SCHEMA_VERSION})",
        )
    try:
        return BundleManifest.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        raise BundleError(
            file=MANIFEST,
            field=".".join(str(part) for part in first["loc"]) or None,
            problem=first["msg"],
            fix="correct this field",
        ) from error


def _check_file(folder: Path, name: str, entry: FileEntry) -> None:
    path = folder / name
    fix = "copy the file again from where the bundle was made, or write the bundle again"
    if not path.resolve().is_relative_to(folder.resolve()):
        raise BundleError(
            file=MANIFEST, field=f"files.{name}", problem="lies outside the bundle", fix=fix
        )
    if not path.is_file():
        raise BundleError(file=name, problem="is missing", fix=fix)
    found = file_entry(path)
    if found.bytes != entry.bytes:
        kind = "truncated" if found.bytes < entry.bytes else "too long"
        raise BundleError(
            file=name,
            problem=f"is {kind}: {found.bytes} bytes, bundle.toml says {entry.bytes}",
            fix=fix,
        )
    if found.sha256 != entry.sha256:
        raise BundleError(
            file=name,
            problem=f"has SHA-256 {found.sha256[:12]}..., bundle.toml says {entry.sha256[:12]}...",
            fix=fix,
        )
