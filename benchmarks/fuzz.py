"""Bad input: mutated recipes, data files and command lines, none of which may end in a traceback, hang or swell.

    python benchmarks/fuzz.py [--recipes 8000] [--data 2000] [--commands 600] [--seed 0]
    python benchmarks/fuzz.py --only data:17

Recipes: the shipped ones and pipelines of them, changed in their values or their text, and garbage for `--set`;
each goes through every check of `ftrun validate`, and its report through every format. Data: rows of each format
changed in their values, written as each kind of file and changed in their bytes, through the data stage with all
its checks. Commands: odd words for what a person types. All is drawn from a seed and the number of the case, so
that `--only KIND:NUMBER` repeats one.

A failure is an exception that is none of ftrun's own, a check that fails itself, rows whose preparation fails in a
way that nobody foresaw, more than SECONDS of processor time for one case, or more than 1 GB of memory. Where the
process itself is ended, the files of the case are left in its temporary folder.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import io
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.update({"HF_HUB_OFFLINE": "1", "FTRUN_PLUGINS": "", "NO_COLOR": "1"})
os.environ.setdefault("OMP_NUM_THREADS", "1")
from fuzz_changes import mutate_bytes, mutate_text, mutate_tree
from fuzz_rows import draw_rows, write_rows
from fuzz_values import odd_set, odd_word

ROOT = Path(__file__).resolve().parents[1]
SECONDS = 20
MEMORY = 2**30
LEAP = 2**26
"""Bytes by which one case has to raise the peak to be named; what runs before may have left it high."""

FORMATS = ("text", "json", "sarif", "github")
METHODS = ("sft", "sft", "reward", "dpo", "ppo")

Case = Callable[[random.Random, Path], None]


class Failed(Exception):
    """What a case shows to be wrong, where nothing was raised."""


class TooSlow(BaseException):
    """A case took more than SECONDS of processor time. No Exception: nothing on the way may catch it."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for kind, count in (("recipes", 8000), ("data", 2000), ("commands", 600)):
        parser.add_argument(f"--{kind}", type=int, default=count)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", metavar="KIND:NUMBER")
    options = parser.parse_args()
    if options.only:
        kind, _, number = options.only.partition(":")
        wanted = {kind: range(int(number), int(number) + 1)}
    else:
        wanted = {kind: range(getattr(options, kind)) for kind in CASES}
    faulthandler.enable()
    began, failures = time.monotonic(), 0
    for kind, numbers in wanted.items():
        found = run(kind, numbers, options.seed, tell=print)
        failures += len(found)
    cases, seconds = sum(map(len, wanted.values())), time.monotonic() - began
    print(f"{cases} cases, {failures} failures, {seconds:.0f} s, at most {_resident() >> 20} MB")
    sys.exit(failures > 0 or _resident() > MEMORY)


def run(
    kind: str, numbers: range, seed: int, tell: Callable[[str], object] = lambda line: None
) -> dict[int, str]:
    """Run cases of a kind; for each that fails its number and how. `tell` is given a line for each kind of failure."""
    found: dict[int, str] = {}
    seen: Counter[str] = Counter()
    with (
        warnings.catch_warnings(action="ignore"),
        tempfile.TemporaryDirectory(prefix="ftrun-fuzz-") as name,
        _home(Path(name)) as home,
    ):
        for number in numbers:
            how = _try(CASES[kind], random.Random(f"{seed}/{kind}/{number}"), home)
            if how is None:
                continue
            found[number] = how
            last = how.strip().splitlines()[-1][:160]
            seen[last] += 1
            if seen[last] == 1:
                tell(f"--- {kind}:{number} of seed {seed}\n{how}")
    tell(f"{kind}: {len(numbers)} cases, {len(found)} failures")
    for last, times in seen.most_common():
        tell(f"  {times} × {last}")
    return found


@contextlib.contextmanager
def _home(home: Path) -> Iterator[Path]:
    """A folder with the shipped recipes and their data, and paths that lead nowhere good; the current one."""
    shutil.copytree(ROOT / "recipes", home / "recipes")
    before = Path.cwd()
    (home / "recipes" / "fair.py").write_text("def score(completions): return [0.0 for _ in completions]\n")
    (home / "recipes" / "circle").symlink_to("circle")
    (home / "recipes" / "dangling.yaml").symlink_to("nowhere")
    (home / "recipes" / "locked.yaml").write_text("name: a\n")
    (home / "recipes" / "locked.yaml").chmod(0)
    os.chdir(home / "recipes")
    try:
        yield home / "recipes"
    finally:
        os.chdir(before)


def _try(case: Case, rng: random.Random, home: Path) -> str | None:
    """How a case fails; None where it does not."""

    def stop(*_: object) -> None:
        raise TooSlow

    peak = _resident()
    signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        case(rng, home)
    except Failed as error:
        return str(error)
    except TooSlow:
        return f"{traceback.format_exc()}\nmore than {SECONDS} s of processor time"
    except Exception:
        return traceback.format_exc()
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    now = _resident()
    if now > MEMORY and now - peak > LEAP:
        return f"the memory grew from {peak >> 20} to {now >> 20} MB"
    return None


