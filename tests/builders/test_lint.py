"""`tritium inspect --lint`: nothing in what is published, and one finding for each damage."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from google.protobuf import text_format
from hypothesis import given, settings
from hypothesis import strategies as st
from tritonclient.grpc import model_config_pb2 as pb

from tests.builders.test_configs import SEQUENCE, manifest
from tests.conftest import tritium
from tests.support.command_line import tritium_inside
from tritium_builders import Bundle, build
from tritium_builders.bundle_schema import BundleManifest
from tritium_builders.components import CONFIG
from tritium_builders.configs import (
    alias_ensemble,
    component_config,
    component_graphs,
    release_ensemble,
    to_pbtxt,
)
from tritium_builders.errors import TritiumError
from tritium_builders.lint import RULES, Finding, lint_repository
from tritium_builders.release import PlanRecord
from tritium_builders.tensorrt.configs import PLAN, RECORD, plan_config
from tritium_builders.tensorrt.options import TensorRTOptions
from tritium_builders.tensorrt.profiles import component_profiles
from tritium_client.contract import Role

BUCKETS = (16, 32, 64)
OPTIONS = TensorRTOptions(max_batch=8, cuda_graphs=True)
POOLED = manifest(image_encoder={"architecture": "onnx", "features": "pooled", "shape": [384]})
REPOSITORIES = ["built", "pooled", "sequence"]

Damage = Callable[[Path], object]


def component(role: str, app: str = "demo") -> str:
    return f"{app}_{role}_0123456789ab"


ALIAS, RELEASE = "demo_classify_text", "demo_classify_text_r3"
FULL = "demo_classify_r3"
TOKENIZER, DECODER = component("text_tokenizer"), component("image_decoder")
ENCODER, HEAD = component("text_encoder"), component("fusion_head_text")
STEP = f'model_name: "{RELEASE}"'


def write_model(
    repository: Path, config: pb.ModelConfig, files: dict[str, str], version: int = 1
) -> None:
    folder = repository / config.name / str(version)
    folder.mkdir(parents=True)
    (folder.parent / CONFIG).write_text(to_pbtxt(config), encoding="utf-8")
    for name, content in files.items():
        (folder / name).write_text(content, encoding="utf-8")


def plan_repository(repository: Path, source: BundleManifest, buckets: Sequence[int]) -> Path:
    """What a TensorRT build publishes, with an empty file for each plan."""
    graphs = component_graphs(source)
    specs = {
        "text_tokenizer": {**source.text.servable_spec(), "buckets": list(buckets)},
        "image_decoder": source.image.servable_spec(),
    }
    for role, graph in graphs.items():
        if role in specs:
            config = component_config(graph, specs[role], OPTIONS.max_batch)
            files = {"model.py": ""}
        else:
            profiles = component_profiles(graph, buckets, OPTIONS.max_batch)
            config = plan_config(graph, profiles, OPTIONS)
            record = PlanRecord(profiles=profiles, layers=1, seconds=1)
            files = {PLAN: "", RECORD: record.model_dump_json()}
        config.name = component(role, source.app)
        write_model(repository, config, files)
    models: dict[Role, str] = {role: component(role, source.app) for role in graphs}
    for modalities in source.entry_points:
        release = release_ensemble(
            source, 3, modalities, models, "tensorrt", "fp16", OPTIONS.max_batch
        )
        alias = alias_ensemble(release, 3)
        write_model(repository, release, {})
        write_model(repository, alias, {}, version=3)
    return repository


@pytest.fixture(scope="module")
def built(custom: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("built")
    build(custom, repository=folder, target="onnxruntime")
    return folder


@pytest.fixture(scope="module")
def pooled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return plan_repository(tmp_path_factory.mktemp("pooled"), POOLED, BUCKETS)


@pytest.fixture(scope="module")
def sequence(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return plan_repository(tmp_path_factory.mktemp("sequence"), SEQUENCE, BUCKETS)


@pytest.fixture
def copy(pooled: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pooled, tmp_path / "repository"))


def swap(model: str, old: str, new: str, file: str = CONFIG) -> Damage:
    """Replace the first `old` in a file of a model; spaces stand for any white space."""

    def damage(repository: Path) -> None:
        path = repository / model / file
        text = " ".join(path.read_text(encoding="utf-8").split())
        assert old in text
        path.write_text(text.replace(old, new, 1), encoding="utf-8")

    return damage


def put(content: bytes, *names: str) -> Damage:
    return lambda repository: repository.joinpath(*names).write_bytes(content)


def folder(*names: str) -> Damage:
    return lambda repository: repository.joinpath(*names).mkdir()


def remove(*names: str) -> Damage:
    def damage(repository: Path) -> None:
        path = repository.joinpath(*names)
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return damage


def also(*damages: Damage) -> Damage:
    return lambda repository: [damage(repository) for damage in damages]


def twin(repository: Path) -> None:
    """Make a second alias."""
    shutil.copytree(repository / ALIAS, repository / "twin")
    swap("twin", f'name: "{ALIAS}"', 'name: "twin"')(repository)


def without_trials(repository: Path) -> None:
    """Leave out what would not fit another plan, either."""
    config = read(repository / HEAD)
    config.ClearField("model_warmup")
    config.ClearField("optimization")
    (repository / HEAD / CONFIG).write_text(to_pbtxt(config), encoding="utf-8")


def read(model: Path) -> pb.ModelConfig:
    return text_format.Parse((model / CONFIG).read_text(encoding="utf-8"), pb.ModelConfig())


# What is damaged: the rule, the model, the damage, and what its message says.
CASES = {
    "no folder": ("missing-step", RELEASE, remove(HEAD), f"step 3 ({HEAD})|no {HEAD}/config.pbtxt"),
    "no config": ("missing-step", RELEASE, remove(HEAD, CONFIG), HEAD),
    "garbage": ("unreadable-config", ALIAS, put(b"max_batch_size: many", ALIAS, CONFIG), "many"),
    "not text": ("unreadable-config", ALIAS, put(b"name: '\xff'", ALIAS, CONFIG), "0xff"),
    "not a file": ("unreadable-config", ALIAS, also(remove(ALIAS, CONFIG), folder(ALIAS, CONFIG)),
        "config.pbtxt cannot be read: Is a directory"),
    "name": ("name-mismatch", ALIAS, swap(ALIAS, f'name: "{ALIAS}"', 'name: "d"'),
        f"names the model d, and its folder {ALIAS}"),
    "no such input": ("name-mismatch", RELEASE, swap(RELEASE, 'key: "text"', 'key: "words"'),
        f"step 1 ({TOKENIZER}): input_map names words|inputs are text"),
    "no such output": ("name-mismatch", RELEASE,
        swap(RELEASE, 'output_map { key: "probabilities"', 'output_map { key: "scores"'),
        f"step 3 ({HEAD}): output_map names scores|outputs are probabilities"),
    "not mapped": ("name-mismatch", RELEASE, swap(RELEASE,
        'input_map { key: "attention_mask" value: "attention_mask" }', ""),
        f"step 2 ({ENCODER}): input_map has input_ids, and the model needs attention_mask"),
    "given by nobody": ("name-mismatch", RELEASE, swap(RELEASE,
        'input_map { key: "text_features" value: "text_features" }',
        'input_map { key: "text_features" value: "x" }'),
        f"tensor x is read by step 3 ({HEAD}) input text_features, and given by none of text, "),
    "no output": ("name-mismatch", ALIAS,
        swap(ALIAS, 'output { name: "probabilities"', 'output { name: "scores"'),
        "tensor scores is read by the ensemble's output, and given by none of text, probabilities"),
    "given twice": ("name-mismatch", RELEASE,
        swap(RELEASE, 'output_map { key: "input_ids" value: "input_ids"',
            'output_map { key: "input_ids" value: "attention_mask"'),
        "attention_mask is given 2 times|output attention_mask|output input_ids"),
    "read by nobody": ("name-mismatch", ALIAS,
        swap(ALIAS, "output {", 'input { name: "image" data_type: TYPE_STRING dims: 1 } output {'),
        "tensor image is given by the ensemble's input, and read by none of text, probabilities"),
    "ensemble's type": ("type-mismatch", ALIAS, swap(ALIAS, "TYPE_STRING", "TYPE_INT8"),
        f"the ensemble's input is TYPE_INT8, and step 1 ({RELEASE}) input text is TYPE_STRING"),
    "component's type": ("type-mismatch", RELEASE,
        swap(HEAD, 'name: "probabilities" data_type: TYPE_FP32',
            'name: "probabilities" data_type: TYPE_FP16'),
        f"step 3 ({HEAD}) output probabilities is TYPE_FP16|the ensemble's output is TYPE_FP32"),
    "no type": ("type-mismatch", ALIAS, swap(ALIAS, "TYPE_STRING", "99"), "input is 99, and"),
    "ensemble's dims": ("shape-mismatch", ALIAS, swap(ALIAS, "dims: 1", "dims: 2"),
        "text: the ensemble's input has dims [2]|input text has [1]"),
    "component's rank": ("shape-mismatch", RELEASE, swap(HEAD, "dims: 2", "dims: [2, 1]"),
        "output probabilities has dims [2, 1]|the ensemble's output has [-1]"),
    "circle": ("cycle", FULL, swap(FULL, 'input_map { key: "text_features" value: "text',
        'input_map { key: "text_features" value: "image'),
        f"step 3 ({DECODER}) and step 4 ({component('image_encoder')}) wait for their own output"),
    "in itself": ("cycle", ALIAS, also(twin, swap("twin", STEP, f'model_name: "{ALIAS}"'),
        swap(ALIAS, STEP, 'model_name: "twin"'), swap(ALIAS, "version: 1", "version: 3"),
        swap("twin", "version: 1", "version: 3")), f"{ALIAS} -> twin -> {ALIAS}"),
    "parallel": ("parallel-steps", FULL,
        swap(FULL, 'input_map { key: "text_features" value: "text_features" }', ""),
        f"step 2 ({ENCODER}) and step 3 ({DECODER}) may be in flight at once"),
    "latest step": ("unpinned-version", RELEASE,
        swap(RELEASE, "model_version: 1", "model_version: -1"),
        f"step 1 ({TOKENIZER}) has model_version -1"),
    "no pin": ("unpinned-version", RELEASE, swap(RELEASE, "model_version: 1", ""), "_version 0"),
    "latest alias": ("unpinned-version", ALIAS,
        swap(ALIAS, "specific { versions: 3 }", "latest { num_versions: 1 }"),
        f"the alias of {RELEASE} names none"),
    "two versions": ("unpinned-version", ALIAS,
        also(folder(ALIAS, "4"), swap(ALIAS, "versions: 3", "versions: [3, 4]")), "names 3, 4"),
    "pin": ("missing-version", RELEASE, swap(RELEASE, "model_version: 1", "model_version: 2"),
        f"step 1 ({TOKENIZER}) is pinned to version 2, and the model serves 1 of the folders 1"),
    "not served": ("missing-version", RELEASE,
        also(folder(HEAD, "2"), put(b"", HEAD, "2", PLAN)),
        f"step 3 ({HEAD}) is pinned to version 1, and the model serves 2 of the folders 1, 2"),
    "alias's version": ("missing-version", ALIAS, swap(ALIAS, "versions: 3", "versions: 4"),
        "version_policy names 4, and the folders are 3"),
    "no version": ("missing-version", HEAD, remove(HEAD, "1"), "there is no version folder"),
    "no plan": ("missing-version", HEAD, remove(HEAD, "1", PLAN), "folder 1 has no model.plan"),
    "no servable": ("missing-version", DECODER, remove(DECODER, "1", "model.py"), "no model.py"),
    "no such file": ("missing-version", HEAD, swap(HEAD, "model.plan", "a" * 300), "no aa"),
    "larger batch": ("batch-mismatch", ALIAS, swap(ALIAS, "size: 8", "size: 9"),
        f"max_batch_size is 9, and that of step 1 ({RELEASE}) is 8"),
    "no batch": ("batch-mismatch", ALIAS, swap(ALIAS, "size: 8", "size: 0"), "is 0, and that of"),
    "negative batch": ("batch-mismatch", ALIAS, swap(ALIAS, "size: 8", "size: -1"), "size is -1"),
    "preferred": ("batch-mismatch", HEAD, swap(HEAD, "dynamic_batching {",
        "dynamic_batching { preferred_batch_size: [4, 16]"),
        "prefers batches of 16, and max_batch_size is 8"),
    "no such profile": ("profile-coverage", ENCODER,
        swap(ENCODER, 'profile: "2"', 'profile: "2" profile: "5"'),
        "instance group 0 names profiles 0, 1, 2, 5, and the plan has 0, 1, 2"),
    "not named": ("profile-coverage", ENCODER, swap(ENCODER, 'profile: "1"', ""),
        "names profiles 0, 2, and the plan has 0, 1, 2"),
    "none named": ("profile-coverage", ENCODER,
        swap(ENCODER, 'profile: "0" profile: "1" profile: "2"', ""), "names profiles 0, and"),
    "least batch": ("profile-coverage", HEAD,
        also(swap(HEAD, '"min":[1,', '"min":[2,', f"1/{RECORD}"), without_trials),
        "profile 0, input text_features takes batches of 2 to 8, and max_batch_size is 8"),
    "largest batch": ("profile-coverage", HEAD,
        also(swap(HEAD, '"max":[8,', '"max":[4,', f"1/{RECORD}"), without_trials),
        "profile 0, input text_features takes batches of 1 to 4, and max_batch_size is 8"),
    "mask": ("profile-coverage", ENCODER,
        swap(ENCODER, '"max":[8,32]', '"max":[8,33]', f"1/{RECORD}"),
        "input_ids [32, 32, 33], attention_mask [32, 32, 32]"),
    "short shape": ("profile-coverage", HEAD, swap(HEAD, "[1,384]", "[]", f"1/{RECORD}"),
        "min [] has not the rank of [-1, 384]"),
    "bucket": ("profile-coverage", ENCODER, swap(TOKENIZER, "[16, 32, 64]", "[16, 32, 48, 64]"),
        f"{TOKENIZER} gives 48 tokens, and the profiles cover 16, 32, 64 tokens"),
    "short buckets": ("profile-coverage", ENCODER, swap(TOKENIZER, "[16, 32, 64]", "[16, 32]"),
        f"{TOKENIZER} gives 33 tokens"),
    "no buckets": ("profile-coverage", ENCODER, swap(TOKENIZER, "buckets", "bins"), "no buckets"),
    "odd buckets": ("profile-coverage", ENCODER, swap(TOKENIZER, "[16, 32, 64]", "1"), "no b"),
    "no spec": ("profile-coverage", ENCODER, swap(TOKENIZER, '"{', '"[{'), "has no buckets"),
    "odd spec": ("profile-coverage", ENCODER, swap(TOKENIZER, 'string_value: "',
        'string_value: "[]" } } parameters { key: "old" value { string_value: "'), "no buckets"),
    "no record": ("profile-coverage", HEAD, remove(HEAD, "1", RECORD), "plan.json: No such file"),
    "empty record": ("profile-coverage", HEAD, put(b"{}", HEAD, "1", RECORD),
        "1/plan.json: profiles: Field required"),
    "no input's warm-up": ("warmup-shape", HEAD,
        swap(HEAD, "batch_size: 1 inputs {", 'batch_size: 1 inputs { key: "more" } inputs {'),
        "model_warmup batch_1 gives inputs more, text_features, and the model has text_features"),
    "input left out": ("warmup-shape", ENCODER, swap(ENCODER, 'inputs { key: "input_ids"',
        'inputs { key: "attention_mask"'),
        "gives inputs attention_mask, and the model has attention_mask, input_ids"),
    "warm-up's type": ("warmup-shape", ENCODER,
        swap(ENCODER, "value { data_type: TYPE_INT64", "value { data_type: TYPE_INT32"),
        "gives input attention_mask as TYPE_INT32, and the model takes TYPE_INT64"),
    "warm-up's dims": ("warmup-shape", HEAD,
        swap(HEAD, "value { data_type: TYPE_FP32 dims: 38", "value { data_type: TYPE_FP32 dims: "),
        "gives input text_features dims [4], and the model has [384]"),
    "any length": ("warmup-shape", ENCODER,
        swap(ENCODER, "value { data_type: TYPE_INT64 dims: 16",
            "value { data_type: TYPE_INT64 dims: -1"), "dims [-1], and the model has [-1]"),
    "warm-up's batch": ("warmup-shape", DECODER, swap(DECODER, "dynamic_batching {",
        'model_warmup { name: "w" batch_size: 9 '
        'inputs { key: "image" value { data_type: TYPE_STRING dims: 1 } } } dynamic_batching {'),
        "model_warmup w has batch_size 9, and max_batch_size is 8"),
    "warm-up of none": ("warmup-shape", HEAD,
        swap(HEAD, 'name: "batch_1" batch_size: 1', 'name: "batch_1"'), "batch_1 has batch_size 0"),
    "warm-up's length": ("warmup-shape", ENCODER,
        swap(ENCODER, "value { data_type: TYPE_INT64 dims: 16",
            "value { data_type: TYPE_INT64 dims: 24"),
        "is attention_mask [1, 24], input_ids [1, 16], and none of the 3 profiles covers it"),
    "graph's batch": ("warmup-shape", HEAD,
        swap(HEAD, "graph_spec { batch_size: 1", "graph_spec { batch_size: 16"),
        "graph_spec 0 has batch_size 16, and max_batch_size is 8"),
    "graph's dims": ("warmup-shape", HEAD, swap(HEAD, "dim: 384", "dim: [384, 1]"),
        "graph_spec 0 gives input text_features dims [384, 1], and the model has [384]"),
    "graph's length": ("warmup-shape", ENCODER, swap(ENCODER, "dim: 16", "dim: 24"),
        "graph_spec 0 is attention_mask [1, 24], input_ids [1, 16]"),
    "any kind": ("instance-kind", HEAD, swap(HEAD, "KIND_GPU", "KIND_AUTO"), "0 is KIND_AUTO"),
    "no group": ("instance-kind", DECODER,
        swap(DECODER, "instance_group { count: 1 kind: KIND_CPU }", ""), "no instance group"),
    "plan on a CPU": ("instance-kind", HEAD, swap(HEAD, "KIND_GPU", "KIND_CPU"),
        "instance group 0 is KIND_CPU, and the backend tensorrt"),
    "servable on a GPU": ("instance-kind", DECODER, swap(DECODER, "KIND_CPU", "KIND_GPU"),
        "instance group 0 is KIND_GPU, and the backend python"),
}  # fmt: skip


@pytest.mark.parametrize("repository", REPOSITORIES)
def test_what_is_published_has_no_finding(repository: str, request: pytest.FixtureRequest) -> None:
    found = lint_repository(request.getfixturevalue(repository))
    assert [str(finding) for finding in found.findings] == []
    assert found.models == (7 + 3 + 3) + (repository == "built")  # encoders


@pytest.mark.parametrize("name", CASES)
def test_one_damage_is_one_rules_finding(name: str, copy: Path) -> None:
    code, model, damage, words = CASES[name]
    damage(copy)
    found = lint_repository(copy).findings
    assert {(finding.code, finding.model) for finding in found} == {(code, model)}
    whats = [finding.what for finding in found]
    assert any(all(word in what for word in words.split("|")) for what in whats), whats
    assert str(found[0]) == f"{model}: {code}: {found[0].what}; {found[0].fix}"


def test_every_rule_has_a_case() -> None:
    tried = {code for code, _, _, _ in CASES.values()}
    assert tried == {"unreadable-config", *(code for code, _, _ in RULES)}


def test_a_feature_size_of_a_real_build_is_found(built: Path, tmp_path: Path) -> None:
    repository = Path(shutil.copytree(built, tmp_path / "repository"))
    (encoder,) = (path.name for path in repository.glob("custom_image_encoder_*"))
    swap(encoder, "dims: 128", "dims: 127")(repository)
    found = lint_repository(repository).findings
    (encoders,) = (path.name for path in repository.glob("custom_encoders_*"))
    assert {(each.code, each.model) for each in found} == {("shape-mismatch", encoders)}
    assert "has dims [127]" in found[0].what
    assert "has [128]" in found[0].what


def test_heads_over_tokens_need_a_profile_for_each_bucket(sequence: Path, tmp_path: Path) -> None:
    repository = Path(shutil.copytree(sequence, tmp_path / "repository"))
    swap(TOKENIZER, "buckets", "bins")(repository)
    found = lint_repository(repository).findings
    assert {finding.code for finding in found} == {"profile-coverage"}
    assert [finding.model for finding in found] == [component("fusion_head"), HEAD, ENCODER]


@pytest.mark.parametrize(
    "change",
    [
        swap(TOKENIZER, "[16, 32, 64]", "[16, 32, 64, 128]"),  # no text is that long
        also(folder(HEAD, "2"), put(b"", HEAD, "2", PLAN),
            swap(HEAD, "max_batch", "version_policy { specific { versions: 1 } } max_batch")),
        also(folder("demo_classify_r4"), folder(".tritium"), put(b"", "README")),
    ],
    ids=["a bucket more", "a version more", "an interrupted build"],
)  # fmt: skip
def test_what_does_no_harm_is_no_finding(change: Damage, copy: Path) -> None:
    change(copy)
    found = lint_repository(copy)
    assert (found.findings, found.models) == ((), 13)


def test_apps_do_not_mix(copy: Path) -> None:
    plan_repository(copy, manifest(app="other"), buckets=(8, 64))
    found = lint_repository(copy)
    assert (found.findings, found.models) == ((), 26)


def test_the_rest_is_linted_beside_a_config_that_cannot_be_read(copy: Path) -> None:
    also(put(b"?", TOKENIZER, CONFIG), swap(HEAD, "KIND_GPU", "KIND_CPU"))(copy)
    found = lint_repository(copy)
    codes = [(finding.code, finding.model) for finding in found.findings]
    assert codes == [("unreadable-config", TOKENIZER), ("instance-kind", HEAD)]
    assert found.models == 13


def test_a_finding_is_one_line() -> None:
    finding = Finding("cycle", "demo", "a\nb", "fix")
    assert str(finding) == "demo: cycle: a b; fix"
    assert finding.as_dict() == {"code": "cycle", "model": "demo", "what": "a\nb", "fix": "fix"}


@pytest.mark.parametrize(
    ("place", "line"), [("empty", "holds no model's config.pbtxt"), ("none", "No such file")]
)
def test_no_repository_is_one_clear_line(place: str, line: str, tmp_path: Path) -> None:
    (tmp_path / "empty" / "folder").mkdir(parents=True)
    with pytest.raises(TritiumError, match=line) as refused:
        lint_repository(tmp_path / place)
    assert "\n" not in str(refused.value)


def mutate_tensor(config: pb.ModelConfig, data: st.DataObject, models: list[str]) -> bool:
    """Change a tensor's dims or data type; say whether that cannot be right."""
    tensor = data.draw(st.sampled_from([*config.input, *config.output]))
    # What makes a step wait for another one is not read, and within `encoders` not even given.
    unread = getattr(tensor, "optional", False)
    old, new = list(tensor.dims), list(tensor.dims)
    what = data.draw(st.sampled_from(["type", "rank", "size"]))
    if what == "type":
        before, tensor.data_type = tensor.data_type, data.draw(st.integers(0, 20))
        return bool(before != tensor.data_type) and not unread
    axis = data.draw(st.integers(0, len(old) - 1))
    size = data.draw(st.integers(-2, 2000))
    new[axis : axis + (what == "size")] = [size]
    tensor.dims[:] = new
    # -1 agrees with any size, and an entry point's probabilities are -1.
    open_ended = -1 in (old[axis], size) or tensor.name == "probabilities"
    return not unread and (what == "rank" or (old != new and not open_ended))


