"""Draw the picture of docs/explaining.md: why the demo app answers as it does for one emoji.

python tools/explain_demo.py bundles/openmoji docs/images/explanation.png
"""

from __future__ import annotations

import sys
from pathlib import Path

from tritium_builders import Bundle
from tritium_builders.explain import explain
from tritium_builders.explain.picture import draw_explanation
from tritium_builders.servables import image_decoder

TEXT = "baby chick"
"""Held out in training; the text-only and the image-only model both take it for something else."""


def main(bundle_folder: str, out: str) -> None:
    """Explain the emoji and write the picture."""
    bundle = Bundle.load(bundle_folder)
    sample = next(one for one in bundle.validation if one.text == TEXT)
    explanation = explain(bundle, text=sample.text, image=sample.image)
    seen = image_decoder.decode(sample.image, bundle.manifest.image.servable_spec())
    Path(out).write_bytes(draw_explanation(explanation, sample.text, seen))
    sys.stdout.write(f"{out}: {explanation.label} {explanation.output:.4f}\n")
    sys.stdout.write(f"not explained: {explanation.gap:.4f}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
