"""Draws the panels of `rloop.json` without Grafana, as a page for a browser.

    python deploy/grafana/render_panels.py demo --minutes 10 >panels.html

Every panel asks a real Prometheus its own questions, so the page also shows which panels have nothing to show: they say
"No data", and are listed on the standard error. It draws what these panels use and is no substitute for Grafana.
"""

import argparse
import html
import itertools
import json
import math
import re
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("rloop.json")
Json = dict[str, Any]
Point = tuple[float, float]
"""Unix time and value."""

_ANSWER_S = 30.0
_COLUMN, _UNIT, _GAP = 36, 20, 6  # pixels of the grid: a column, a unit of height, what is between two
_LEFT, _BOTTOM = 44, 14  # room for the values and the times
_TIMES = (60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400, 28800, 86400)  # seconds between two lines
_COLOURS = (
    "#2f6fb7",
    "#d9822b",
    "#3d9a50",
    "#b23a48",
    "#7d5ba6",
    "#1d9aa1",
    "#8c6d1f",
    "#666f7a",
    "#c0579b",
    "#4b5d16",
)
_STYLE = """
body { margin: 8px; font: 12px sans-serif; color: #24292e; background: #f4f5f5; width: WIDTHpx }
main { display: grid; grid-template-columns: repeat(24, 1fr); grid-auto-rows: UNITpx; gap: GAPpx }
section { background: #fff; border: 1px solid #dcdfe2; border-radius: 3px; padding: 4px 6px; overflow: hidden;
          display: flex; flex-direction: column }
h2 { font-size: 13px; margin: 0; align-self: end }
h3 { font-size: 12px; margin: 0 0 2px; font-weight: 600 }
p { margin: auto; font-size: 14px; text-align: center; line-height: 18px } p small { font-size: 10px; color: #555 }
footer { font-size: 10px; line-height: 12px; color: #444 }
footer i { display: inline-block; width: 10px; height: 3px; margin: 0 3px 3px 6px }
text { font: 9px sans-serif; fill: #555 }
"""


@dataclass(frozen=True, slots=True)
class Series:
    """One line of a panel."""

    name: str
    points: tuple[Point, ...]
    """In order of time; a gap has no point."""


Ask = Callable[[str], Sequence[Json]]
"""From a PromQL expression to the result of a range query."""


@dataclass(frozen=True, slots=True)
class Period:
    """What the page shows."""

    begin: float
    end: float
    step: float

    def ask(self, prometheus: str, expression: str) -> list[Json]:
        """A range query, by Prometheus's HTTP interface."""
        query = {"query": expression, "start": self.begin, "end": self.end, "step": self.step}
        url = f"{prometheus}/api/v1/query_range?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(url, timeout=_ANSWER_S) as answer:
            return list(json.load(answer)["data"]["result"])


def page(board: Json, runs: Sequence[str], ask: Ask, period: Period) -> tuple[str, list[str]]:
    """The whole dashboard for these runs, and the titles of the panels without data."""
    parts, empty = [], []
    for panel in board["panels"]:
        place = panel["gridPos"]
        at = f"grid-column:{place['x'] + 1}/span {place['w']};grid-row:{place['y'] + 1}/span {place['h']}"
        title = html.escape(panel["title"])
        if panel["type"] == "row":
            parts.append(f'<h2 style="{at}">{title}</h2>')
            continue
        series = list(_series(panel, runs, ask))
        if not series:
            empty.append(panel["title"])
            drawn = "<p><small>No data</small></p>"
        else:
            drawn = _numbers(panel, series) if panel["type"] == "stat" else _chart(panel, series, period)
        parts.append(f'<section style="{at}"><h3>{title}</h3>{drawn}</section>')
    style = _STYLE
    for word, size in {"WIDTH": 24 * (_COLUMN + _GAP) - _GAP, "UNIT": _UNIT, "GAP": _GAP}.items():
        style = style.replace(word, str(size))
    body = "\n".join(parts)
    return f'<!doctype html><meta charset="utf-8"><style>{style}</style><main>\n{body}\n</main>\n', empty