def mutate_step(config: pb.ModelConfig, data: st.DataObject, models: list[str]) -> bool:
    step = data.draw(st.sampled_from(list(config.ensemble_scheduling.step)))
    old = (step.model_name, step.model_version)
    if data.draw(st.booleans()):
        step.model_name = data.draw(st.sampled_from([*models, "nobody", ""]))
    else:
        step.model_version = data.draw(st.integers(-2, 5))
    return old != (step.model_name, step.model_version)


def mutate_batch(config: pb.ModelConfig, data: st.DataObject, models: list[str]) -> bool:
    old, new = config.max_batch_size, data.draw(st.integers(-2, 40))
    config.max_batch_size = new
    is_alias = config.version_policy.HasField("specific")
    fits = (is_alias and 0 < new < old) or (config.backend == "python" and new > old)
    return bool(new != old and not fits)


@pytest.mark.parametrize("repository", REPOSITORIES)
def test_no_changed_field_goes_unseen(repository: str, request: pytest.FixtureRequest) -> None:
    where = request.getfixturevalue(repository)
    models = sorted(path.parent.name for path in where.glob(f"*/{CONFIG}"))

    @settings(max_examples=60, deadline=None)
    @given(data=st.data())
    def check(data: st.DataObject) -> None:
        model = where / data.draw(st.sampled_from(models))
        config = read(model)
        before = (model / CONFIG).read_bytes()
        kinds = [mutate_tensor, mutate_batch]
        kinds += [mutate_step] if config.ensemble_scheduling.step else []
        breaks = data.draw(st.sampled_from(kinds))(config, data, models)
        try:
            (model / CONFIG).write_text(to_pbtxt(config), encoding="utf-8")
            assert lint_repository(where).findings or not breaks
        finally:
            (model / CONFIG).write_bytes(before)

    check()
    assert lint_repository(where).findings == ()


