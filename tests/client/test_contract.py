"""The words that client and server agree on."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tritium_client import contract
from tritium_client.contract import Modality, WireError

ERRORS = st.builds(
    WireError,
    stage=st.from_regex(r"[a-z_]{1,30}", fullmatch=True),
    item=st.integers(0, 10**9),
    reason=st.text(),
)


@given(ERRORS, st.lists(st.from_regex(r"[a-z][a-z0-9_]{0,20}", fullmatch=True), max_size=3))
def test_an_error_survives_the_way_through_nested_ensembles(
    error: WireError, ensembles: list[str]
) -> None:
    prefix = "".join(f"in ensemble '{name}', " for name in ensembles)
    assert contract.parse_error(prefix + contract.format_error(error)) == error


def test_an_error_keeps_all_lines_of_its_reason() -> None:
    error = WireError("image_decoder", 3, "first: a\nsecond\n")
    assert contract.parse_error(contract.format_error(error)) == error


def test_triton_s_own_messages_are_no_errors_of_a_stage() -> None:
    assert contract.parse_error("unexpected inference input 'x' for model 'y'") is None


def test_entry_points_are_named_by_what_is_given() -> None:
    both: tuple[Modality, ...] = ("text", "image")
    assert contract.entry_point("demo", "classify", both) == "demo_classify"
    assert contract.entry_point("demo", "classify", ("image", "text")) == "demo_classify"
    assert contract.entry_point("demo", "classify", ("image",)) == "demo_classify_image"
    assert contract.release_entry_point("demo", "classify", ("text",), 12) == (
        "demo_classify_text_r12"
    )
    assert contract.component("demo", "text_encoder", "0123456789abcdef") == (
        "demo_text_encoder_0123456789ab"
    )


def test_an_app_has_one_main_entry_point_by_what_it_does() -> None:
    names = contract.main_entry_points("shop")
    assert set(names) == set(contract.VERBS) == set(contract.VERB_OF.values())
    assert names["classify"] == "shop_classify"
    assert names["embed"] == "shop_embed_text", "there is no vector of both together"


def test_the_role_of_a_component_is_found_in_what_triton_says() -> None:
    for role in contract.ROLES:
        name = contract.component("demo", role, "0123456789abcdef")
        assert contract.role_of(f"Stub process '{name}_0_0' is not healthy.") == role
    assert contract.role_of("Stub process 'other_model_0_0' is not healthy.") is None


def test_an_app_s_name_is_a_plain_lower_case_word() -> None:
    good = ["a", "openmoji", "clip_art_2", "a" * 63]
    bad = ["", "A", "2a", "_a", "a-b", "a b", "a/b", "../a", "a\n", "a" * 64]
    assert [name for name in good + bad if contract.is_app_name(name)] == good
