"""The parity gate: the published servable files, run in process, against PyTorch's answers.

Each stage takes what the stage before it made, as in the server, and is compared with what
PyTorch said at that point. The first output outside its tolerance ends the build.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import safetensors
import safetensors.numpy

from tritium_builders.bundle import GOLDEN_TENSORS, Bundle
from tritium_builders.bundle_schema import FEATURE_TENSORS, head_role
from tritium_builders.errors import Mismatch, ParityError
from tritium_builders.numerics import (
    Array,
    cosine_similarity,
    difference,
    relative_difference,
)
from tritium_builders.probes import probe_pictures
from tritium_builders.release import ParityReport, Precision, StageParity, Tolerance
from tritium_builders.samples import modalities_key, raw_request
from tritium_builders.servables import image_decoder
from tritium_builders.stages import Servable, Servables
from tritium_builders.tasks import answer_tensor
from tritium_builders.tolerances import TOLERANCES
from tritium_client import contract
from tritium_client.contract import Modality, Role

HINTS: dict[Role, str] = {
    "text_tokenizer": "the tokenizer, max_length or padding_side differs from training's",
    "image_decoder": "resampling, channel order, EXIF rotation or size differs from training's",
    "text_encoder": "attention mask, padding or the exported graph differs from PyTorch's",
    "image_encoder": "mean, std, rescale_factor or the exported graph differs from PyTorch's",
}
HEAD_HINT = "the labels' order, the head's weights or its graph differ from PyTorch's"


def verify(
    bundle: Bundle,
    servables: Servables,
    precision: Precision,
    progress: Callable[[str], None] = lambda _: None,
    *,
    buckets: Sequence[int] = (),
) -> ParityReport:
    """Compare every stage with PyTorch on the golden samples.

    Args:
        bundle: Holds the golden samples and what PyTorch said at every stage.
        servables: Of the components that will be published.
        precision: Decides the tolerances.
        progress: Told the role of each component before it is compared.
        buckets: Lengths that the tokenizer pads to; none: to the longest of a request.

    Returns:
        The largest differences that were seen.

    Raises:
        ParityError: the first output outside its tolerance, with both shapes and the numbers.
    """
    return _Gate(bundle, servables, TOLERANCES[precision], progress, buckets).run()


@dataclass
class _Gate:
    bundle: Bundle
    servables: Servables
    tolerance: Tolerance
    progress: Callable[[str], None]
    buckets: Sequence[int] = ()
    stages: list[StageParity] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._golden = safetensors.numpy.load_file(self.bundle.folder / GOLDEN_TENSORS)
        self._ids = [sample.id for sample in self.bundle.golden]

    def run(self) -> ParityReport:
        manifest = self.bundle.manifest
        text = FEATURE_TENSORS["text", manifest.text_encoder.features]
        image = FEATURE_TENSORS["image", manifest.image_encoder.features]
        tokens = self._tokens()
        pixels = self._pixels()
        text_features = self._run("text_encoder", tokens)
        self._compare_features("text_encoder", text, text_features, tokens)
        image_features = self._run("image_encoder", pixels)
        self._compare_features("image_encoder", image, image_features)
        available = [
            {**ids, **first, **second}
            for ids, first, second in zip(tokens, text_features, image_features, strict=True)
        ]
        for given in manifest.entry_points:
            self._compare_answers(head_role(given), given, available)
        if "encoders" in self.servables:
            self._compare_encoders()
        return ParityReport(tolerance=self.tolerance, stages=self.stages)

    def _run(
        self,
        role: Role,
        requests: Sequence[dict[str, Array]],
        samples: Sequence[str] = (),
        servable: Servable | None = None,
    ) -> list[dict[str, Array]]:
        """Run all samples at once, as ragged neighbours of one batch."""
        self.progress(role)
        answers = []
        found = (servable or self.servables[role]())(requests)
        for sample, answer in zip(samples or self._ids, found, strict=True):
            if isinstance(answer, Exception):
                raise ParityError(
                    Mismatch(role, "-", sample, (), (), float("inf"), 0.0, f"raised: {answer}")
                ) from answer
            answers.append(answer)
        return answers

    def _tokens(self) -> list[dict[str, Array]]:
        texts = [[sample.text.encode()] for sample in self.bundle.golden]
        single = [{contract.TEXT: np.array([text], dtype=object)} for text in texts]
        tokens = self._run("text_tokenizer", single)
        expected = self._expected(contract.INPUT_IDS)
        # Where texts are padded to buckets, the mask says which ids are the text's.
        self._compare_equal(
            "text_tokenizer",
            contract.INPUT_IDS,
            expected,
            [_unpadded(answer[contract.INPUT_IDS], answer) for answer in tokens],
        )
        if self.bundle.manifest.task == "tagging":
            for name in (contract.WORD_STARTS, contract.OFFSETS):
                found = [answer[name][0] for answer in tokens]
                self._compare_equal("text_tokenizer", name, self._expected(name), found)
        # One request with all texts is padded by the servable; the side must be training's.
        (together,) = self._run(
            "text_tokenizer", [{contract.TEXT: np.array(texts, dtype=object)}], ["all"]
        )
        padded = self._pad(expected)
        self._compare_equal(
            "text_tokenizer",
            f"{contract.INPUT_IDS} (padded)",
            list(padded),
            list(together[contract.INPUT_IDS]),
        )
        return tokens

    def _pad(self, rows: Sequence[Array]) -> Array:
        text = self.bundle.manifest.text
        longest = max(len(row) for row in rows)
        longest = next((length for length in self.buckets if length >= longest), longest)
        return np.stack(
            [
                np.pad(
                    row,
                    (longest - len(row), 0)
                    if text.padding_side == "left"
                    else (0, longest - len(row)),
                    constant_values=text.pad_id,
                )
                for row in rows
            ]
        )

    def _pixels(self) -> list[dict[str, Array]]:
        images = [
            {contract.IMAGE: np.array([[sample.image]], dtype=object)}
            for sample in self.bundle.golden
        ]
        pixels = self._run("image_decoder", images)
        self._compare_equal(
            "image_decoder",
            contract.PIXELS,
            self._expected(contract.PIXELS),
            [answer[contract.PIXELS][0] for answer in pixels],
        )
        self._probe_decoder()
        return pixels

    def _probe_decoder(self) -> None:
        """Golden samples may all be of one kind; callers send pictures of every kind."""
        spec = self.bundle.manifest.image.servable_spec()
        probes = probe_pictures()
        requests = [{contract.IMAGE: np.array([[data]], dtype=object)} for data in probes.values()]
        answers = self._run("image_decoder", requests, list(probes))
        self._compare_equal(
            "image_decoder",
            f"{contract.PIXELS} (other formats)",
            [image_decoder.decode(data, spec) for data in probes.values()],
            [answer[contract.PIXELS][0] for answer in answers],
            samples=list(probes),
        )

    def _expected(self, tensor: str) -> list[Array]:
        return [self._golden[f"{index}.{tensor}"] for index in range(len(self._ids))]

    def _compare_equal(
        self,
        stage: Role,
        output: str,
        expected: Sequence[Array],
        actual: Sequence[Array],
        samples: Sequence[str] = (),
    ) -> None:
        differences = [difference(want, got) for want, got in zip(expected, actual, strict=True)]
        self._check(stage, output, expected, actual, differences, 0.0, samples)
        self._record(stage, output, max(differences), samples=len(expected))

    def _compare_features(
        self,
        stage: Role,
        output: str,
        answers: Sequence[dict[str, Array]],
        tokens: Sequence[dict[str, Array]] = (),
    ) -> None:
        expected = self._expected(output)
        actual = [answer[output][0] for answer in answers]
        if output == contract.TEXT_SEQUENCE:
            pairs = zip(answers, tokens, strict=True)
            actual = [_unpadded(answer[output], token) for answer, token in pairs]
        relative = [
            relative_difference(want, got) for want, got in zip(expected, actual, strict=True)
        ]
        self._check(stage, output, expected, actual, relative, self.tolerance.features_relative)
        cosines = [cosine_similarity(want, got) for want, got in zip(expected, actual, strict=True)]
        self._check(
            stage,
            f"{output} (1 - cosine)",
            expected,
            actual,
            [1 - cosine for cosine in cosines],
            1 - self.tolerance.features_cosine,
        )
        self._record(stage, output, max(relative), min(cosines))

    def _compare_encoders(self) -> None:
        """From raw inputs on, every set of modalities, as one process reads and encodes them."""
        encoders = self.servables["encoders"]()
        for given in self.bundle.manifest.entry_points:
            requests = [raw_request(sample, given) for sample in self.bundle.golden]
            features = self._run("encoders", requests, servable=encoders)
            head = self.servables[head_role(given)]()
            self._compare_answers("encoders", given, features, head)

    def _compare_answers(
        self,
        stage: Role,
        given: Sequence[Modality],
        available: Sequence[dict[str, Array]],
        servable: Servable | None = None,
    ) -> None:
        key, manifest = modalities_key(given), self.bundle.manifest
        tensor, units = answer_tensor(manifest.task), np.array(manifest.units or 1.0)
        answers = self._run(stage, available, servable=servable)
        expected = [np.array(sample.expected[key], np.float32) for sample in self.bundle.golden]
        actual = [answer[tensor][0] for answer in answers]
        if manifest.task == "tagging":  # samples hold the rows of all words, one after the other
            expected = [want.reshape(-1, len(manifest.labels)) for want in expected]
        differences = [
            difference(want / units, got / units)
            for want, got in zip(expected, actual, strict=True)
        ]
        tolerance = self.tolerance.probabilities
        # A head's name says what it is given; `encoders` is there for every set of modalities.
        output = f"{tensor} ({key})" if servable else tensor
        self._check(stage, output, expected, actual, differences, tolerance)
        if given == manifest.entry_points[0]:
            self._check_labels(stage, actual)
        self._record(stage, output, max(differences))

    def _check_labels(self, stage: Role, actual: Sequence[Array]) -> None:
        labels = self.bundle.manifest.labels
        with safetensors.safe_open(str(self.bundle.folder / GOLDEN_TENSORS), "numpy") as file:
            order: list[str] = json.loads(file.metadata()["labels"])
        for index, (theirs, ours) in enumerate(zip(order, labels, strict=True)):
            if theirs != ours:
                detail = f"PyTorch's label {index} is {theirs!r}, bundle.toml's is {ours!r}"
                shape = (len(labels),)
                raise ParityError(
                    Mismatch(stage, "label", self._ids[0], shape, shape, 1.0, 0.0, detail),
                    hint=HEAD_HINT,
                )
        if self.bundle.manifest.task != "classification":
            return
        for sample, probabilities in zip(self.bundle.golden, actual, strict=True):
            ranking = np.argsort(probabilities)[::-1]
            margin = float(probabilities[ranking[0]] - probabilities[ranking[1]])
            answer = labels[int(ranking[0])]
            if answer != sample.answer and margin > 2 * self.tolerance.probabilities:
                detail = f"PyTorch answers {sample.answer!r}, the build answers {answer!r}"
                shape = (len(labels),)
                raise ParityError(
                    Mismatch(stage, "label", sample.id, shape, shape, margin, 0.0, detail),
                    hint=HEAD_HINT,
                )

    def _check(
        self,
        stage: Role,
        output: str,
        expected: Sequence[Array],
        actual: Sequence[Array],
        differences: Sequence[float],
        tolerance: float,
        samples: Sequence[str] = (),
    ) -> None:
        # A NaN compares as neither larger nor smaller, so it must count as the worst.
        worst = int(np.argmax(np.nan_to_num(differences, nan=np.inf)))
        if not differences[worst] <= tolerance:
            raise ParityError(
                Mismatch(
                    stage,
                    output,
                    (samples or self._ids)[worst],
                    expected[worst].shape,
                    actual[worst].shape,
                    differences[worst],
                    tolerance,
                ),
                hint=HINTS.get(stage, HEAD_HINT),
            )

    def _record(
        self,
        stage: Role,
        output: str,
        largest: float,
        cosine: float | None = None,
        samples: int | None = None,
    ) -> None:
        self.stages.append(
            StageParity(
                stage=stage,
                output=output,
                samples=samples or len(self._ids),
                largest_difference=largest,
                smallest_cosine=cosine,
            )
        )


def _unpadded(values: Array, tokens: Mapping[str, Array]) -> Array:
    """The first item's values [tokens, ...] where its mask is 1."""
    found: Array = values[0][tokens[contract.ATTENTION_MASK][0] == 1]
    return found