# What protobuf's parser says of a backslash that escapes nothing, before it refuses the rest.
@pytest.mark.filterwarnings("ignore:(.*)invalid escape sequence:DeprecationWarning")
@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_no_content_of_a_file_raises(data: st.DataObject, pooled: Path) -> None:
    path = pooled / data.draw(st.sampled_from([f"{HEAD}/1/{RECORD}", f"{ALIAS}/{CONFIG}"]))
    before = path.read_bytes()
    begin = data.draw(st.integers(0, len(before)))
    end = data.draw(st.integers(begin, len(before)))
    try:
        path.write_bytes(before[:begin] + data.draw(st.binary()) + before[end:])
        lint_repository(pooled)
    finally:
        path.write_bytes(before)


def test_a_clean_repository_ends_with_0(built: Path) -> None:
    shown = tritium("inspect", "--lint", str(built))
    assert (shown.returncode, shown.stdout) == (0, "14 models, 0 findings\n"), shown.stderr
    document = json.loads(tritium_inside("inspect", "--lint", str(built), "--json").stdout)
    assert document == {"models": 14, "findings": []}


def test_a_finding_ends_with_1(copy: Path) -> None:
    swap(HEAD, "KIND_GPU", "KIND_CPU")(copy)
    (finding,) = lint_repository(copy).findings
    shown = tritium_inside("inspect", "--lint", str(copy))
    assert shown.returncode == 1
    assert shown.stdout == f"{finding}\n13 models, 1 finding\n"
    as_json = tritium_inside("inspect", "--lint", str(copy), "--json")
    assert as_json.returncode == 1
    assert json.loads(as_json.stdout)["findings"] == [finding.as_dict()]
