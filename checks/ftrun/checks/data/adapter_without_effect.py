"""The adapter that the model is made of does nothing to its base, or overwhelms it.

Symptom: the run starts from the plain base although an adapter is named, or from a model that babbles.
Cause: the adapter's names fit no weight of this base, its weights were never trained or not saved, only part of them
were, or its `lora_alpha` was changed after training.
Fix: name the adapter that training wrote, whole, with the base that it was trained on.
Prevention: keep adapter_config.json and adapter_model.safetensors as they were written together.
Source: what the adapter adds is compared with the weights of its base: one that adds nothing is told. So is one that
lacks layers of the modules that it names (PEFT starts what is missing at zero, in silence), and one whose changes are
larger than the weights: trained adapters change them by a few hundredths (arXiv 2106.09685, section 7.3), told is
from 1 on.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftrun.checks.check import check
from ftrun.checks.engine import NotApplicable
from ftrun.checks.examples import spread
from ftrun.checks.finding import Finding
from ftrun.checks.paths import kind_of, located
from ftrun.checks.stages import AtData

if TYPE_CHECKING:
    from ftrun.checks.testing import World

LARGE = 1.0
LOOKED_AT = 16
"""Weights whose change is measured."""

LAYER = re.compile(r"^(?:.*\.)?([A-Za-z_]+\.)(\d+)(\..*)$")
PAIR = re.compile(r"^(?:base_model\.model\.)?(.+)\.lora_A(?:\.\w+)?\.weight$")


@check("MODEL034", title="the adapter changes its base, by a little")
def adapter_without_effect(at: AtData) -> Iterator[Finding]:
    folder = located(at.recipe.model.path, at.file.folder)
    file = folder / "adapter_model.safetensors"
    if kind_of(file) != "file" or kind_of(folder / "config.json") is not None:
        raise NotApplicable("the model is no adapter folder")
    settings = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    held = set(_names(file))
    pairs = {
        found[1]: name
        for name in held
        if (found := PAIR.match(name)) and name.replace("lora_A", "lora_B") in held
    }
    base = Path(str(settings["base_model_name_or_path"]))
    if settings.get("peft_type") != "LORA" or not pairs:
        raise NotApplicable("the adapter is no LoRA")
    if kind_of(base / "config.json") != "file" or not list(base.glob("*.safetensors")):
        raise NotApplicable("the base of the adapter is no model folder here")
    places = {
        _tail(name.removesuffix(".weight")): (path, name)
        for path in sorted(base.glob("*.safetensors"))
        for name in _names(path)
    }
    fitting = [module for module in pairs if _tail(module) in places]
    changes = {
        module: _measure(file, pairs[module], *places[_tail(module)], settings)
        for module in (fitting[place] for place in spread(len(fitting), LOOKED_AT).tolist())
    }
    if not any(changes.values()):
        yield Finding(
            message=f"The adapter {folder.name} changes no weight of its base: "
            + (
                "what it adds to each is zero."
                if changes
                else f"its names, such as {next(iter(pairs))}, are none of the base's."
            ),
            fix="Name the adapter as training wrote it, and the base that it was trained on.",
            where=at.where("model.path"),
        )
        return
    large = [name for name, change in changes.items() if change > LARGE]
    if len(large) * 2 > len(changes):
        yield Finding(
            message=f"The adapter {folder.name} changes {len(large)} of {len(changes)} weights by more than they are: "
            f"{large[0]} by {changes[large[0]]:.3g} times its norm; a few hundredths are usual.",
            fix="Correct lora_alpha and r in adapter_config.json: the adapter is multiplied by lora_alpha / r.",
            where=at.where("model.path"),
            severity="warning",
        )
    yield from _tell_missing(folder.name, settings, list(pairs), list(places), at)


def _tell_missing(
    name: str, settings: dict[str, Any], modules: list[str], base: list[str], at: AtData
) -> Iterator[Finding]:
    """Layers of the base whose modules the adapter has in other layers, and not there."""
    if settings.get("layers_to_transform") is not None or isinstance(settings.get("target_modules"), str):
        return
    held = {_tail(module) for module in modules}
    kinds = {(found[1], found[3]) for one in held if (found := LAYER.match(one))}
    wanted = [one for one in base if (found := LAYER.match(one)) and (found[1], found[3]) in kinds]
    missing = sorted(set(wanted) - held)
    if missing:
        yield Finding(
            message=f"The adapter {name} lacks {len(missing)} of the {len(wanted)} modules that it should change, such "
            f"as {missing[0]}: there the base is left as it is.",
            fix="Save the adapter again, whole, or name the layers that it has in layers_to_transform.",
            where=at.where("model.path"),
            severity="warning",
        )


def _tail(module: str) -> str:
    """The name of a module from its layer on: files and models begin it in several ways."""
    found = LAYER.match(module)
    return "".join(found.groups()) if found else module.rpartition(".")[2]


def _names(path: Path) -> list[str]:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return list(file.keys())


def _measure(adapter: Path, first: str, base: Path, name: str, settings: dict[str, Any]) -> float:
    """The norm of what an adapter adds to a weight, as a share of that of the weight."""
    from safetensors import safe_open

    with safe_open(adapter, framework="pt") as file:
        down = file.get_tensor(first).float()
        up = file.get_tensor(first.replace("lora_A", "lora_B")).float()
    with safe_open(base, framework="pt") as file:
        weight = file.get_tensor(name).float()
    rank = down.shape[0]
    scale = float(settings.get("lora_alpha", rank)) / (
        math.sqrt(rank) if settings.get("use_rslora") else rank
    )
    # |BA|² = tr(BᵀB AAᵀ), which takes no matrix of the weight's size.
    added = float(((up.flatten(1).T @ up.flatten(1)) * (down.flatten(1) @ down.flatten(1).T)).sum())
    return scale * math.sqrt(max(added, 0.0)) / max(float(weight.norm()), 1e-12)


@adapter_without_effect.fault
def the_adapter_was_never_trained(world: World) -> None:
    _start_from_adapter(world, change=0.0)


@adapter_without_effect.fault
def its_scale_was_changed(world: World) -> None:
    _start_from_adapter(world, change=0.02, alpha=160_000)


def _start_from_adapter(world: World, change: float, alpha: int = 16) -> None:
    """Let the world start from an adapter on `tiny`, with weights of this size where they are added."""

    def damage(at: AtData) -> AtData:
        import torch
        from peft import LoraConfig, get_peft_model
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(at.model_folder)
        settings = LoraConfig(r=8, lora_alpha=alpha, target_modules="all-linear", task_type="CAUSAL_LM")
        adapted: Any = get_peft_model(model, settings)
        with torch.no_grad():
            for name, weight in adapted.named_parameters():
                if "lora_B" in name:
                    weight.fill_(change)
        path = str(world.folder / "adapter")
        adapted.save_pretrained(path)
        recipe = at.recipe.model_copy(update={"model": at.recipe.model.model_copy(update={"path": path})})
        return replace(at, recipe=recipe)

    world.after(AtData, damage)
