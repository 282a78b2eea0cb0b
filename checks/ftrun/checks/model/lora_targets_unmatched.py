"""Names under model.lora match no module, or adapters sit on few layers.

Symptom: the loss falls less than it should; the adapter is smaller than thought; new tokens are never learnt.
Cause: a misspelt name, or a name of another model family. PEFT raises only where not one name matches. In hybrid
models (attention and state space layers), attention names reach a few layers alone.
Fix: correct the name, or write `target_modules: all-linear`.
Prevention: copy names from the model that is trained; the finding lists how many modules each name matched.
Source: peft#1959, peft#3658, peft#3600 (names without a match), peft#1496 (modules_to_save), peft#3554 (adapters
on 4 of 56 layers).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ftrun.checks.check import check
from ftrun.checks.engine import NotApplicable
from ftrun.checks.finding import Finding
from ftrun.checks.parameters import adapter_layers, plain_name
from ftrun.checks.stages import AtModel
from ftrun.schemas.spelling import nearest

if TYPE_CHECKING:
    from ftrun.checks.testing import World

FEW = 0.5
NARROWING = ("layers_to_transform", "layers_pattern", "exclude_modules", "target_parameters")
"""Keys by which a recipe asks for some layers alone."""


@check("MODEL004", title="every name under model.lora matches modules")
def lora_targets_unmatched(at: AtModel) -> Iterator[Finding]:
    lora = at.recipe.model.lora
    if lora is None:
        raise NotApplicable("no LoRA")
    adapted = [name for name, _ in adapter_layers(at.model)]
    if not adapted:
        raise NotApplicable("the model has no adapters")
    modules = [plain_name(name) for name, _ in at.model.named_modules() if ".lora_" not in name]
    rules: dict[str, tuple[Sequence[str], Callable[[str, str], bool]]] = {
        "target_modules": (adapted, _ends_with),
        "modules_to_save": (_saved_modules(at.model), str.endswith),
        "exclude_modules": (modules, _ends_with),
        "rank_pattern": (adapted, _matches_pattern),
        "alpha_pattern": (adapted, _matches_pattern),
    }
    for key, (candidates, matches) in rules.items():
        names = lora.get(key)
        if names and not isinstance(names, str):
            counts = {name: sum(matches(one, name) for one in candidates) for name in names}
            yield from _unmatched(at, key, counts, modules)
    yield from _beyond_the_last(at, lora)
    yield from _few_layers(at, lora, adapted)


def _ends_with(module: str, name: str) -> bool:
    """PEFT's rule for `target_modules` and `exclude_modules`."""
    return module == name or module.endswith(f".{name}")


def _matches_pattern(module: str, pattern: str) -> bool:
    """PEFT's rule for the keys of `rank_pattern` and `alpha_pattern`."""
    return re.match(rf"(.*\.)?({pattern})$", module) is not None


def _saved_modules(model: Any) -> list[str]:
    from peft.utils.other import ModulesToSaveWrapper

    return [
        plain_name(name) for name, module in model.named_modules() if isinstance(module, ModulesToSaveWrapper)
    ]


def _unmatched(at: AtModel, key: str, counts: dict[str, int], modules: list[str]) -> Iterator[Finding]:
    lost = [name for name, count in counts.items() if count == 0]
    if not lost:
        return
    whole = _saved_modules(at.model) if key == "target_modules" else []
    saved = [one for one in lost if any(_ends_with(module, one) for module in whole)]
    if saved:
        yield Finding(
            message=f"{', '.join(saved)}: named under model.lora.target_modules, and trained whole, as PEFT does with "
            "modules_to_save and with the head of a classifier: there is no adapter.",
            fix=f"Remove {', '.join(saved)} from model.lora.target_modules, or from modules_to_save.",
            where=at.where(f"model.lora.{key}"),
            severity="warning",
        )
    lost = [one for one in lost if one not in saved]
    if not lost:
        return
    last_parts = {name.rpartition(".")[2] for name in modules} - {""}
    meant = {name: nearest(name.rpartition(".")[2], last_parts) for name in lost}
    hints = [f"{name}: did you mean {near}?" for name, near in meant.items() if near is not None]
    yield Finding(
        message=f"{len(lost)} of {len(counts)} names under model.lora.{key} match no module: {', '.join(lost)}. "
        "PEFT passes over them.",
        fix=f"Correct or remove these names under model.lora.{key}.",
        where=at.where(f"model.lora.{key}"),
        evidence=(", ".join(f"{name}: {count} modules" for name, count in counts.items()), *hints[:3]),
    )


