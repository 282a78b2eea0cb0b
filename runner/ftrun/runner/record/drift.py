"""What is different between two locks, rung by rung in the order of causes, and whether it can change the numbers.

The first rung that differs is where a reproduction that differs is to be explained. What of a rung one side does not
know is `unknown`: before a run its tokens and its initial weights are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from ftrun.runner.record.present import contents
from ftrun.runner.record.rules import (
    CANNOT,
    CHANGES,
    MAY,
    Ruling,
    judge_hardware,
    judge_package,
    judge_python,
    judge_setting,
    judge_variable,
)

Verdict = Literal["same", "different", "unknown"]
State = Mapping[str, Any]
"""A lock, and under `resolved` its recipe with nothing left open."""

Compare = Callable[[State, State], Iterable["Difference"]]

PLACES = ("data", "model", "reward", "value")
"""Sections whose texts say where things are, which are compared by content."""


@dataclass(frozen=True)
class Difference:
    """One thing that is otherwise."""

    what: str
    then: str
    now: str
    effect: Literal["changes", "may", "cannot"]
    """Whether the bits of what is computed change by it."""

    why: str

    @property
    def matters(self) -> bool:
        """Whether the bits may be others."""
        return self.effect != "cannot"


@dataclass(frozen=True)
class Rung:
    """One of the causes of a run."""

    name: str
    verdict: Verdict
    differences: tuple[Difference, ...] = ()

    @property
    def matters(self) -> bool:
        """Whether the bits may be others."""
        return any(one.matters for one in self.differences)


def find_drift(then: State, now: State) -> list[Rung]:
    """Every rung, from the recipe to the weights before the first step. `now` may lack what is only known of a run."""
    rungs = [_make_rung(name, compare, then, now) for name, compare in RUNGS.items()]
    for name in ("tokens", "weights"):
        compare = partial(_compare_plain, name)
        rungs.append(_make_rung(name, compare, then, now) if name in now else Rung(name, "unknown"))
    return rungs


def _make_rung(name: str, compare: Compare, then: State, now: State) -> Rung:
    differences = tuple(compare(then, now))
    if differences:
        return Rung(name, "different", differences)
    return Rung(name, "unknown" if _is_unread(name, then, now) else "same")


def _is_unread(name: str, then: State, now: State) -> bool:
    """Whether something of the hub has not been looked at: rows before a run, a model that is not on this machine."""
    part, digest = {"data": ("data", "sha256"), "model": ("models", "commit")}.get(name, ("", ""))
    return bool(part) and any(
        "hub" in facts and not (facts.get(digest) and now[part].get(key, {}).get(digest))
        for key, facts in then[part].items()
    )


def _compare_recipe(then: State, now: State) -> Iterator[Difference]:
    before, after = (_flatten(one["resolved"]) for one in (then, now))
    for key in sorted({*before, *after}):
        old, new = before.get(key), after.get(key)
        if old != new and not _names_a_place(key):
            yield _tell(key, old, new, judge_setting(key))


def _names_a_place(key: str) -> bool:
    section, *rest = key.split(".")
    if section in ("name", "output", "tracking"):
        return True
    return section in PLACES and (
        rest[-1:] in (["path"], ["reference"], ["revision"], ["chat_template"])
        or key.startswith(("reward.models", "reward.functions"))
    )


def _compare_code(then: State, now: State) -> Iterator[Difference]:
    before, after = then["segments"][0]["code"], now["segments"][0]["code"]
    if before["ftrun_sources"] != after["ftrun_sources"]:
        old, new = (f"{one['ftrun']} {(one['ftrun_commit'] or '')[:8]}".strip() for one in (before, after))
        why = "another version" if old != new else "edited since"
        yield Difference("ftrun's own code", old, new, MAY, why)
    for key in ("commit", "dirty"):
        if before[key] != after[key]:
            yield _tell(f"git {key} around the recipe", before[key], after[key], REPOSITORY)
    for key, facts in then["code"].items():
        new = now["code"].get(key, {}).get("sha256")
        if facts["sha256"] != new:
            yield _tell(f"{key} {facts['written']}", facts["sha256"], new or "not found", FUNCTION)


def _compare_environment(then: State, now: State) -> Iterator[Difference]:
    yield from _compare_packages(then["segments"][0]["environment"], now["segments"][0]["environment"])
    for number, segment in enumerate(then["segments"][1:], 2):
        for difference in _compare_packages(then["segments"][0]["environment"], segment["environment"]):
            yield _resumed(difference, number)


def _compare_packages(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[Difference]:
    if before["python"] != after["python"]:
        yield _tell(
            "Python", before["python"], after["python"], judge_python(before["python"], after["python"])
        )
    for key, why in (("system", PLATFORM), ("libc", PLATFORM), ("kernel", KERNEL)):
        if before[key] != after[key]:
            yield _tell(key, before[key], after[key], why)
    for section, judge in (("packages", judge_package), ("variables", judge_variable)):
        old, new = before[section], after[section]
        for name in sorted({*old, *new}, key=str.lower):
            if old.get(name) != new.get(name):
                yield _tell(name, old.get(name), new.get(name), judge(name))


def _compare_hardware(then: State, now: State) -> Iterator[Difference]:
    first = then["segments"][0]["hardware"]
    on_gpu = not then["weights"]["device"].startswith("cpu")
    for key, old in first.items():
        if old != (new := now["segments"][0]["hardware"][key]):
            yield _tell(key, _show(old), _show(new), judge_hardware(key, on_gpu=on_gpu))
    for number, segment in enumerate(then["segments"][1:], 2):
        for key, old in first.items():
            if old != (new := segment["hardware"][key]):
                ruling = judge_hardware(key, on_gpu=on_gpu, restored=False)
                yield _resumed(_tell(key, _show(old), _show(new), ruling), number)


def _compare_data(then: State, now: State) -> Iterator[Difference]:
    for key, facts in then["data"].items():
        new = now["data"].get(key, {})
        if "hub" in facts:
            if new.get("sha256") not in (None, facts["sha256"]):
                yield _tell(facts["hub"], facts.get("sha256"), new.get("sha256"), ROWS)
        else:
            yield from _compare_files(facts, new, Ruling(CHANGES, "other rows"))
    for number, segment in enumerate(then["segments"][1:], 2):
        for part in segment["changed"]:
            yield Difference(
                part, "as the run began", f"otherwise when resumed (segment {number})", CHANGES, ONCE
            )


def _compare_model(then: State, now: State) -> Iterator[Difference]:
    for key, facts in then["models"].items():
        new = now["models"].get(key, {})
        if "hub" in facts and (not new.get("files") or facts["commit"] == new.get("commit") is not None):
            continue
        yield from _compare_files(facts, new, Ruling(CHANGES, f"another {key}"))
        if "base" in facts:
            yield from _compare_files(
                facts["base"] | {"written": f"base of {facts['written']}"}, new.get("base", {}), BASE
            )
    for key in ("tokenizer", "chat_template"):
        if key in now and then[key] != now[key]:
            yield _tell(key, then[key], now[key], Ruling(CHANGES, "other tokens"))


def _compare_files(then: Mapping[str, Any], now: Mapping[str, Any], ruling: Ruling) -> Iterator[Difference]:
    """Each file that is otherwise, with its size; one difference where all are missing."""
    before, after = contents(then.get("files", {})), contents(now.get("files", {}))
    if before == after:
        return
    sizes = {name: facts["bytes"] for name, facts in then.get("files", {}).items()}
    if not after:
        for name, facts in then["files"].items():
            yield _tell(f"{then['written']}: {name}", _show_file(facts), "not found", MISSING)
        return
    if set(before) != set(after):  # a file alone has no name of its own
        before = {name: facts["sha256"] for name, facts in then["files"].items()}
        after = {name: facts["sha256"] for name, facts in now["files"].items()}
    for name in sorted({*before, *after}):
        if before.get(name) != after.get(name):
            label = name or next(iter(sizes))
            what = then["written"] if label == then["written"] else f"{then['written']}: {label}"
            yield _tell(what, before.get(name, "not there"), after.get(name, "not there"), ruling)


def _compare_seeds(then: State, now: State) -> Iterator[Difference]:
    yield from _compare_plain("seeds", then, now)


def _compare_plain(part: str, then: State, now: State) -> Iterator[Difference]:
    for key, old in then[part].items():
        if key in now[part] and old != (new := now[part][key]):  # earlier locks had further keys
            yield _tell(key, _show(old), _show(new), Ruling(CHANGES, f"other {part}"))


def _tell(what: str, then: Any, now: Any, ruling: Ruling) -> Difference:
    return Difference(what, _show(then), _show(now), ruling.effect, ruling.why)


def _resumed(difference: Difference, number: int) -> Difference:
    return Difference(
        f"{difference.what}, when resumed (segment {number})",
        difference.then,
        difference.now,
        difference.effect,
        difference.why if not difference.matters else f"{difference.why}; {ONCE}",
    )


def _show(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)


def _show_file(facts: Mapping[str, Any]) -> str:
    return f"{facts['bytes']:,} bytes, sha256 {facts['sha256']}"


def _flatten(value: Any, key: str = "") -> dict[str, Any]:
    if isinstance(value, dict) and value:
        return {k: v for name, one in value.items() for k, v in _flatten(one, f"{key}.{name}").items()}
    if isinstance(value, list) and value:
        return {k: v for i, one in enumerate(value) for k, v in _flatten(one, f"{key}.{i}").items()}
    return {key.removeprefix("."): value}


ONCE = "a run that was resumed otherwise is not repeated by one run"
REPOSITORY = Ruling(CANNOT, "what the run reads of it is compared by content")
FUNCTION = Ruling(CHANGES, "other code")
PLATFORM = Ruling(MAY, "another platform")
KERNEL = Ruling(CANNOT, "computes nothing")
ROWS = Ruling(CHANGES, "other rows")
BASE = Ruling(CHANGES, "another base")
MISSING = Ruling(CHANGES, "the run cannot be repeated without it")

RUNGS: Mapping[str, Compare] = {
    "recipe": _compare_recipe,
    "code": _compare_code,
    "environment": _compare_environment,
    "hardware": _compare_hardware,
    "data": _compare_data,
    "model": _compare_model,
    "seeds": _compare_seeds,
}
