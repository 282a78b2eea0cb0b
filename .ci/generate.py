"""Write the files that are generated and committed.

python .ci/generate.py            writes them
python .ci/generate.py --check    names each stale one and exits 1

tables/METHOD.json, tables/lora.json what `training:` and `model.lora:` may say, from the installed TRL,
                                    transformers and PEFT: names, types, defaults and help are the
                                    libraries' own; refusals and bounds stand in .ci/tables.py
recipe.schema.json                  the JSON Schema of a recipe, from the models of every method
docs/checks.md                      the docstring of every check
"""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import os
import pkgutil
import re
import sys
import typing
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tables import Fragment, make_tables

ROOT = Path(__file__).resolve().parent.parent
SCHEMAS = ROOT / "schemas" / "ftrun" / "schemas"

EXTENDS: Fragment = {
    "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}],
    "description": "Recipe or recipes that this one starts from, relative to this file. "
    "Their keys are merged one by one; this file's win.",
}


def generate_tables() -> dict[Path, str]:
    return {SCHEMAS / "tables" / f"{name}.json": write_json(table) for name, table in make_tables().items()}


def generate_schema() -> dict[Path, str]:
    """The JSON Schema of a recipe, with a branch for each method, and of a pipeline, which has `stages`.

    `anyOf`, because a file that extends another may leave `method` to it; where `method` is given it decides
    which branch can match.
    """
    tables = make_tables()
    package = importlib.import_module("ftrun.schemas.methods")
    names = sorted(module.name for module in pkgutil.iter_modules(package.__path__))
    sections: dict[str, Fragment] = {}
    for name in names:
        model = importlib.import_module(f"ftrun.schemas.methods.{name}").Recipe
        for title, section in describe_recipe(model, name, tables).items():
            assert sections.setdefault(title, section) == section, (
                f"two different sections are called {title}"
            )
    pipeline, sections_of_pipeline = describe_pipeline()
    for title, section in sections_of_pipeline.items():
        assert sections.setdefault(title, section) == section, f"two different sections are called {title}"
    sections["pipeline"] = pipeline
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "recipe.schema.json",
        "title": "ftrun recipe",
        "description": "One run of ftrun: the model, the data, how it is trained and where that is recorded. "
        "Or a pipeline: `stages`, each a recipe, one after the other.",
        "type": "object",
        "if": {"required": ["stages"]},
        "then": {"$ref": "#/$defs/pipeline"},
        "else": {
            "properties": {"method": {"enum": names, "description": "How the model is trained."}},
            "anyOf": [{"$ref": f"#/$defs/{name}"} for name in names],
        },
        "$defs": dict(sorted(sections.items())),
    }
    return {SCHEMAS / "recipe.schema.json": write_json(schema)}


def describe_pipeline() -> tuple[Fragment, dict[str, Fragment]]:
    """The schema of a pipeline, and its sections by name."""
    from ftrun.schemas.pipeline import Pipeline

    pipeline = Pipeline.model_json_schema()
    sections: dict[str, Fragment] = pipeline.pop("$defs")
    for section in find_models(Pipeline):
        polish(pipeline if section is Pipeline else sections[section.__name__], read_docstrings(section))
    return pipeline, sections


def describe_recipe(model: Any, method: str, tables: Mapping[str, Fragment]) -> dict[str, Fragment]:
    """The sections of one method's recipe by name, the recipe itself under the name of the method."""
    recipe = model.model_json_schema()
    sections: dict[str, Fragment] = recipe.pop("$defs")
    for section in find_models(model):
        polish(recipe if section is model else sections[section.__name__], read_docstrings(section))

    title = f"{method.capitalize()}Training"
    sections[title] = close(tables[method])
    sections["Lora"] = close(tables["lora"])
    training = recipe["properties"]["training"]
    recipe["properties"]["training"] = {"$ref": f"#/$defs/{title}", "description": training["description"]}
    for section in sections.values():
        if lora := section.get("properties", {}).get("lora"):
            section["properties"]["lora"] = {
                "anyOf": [{"$ref": "#/$defs/Lora"}, {"type": "null"}],
                "description": lora["description"],
            }

    demanded = lift_required(recipe, sections)
    recipe["properties"] = {"extends": EXTENDS, **recipe["properties"]}
    return {**sections, method: {**recipe, "if": {"required": ["extends"]}, "else": demanded}}


