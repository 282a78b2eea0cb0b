"""What a run is made from, by content: rows, models, tokenizer, template, reward functions, initial weights."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ftrun.checks.stages import AtModel
from ftrun.runner.adapters import find_base, is_adapter
from ftrun.runner.data.digest import digest_rows, digest_source
from ftrun.runner.model import locate_model
from ftrun.runner.record.digests import (
    Facts,
    describe_model,
    describe_source,
    digest_document,
    digest_text,
    digest_trainable,
)
from ftrun.runner.references import ADAPTER, CONFIG
from ftrun.runner.weights import digest_file
from ftrun.schemas.sections import BaseRecipe


def describe_inputs(at: AtModel) -> dict[str, Any]:
    """All that the numbers of a run come from, besides its recipe and the machine."""
    return {
        "data": dict(describe_data(at)),
        "tokens": {
            "train": digest_rows(at.train),
            "eval": None if at.eval is None else digest_rows(at.eval),
        },
        "models": dict(describe_models(at.recipe, at.file.folder)),
        "tokenizer": digest_document(
            {"vocabulary": at.tokenizer.get_vocab(), "special": str(at.tokenizer.special_tokens_map)}
        ),
        "chat_template": digest_text(json.dumps(at.tokenizer.chat_template)),
        "code": dict(describe_functions(at.recipe, at.file.folder)),
        "weights": _describe_weights(at),
        "seeds": describe_seeds(at.recipe),
    }


def describe_data(at: AtModel) -> Iterator[tuple[str, Facts]]:
    """Each source by its key in the recipe: where it was, and its files; of a hub data set the digest of its rows."""
    for source in at.sources:
        path = (at.file.folder / Path(source.label).expanduser()).absolute()
        facts: Facts = {
            "written": source.label,
            "rows": len(source.examples) // source.sides + len(source.bad),
        }
        if path.exists():
            yield source.key, facts | {"place": str(path), "files": describe_source(path)}
        else:
            yield source.key, facts | {"hub": source.label, "sha256": digest_source(source, at.file.folder)}


def describe_models(recipe: BaseRecipe, folder: Path) -> Iterator[tuple[str, Facts]]:
    """Each model that the run loads by its key in the recipe, with the digests of its files."""
    for key, name in list_models(recipe):
        one = recipe.model_copy(update={"model": recipe.model.model_copy(update={"path": name})})
        revision = recipe.model.revision if key.startswith("model.") else None
        yield key, {"written": name, **describe_reference(locate_model(one, folder), revision)}


def list_models(recipe: BaseRecipe) -> Iterator[tuple[str, str]]:
    """The key and the text of each model that a recipe names."""
    yield "model.path", recipe.model.path
    if reference := getattr(recipe.model, "reference", None):
        yield "model.reference", reference
    for index, name in enumerate(getattr(getattr(recipe, "reward", None), "models", ())):
        yield f"reward.models.{index}", name
    value = getattr(recipe, "value", None)
    if value is not None and value.path not in ("policy", "reward"):
        yield "value.path", value.path


def describe_reference(source: str, revision: str | None) -> Facts:
    """What `from_pretrained` is given, by content: a folder with its base where it is an adapter, or a hub id with its
    commit and the files of it that are on this machine."""
    if Path(source).is_dir():
        found: Facts = {"place": str(Path(source).absolute()), "files": describe_model(Path(source))}
        if is_adapter(source):
            found["base"] = describe_reference(find_base(source), None)
        return found
    if source.startswith(("/", ".", "~")):  # the base of an adapter that is not on this machine
        return {"place": source, "files": {}}
    from huggingface_hub import try_to_load_from_cache

    for name in (CONFIG, ADAPTER):
        path = try_to_load_from_cache(source, name, revision=revision)
        if isinstance(path, str):
            snapshot = Path(path).parent
            return {"hub": source, "commit": snapshot.name, "files": describe_model(snapshot)}
    return {"hub": source, "commit": None, "files": {}}


def describe_functions(recipe: BaseRecipe, folder: Path) -> Iterator[tuple[str, Facts]]:
    """The small files that a recipe is made of besides rows, by its keys: reward functions, a chat template of its own,
    the questions of a probe."""
    for index, name in enumerate(getattr(getattr(recipe, "reward", None), "functions", ())):
        path = _find_module(name.rpartition(":")[0], folder)
        if path is not None:
            yield f"reward.functions.{index}", _describe_code(name, path)
    named = {
        "model.chat_template": recipe.model.chat_template,
        "guards.knowledge_forgotten.probe": recipe.guards.knowledge_forgotten.probe,
    }
    for key, name in named.items():
        if name is not None and (file := folder / Path(name).expanduser()).is_file():
            yield key, _describe_code(name, file)


def describe_seeds(recipe: BaseRecipe) -> Facts:
    """What all that is drawn follows from."""
    training = recipe.training
    return {
        "seed": training["seed"],
        "data_seed": training.get("data_seed"),
        "full_determinism": training.get("full_determinism", False),
        "deterministic": recipe.deterministic,
    }


def _describe_code(name: str, path: Path) -> Facts:
    return {"written": name, "place": str(path.absolute()), "name": path.name, "sha256": digest_file(path)}


def _find_module(place: str, folder: Path) -> Path | None:
    """The file of `file.py` or of `module`; none for a module without one."""
    path = folder / Path(place).expanduser()
    if path.suffix == ".py":
        return path
    spec = importlib.util.find_spec(place)
    return Path(spec.origin) if spec is not None and spec.origin is not None else None


def _describe_weights(at: AtModel) -> Facts:
    """What was loaded, as it is before the first step."""
    trainer: Any = at.trainer
    kinds = {True: set[str](), False: set[str]()}
    for weight in trainer.model.parameters():
        kinds[weight.requires_grad].add(str(weight.dtype).removeprefix("torch."))
    arguments = trainer.args
    return {
        "initial": digest_trainable(trainer.model),
        "trained_in": ", ".join(sorted(kinds[True])),
        "frozen_in": ", ".join(sorted(kinds[False])),
        "computed_in": "bfloat16" if arguments.bf16 else "float16" if arguments.fp16 else "as loaded",
        "attention": getattr(at.model.config, "_attn_implementation", None),
        # The CPU of several processes is called cpu:0, and is the same one.
        "device": "cpu" if arguments.device.type == "cpu" else str(arguments.device),
    }
