"""Profiles: what the shipped ones keep, and what each kind of mistake is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from sts_cli.errors import ProfileError
from sts_cli.profile import Cut, Escalate, Narrowing, Profile, budget
from sts_cli.profile_files import load_profile, parse, shipped
from sts_cli.profile_files.writing import as_yaml

AVERAGES = {"off": 576, "gentle": 192, "balanced": 128, "aggressive": 64, "extreme": 32}


@pytest.mark.parametrize(
    ("name", "average"), [*AVERAGES.items(), ("random", 64), ("grid", 64), ("cascade", 64)]
)
def test_a_shipped_profile_keeps_what_it_says(name: str, average: int):
    profile = load_profile(name)
    assert round(profile.planned(576, 32)) == average
    assert str(average) in profile.about or name == "off"


def test_every_file_is_listed_and_explains_itself():
    assert set(shipped()) == {*AVERAGES, "random", "grid", "cascade"}
    assert all(load_profile(name).about.endswith(".") for name in shipped())


def test_a_profile_of_ones_own_is_a_path(tmp_path: Path):
    path = tmp_path / "mine.yaml"
    path.write_text("structure: {method: repulsion, keep: 100, spatial: 2}\nbatch_size: 3\n")
    assert load_profile(str(path)) == Profile(
        "mine", cuts=(Cut("repulsion", 100, 0.0, {"spatial": 2.0}),), batch_size=3
    )


def test_an_encoder_stands_beside_the_cuts():
    profile = parse(f"{STAGE}}}\n{NARROW}", "mine", "mine.yaml")
    narrowing = Narrowing("likeness", keep=0.5, depth=0.3)
    assert profile == Profile("mine", cuts=(Cut("repulsion", 0.5),), encoder=narrowing)
    assert parse(as_yaml(profile), "mine", "again.yaml") == profile
    assert profile.settings()["encoder"] == {"method": "likeness", "keep": 0.5, "depth": 0.3}
    assert "encoder" not in parse("", "empty", "empty.yaml").settings()
    assert [narrowing.layer(layers) for layers in (1, 6, 11, 23)] == [1, 2, 3, 7]


def test_an_empty_profile_prunes_nothing():
    profile = parse("", "empty", "empty.yaml")
    assert profile == Profile("empty")
    assert parse("structure:\nattention:\nquantize:", "empty", "empty.yaml") == profile
    assert profile.budgets(576) == () and profile.stops(32) == ()
    assert list(profile.steps(32)) == [(None, range(32), None)]


STAGE = "structure: {method: repulsion, keep: 0.5"
DEEP = "semantics: {method: instruction, depth: 0.5, keep: 0.2"
RISE = STAGE + "}\nescalate: "
NARROW = "encoder: {method: likeness, keep: 0.5, depth: 0.3}"
GRID = {"method": "grid", "keep": 0.2, "depth": 0.5}
MISTAKES = [
    ("structure: [", "not valid YAML"),
    ("just text", "expected keys and values"),
    ("strcture: {}", "unknown key 'strcture'. Known: about, structure"),
    ("strcture: {}", "Did you mean 'structure'?"),
    ("structure: repulsion", "must look like {method: ..., keep: ...}"),
    (
        "structure: {keep: 0.5}",
        "method is missing. Known: cdpruner, divprune, fastv, feather, grid, hawk, instruction",
    ),
    ("structure: {method: repulse, keep: 0.5}", "Did you mean 'repulsion'?"),
    ("structure: {method: repulsion}", "structure: keep is missing"),
    ("structure: {method: repulsion, keep: 0}", "keep is 0."),
    ("structure: {method: repulsion, keep: 1.5}", "keep is 1.5."),
    ("structure: {method: repulsion, keep: -3}", "keep is -3."),
    ("structure: {method: repulsion, keep: true}", "keep is True"),
    ("structure: {method: repulsion, keep: .nan}", "keep is nan"),
    ("structure: {method: repulsion, keep: half}", "keep is 'half'"),
    (STAGE + ", depth: 0.5}", "unknown key 'depth'"),
    (STAGE + ", potential: cos}", "unknown key 'potential'. Known: method, keep, spatial"),
    (DEEP + ", rows: first}", "rows is 'first'. Known: all, last."),
    (STAGE + ", spatial: 99}", "spatial is 99. Give a number from 0 to 10."),
    ("semantics: {method: instruction, keep: 0.2}", "depth is missing"),
    ("semantics: {method: instruction, depth: 2, keep: 0.2}", "depth is 2"),
    (STAGE + "}\n" + DEEP.replace("0.2", "0.6") + "}", "semantics keeps 0.6, more than the 0.5"),
    ("structure: {method: relevance, keep: 0.5}", "there are none at depth 0"),
    (DEEP.replace("depth: 0.5", "depth: 0") + "}", "depth is 0, before the first layer"),
    ("semantics: {method: star, depth: 0.5, keep: 9}", "star needs attention in the vision"),
    ("structure: {method: fastv, keep: 9}", "there are none at depth 0"),
    ("structure: {method: fastw, keep: 9}", "Did you mean 'fastv'?"),
    ("structure: {method: hawk, keep: 9, heads: mine}", "heads is 'mine'. Known: uniform, qwen2"),
    ("cuts: 3", "cuts must be a list"),
    ("cuts: [3]", "cut 1 must look like {method: ..., keep: ...}"),
    ("cuts: [{method: relevance, keep: 9}]", "there are none at depth 0"),
    (STAGE + "}\ncuts: []", "give cuts, or structure and semantics, not both"),
    ("cuts: " + str([GRID, GRID]), "cut 2: depth 0.5 is not above 0.5"),
    ("cuts: " + str([GRID, {**GRID, "depth": 0.7, "keep": 0.3}]), "cut 2 keeps 0.3, more than"),
    ("about: &a x\nbatch_size: *a", "line 1: anchors and aliases are not allowed"),
    ("about: " + "[" * 9 + "]" * 9, "nested deeper than 8 levels"),
    ("encoder: likeness", "encoder must look like {method: ..., keep: ..., depth: ...}"),
    ("encoder: {keep: 0.5, depth: 0.3}", "encoder: method is missing. Known: likeness, change."),
    (NARROW.replace("likeness", "likenes"), "Did you mean 'likeness'?"),
    (NARROW.replace("0.5", "100"), "encoder: keep is 100. Give a number from 0.25 to 1."),
    (NARROW.replace(", depth: 0.3", ""), "encoder: depth is missing. Give a number from 0 to 1."),
    (NARROW.replace("depth", "dept"), "unknown key 'dept'. Known: method, keep, depth."),
    ("quantize: int5", "quantize is 'int5'. Known: auto, none, int8, int4, nf4."),
    (STAGE + "}\nattention: sized", "attention is 'sized'. Known: plain, proportional."),
    ("attention: proportional", "attention is 'proportional', but there are no cuts"),
    ("batch_size: 0", "batch_size is 0"),
    ("max_new_tokens: many", "max_new_tokens is 'many'"),
    ("about: [a, list]", "about must be text"),
    (RISE + "balanced", "escalate must look like {below: 0.9, to: balanced}"),
    (RISE + "{below: 0.9}", "escalate must look like {below: 0.9, to: balanced}"),
    (RISE + "{bellow: 0.9, to: 'off'}", "unknown key 'bellow'. Known: below, to, measure, at_most"),
    (RISE + "{below: 9, to: off}", "escalate: below is 9. Give a number from 0 to 1."),
    (RISE + "{to: off}", "escalate: below is missing"),
    (RISE + "{below: 0.9, to: off, at_most: 2}", "escalate: at_most is 2"),
    (RISE + "{below: 0.9, to: off, measure: sum}", "measure is 'sum'. Known: probability, margin"),
    (RISE + "{below: 0.9, to: extreme}", "'extreme' keeps 32 of 576 visual tokens on average"),
    (
        STAGE.replace("0.5", "9") + "}\nescalate: {below: 1, to: mine.yaml}",
        "leads back to mine.yaml",
    ),
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
        ("nul\0.yaml", "embedded null byte"),
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
    assert min(1, visual) <= budget(keep, visual) <= visual


@given(
    st.floats(0.01, 1),
    st.floats(0.01, 1),
    st.floats(0, 1),
    st.integers(1, 3000),
    st.integers(1, 80),
)
def test_the_average_lies_between_the_cuts(
    first: float, second: float, depth: float, visual: int, layers: int
):
    profile = Profile("p", "", (Cut("grid", first), Cut("grid", second, depth)))
    lower, upper = profile.budgets(visual)
    assert upper <= lower and all(0 <= stop <= layers for stop in profile.stops(layers))
    assert upper - 1e-9 <= profile.planned(visual, layers) <= lower + 1e-9


def test_cuts_are_the_general_form_of_structure_and_semantics():
    short = parse(STAGE + "}\n" + DEEP + "}", "mine", "mine.yaml")
    general = parse(
        "cuts: [{method: repulsion, keep: 0.5}, {method: instruction, depth: 0.5, keep: 0.2}]",
        "mine",
        "mine.yaml",
    )
    assert short == general
    three = [GRID, {**GRID, "depth": 0.7, "keep": 0.1}, {**GRID, "depth": 0.8, "keep": 2}]
    profile = parse(f"cuts: {three}", "mine", "mine.yaml")
    assert profile.budgets(100) == (20, 10, 2) and profile.stops(10) == (5, 7, 8)
    assert profile.planned(100, 10) == (5 * 100 + 2 * 20 + 1 * 10 + 2 * 2) / 10
    assert [span for _, span, _ in profile.steps(10)] == [
        range(5),
        range(5, 7),
        range(7, 8),
        range(8, 10),
    ]


def test_a_later_cut_never_plans_with_more_than_is_left():
    profile = Profile("p", "", (Cut("grid", 0.1), Cut("grid", 50, 0.5)))
    assert profile.budgets(100) == (10, 10)


def test_equal_budgets_are_allowed_and_halves_are_rounded_up():
    same = STAGE + "}\n" + DEEP.replace("0.2", "0.5") + "}"
    assert parse(same, "mine", "mine.yaml").budgets(9) == (5, 5)
    assert Cut("grid", 0.5, 0.5).layer(5) == 2 and Cut("grid", 0.5, 0.7).layer(5) == 4


def test_what_a_profile_asks_for_in_vain_is_said():
    assert Profile("off").idle(576) == []
    assert Profile("mine").idle(576) == ["profile 'mine' has no cuts"]
    assert Profile("mine", encoder=Narrowing("likeness", 0.5, 0.3)).idle(576) == []
    (note,) = Profile("mine", encoder=Narrowing("likeness", 1.0, 0.3)).idle(576)
    assert note == "profile 'mine': encoder keeps 1, so it drops no patch"
    (note,) = Profile("mine", cuts=(Cut("grid", 5000),)).idle(576)
    assert "grid keeps 5000, so it drops none of the 576 visual tokens there" in note
    (note,) = Profile("mine", cuts=(Cut("grid", 0.1), Cut("random", 60, 0.5))).idle(576)
    assert "random keeps 60, so it drops none of the 58 visual tokens there" in note
    assert load_profile("aggressive").idle(576) == []


def test_a_profile_escalates_to_one_that_keeps_more(tmp_path: Path):
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    first.write_text(f"{STAGE.replace('0.5', '9')}}}\nescalate: {{below: 0.9, to: second.yaml}}")
    second.write_text(RISE + "{below: 0.8, to: off, measure: margin, at_most: 0.1}")
    off = load_profile("off")
    later = Profile(
        "second", "", (Cut("repulsion", 0.5),), escalate=Escalate(0.8, off, "margin", 0.1)
    )
    found = load_profile(str(first))
    assert found == Profile("first", "", (Cut("repulsion", 9),), escalate=Escalate(0.9, later))
    assert [one.name for one in found.ladder] == ["first", "second", "off"]
    settings = json.loads(json.dumps(found.settings()))
    assert settings["escalate"]["to"]["escalate"] == {
        "below": 0.8,
        "to": off.settings(),
        "measure": "margin",
        "at_most": 0.1,
    }
    assert "escalate" not in off.settings()


@pytest.mark.parametrize(
    ("then", "message"),
    [
        (
            "structure: {method: grid, keep: 0.6}\nescalate: {below: 1, to: first.yaml}",
            "leads back to",
        ),
        (
            "structure: {method: grid, keep: 0.5}",
            "keeps 288 of 576 visual tokens on average, not more",
        ),
        ("quantize: int8", "asks for quantize int8, but the profiles of a cascade share one model"),
        ("max_new_tokens: 3", "asks for max_new_tokens 3"),
        ("sructure: 1", "unknown key 'sructure'"),
        (None, "Cannot read the profile"),
    ],
)
def test_a_next_profile_that_makes_no_sense_is_refused(
    tmp_path: Path, then: str | None, message: str
):
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    first.write_text(RISE + "{below: 0.9, to: second.yaml}")
    if then is not None:
        second.write_text(then)
    with pytest.raises(ProfileError) as caught:
        load_profile(str(first))
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_all_mistakes_of_a_file_are_told_each_with_its_line():
    text = """about: mine