def _series(panel: Json, runs: Sequence[str], ask: Ask) -> Iterator[Series]:
    """The answers to a panel's questions, under its names for them; a run is named where there are several."""
    chosen = "|".join(map(re.escape, runs)).replace("\\", "\\\\")  # a regular expression, inside of a string
    for target in panel["targets"]:
        for found in ask(target["expr"].replace("$run", chosen)):
            labels = found["metric"] if len(runs) > 1 else found["metric"] | {"run": ""}
            name = _filled(target["legendFormat"], labels)
            values = [(float(at), float(value)) for at, value in found["values"]]
            if points := tuple(point for point in values if math.isfinite(point[1])):
                yield Series(name, points)


def _filled(legend: str, labels: dict[str, str]) -> str:
    return re.sub(r"{{(\w+)}}", lambda word: labels.get(word[1], ""), legend).strip()


def _numbers(panel: Json, series: Sequence[Series]) -> str:
    """A panel of single values: the newest ones, or the names of those that are."""
    newest = max(one.points[-1][0] for one in series)
    now = [one for one in series if one.points[-1][0] == newest]
    if panel["options"]["textMode"] == "name":
        return f"<p>{html.escape(', '.join(one.name for one in now))}</p>"
    unit = panel["fieldConfig"]["defaults"]["unit"]
    lines = (f"{_said(one.points[-1][1], unit)} <small>{html.escape(one.name)}</small>" for one in now)
    return f"<p>{'<br>'.join(lines)}</p>"


