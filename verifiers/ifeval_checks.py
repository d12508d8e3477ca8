"""The 25 instructions of IFEval (2311.07911), each as a function of the response and the instruction's arguments.

Where the published program rests on nltk or langdetect, this differs from it:

* sentences end at `.`, `!`, `?` (also …, 。, ！, ？) before white space or the end, unless an abbreviation or an
  initial ends there;
* a word in capitals is a run of letters and digits with hyphens, apostrophes and full stops inside, so `I'M` is one and
  not two;
* languages are told by `verifiers.language`, which may need py3langid; a text without letters is in no language;
* keywords are texts, not patterns: `C++` is looked for as it stands.

An argument that is missing is an error of the row; nothing is drawn at random.
"""

import re
from collections import Counter
from collections.abc import Callable

from verifiers.json_schema import read_json
from verifiers.language import written_in
from verifiers.length import size

_SENTENCE_END = re.compile(r"[.!?…]+[\"'”’)\]]*(?=\s|$)|[。！？]+")
_ABBREVIATION = re.compile(
    r"(?:\b(?:Mr|Mrs|Ms|Dr|Prof|St|Sr|Jr|vs|etc|e\.g|i\.e|cf|No|Fig|Inc|Ltd|Co|approx)|\b[A-Z])$"
)
_LIST_NUMBER = re.compile(r"(?:^|\n)\s*\d{1,3}$")
_WORD = re.compile(r"[^\W_]+(?:[-'’.][^\W_]+)*")
_ANSWERS = ("My answer is yes.", "My answer is no.", "My answer is maybe.")
_POSTSCRIPTS = {"P.S.": r"p\.\s?s\.", "P.P.S": r"p\.\s?p\.\s?s"}


def count_sentences(response: str) -> int:
    """Sentences of a text; what stands after the last full stop is one as well."""
    count, begin = 0, 0
    for end in _SENTENCE_END.finditer(response):
        just_before = max(end.start() - 8, 0), end.start()
        if end[0] == "." and (
            _ABBREVIATION.search(response, *just_before) or _LIST_NUMBER.search(response, *just_before)
        ):
            continue
        count += bool(response[begin : end.start()].strip())
        begin = end.end()
    return count + bool(_WORD.search(response[begin:]))


def _related(count: int, relation: str, number: int) -> bool:
    if relation not in ("less than", "at least"):
        raise ValueError(f"a relation is 'less than' or 'at least', got {relation!r}")
    return count < number if relation == "less than" else count >= number


def _occurrences(word: str, response: str) -> int:
    return len(re.findall(re.escape(word.strip()), response, re.IGNORECASE))


def _existence(response: str, keywords: list[str]) -> bool:
    return all(_occurrences(word, response) for word in keywords)


def _frequency(response: str, keyword: str, frequency: int, relation: str) -> bool:
    return _related(_occurrences(keyword, response), relation, frequency)


def _forbidden(response: str, forbidden_words: list[str]) -> bool:
    """As whole words: `can` is not in `cannot`."""
    words = (re.escape(word.strip()) for word in forbidden_words)
    return not any(re.search(rf"(?<!\w){word}(?!\w)", response, re.IGNORECASE) for word in words)


def _letters(response: str, letter: str, let_frequency: int, let_relation: str) -> bool:
    return _related(response.lower().count(letter.strip().lower()), let_relation, let_frequency)


def _sentences(response: str, num_sentences: int, relation: str) -> bool:
    return _related(count_sentences(response), relation, num_sentences)


def _words(response: str, num_words: int, relation: str) -> bool:
    return _related(size(response, "words"), relation, num_words)


def _paragraphs(response: str, num_paragraphs: int) -> bool:
    """Parts between `***`; the first and the last may be empty and then are none."""
    parts = [part.strip() for part in response.split("***")]
    parts = parts[not parts[0] : len(parts) - (len(parts) > 1 and not parts[-1])]
    return all(parts) and len(parts) == num_paragraphs


def _first_word(response: str, num_paragraphs: int, nth_paragraph: int, first_word: str) -> bool:
    """Paragraphs are separated by one empty line; quotes before and punctuation after the first word do not count."""
    paragraphs = response.split("\n\n")
    filled = [part for part in paragraphs if part.strip()]
    if (
        len(filled) != num_paragraphs
        or not 0 < nth_paragraph <= len(filled)
        or not paragraphs[nth_paragraph - 1].strip()
    ):
        return False
    word = paragraphs[nth_paragraph - 1].split()[0].lstrip("'\"")
    return re.split(r"[.,?!'\"]", word, maxsplit=1)[0].lower() == first_word.lower()


def _placeholders(response: str, num_placeholders: int) -> bool:
    return len(re.findall(r"\[[^\[\]\n]*\]", response)) >= num_placeholders


