"""Profiles: what the shipped ones keep, and what each kind of mistake is told."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from sts_cli.errors import ProfileError
from sts_cli.profile import Profile, Semantics, Structure, kept, load_profile, parse, shipped

AVERAGES = {"off": 576, "gentle": 192, "balanced": 128, "aggressive": 64, "extreme": 32}


@pytest.mark.parametrize(("name", "average"), [*AVERAGES.items(), ("random", 64), ("grid", 64)])
def test_a_shipped_profile_keeps_what_it_says(name: str, average: int):
    profile = load_profile(name)
    assert round(profile.average(576, 32)) == average
    assert str(average) in profile.about or name == "off"


def test_every_file_is_listed_and_explains_itself():
    assert set(shipped()) == {*AVERAGES, "random", "grid"}
    assert all(load_profile(name).about.endswith(".") for name in shipped())


def test_a_profile_of_ones_own_is_a_path(tmp_path: Path):
    path = tmp_path / "mine.yaml"
    path.write_text("structure: {method: repulsion, keep: 100, spatial: 2}\nbatch_size: 3\n")
    assert load_profile(str(path)) == Profile(
        "mine", structure=Structure("repulsion", 100, {"spatial": 2.0}), batch_size=3
    )


def test_an_empty_profile_prunes_nothing():
    profile = parse("", "empty", "empty.yaml")
    assert profile == Profile("empty")
    assert parse("structure:\nattention:\nquantize:", "empty", "empty.yaml") == profile
    assert profile.budget(576) == (576, 576) and profile.cut(32) == 32


STAGE = "structure: {method: repulsion, keep: 0.5"
DEEP = "semantics: {method: instruction, depth: 0.5, keep: 0.2"
MISTAKES = [
    ("structure: [", "not valid YAML"),
    ("just text", "expected keys and values"),
    ("strcture: {}", "unknown key 'strcture'. Known: about, structure"),
    ("strcture: {}", "Did you mean 'structure'?"),
    ("structure: repulsion", "must look like {method: ..., keep: ...}"),
    ("structure: {keep: 0.5}", "method is missing. Known: repulsion, random, grid."),
    ("structure: {method: repulse, keep: 0.5}", "Did you mean 'repulsion'?"),
    ("structure: {method: repulsion}", "structure: keep is missing"),
    ("structure: {method: repulsion, keep: 0}", "keep is 0."),
    ("structure: {method: repulsion, keep: 1.5}", "keep is 1.5."),
    ("structure: {method: repulsion, keep: -3}", "keep is -3."),
    ("structure: {method: repulsion, keep: true}", "keep is True"),
    ("structure: {method: repulsion, keep: .nan}", "keep is nan"),
    ("structure: {method: repulsion, keep: half}", "keep is 'half'"),
    (STAGE + ", depth: 0.5}", "unknown key 'depth'"),
    (STAGE + ", potential: cosine}", "potential is 'cosine'. Known: riesz, cos, gauss."),
    (STAGE + ", spatial: 99}", "spatial is 99. Give a number from 0 to 10."),
    ("semantics: {method: instruction, keep: 0.2}", "depth is missing"),
    ("semantics: {method: instruction, depth: 2, keep: 0.2}", "depth is 2"),
    (STAGE + "}\n" + DEEP.replace("0.2", "0.6") + "}", "semantics keeps 0.6, more than the 0.5"),
    ("quantize: int5", "quantize is 'int5'. Known: auto, none, int8, int4, nf4."),
    (STAGE + "}\nattention: sized", "attention is 'sized'. Known: plain, proportional."),
    ("attention: proportional", "nothing is pruned: every token stands for itself"),
    ("batch_size: 0", "batch_size is 0"),
    ("max_new_tokens: many", "max_new_tokens is 'many'"),
    ("about: [a, list]", "about must be text"),
]


@pytest.mark.parametrize(("text", "message"), MISTAKES)
def test_a_mistake_names_the_file_the_key_and_what_is_known(text: str, message: str):
    with pytest.raises(ProfileError) as caught:
        parse(text, "mine", "mine.yaml")
    assert str(caught.value).startswith("mine.yaml") and message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("agressive", "Did you mean 'aggressive'?"),
        ("gone.yaml", "Cannot read the profile gone.yaml: No such file or directory."),
    ],
)
def test_a_profile_that_is_not_there(name: str, message: str):
    with pytest.raises(ProfileError, match="profile") as caught:
        load_profile(name)
    assert message in str(caught.value)


@given(st.text())
def test_any_text_is_a_profile_or_one_message(text: str):
    try:
        parse(text, "mine", "mine.yaml")
    except ProfileError as error:
        assert "mine.yaml" in str(error)


@given(st.floats(0.001, 1) | st.integers(2, 5000), st.integers(0, 5000))
def test_a_budget_is_at_least_one_token_and_at_most_all(keep: float, visual: int):
    assert min(1, visual) <= kept(keep, visual) <= visual


@given(
    st.floats(0.01, 1),
    st.floats(0.01, 1),
    st.floats(0, 1),
    st.integers(1, 3000),
    st.integers(1, 80),
)
def test_the_average_lies_between_the_two_stages(
    first: float, second: float, depth: float, visual: int, layers: int
):
    profile = Profile("p", "", Structure("grid", first), Semantics("grid", depth, second))
    lower, upper = profile.budget(visual)
    assert upper <= lower and 1 <= profile.cut(layers) <= layers
    assert upper - 1e-9 <= profile.average(visual, layers) <= lower + 1e-9


@pytest.mark.parametrize("path", shipped().values(), ids=lambda path: path.stem)
def test_a_shipped_file_has_only_what_differs_from_nothing(path: Path):
    assert None not in yaml.safe_load(path.read_text("utf-8")).values()