def _resident() -> int:
    """The most memory that this process has had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def try_recipe(rng: random.Random, home: Path) -> None:
    """A shipped recipe, changed, through the recipe stage and every format of its report."""
    import yaml

    source = rng.choice(sorted(home.glob("*-*.yaml")) + sorted(home.glob("???*.yaml")))
    while source.name.startswith(("case", "locked", "dangling")):
        source = rng.choice(sorted(home.glob("*.yaml")))
    text = source.read_text(encoding="utf-8")
    content = text.encode()
    sets: list[str] = []
    way = rng.random()
    if way < 0.55:
        tree = mutate_tree(yaml.safe_load(text), rng)
        content = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True).encode("utf-8", "surrogatepass")
    elif way < 0.9:
        content = mutate_text(text, rng)
    if way > 0.85 or rng.random() < 0.1:
        sets = [odd_set(text, rng) for _ in range(rng.randint(1, 3))]
    path = home / "case.yaml"
    path.write_bytes(content)
    _judge(_look(path, sets), rng)


def _look(path: Path, sets: list[str]) -> list[Any]:
    from ftrun.checks.catalogue import load_checks
    from ftrun.checks.stages import AtRecipe
    from ftrun.runner.preflight import ascend, report_mistakes
    from ftrun.runner.rehearsal import rehearse
    from ftrun.schemas.errors import RecipeError
    from ftrun.schemas.pipeline import is_pipeline, load_pipeline

    checks = load_checks(upto="recipe")
    if not is_pipeline(path):
        return [ascend(path, checks=checks, sets=sets, upto=AtRecipe).report]
    try:
        return [one.report for one in rehearse(load_pipeline(path, sets), checks=checks)]
    except RecipeError as error:
        return [report_mistakes(path, error, checks)]


def _judge(reports: list[Any], rng: random.Random) -> None:
    """Print reports, and raise Failed where a check or a stage failed in a way that nobody foresaw."""
    from ftrun.runner.validate import print_reports

    with contextlib.redirect_stdout(_utf8()):
        print_reports(reports, rng.choice(FORMATS))
    for report in reports:
        if not report.findings and not report.ok:
            raise Failed(f"not ready, and nothing says why: {report.results}")
        for result in report.results:
            if "the check itself fails" in (result.reason or ""):
                raise Failed(f"{result.check.id}: {result.reason}")
            for finding in result.findings:
                if "failed with" in finding.message and finding.evidence:
                    raise Failed(f"{finding.id}: {finding.message} {finding.evidence}")


def _utf8() -> io.TextIOWrapper:
    """A terminal's stdout: text that is no UTF-8 cannot be written to it."""
    return io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)


def try_data(rng: random.Random, home: Path) -> None:
    """Rows of a method, changed, in a file of some kind, through the data stage with the tiny model."""
    import yaml

    from ftrun.checks.catalogue import load_checks
    from ftrun.checks.stages import AtData
    from ftrun.runner.libraries import settle_libraries, silence_bars
    from ftrun.runner.preflight import ascend

    settle_libraries()
    silence_bars()
    method = rng.choice(METHODS)
    folder = home / "rows"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    rows, format = draw_rows(method, rng)
    path = write_rows(rows, folder, rng)
    if rng.random() < 0.4:
        victim = rng.choice([file for file in folder.rglob("*") if file.is_file()] or [folder / "none.jsonl"])
        victim.write_bytes(mutate_bytes(victim.read_bytes() if victim.exists() else b"", rng))
    recipe: dict[str, Any] = {
        "name": "fuzz",
        "method": method,
        "model": {"path": "tiny"},
        "data": {"train": [{"path": f"rows/{path.name}"}]},
        "training": {"learning_rate": 5e-5, "max_steps": 3},
    }
    if rng.random() < 0.3:
        recipe["data"]["train"][0]["format"] = format
    if rng.random() < 0.3:
        recipe["data"]["eval"] = {"fraction": rng.choice([0.01, 0.5, 0.99])}
    if method == "ppo":
        recipe["reward"] = {"functions": ["fair.py:score"]}
    elif rng.random() < 0.4:
        recipe["training"]["max_length"] = rng.choice([1, 2, 7, 64, 100_000])
    if method == "sft" and rng.random() < 0.4:
        recipe["training"] |= {
            "packing": True,
            "packing_strategy": rng.choice(["bfd", "bfd_split", "wrapped"]),
        }
    if method == "sft" and rng.random() < 0.3:
        recipe["data"]["loss_on"] = rng.choice(["completion", "assistant", "all"])
    case = home / "case.yaml"
    case.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    _judge([ascend(case, checks=load_checks("data"), upto=AtData, needed=AtData).report], rng)


def try_command(rng: random.Random, home: Path) -> None:
    """Words that a person may type, through the entry point. None of them names a recipe that would train."""
    from ftrun.runner.cli import main as command_line

    paths = ["sft.yaml", "ppo.yaml", "rlhf.yaml"]
    command = rng.choice(["validate", "preflight", "preview", "init", "explain", "checks", ""])
    words = [command] if command else []
    for _ in range(rng.randint(0, 3)):
        word = odd_word(rng)
        if command in ("validate", "preview") and rng.random() < 0.3:
            word = rng.choice(paths)
        words.append(word)
    if command == "preflight":
        words += ["--upto", rng.choice(["recipe", "data", "moon"])]
    if command in ("validate", "preflight", "preview"):
        for _ in range(rng.randint(0, 2)):
            words += ["--set", odd_set((home / "sft.yaml").read_text(encoding="utf-8"), rng)]
    if command == "init":
        words = [
            command,
            rng.choice(["sft", "dpo", "ppo", "x", ""]),
            *words[1:],
            "-o",
            f"made-{rng.random()}.yaml",
        ]
    out, err = _utf8(), _utf8()
    before, sys.argv = sys.argv, ["ftrun", *words]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            command_line()
    except SystemExit:
        pass
    finally:
        sys.argv = before
    told = err.buffer.getvalue().decode()  # type: ignore[attr-defined]
    if "Traceback" in told or "fault of ftrun" in told:
        raise Failed(f"ftrun {words}\n{told}")


CASES: dict[str, Case] = {"recipes": try_recipe, "data": try_data, "commands": try_command}


if __name__ == "__main__":
    main()
