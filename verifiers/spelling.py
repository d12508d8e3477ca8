"""How answers are spelt: takes away what is only typesetting. Judges nothing; knows no numbers."""

import re

_LATEX_NOISE = re.compile(
    r"\\(?:left|right|displaystyle|,|!|;|:|\s)"  # spacing and sizes
    r"|\\(?=[%$])"  # escaped signs
    r"|\{(?=,\})|(?<=,)\}"  # 1{,}234
)
TEXT_COMMAND = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox|operatorname)\s*\{([^{}]*)\}")
_DEGREES = re.compile(r"\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![A-Za-z]))|\\degree(?![A-Za-z])")
_WRAPPERS = (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"), ("**", "**"), ("*", "*"), ("`", "`"), ('"', '"'))
_MIXED = re.compile(
    r"(?<![\w.^}])(?<!\^\{)(?P<whole>\d{1,9})(?:\s*\\[dt]?frac\s*(?:\{(?P<a>\d{1,6})\}|(?P<b>\d))"
    r"\s*(?:\{(?P<c>\d{1,6})\}|(?P<d>\d))|\s+(?P<e>\d{1,6})\s?/\s?(?P<f>\d{1,6})(?![\d.]))"
)
_REPEATING = re.compile(r"(?<![\w.])(\d{0,15})\.(\d{0,15})\\(?:overline|bar|overbar)\s*\{?(\d{1,15})\}?")


def plain(answer: str) -> str:
    """The answer without wrappers (`$…$`, `**…**`), LaTeX spacing, `\\text{}`, trailing period, doubled spaces."""
    answer = _DEGREES.sub("°", TEXT_COMMAND.sub(r" \1", _LATEX_NOISE.sub("", answer))).replace("−", "-").strip()
    for _ in range(4):  # wrappers nest a little: **$5$**
        answer = answer.rstrip(".,").strip()
        for start, end in _WRAPPERS:
            if len(answer) > len(start) + len(end) and answer.startswith(start) and answer.endswith(end):
                answer = answer[len(start) : -len(end)].strip()
                break
    return " ".join(answer.split())


def one_fraction(answer: str) -> str:
    r"""Mixed numbers and repeating decimals as one fraction: `3\frac{1}{2}` and `3 1/2` are `\frac{7}{2}`.

    Only a fraction below 1 makes a mixed number; `3\frac{5}{2}` stays the product that it looks like.
    """
    return _REPEATING.sub(_repeating, _MIXED.sub(_mixed, answer))


def _mixed(match: re.Match[str]) -> str:
    top, bottom = (int(match[n[0]] or match[n[1]] or match[n[2]]) for n in ("abe", "cdf"))
    return rf"\frac{{{int(match['whole']) * bottom + top}}}{{{bottom}}}" if 0 < top < bottom else match[0]


def _repeating(match: re.Match[str]) -> str:
    r"""0.1\overline{6} = (16 - 1) / 90"""
    whole, before, again = match.groups()
    top = int(whole + before + again) - int(whole + before or 0)
    return rf"\frac{{{top}}}{{{10 ** len(before) * (10 ** len(again) - 1)}}}"
