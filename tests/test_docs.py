"""The pages are true: their recipes load, what they name exists, and the check that they write works.

A block of YAML is a recipe when it has `name:` and `method:` at its top level; any other is a fragment. What it
extends is stood in for by MINIMAL. A block of code whose first line is a comment with a path is that file.
"""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from pydantic import BaseModel

from ftrun.checks.catalogue import load_checks, load_guards
from ftrun.checks.testing import HEALTHY, assert_whole
from ftrun.runner.commands import app
from ftrun.schemas import sections
from ftrun.schemas.load import load_recipe
from ftrun.schemas.methods import sft
from ftrun.schemas.notation import as_yaml
from ftrun.schemas.settings import defaults, read_table

ROOT = Path(__file__).parents[1]
PAGES = {
    path.name: path.read_text(encoding="utf-8") for path in (ROOT / "README.md", *ROOT.glob("docs/*.md"))
}
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MINIMAL = "name: base\nmethod: sft\nmodel: {path: tiny}\ndata: {train: [{path: rows.jsonl}]}\n"


def blocks(page: str, language: str) -> list[str]:
    return [text for name, text in FENCE.findall(PAGES[page]) if name == language]


def recipes() -> Iterator[object]:
    for page in PAGES:
        for text in blocks(page, "yaml"):
            if re.search("^name:", text, re.MULTILINE) and re.search("^method:", text, re.MULTILINE):
                yield pytest.param(text, id=f"{page}-{text.count(chr(10))}-lines")


@pytest.mark.parametrize("text", list(recipes()))
def test_a_recipe_of_the_pages_loads(text: str, tmp_path: Path) -> None:
    bases = yaml.safe_load(text).get("extends") or []
    for base in [bases] if isinstance(bases, str) else bases:
        (tmp_path / base).write_text(MINIMAL, encoding="utf-8")
    path = tmp_path / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    load_recipe(path)


def test_the_pages_show_recipes() -> None:
    assert len(list(recipes())) >= 3


def commands(page: str) -> Iterator[list[str]]:
    """The words after `ftrun` in every command that a page shows, in a line of a shell or between backticks."""
    prose = FENCE.sub("", PAGES[page])
    lines = [line for text in blocks(page, "bash") for line in text.splitlines()]
    for code in [*lines, *re.findall(r"`([^`\n]+)`", prose)]:
        for found in re.finditer(r"(?:^|&& )ftrun +([^#;&|>]+)", code):
            yield re.sub(r"[\[\]…'\"]", " ", found[1]).split()


@pytest.mark.parametrize("page", PAGES)
def test_every_command_that_is_named_exists(page: str) -> None:
    assert not list(absent(page))


def absent(page: str) -> Iterator[str]:
    """What a page shows of commands and options that the command line does not have."""
    known: Any = typer.main.get_command(app)
    for word, *rest in commands(page):
        is_recipe = word.endswith((".yaml", ".yml")) or word == "RECIPE"
        command = known if word.startswith("-") else known.commands.get("run" if is_recipe else word)
        if command is None:
            yield f"ftrun {word}"
            continue
        while rest and rest[0] in getattr(command, "commands", ()):  # `ftrun recipes push`
            command = command.commands[rest[0]]
            word, rest = f"{word} {rest[0]}", rest[1:]
        options = {option for parameter in command.params for option in parameter.opts} | {"--help", "-h"}
        yield from (
            f"ftrun {word} {one}" for one in (word, *rest) if one.startswith("-") and one not in options
        )


def test_commands_are_found_where_pages_show_them() -> None:
    assert {word for word, *_ in commands("README.md")} >= {"init", "preview", "validate", "recipes/sft.yaml"}