def close(table: Fragment) -> Fragment:
    return {"type": "object", "properties": table["fields"], "additionalProperties": False}


def lift_required(section: Fragment, sections: Mapping[str, Fragment]) -> Fragment:
    """Take `required` out of a section and those right below it, and return it as a schema of its own.

    It holds for whole recipes only: a file that extends another may leave required keys to it. The items of
    a list keep theirs, because lists are replaced and not merged.
    """
    demanded: Fragment = {"required": section.pop("required")} if "required" in section else {}
    below = {}
    for name, place in section["properties"].items():
        part = sections.get(place.get("$ref", "").removeprefix("#/$defs/"))
        if part is not None and (inside := lift_required(part, sections)):
            below[name] = inside
    return {**demanded, "properties": below} if below else demanded


def find_models(model: Any) -> list[Any]:
    """Every pydantic model that a recipe is made of, the recipe first."""
    found = [model]
    for section in found:  # grows while it is read
        for field in section.model_fields.values():
            parts = [part for part in walk_hint(field.annotation) if hasattr(part, "model_fields")]
            found.extend(part for part in parts if part not in found)
    return found


def walk_hint(hint: Any) -> Iterator[Any]:
    yield hint
    for part in typing.get_args(hint):
        yield from walk_hint(part)


def read_docstrings(model: Any) -> dict[str, str]:
    """The docstring under each field of a model and of its bases, read from their source."""
    texts: dict[str, str] = {}
    for base in reversed(model.__mro__):
        if not base.__module__.startswith("ftrun."):
            continue
        body = ast.parse(inspect.getsource(base)).body[0]
        assert isinstance(body, ast.ClassDef)
        for field, text in zip(body.body, body.body[1:], strict=False):
            match field, text:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(words))):
                    texts[name] = " ".join(words.split())
    return texts


def polish(section: Fragment, texts: Mapping[str, str]) -> None:
    """Put the docstrings in, take out the titles, which repeat the keys, and close what is left open."""
    section.pop("title", None)
    section["description"] = " ".join(section["description"].split())
    for name, place in section["properties"].items():
        place.pop("title", None)
        place["description"] = texts[name]
        if "patternProperties" in place:
            place["additionalProperties"] = False


def write_json(content: Fragment) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


HEADINGS = re.compile(r"^(Symptom|Cause|Fix|Prevention|Source):", re.MULTILINE)


def generate_check_pages() -> dict[Path, str]:
    """One page of all checks, each with its documentation, under the headings of the checklist."""
    from ftrun.checks.catalogue import load_checks, load_guards
    from ftrun.runner.explain import name_stage
    from ftrun.runner.printing.text import GROUPS

    checks = (*load_checks(), *load_guards())
    parts = [
        "# The checks\n\nGenerated from the checks themselves; `ftrun explain ID` shows one on the terminal.\n"
    ]
    for heading in dict.fromkeys(GROUPS.values()):
        own = [check for check in checks if GROUPS.get(check.group, check.group) == heading]
        if own:
            parts.append(f"\n## {heading}\n")
        for check in own:
            methods = ", ".join(check.methods)
            documentation = HEADINGS.sub(r"\n**\1:**", check.documentation)
            parts.append(
                f"\n### {check.id} {check.name}\n\n"
                f"{check.severity}, told at the {name_stage(check)} stage, for {methods}. "
                f"Right when {check.title}.\n\n{documentation}\n"
            )
    return {ROOT / "docs" / "checks.md": "".join(parts)}


GENERATORS: tuple[Callable[[], dict[Path, str]], ...] = (
    generate_tables,
    generate_schema,
    generate_check_pages,
)


def main(arguments: list[str]) -> int:
    os.environ["FTRUN_PLUGINS"] = ""  # the checks of this repository, whatever else is installed
    sys.path[:0] = [
        str(ROOT / folder) for folder in ("runner", "checks", "schemas")
    ]  # a bare checkout will do
    files = {path: text for generate in GENERATORS for path, text in generate().items()}
    stale = [path for path, text in files.items() if not path.exists() or path.read_text("utf-8") != text]
    for path in stale:
        if "--check" in arguments:
            print(f"{path.relative_to(ROOT)} is stale: run python .ci/generate.py")
        else:
            path.write_text(files[path], encoding="utf-8")
            print(f"wrote {path.relative_to(ROOT)}")
    return 1 if stale and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