sructure: 4
structure:
  method: repulsion
  keep: 7.5
  blend: 9
semantics: {method: gird,
  keep: 2.5}
quantize: int5
batch_size: 0
escalate:
  below: 9
  to: off
  measure: sum
"""
    with pytest.raises(ProfileError) as caught:
        parse(text, "mine", "mine.yaml")
    starts = [line.split(". ")[0] for line in str(caught.value).splitlines()]
    assert starts == [
        "mine.yaml, line 2: unknown key 'sructure'",
        "mine.yaml, line 6: structure: unknown key 'blend'",
        "mine.yaml, line 5: structure: keep is 7.5",
        "mine.yaml, line 7: semantics: method is 'gird'",
        "mine.yaml, line 8: semantics: keep is 2.5",
        "mine.yaml, line 9: quantize is 'int5'",
        "mine.yaml, line 10: batch_size is 0",
        "mine.yaml, line 14: escalate: measure is 'sum'",
        "mine.yaml, line 12: escalate: below is 9",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cuts:\n- {method: grid, keep: 9}\n- {method: grid}\n", "line 3: cut 2: keep is missing"),
        ("about: x\ncuts: 4", "line 2: cuts must be a list"),
        ("about: x\nabout: y", "line 2: about is there twice; the first is in line 1."),
        ("about: x\nstructure: {method: grid\nkeep: 2", "line 3: not valid YAML (expected ',' or"),
        ("about: x\n\tstructure: 1", "line 2: not valid YAML"),
        (STAGE + ",\n  method: grid}", "line 2: method is there twice"),
    ],
)
def test_a_mistake_is_told_with_its_line(text: str, message: str):
    with pytest.raises(ProfileError) as caught:
        parse(text, "mine", "mine.yaml")
    assert str(caught.value).startswith("mine.yaml, ") and message in str(caught.value)


def test_a_bomb_of_aliases_is_refused_before_it_grows():
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    with pytest.raises(ProfileError, match="anchors and aliases") as caught:
        parse("\n".join(lines), "mine", "mine.yaml")
    assert len(str(caught.value)) < 200


def test_a_large_file_is_no_profile(tmp_path: Path):
    path = tmp_path / "large.yaml"
    path.write_text("about: " + "x" * 100_000)
    with pytest.raises(ProfileError, match="larger than 64 KiB"):
        load_profile(str(path))


@pytest.mark.parametrize("path", shipped().values(), ids=lambda path: path.stem)
def test_a_shipped_file_has_only_what_differs_from_nothing(path: Path):
    assert None not in yaml.safe_load(path.read_text("utf-8")).values()
