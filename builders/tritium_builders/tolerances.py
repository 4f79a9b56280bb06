"""How far a served value may be from PyTorch's, for each precision."""

from __future__ import annotations

from tritium_builders.release import Precision, Tolerance

TOLERANCES: dict[Precision, Tolerance] = {
    # Measured on the demo app: cosine 1 - 1e-7, relative 5e-6, probabilities 1e-5. The bounds
    # leave room for deeper encoders, and are far below what a wrong preprocessing step does.
    "fp32": Tolerance(features_cosine=0.9999, features_relative=1e-3, probabilities=1e-3),
    # Reduced precision, measured on the demo app: docs/tensorrt.md has the table. What it costs
    # in answers is the accuracy gate's business; these bounds say that it is still the same model.
    "fp16": Tolerance(features_cosine=0.9995, features_relative=2e-2, probabilities=1e-2),
    "bf16": Tolerance(features_cosine=0.99, features_relative=0.15, probabilities=0.1),
    "int8": Tolerance(features_cosine=0.96, features_relative=0.5, probabilities=0.25),
}
