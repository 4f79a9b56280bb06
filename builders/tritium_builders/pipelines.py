"""What a pipeline does inside, as the ensembles that Triton would need for it: for the linter."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tritonclient.grpc import model_config_pb2 as pb

from tritium_client import contract
from tritium_client.contract import Role

ORDER: tuple[Role, ...] = ("text_tokenizer", "text_encoder", "image_decoder", "image_encoder")
"""The steps before the head; the servable's own order."""


def inner_ensembles(config: Any, components: Mapping[str, Any]) -> list[pb.ModelConfig]:
    """Write a pipeline as ensembles, one for each set of modalities.

    Args:
        config: A model's config; one that is no pipeline has none.
        components: Triton model -> its config, of those whose config can be read.
    """
    try:
        spec = json.loads(config.parameters["spec"].string_value)
        steps, heads = spec["steps"], spec["heads"]
    except (KeyError, ValueError, TypeError):
        return []
    found = []
    for given, head in heads.items():
        modalities = given.split(",")
        chain = [role for role in ORDER if role.partition("_")[0] in modalities]
        inner = pb.ModelConfig(platform="ensemble", max_batch_size=config.max_batch_size)
        inner.input.extend(tensor for tensor in config.input if tensor.name in modalities)
        inner.output.extend(config.output)
        known = {contract.TEXT, contract.IMAGE} & set(modalities)
        for role in (*chain, head):
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
        found.append(inner)
    return found
