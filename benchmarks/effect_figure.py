# /// script
# requires-python = ">=3.11"
# dependencies = ["matplotlib>=3.9"]
# ///
"""Draws what `rloop_effect.py --curves FILE` wrote: scores over RL steps, mean over seeds with 95 % intervals.

    .venv/bin/uv run --no-project benchmarks/effect_figure.py CURVES OUT.svg

A script of its own because nothing else here needs matplotlib.
"""

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

COLOURS = {
    "RLoop": "#2f7d43",
    "plain RL": "#b5483a",
    "RFT from RL's end": "#d08c2f",
    "experts of the last step": "#7a5ba8",
    "RFT without RL": "#3b6ea5",
}


def main() -> None:
    """One panel for each held-out set and score."""
    curves = json.loads(Path(sys.argv[1]).read_text())
    titles, scores = (list(dict.fromkeys(curve[key] for curve in curves)) for key in ("sets", "score"))
    plt.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "rloop", "font.family": "sans-serif", "font.size": 9})
    figure, axes = plt.subplots(len(scores), len(titles), figsize=(3.2 * len(titles), 2.4 * len(scores)), sharex=True)
    for curve in curves:
        panel = axes[scores.index(curve["score"])][titles.index(curve["sets"])]
        steps, means, halves = zip(*curve["points"], strict=True)
        main_line = curve["method"] in ("RLoop", "plain RL")
        colour = COLOURS[curve["method"]]
        panel.plot(
            steps, means, "o-", color=colour, lw=1.8 if main_line else 1, ms=3, label=curve["method"], alpha=0.95
        )
        if main_line:
            low, high = ([m + sign * h for m, h in zip(means, halves, strict=True)] for sign in (-1, 1))
            panel.fill_between(steps, low, high, color=colour, alpha=0.15, lw=0)
    for row, score in enumerate(scores):
        axes[row][0].set_ylabel(score)
        for column, title in enumerate(titles):
            axes[row][column].set_ylim(bottom=0)
            axes[row][column].spines[["top", "right"]].set_visible(False)
            if not row:
                axes[row][column].set_title(title)
            if row == len(scores) - 1:
                axes[row][column].set_xlabel("RL steps")
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="lower center", ncols=len(COLOURS), frameon=False)
    figure.tight_layout(rect=(0, 0.06, 1, 1))
    figure.savefig(sys.argv[2], metadata={"Date": None})


if __name__ == "__main__":
    main()