def _beyond_the_last(at: AtModel, lora: dict[str, Any]) -> Iterator[Finding]:
    count = int(getattr(at.model.config.get_text_config(), "num_hidden_layers", None) or 0)
    asked = lora.get("layers_to_transform")
    asked = [asked] if isinstance(asked, int) else asked or []
    beyond = [one for one in asked if one >= count > 0]
    if beyond:
        yield Finding(
            message=f"model.lora.layers_to_transform names {', '.join(map(str, beyond))}; the model has {count} "
            f"layers, 0 to {count - 1}. PEFT passes over them.",
            fix="Correct or remove these numbers under model.lora.layers_to_transform.",
            where=at.where("model.lora.layers_to_transform"),
        )


def _few_layers(at: AtModel, lora: dict[str, Any], adapted: list[str]) -> Iterator[Finding]:
    targets = lora.get("target_modules")
    chosen = targets if isinstance(targets, list) else []
    numbered = any(re.search(r"\.\d+\.", name) for name in chosen)
    pattern = isinstance(targets, str) and targets != "all-linear"
    layers = _layer_names(at)
    if numbered or pattern or not layers or any(lora.get(key) is not None for key in NARROWING):
        return
    with_adapter = [layer for layer in layers if any(name.startswith(f"{layer}.") for name in adapted)]
    if len(with_adapter) >= FEW * len(layers):
        return
    yield Finding(
        message=f"{len(with_adapter)} of {len(layers)} layers have an adapter.",
        fix="Write model.lora.target_modules: all-linear, or name modules of the other layers too.",
        where=at.where("model.lora.target_modules"),
        evidence=(f"layers with an adapter: {', '.join(with_adapter[:5]) or 'none'}",),
        severity="warning",
    )


def _layer_names(at: AtModel) -> list[str]:
    """The transformer's layers: the lists of modules that are as long as the configuration says."""
    import torch

    count = getattr(at.model.config.get_text_config(), "num_hidden_layers", None)
    return [
        f"{plain_name(name)}.{index}"
        for name, module in at.model.named_modules()
        if isinstance(module, torch.nn.ModuleList) and len(module) == count
        for index in range(len(module))
    ]


@lora_targets_unmatched.fault
def misspelt_target(world: World) -> None:
    world.recipe["model"]["lora"] = {"r": 8, "target_modules": ["q_proj", "v_projj"]}


@lora_targets_unmatched.fault
def a_layer_that_is_not_there(world: World) -> None:
    world.recipe["model"]["lora"] = {"r": 8, "target_modules": ["q_proj"], "layers_to_transform": [0, 99]}


@lora_targets_unmatched.fault
def misspelt_module_to_save(world: World) -> None:
    world.recipe["model"]["lora"] = {
        "r": 8,
        "target_modules": "all-linear",
        "modules_to_save": ["embed_token"],
    }


@lora_targets_unmatched.fault
def rank_pattern_of_another_family(world: World) -> None:
    world.recipe["model"]["lora"] = {"r": 8, "target_modules": ["q_proj"], "rank_pattern": {"c_attn": 4}}


@lora_targets_unmatched.fault
def names_reach_one_layer_of_a_hybrid(world: World) -> None:
    def make_hybrid(at: AtModel) -> AtModel:
        for layer in at.model.get_base_model().model.layers[1:]:
            layer.self_attn.q_proj = layer.self_attn.q_proj.get_base_layer()
        return at

    world.recipe["training"]["model_init_kwargs"] = {"num_hidden_layers": 4}
    world.recipe["model"]["lora"] = {"r": 8, "target_modules": ["q_proj"]}
    world.after(AtModel, make_hybrid)
