import importlib.util

import pytest

from verifiers.language import Language, scripts, written_in
from verifiers.records import ScoreRequest

HAS_CLASSIFIER = importlib.util.find_spec("py3langid") is not None


@pytest.mark.parametrize(
    ("response", "language"),
    [
        ("これは日本語です。", "ja"),
        ("这是中文。", "zh"),
        ("这是中文。", "zh-cn"),
        ("한국어입니다", "ko"),
        ("Αυτό είναι ελληνικό.", "el"),
        ("இது தமிழ்", "ta"),
        ("นี่คือภาษาไทย 123", "th"),
    ],
)
def test_a_script_of_its_own_tells_the_language(response: str, language: str) -> None:
    assert written_in(response, language)
    for other in {"ja", "zh", "ko", "el", "ta", "th"} - {language.partition("-")[0]}:
        assert not written_in(response, other)


def test_a_few_foreign_names_do_not_change_the_language_and_many_do() -> None:
    verifier = Language(language="ja", share=0.8)
    assert verifier.score(ScoreRequest("", "これはパイソンとリナックスの説明です OK", "")).reward == 1.0
    mixed = verifier.score(ScoreRequest("", "これは a description of Python", ""))
    assert (mixed.reward, mixed.feedback) == (0.0, "expected ja; most letters are LATIN")


def test_a_text_without_letters_is_in_no_language() -> None:
    assert Language(script="latin").score(ScoreRequest("", "12 + 3 = 15", "")).feedback == "there is no letter in it"
    assert not written_in("", "ja")


def test_scripts_count_letters_of_any_width() -> None:
    assert scripts("Ａbc ｶﾅー 1") == {"LATIN": 3, "KATAKANA": 3}


def test_the_reference_names_the_language_where_the_recipe_does_not() -> None:
    assert Language().score(ScoreRequest("", "ελληνικά", "el")).reward == 1.0
    assert Language().score(ScoreRequest("", "ελληνικά", "ko")).reward == 0.0


def test_language_and_script_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="exclude each other"):
        Language(language="de", script="LATIN")


@pytest.mark.skipif(HAS_CLASSIFIER, reason="py3langid is installed")
def test_without_the_classifier_languages_of_one_script_are_not_guessed() -> None:
    with pytest.raises(ValueError, match="pip install py3langid"):
        Language(language="de").prepare()


@pytest.mark.skipif(not HAS_CLASSIFIER, reason="py3langid is not installed")
def test_the_classifier_tells_languages_of_one_script() -> None:
    german, english = "Das ist ein deutscher Satz.", "This is an English sentence."
    assert written_in(german, "de")
    assert not written_in(german, "en")
    assert written_in(english, "en")
    with pytest.raises(ValueError, match="no language has the code 'xx'"):
        written_in(english, "xx")
