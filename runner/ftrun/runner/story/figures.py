"""The numbers of a run that people look at, and how they are written."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass

from ftrun.runner.printing.text import format_clock
from ftrun.runner.story.history import Series
from ftrun.runner.story.run import Run

COMMON: Mapping[str, str] = {
    "train/loss": "loss",
    "eval/loss": "loss, held out",
    "train/learning_rate": "learning rate",
    "train/grad_norm": "gradient norm",
}
CURVES: Mapping[str, Mapping[str, str]] = {
    "sft": {
        "train/mean_token_accuracy": "token accuracy",
        "eval/mean_token_accuracy": "accuracy, held out",
    },
    "reward": {
        "train/accuracy": "accuracy",
        "eval/accuracy": "accuracy, held out",
        "train/margin": "margin",
        "eval/margin": "margin, held out",
    },
    "dpo": {
        "train/rewards/accuracies": "preferred",
        "eval/rewards/accuracies": "preferred, held out",
        "train/rewards/margins": "margin",
        "eval/rewards/margins": "margin, held out",
        "train/rewards/chosen": "reward, chosen",
        "train/rewards/rejected": "reward, rejected",
        "eval/kl": "KL, held out",
    },
    "ppo": {
        "train/objective/score": "score",
        "eval/score": "score, held out",
        "train/objective/kl": "KL",
        "train/policy/entropy": "entropy",
        "train/response/length": "response length",
        "train/response/ended": "responses ended",
    },
}
"""The curves of every method and of each, with their names."""

HEADLINES: Mapping[str, tuple[str, ...]] = {
    "sft": ("eval/exact_match", "eval/loss"),
    "reward": ("eval/accuracy", "eval/loss"),
    "dpo": ("eval/preference_accuracy", "eval/rewards/accuracies", "eval/loss"),
    "ppo": ("eval/score_after", "eval/score"),
}
"""The held-out figure that stands for a run, the first that there is."""

NAMES: Mapping[str, str] = {
    "eval/exact_match": "match",
    "eval/accuracy": "right",
    "eval/preference_accuracy": "preferred",
    "eval/rewards/accuracies": "preferred",
    "eval/loss": "loss",
    "eval/score_after": "score",
    "eval/score": "score",
}
"""What a headline is called beside its value."""

RESULTS: Mapping[str, re.Pattern[str]] = {
    "sft": re.compile("loss|exact_match|mean_token_accuracy"),
    "reward": re.compile("loss|accuracy|margin"),
    "dpo": re.compile(r"loss|preference_\w+|kl|(?:chosen|rejected)_generated"),
    "ppo": re.compile(r"\w+_after|kl"),
}
"""Held-out metrics that tell what became of the model, by their names without `eval/`."""

SHARES = ("match", "accuracy", "accuracies", "preferred", "generated", "ended")
"""Metrics whose names end so are shares."""

WIDE = ("train/loss", "eval/loss", "train/grad_norm")
FACTOR = 20.0
"""WIDE metrics are drawn on a scale of logarithms where their highest value is more than FACTOR times the lowest."""


@dataclass(frozen=True)
class Figure:
    """A figure of the held-out rows, with that of the model before training where it was measured."""

    name: str
    value: float
    before: float | None = None


def choose_curves(method: str, series: Mapping[str, Series]) -> list[tuple[str, Series]]:
    """The curves of a run, each with its name, as far as they were logged more than once."""
    wanted = {**COMMON, **CURVES.get(method, {})}
    return [
        (label, series[key]) for key, label in wanted.items() if key in series and len(series[key].points) > 1
    ]


def is_wide(series: Series) -> bool:
    """Whether a loss or norm spans so much that most of it would lie on the floor of a linear plot."""
    low, high = series.lowest, series.highest
    return series.name in WIDE and low is not None and high is not None and 0 < FACTOR * low[1] < high[1]


def find_figures(run: Run) -> list[Figure]:
    """The held-out figures that a run ended with: the loss, and what came of asking the model."""
    found = []
    wanted = RESULTS.get(run.method)
    for key, (_, value) in run.latest.items():
        name = key.removeprefix("eval/")
        if name == key or wanted is None or not wanted.fullmatch(name):
            continue
        before = run.latest.get(f"eval/{name.removesuffix('_after')}_before")
        shown = name.removesuffix("_after").replace("_", " ").replace("kl", "KL")
        found.append(Figure(shown, value, None if before is None else before[1]))
    return found


def tell_headline(run: Run) -> str:
    """The figure that stands for a run: `98.5% match`; empty where there is none."""
    for key in HEADLINES.get(run.method, ()):
        if key in run.latest:
            return f"{tell_figure(key, run.latest[key][1])} {NAMES[key]}"
    return ""


def tell_figure(name: str, value: float) -> str:
    """A figure: shares in percent."""
    return f"{value:.1%}" if name.endswith(SHARES) and math.isfinite(value) else tell_number(value)


def tell_number(value: float) -> str:
    """A number in nine characters at most."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    if value and not 1e-3 <= abs(value) < 1e5:
        return f"{value:.2e}"
    return f"{value:.4g}" if abs(value) < 1e4 else f"{value:.0f}"


def tell_seconds(seconds: float) -> str:
    """A duration: `0.4 s`, `33 s`, `5:12`, `1:04:33`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    return format_clock(seconds)


def tell_time(milliseconds: int) -> str:
    """A moment in local time, to the minute."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(milliseconds / 1000))


def tell_steps(run: Run) -> str:
    """`285`, or `120/285` where it did not come to its end; empty where none was logged."""
    if run.steps is None or run.step >= run.steps:
        return f"{run.step}" if run.step else ""
    return f"{run.step}/{run.steps}"