def _postscript(response: str, postscript_marker: str) -> bool:
    marker = postscript_marker.strip()
    return bool(re.search(_POSTSCRIPTS.get(marker, re.escape(marker.lower())), response.lower()))


def _bullets(response: str, num_bullets: int) -> bool:
    """Lines that begin with `-` or with one asterisk and more behind it."""
    return sum(bool(re.match(r"\s*(?:-|\*[^*])", line)) for line in response.split("\n")) == num_bullets


def _constrained(response: str) -> bool:
    return any(answer in response for answer in _ANSWERS)


def _highlights(response: str, num_highlights: int) -> bool:
    """`*so*` or `**so**`, within a line and not blank. Asterisks pair up from the left, so `******` holds nothing."""
    found = [*re.findall(r"\*([^*\n]*)\*", response), *re.findall(r"\*\*([^*\n]*)\*\*", response)]
    return sum(bool(words.strip()) for words in found) >= num_highlights


def _sections(response: str, section_spliter: str, num_sections: int) -> bool:
    return len(re.findall(rf"{re.escape(section_spliter.strip())}\s?\d+", response)) >= num_sections


def _json(response: str) -> bool:
    """Bare or between three backticks."""
    inside = re.sub(r"^```(?:json)?", "", response.strip(), flags=re.IGNORECASE).removesuffix("```")
    try:
        read_json(inside)
    except ValueError:
        return False
    return True


def _title(response: str) -> bool:
    """`<<something>>` within a line."""
    titles = (line.partition("<<")[2].rpartition(">>")[0] for line in response.split("\n"))
    return any(title.strip("<> ") for title in titles)


def _two_responses(response: str) -> bool:
    parts = [part.strip() for part in response.split("******")]
    parts = parts[not parts[0] : len(parts) - (len(parts) > 1 and not parts[-1])]
    return len(parts) == 2 and all(parts) and parts[0] != parts[1]


def _repeat_prompt(response: str, prompt_to_repeat: str) -> bool:
    return response.strip().lower().startswith(prompt_to_repeat.strip().lower())


def _end(response: str, end_phrase: str) -> bool:
    return response.strip().strip('"').lower().endswith(end_phrase.strip().lower())


def _quotation(response: str) -> bool:
    response = response.strip()
    return len(response) > 1 and response[0] == response[-1] == '"'


def _capital_words(response: str, capital_frequency: int, capital_relation: str) -> bool:
    counted = Counter(word.isupper() for word in _WORD.findall(response))
    return _related(counted[True], capital_relation, capital_frequency)


def _capitals(response: str) -> bool:
    return response.isupper() and written_in(response, "en")


def _lowercase(response: str) -> bool:
    return response.islower() and written_in(response, "en")


def _language(response: str, language: str) -> bool:
    return written_in(response, language)


def _no_comma(response: str) -> bool:
    return "," not in response


CHECKS: dict[str, tuple[Callable[..., bool], tuple[str, ...]]] = {
    "keywords:existence": (_existence, ("keywords",)),
    "keywords:frequency": (_frequency, ("keyword", "frequency", "relation")),
    "keywords:forbidden_words": (_forbidden, ("forbidden_words",)),
    "keywords:letter_frequency": (_letters, ("letter", "let_frequency", "let_relation")),
    "language:response_language": (_language, ("language",)),
    "length_constraints:number_sentences": (_sentences, ("num_sentences", "relation")),
    "length_constraints:number_paragraphs": (_paragraphs, ("num_paragraphs",)),
    "length_constraints:number_words": (_words, ("num_words", "relation")),
    "length_constraints:nth_paragraph_first_word": (_first_word, ("num_paragraphs", "nth_paragraph", "first_word")),
    "detectable_content:number_placeholders": (_placeholders, ("num_placeholders",)),
    "detectable_content:postscript": (_postscript, ("postscript_marker",)),
    "detectable_format:number_bullet_lists": (_bullets, ("num_bullets",)),
    "detectable_format:constrained_response": (_constrained, ()),
    "detectable_format:number_highlighted_sections": (_highlights, ("num_highlights",)),
    "detectable_format:multiple_sections": (_sections, ("section_spliter", "num_sections")),
    "detectable_format:json_format": (_json, ()),
    "detectable_format:title": (_title, ()),
    "combination:two_responses": (_two_responses, ()),
    "combination:repeat_prompt": (_repeat_prompt, ("prompt_to_repeat",)),
    "startend:end_checker": (_end, ("end_phrase",)),
    "startend:quotation": (_quotation, ()),
    "change_case:capital_word_frequency": (_capital_words, ("capital_frequency", "capital_relation")),
    "change_case:english_capital": (_capitals, ()),
    "change_case:english_lowercase": (_lowercase, ()),
    "punctuation:no_comma": (_no_comma, ()),
}
"""Function and the arguments it needs, by instruction id."""
