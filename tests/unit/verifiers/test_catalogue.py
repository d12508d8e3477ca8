import pytest

from verifiers.catalogue import BUILT_IN, load
from verifiers.plugin import UnknownName

NEEDED = {"combine": {"parts": [{"name": "exact"}]}, "judge": {"model": "m"}, "step_rewards": {"delta": True}}


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_verifiers_load_under_their_own_names(name: str) -> None:
    assert load(name, NEEDED.get(name)).name == name


@pytest.mark.parametrize("name", BUILT_IN)
def test_an_option_that_a_verifier_does_not_have_is_refused_with_those_that_it_has(name: str) -> None:
    with pytest.raises(ValueError, match=rf"verifier '{name}': .*'colour'; its options are: "):
        load(name, {**NEEDED.get(name, {}), "colour": "red"})


def test_an_object_takes_no_options() -> None:
    with pytest.raises(ValueError, match="takes no options, got colour"):
        load("verifiers.catalogue:BUILT_IN", {"colour": "red"})


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(UnknownName, match="did you mean 'countdown'"):
        load("countdwon")


def test_an_import_path_loads_an_object_or_a_class() -> None:
    assert load("verifiers.exact:Exact").name == "exact"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("no_such_package.module:name", "cannot be imported"),
        ("verifiers.exact:Exakt", "did you mean 'Exact'"),
    ],
)
def test_a_wrong_import_path_says_what_is_missing(path: str, message: str) -> None:
    with pytest.raises(UnknownName, match=message):
        load(path)


def test_something_that_is_no_verifier_is_refused() -> None:
    with pytest.raises(TypeError, match="lacks name, version, score"):
        load("verifiers.countdown:apply")
