"""A bundle's components as ONNX graphs: exported now, or kept by the bundle."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import nn

from tritium_builders.bundle import TOKENIZER, Bundle
from tritium_builders.bundle_schema import EXPORTED, head_role
from tritium_builders.errors import BundleError
from tritium_builders.export import (
    export_fusion_head,
    export_image_encoder,
    export_text_encoder,
)
from tritium_builders.graph_cache import cached_export
from tritium_builders.models import KNOWN_MODULES
from tritium_builders.modules import CONFIG, GRAPH, WEIGHTS, graph_name
from tritium_builders.reference import FusionModel
from tritium_builders.servables import text_tokenizer
from tritium_client.contract import Role


def check_bundle(bundle: Bundle) -> None:
    """Check that every component's tensors fit its architecture, without reading weights.

    Raises:
        BundleError: naming the file and the tensor.
    """
    for name, architecture in architectures(bundle).items():
        if architecture != EXPORTED:
            with torch.device("meta"):
                module = make_module(bundle, name, architecture)
            check_weights(module, bundle.folder / name / WEIGHTS, f"{name}/{WEIGHTS}")


def architectures(bundle: Bundle) -> dict[str, str]:
    """Component -> its architecture, as the manifest says."""
    return {
        "text_encoder": bundle.manifest.text_encoder.architecture,
        "image_encoder": bundle.manifest.image_encoder.architecture,
        "fusion_head": bundle.manifest.fusion_head.architecture,
    }


def load_module(bundle: Bundle, name: str, architecture: str) -> nn.Module:
    """Make one component's module and load its weights."""
    module = make_module(bundle, name, architecture)
    safetensors.torch.load_model(module, str(bundle.folder / name / WEIGHTS))
    return module.eval()


def make_module(bundle: Bundle, name: str, architecture: str) -> nn.Module:
    """Make one component's module with weights that are still to be loaded.

    Raises:
        BundleError: an architecture or a config that this version does not know.
    """
    known = KNOWN_MODULES.get(architecture)
    if known is None:
        raise BundleError(
            file="bundle.toml",
            field=f"{name}.architecture",
            problem=f"{architecture!r} is not known to this version of tritium",
            fix=f"use one of {sorted(KNOWN_MODULES)}, or install a tritium that knows it",
        )
    try:
        return known.from_config(
            json.loads((bundle.folder / name / CONFIG).read_text(encoding="utf-8"))
        )
    except (ValueError, KeyError, TypeError) as error:
        raise BundleError(
            file=f"{name}/{CONFIG}",
            problem=f"is no config of {architecture} ({type(error).__name__}: {error})",
            fix="write the bundle again",
        ) from error


def check_weights(module: nn.Module, path: Path, name: str) -> None:
    """Compare a safetensors file with what the module wants, from its header alone.

    Raises:
        BundleError: naming the file and the tensor.
    """
    fix = f"use the {CONFIG} that these weights were saved with, or write the bundle again"
    try:
        with safetensors.safe_open(str(path), "pt") as file:
            found = {key: list(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
    except safetensors.SafetensorError as error:
        raise BundleError(file=name, problem=f"cannot be read ({error})", fix=fix) from error
    wanted = {key: list(value.shape) for key, value in module.state_dict().items()}
    for key, shape in found.items():
        if key not in wanted:
            raise BundleError(file=name, field=key, problem="is not a tensor of it", fix=fix)
        if shape != wanted[key]:
            raise BundleError(
                file=name,
                field=key,
                problem=f"has shape {shape}, {CONFIG} wants {wanted[key]}",
                fix=fix,
            )
    shared = {
        key for keys in _shared_tensors(module) if any(k in found for k in keys) for key in keys
    }
    missing = sorted(set(wanted) - set(found) - shared)
    if missing:
        raise BundleError(file=name, field=missing[0], problem="is missing", fix=fix)


def _shared_tensors(module: nn.Module) -> list[set[str]]:
    """Names of one tensor under several names: the file keeps only one of them."""
    names: dict[int, set[str]] = {}
    for key, value in module.state_dict(keep_vars=True).items():
        names.setdefault(id(value), set()).add(key)
    return [keys for keys in names.values() if len(keys) > 1]


def load_model(bundle: Bundle) -> FusionModel:
    """Make the bundle's PyTorch model.

    Components that the bundle keeps as graphs have no module; an empty one stands in.
    """
    manifest = bundle.manifest
    modules = {
        name: nn.Identity() if known == EXPORTED else load_module(bundle, name, known)
        for name, known in architectures(bundle).items()
    }
    return FusionModel(
        modules["text_encoder"],
        modules["image_encoder"],
        modules["fusion_head"],
        text_tokenizer.load_tokenizer(bundle.folder / TOKENIZER, manifest.text.servable_spec()),
        manifest.text,
        manifest.image,
        manifest.task,
    )


def write_graphs(
    bundle: Bundle, folder: Path, progress: Callable[[str], None] = lambda _: None
) -> dict[Role, Path]:
    """Write the ONNX graph of every encoder and of the fusion head for every entry point.

    Args:
        bundle: The bundle.
        folder: Where the graphs go.
        progress: Told the name of each component before it is exported.

    Raises:
        BundleError, ExportError: what cannot be exported.
    """
    manifest = bundle.manifest
    model = load_model(bundle)
    text, image = manifest.text_encoder, manifest.image_encoder
    exports: list[tuple[Role, str, str, Callable[[Path], None]]] = [
        (
            "text_encoder",
            "text_encoder",
            GRAPH,
            lambda path: export_text_encoder(model, text.features, path),
        ),
        (
            "image_encoder",
            "image_encoder",
            GRAPH,
            lambda path: export_image_encoder(model, image.features, path),
        ),
    ]
    for given in manifest.entry_points:
        sizes = (text.features, text.shape[-1]), (image.features, tuple(image.shape))
        export_head = partial(export_fusion_head, model, given, *sizes)
        exports.append((head_role(given), "fusion_head", graph_name(given), export_head))
    graphs: dict[Role, Path] = {}
    for role, component, name, write in exports:
        progress(role)
        graphs[role] = folder / f"{role}.onnx"
        if architectures(bundle)[component] == EXPORTED:
            shutil.copyfile(bundle.folder / component / name, graphs[role])
        else:
            cached_export(bundle, component, name, graphs[role], write)
    return graphs