@pytest.mark.parametrize("page", PAGES)
def test_every_check_that_is_named_exists(page: str) -> None:
    named = set(re.findall(r"\b[A-Z]{2,6}[0-9]{3}\b", PAGES[page]))
    own = set(re.findall(r'@check\("(\w+)"', PAGES[page]))
    assert named - own <= {check.id for check in (*load_checks(), *load_guards())}


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_to_a_file_and_a_heading(page: str) -> None:
    folder = ROOT if page == "README.md" else ROOT / "docs"
    for target in re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", PAGES[page])):
        if target.startswith(("http://", "https://")):
            continue
        name, _, heading = target.partition("#")
        path = folder / name if name else folder / page
        assert path.exists(), f"{page}: {target}"
        if heading:
            headings = re.findall("^#+ (.+)$", FENCE.sub("", path.read_text(encoding="utf-8")), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", one).strip().lower().replace(" ", "-") for one in headings}
            assert heading in slugs, f"{page}: {target}"


# --- docs/recipe.md ----------------------------------------------------------------------------------


def table(heading: str, page: str = "recipe.md") -> dict[str, list[str]]:
    """The rows of the first table below a heading or a line, the other cells by the name in the first."""
    _, _, below = PAGES[page].partition(f"\n{heading}\n")
    rows = re.search(r"^(\|.*?)\n(\n|\Z)", below, re.DOTALL | re.MULTILINE)
    assert rows, f"{page} has no table below {heading}"
    cells = [line.strip("|").split("|") for line in rows[1].splitlines()[2:]]
    return {first.strip().strip("`"): [cell.strip() for cell in rest] for first, *rest in cells}


def shown(value: object) -> str:
    """A default as the tables write it; that of a section is none of its keys, and words go without quotes."""
    text = as_yaml({} if isinstance(value, BaseModel) else value).strip('"')
    return f"`{text}`"


@pytest.mark.parametrize(
    ("heading", "section"),
    [
        ("## The top level", sft.Recipe),
        ("## `model`", sections.Model),
        ("## `data`", sft.SftData),
        ("### A source", sections.Source),
        ("## `evaluation`", sft.SftEvaluation),
        ("## `preflight`", sections.Preflight),
        ("## `tracking`", sections.Tracking),
    ],
)
def test_every_key_has_its_row_and_its_default(heading: str, section: type[BaseModel]) -> None:
    rows = {key: cells[1] for key, cells in table(heading).items() if key != "extends"}
    fields = section.model_fields.items()
    assert rows == {
        key: "required" if field.is_required() else shown(field.get_default(call_default_factory=True))
        for key, field in fields
    }


@pytest.mark.parametrize(("heading", "name"), [("## `training`", "sft"), ("### `model.lora`", "lora")])
def test_the_usual_settings_have_their_defaults(heading: str, name: str) -> None:
    rows, known = table(heading), defaults(read_table(name))
    assert rows.keys() <= known.keys()
    assert {key: cells[1] for key, cells in rows.items()} == {key: shown(known[key]) for key in rows}


@pytest.mark.parametrize(("section", "name"), [("training", "sft"), ("model.lora", "lora")])
def test_every_refused_key_is_told(section: str, name: str) -> None:
    _, _, below = PAGES["recipe.md"].partition(f"| in `{section}` | use instead |")
    rows = below.partition("\n\n")[0].splitlines()[2:]
    told = [key for row in rows for key in re.findall(r"`(\w+)`", row.split("|")[1])]
    assert sorted(told) == sorted(read_table(name).refused)


# --- docs/methods.md ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "method"),
    [
        ("The usual settings of `training` (TRL's `RewardConfig`):\n", "reward"),
        ("The usual settings of `training` (TRL's `DPOConfig`):\n", "dpo"),
        ("is logged, and the sources of the formulas. The usual settings of `training`:\n", "ppo"),
    ],
)
def test_the_usual_settings_of_each_method_have_their_defaults(line: str, method: str) -> None:
    rows, known = table(line, "methods.md"), defaults(read_table(method))
    assert rows.keys() <= known.keys()
    assert {key: cells[1] for key, cells in rows.items()} == {key: shown(known[key]) for key in rows}


def test_every_key_that_a_method_adds_is_told() -> None:
    text = PAGES["methods.md"]
    shared = set(sections.BaseRecipe.model_fields)
    for method in ("reward", "dpo", "ppo"):
        recipe = importlib.import_module(f"ftrun.schemas.methods.{method}").Recipe
        for section in sorted(set(recipe.model_fields) - shared):
            for key in recipe.model_fields[section].annotation.model_fields:
                assert f"`{section}.{key}" in text or f"\n| `{key}` |" in text, f"{section}.{key}"


# --- docs/writing-checks.md --------------------------------------------------------------------------


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """The files of the page in a folder, where they can be found as if they were installed."""
    for text in (text for _, text in FENCE.findall(PAGES["writing-checks.md"])):
        if named := re.match(r"# (\S+)\n", text):
            path = tmp_path / named[1]
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
    (tmp_path / "acme_checks" / "__init__.py").touch()
    project = tomllib.loads((tmp_path / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    installed = tmp_path / "acme_checks-0.1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text(f"Name: {project['name']}\nVersion: {project['version']}\n")
    points = [f"{name} = {target}" for name, target in project["entry-points"]["ftrun.checks"].items()]
    (installed / "entry_points.txt").write_text("\n".join(["[ftrun.checks]", *points]))
    return tmp_path


def test_the_check_of_the_page_is_found_and_whole(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(package)
    monkeypatch.setenv("FTRUN_PLUGINS", "acme")
    try:
        (own,) = (check for check in load_checks() if check.module.startswith("acme_checks"))
        assert_whole(own)
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == "acme_checks"]:
            del sys.modules[name]


def test_the_test_of_the_page_passes(package: Path) -> None:
    """It runs the three asserts: whole, silent on each healthy run, caught by its own check."""
    roots = [str(ROOT / folder) for folder in ("runner", "checks", "schemas")]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=package,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(roots)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    assert f"{2 + len(HEALTHY['sft'])} passed" in done.stdout