@dataclass(frozen=True, slots=True)
class Plot:
    """The area that lines are drawn in: a period, values from low to high, pixels."""

    period: Period
    low: float
    high: float
    width: float
    height: float

    def at(self, points: Sequence[Point]) -> str:
        """Their places, as SVG wants them."""
        across = (self.width - _LEFT - 4) / (self.period.end - self.period.begin)
        up = (self.height - _BOTTOM - 8) / (self.high - self.low)
        return " ".join(
            f"{_LEFT + (t - self.period.begin) * across:.1f},{6 + (self.high - v) * up:.1f}" for t, v in points
        )

    def line(self, points: Sequence[Point], how: str) -> str:
        """A line through these."""
        return f'<polyline points="{self.at(points)}" fill="none" {how}/>'

    def level(self, value: float, how: str) -> str:
        """A line from begin to end."""
        return self.line([(self.period.begin, value), (self.period.end, value)], how)

    def grid(self, unit: str) -> Iterator[str]:
        """Round values and times."""
        begin, end = self.period.begin, self.period.end
        for value in _round(self.low, self.high, _round_step((self.high - self.low) / 4)):
            y = self.at([(begin, value)]).split(",")[1]
            yield self.level(value, 'stroke="#e8eaec"')
            yield f'<text x="{_LEFT - 4}" y="{float(y) + 3}" text-anchor="end">{_said(value, unit)}</text>'
        rough = (end - begin) / max(2, self.width // 90)
        for at in _round(begin, end, next((step for step in _TIMES if step >= rough), rough)):
            x = self.at([(at, 0)]).split(",")[0]
            clock = time.strftime("%H:%M", time.localtime(at))
            yield self.line([(at, self.low), (at, self.high)], 'stroke="#f0f1f2"')
            yield f'<text x="{x}" y="{self.height - 2}" text-anchor="middle">{clock}</text>'


def _chart(panel: Json, series: Sequence[Series], period: Period) -> str:
    """A panel of lines over time, or of areas one on another."""
    place, field = panel["gridPos"], panel["fieldConfig"]["defaults"]
    stacked = "stacking" in field["custom"]
    if stacked:
        series = _stacked(series)
    steps = field["thresholds"]["steps"] if "thresholdsStyle" in field["custom"] else ()
    dashed = [step["value"] for step in steps if step["value"] is not None]
    values = [value for one in series for _, value in one.points] + dashed + [0.0] * stacked
    low, high = min(values), max(values)
    if low == high:
        low, high = min(0.0, 2 * low), max(2 * high, 0.0) or 1.0
    width = place["w"] * (_COLUMN + _GAP) - _GAP - 14
    legend = 12 * math.ceil(sum(26 + 6 * len(one.name) for one in series if one.name) / width)
    plot = Plot(period, low, high, width, place["h"] * (_UNIT + _GAP) - _GAP - 32 - legend)

    parts = [
        *plot.grid(field["unit"]),
        *(plot.level(value, 'stroke="#d03030" stroke-dasharray="4 3"') for value in dashed),
    ]
    names, below = [], dict[float, float]()
    for one, colour in zip(series, itertools.cycle(_COLOURS), strict=False):
        if stacked:
            area = [*one.points, *((at, below.get(at, 0.0)) for at, _ in reversed(one.points))]
            parts.append(f'<polygon points="{plot.at(area)}" fill="{colour}" fill-opacity="0.5"/>')
            below |= dict(one.points)
        parts += [
            plot.line(piece, f'stroke="{colour}" stroke-width="1.5"') for piece in _pieces(one.points, period.step)
        ]
        names += [f'<i style="background:{colour}"></i>{html.escape(one.name)}'] if one.name else []
    svg = f'<svg width="{plot.width}" height="{plot.height}">{"".join(parts)}</svg>'
    return f"{svg}<footer>{''.join(names)}</footer>"


def _stacked(series: Sequence[Series]) -> list[Series]:
    """Each on the sum of those before."""
    total: dict[float, float] = {}
    stacks = []
    for one in series:
        total |= {at: total.get(at, 0.0) + value for at, value in one.points}
        stacks.append(Series(one.name, tuple((at, total[at]) for at, _ in one.points)))
    return stacks


def _pieces(points: Sequence[Point], step: float) -> Iterator[list[Point]]:
    """A line, cut where values are missing; a lone value is a dash."""
    piece: list[Point] = []
    for at, value in points:
        if piece and at - piece[-1][0] > 1.5 * step:
            yield piece
            piece = []
        piece = piece or [(at - step / 4, value)]
        piece.append((at, value))
    yield piece


def _round_step(rough: float) -> float:
    ten: float = 10 ** math.floor(math.log10(rough))
    return next(step for step in (ten, 2 * ten, 5 * ten, 10 * ten) if step >= rough)


def _round(low: float, high: float, step: float) -> list[float]:
    """The multiples of a step between two values."""
    return [index * step for index in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _said(value: float, unit: str) -> str:
    """A value in Grafana's units, as far as `make_dashboard.py` uses them."""
    if unit == "percentunit":
        return f"{100 * value:.3g} %"
    if unit == "sci":
        return f"{value:.1e}"
    if unit in ("s", "gbytes", "ms"):
        return f"{value:.3g} {'GB' if unit == 'gbytes' else unit}"
    if abs(value) >= 1000 and unit in ("short", "cps"):
        return f"{value / 1000:.3g} K{' c/s' if unit == 'cps' else ''}"
    return f"{value:.4g}{' c/s' if unit == 'cps' else ''}"


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("runs", nargs="+", metavar="RUN", help="names of runs")
    parser.add_argument("--prometheus", default="http://127.0.0.1:9090", metavar="URL")
    parser.add_argument("--minutes", type=float, default=30, help="how long a time the page shows")
    parser.add_argument("--end", type=float, default=0, metavar="SECONDS", help="Unix time of its end [now]")
    chosen = parser.parse_args()
    end = chosen.end or time.time()
    period = Period(end - 60 * chosen.minutes, end, max(10.0, chosen.minutes * 60 / 300))
    board = json.loads(FILE.read_text(encoding="utf-8"))
    drawn, empty = page(board, chosen.runs, lambda expression: period.ask(chosen.prometheus, expression), period)
    print(drawn)
    print(f"panels without data: {', '.join(empty) or 'none'}", file=sys.stderr)


if __name__ == "__main__":
    main()
