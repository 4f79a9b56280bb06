"""Whether bundles can be one, and what their encoders and heads become in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from tritium_builders.bundle import TOKENIZER, Bundle
from tritium_builders.bundle_schema import EXPORTED, EncoderEntry
from tritium_builders.errors import BundleError
from tritium_builders.graphs import architectures, load_module
from tritium_builders.models.ensembles import ConcatenatedEncoder, Member, Span
from tritium_builders.models.fusion import FusionHead
from tritium_builders.models.known import KnownModule

Encoder = Literal["text_encoder", "image_encoder"]
ENCODERS: tuple[Encoder, ...] = ("text_encoder", "image_encoder")


@dataclass(frozen=True)
class Parts:
    """What a merged bundle is made of."""

    text_encoder: nn.Module
    image_encoder: nn.Module
    members: tuple[Member, ...]
    """One for each bundle, in their order."""
    shared: dict[Encoder, int]
    """How many different encoders of a modality there are; 1: all bundles share one."""


def check_alike(bundles: Sequence[Bundle]) -> None:
    """Refuse bundles that cannot answer as one.

    Raises:
        BundleError: naming the bundle, what differs from the first one, and the fix.
    """
    first = bundles[0]
    for bundle in bundles:
        _check_known(bundle)
        _check_labels(first, bundle)
        for field, ours, theirs in _must_agree(first, bundle):
            if ours != theirs:
                raise BundleError(
                    file=str(bundle.folder),
                    field=field,
                    problem=f"is {theirs}, and that of {first.folder} is {ours}",
                    fix="one app reads texts and pictures in one way: train both with the same",
                )


def _check_known(bundle: Bundle) -> None:
    if bundle.manifest.task != "classification":
        raise BundleError(
            file=str(bundle.folder),
            field="task",
            problem=f"is {bundle.manifest.task}",
            fix="ensembles are of classifiers with one label for an item, for now",
        )
    for name, architecture in architectures(bundle).items():
        if architecture == EXPORTED:
            raise BundleError(
                file=str(bundle.folder),
                field=name,
                problem="is kept as an exported graph, which cannot be asked beside others in "
                "PyTorch, and parity has to compare with PyTorch",
                fix="make one module of your models and give it to Bundle.from_modules",
            )


def _check_labels(first: Bundle, bundle: Bundle) -> None:
    ours, theirs = set(first.manifest.labels), set(bundle.manifest.labels)
    if ours != theirs:
        more, fewer = sorted(theirs - ours), sorted(ours - theirs)
        parts = [f"has {more[0]!r}" if more else "", f"lacks {fewer[0]!r}" if fewer else ""]
        raise BundleError(
            file=str(bundle.folder),
            field="labels",
            problem=f"{' and '.join(filter(None, parts))}, unlike {first.folder}",
            fix="train both with the same labels; their order may differ",
        )


def _must_agree(first: Bundle, bundle: Bundle) -> list[tuple[str, Any, Any]]:
    """What has to be equal: name, the first bundle's, and this one's."""
    ours, theirs = first.manifest, bundle.manifest
    found: list[tuple[str, Any, Any]] = [
        (
            TOKENIZER,
            f"SHA-256 {ours.files[TOKENIZER].sha256[:12]}",
            f"SHA-256 {theirs.files[TOKENIZER].sha256[:12]}",
        ),
    ]
    for table in ("text", "image"):
        settings = getattr(ours, table).model_dump()
        others = getattr(theirs, table).model_dump()
        found += [(f"{table}.{name}", settings[name], others[name]) for name in settings]
    for name in ENCODERS:
        left, right = _entry(first, name), _entry(bundle, name)
        found.append((f"{name}.features", left.features, right.features))
        if left.features == "sequence":
            found.append((f"{name}.shape[0]", left.shape[0], right.shape[0]))
    return found


def make_parts(bundles: Sequence[Bundle]) -> Parts:
    """Load the heads, and each different encoder once.

    Args:
        bundles: After `check_alike`.
    """
    text, text_spans, texts = _encoder(bundles, "text_encoder")
    image, image_spans, images = _encoder(bundles, "image_encoder")
    labels = bundles[0].manifest.labels
    members = []
    for bundle, text_span, image_span in zip(bundles, text_spans, image_spans, strict=True):
        head = load_module(bundle, "fusion_head", bundle.manifest.fusion_head.architecture)
        assert isinstance(head, FusionHead)  # noqa: S101 - known heads are
        own = bundle.manifest.labels
        order = None if own == labels else tuple(own.index(label) for label in labels)
        members.append(Member(head, text_span, image_span, order))
    return Parts(text, image, tuple(members), {"text_encoder": texts, "image_encoder": images})


def _encoder(bundles: Sequence[Bundle], name: Encoder) -> tuple[nn.Module, list[Span | None], int]:
    """One encoder for all bundles, and which of its features each of them reads."""
    modules: list[KnownModule] = []
    spans: dict[tuple[str, ...], Span] = {}
    end = 0
    for bundle in bundles:
        key = _content(bundle, name)
        if key not in spans:
            module = load_module(bundle, name, _entry(bundle, name).architecture)
            assert isinstance(module, KnownModule)  # noqa: S101 - `check_alike` refused others
            modules.append(module)
            size = _entry(bundle, name).shape[-1]
            spans[key] = (end, end + size)
            end += size
    if len(modules) == 1:
        return modules[0], [None] * len(bundles), 1
    found: list[Span | None] = [spans[_content(bundle, name)] for bundle in bundles]
    return ConcatenatedEncoder(modules).eval(), found, len(modules)


def _content(bundle: Bundle, name: Encoder) -> tuple[str, ...]:
    """What tells encoders apart: the hashes of config and weights."""
    files = sorted(bundle.manifest.files.items())
    return tuple(f"{path} {entry.sha256}" for path, entry in files if path.startswith(f"{name}/"))


def _entry(bundle: Bundle, name: Encoder) -> EncoderEntry:
    manifest = bundle.manifest
    return manifest.text_encoder if name == "text_encoder" else manifest.image_encoder
