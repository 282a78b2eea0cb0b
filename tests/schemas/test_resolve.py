from __future__ import annotations

import copy
import re
from pathlib import Path

from ftrun.schemas.load import load_recipe
from ftrun.schemas.resolve import digest, resolve
from ftrun.schemas.sections import BaseRecipe
from ftrun.schemas.settings import defaults, read_table

TEXT = """\
name: polite
method: sft
model: {path: tiny, lora: {r: 8}}
data: {train: [{path: a.jsonl, weight: 1}]}
training: {learning_rate: 1e-3, num_train_epochs: 1}
"""


def recipe(folder: Path, text: str = TEXT) -> BaseRecipe:
    path = folder / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return load_recipe(path).recipe


def test_resolving_fills_what_is_open_and_keeps_what_is_written(tmp_path: Path) -> None:
    written = recipe(tmp_path)
    before = copy.deepcopy(written)
    resolved = resolve(written)
    assert written == before
    assert type(resolved) is type(written)
    assert resolved.training == {**defaults(read_table("sft")), "learning_rate": 1e-3, "num_train_epochs": 1}
    assert resolved.tracking.experiment == "polite"
    assert resolved.model.lora == {"r": 8}
    assert resolve(resolved) == resolved


def test_a_written_experiment_stays(tmp_path: Path) -> None:
    assert resolve(recipe(tmp_path, TEXT + "tracking: {experiment: mine}")).tracking.experiment == "mine"


def test_the_digest_names_the_meaning_and_not_the_spelling(tmp_path: Path) -> None:
    first = digest(resolve(recipe(tmp_path)))
    assert re.fullmatch("[0-9a-f]{64}", first)
    respelt = "# other\n" + "\n".join(reversed(TEXT.splitlines()))
    respelt = respelt.replace("1e-3", "0.001").replace("num_train_epochs: 1", "num_train_epochs: 1.0")
    assert digest(resolve(recipe(tmp_path, respelt))) == first
    assert digest(resolve(recipe(tmp_path, TEXT.replace("1e-3", "1.0000000000000001e-2")))) != first


def test_infinities_and_the_words_for_them_have_digests_of_their_own(tmp_path: Path) -> None:
    written = recipe(tmp_path)
    odd = (float("inf"), float("-inf"), float("nan"), "inf", None, 1, True)
    digests = {digest(written.model_copy(update={"training": {"x": value}})) for value in odd}
    assert len(digests) == len(odd)
