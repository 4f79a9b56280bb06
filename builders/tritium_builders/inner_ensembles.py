"""What `encoders` does inside, as the ensembles that Triton would need for it: for the linter."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tritonclient.grpc import model_config_pb2 as pb

from tritium_builders.servables.encoders import BRANCHES


def inner_ensembles(config: Any, components: Mapping[str, Any]) -> list[pb.ModelConfig]:
    """Write a component `encoders` as ensembles, one for each modality.

    Args:
        config: A model's config; what runs no other components has none.
        components: Triton model -> its config, of those whose config can be read.
    """
    try:
        steps = json.loads(config.parameters["spec"].string_value)["steps"]
    except (KeyError, ValueError, TypeError):
        return []
    found = []
    for modality, roles in BRANCHES.items():
        inner = pb.ModelConfig(platform="ensemble", max_batch_size=config.max_batch_size)
        inner.input.extend(tensor for tensor in config.input if tensor.name == modality)
        known = {modality}
        for role in roles:
            model = str(steps.get(role, {}).get("model", role))
            step = inner.ensemble_scheduling.step.add(model_name=model, model_version=1)
            component = components.get(model)
            if component is None:
                continue
            for tensor in component.input:
                if not tensor.optional or tensor.name in known:
                    step.input_map[tensor.name] = tensor.name
            for tensor in component.output:
                step.output_map[tensor.name] = tensor.name
                known.add(tensor.name)
        inner.output.extend(tensor for tensor in config.output if tensor.name in known)
        found.append(inner)
    return found
