"""The trainer of a recipe without its weights: built by the code that trains, of tensors that take no memory.

Every parameter is a fake tensor: it has a shape, a type and a device, and no values. So an 8B or 70B model is
there in seconds on a laptop, with its adapters, reference, optimizer and schedule, and its configuration is all
that is read of it. What is built is on the CPU, whatever the run is planned for.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftrun.checks.stages import AtData, AtModel, narrow
from ftrun.runner.adapters import find_base
from ftrun.runner.arguments import choose_bf16
from ftrun.runner.model import choose_dtype

if TYPE_CHECKING:
    from torch._subclasses.fake_tensor import FakeTensorMode

FLASH = ("flash_attention_2", "flash_attention_3")


@dataclass(frozen=True)
class Weightless:
    """A trainer without weights."""

    at: AtModel
    mode: FakeTensorMode
    depths: tuple[int, ...]
    """Layers that the configuration of each model states, in the order in which they were built."""

    left_out: tuple[str, ...]
    """What the recipe asks for and this trainer does otherwise, since it changes no more than a part of the
    memory, or runs on a GPU alone."""


def build_weightless(at: AtData, folder: Path, *, layers: int | None = None) -> Weightless:
    """The trainer of a run, with models of `layers` layers, or of as many as they have.

    Raises what `build_model` of the method raises, and ModelError where a configuration cannot be had.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    method = importlib.import_module(f"ftrun.runner.methods.{at.recipe.method}")
    settled, left_out = _settle(at)
    depths: list[int] = []
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with _without_weights(layers, depths), warnings.catch_warnings():
        # Those of copies of fake tensors, and of a GPU that is planned for and not here.
        warnings.simplefilter("ignore")
        with mode:
            built = method.build_model(settled, folder)
    if at.recipe.training.get("precompute_ref_log_probs"):
        built.trainer.ref_model = None
        built.trainer.precompute_ref_logps = True
    return Weightless(built, mode, tuple(depths), left_out)


def _settle(at: AtData) -> tuple[AtData, tuple[str, ...]]:
    """The stage with what needs a GPU or values of weights replaced by what takes as much memory, and what of it
    takes another."""
    training, left_out = _settle_training(at)
    model: dict[str, Any] = {"quantization": None}
    if at.recipe.model.attention in FLASH:
        model["attention"] = "sdpa"
    if at.recipe.model.quantization is not None:
        left_out += ("quantisation: the base's linear weights are counted at their size in bits",)

    def change(recipe: Any, **further: str) -> Any:
        own = recipe.model.model_copy(update=model | further)
        return recipe.model_copy(update={"training": {**recipe.training, **training}, "model": own})

    settled = narrow(
        at,
        AtData,
        recipe=change(at.recipe, dtype=choose_dtype(at.recipe.model, at.machine)),
        file=replace(at.file, recipe=change(at.file.recipe)),
        machine=replace(at.machine, devices=()),
        eval_dataset=None,
        model_folder=find_base(at.model_folder),
    )
    return settled, left_out


def _settle_training(at: AtData) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Settings of `training:` in place of those that need a GPU or values, and what is left out by them."""
    training = at.recipe.training
    changes: dict[str, Any] = {
        "use_cpu": True,
        "bf16": choose_bf16(at) or bool(training["fp16"]),
        "fp16": False,
        "tf32": None,  # which transformers refuses without a GPU
        "eval_strategy": "no",  # what DPO's trainer keeps of its evaluation rows is made with the weights
        "load_best_model_at_end": False,
    }
    left_out: tuple[str, ...] = ()
    if is_eight_bit(training["optim"]):
        changes["optim"] = "adamw_torch"
    if training.get("precompute_ref_log_probs"):
        # It would be done with the weights, before the first step.
        changes["precompute_ref_log_probs"] = False
    if training.get("activation_offloading"):
        changes["activation_offloading"] = False
        left_out = ("activation offloading: the memory that it spares is not taken off",)
    return {key: value for key, value in changes.items() if key in training}, left_out


def is_eight_bit(optim: str) -> bool:
    """Whether an optimizer of this name keeps its state in eight bits."""
    return "8bit" in optim


@contextmanager
def _without_weights(layers: int | None, depths: list[int]) -> Iterator[None]:
    """Inside, models are made of their configurations alone."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensor
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    with ExitStack() as stack:
        for auto in (AutoModelForCausalLM, AutoModelForSequenceClassification):
            stack.enter_context(replaced(auto, "from_pretrained", _maker(auto, layers, depths)))
        # A fake tensor is where it is: moving one between devices would need the memory that it has not.
        stack.enter_context(replaced(torch.nn.Module, "to", _stay))
        stack.enter_context(replaced(FakeTensor, "__deepcopy__", _copy_tensor))
        for module in ("ftrun.runner.model", "ftrun.runner.methods.ppo"):
            merging = importlib.import_module(module)
            stack.enter_context(
                replaced(merging, "merge_adapter", lambda source, *_, **__: find_base(source))
            )
        yield


def _maker(auto: Any, layers: int | None, depths: list[int]) -> Callable[..., Any]:
    def from_pretrained(source: str, **kwargs: Any) -> Any:
        from transformers import AutoConfig

        own = {name: kwargs[name] for name in ("revision", "trust_remote_code") if name in kwargs}
        config = AutoConfig.from_pretrained(find_base(source), **own)
        if "num_labels" in kwargs:
            config.num_labels = kwargs["num_labels"]
        depths.append(config.get_text_config().num_hidden_layers)
        if layers is not None:
            config = shorten(config, layers)
        chosen = {name: kwargs[name] for name in ("dtype", "attn_implementation") if name in kwargs}
        return auto.from_config(config, **chosen, trust_remote_code=kwargs.get("trust_remote_code")), {}

    return from_pretrained


def shorten(config: Any, layers: int) -> Any:
    """A copy of a configuration for a model of fewer layers."""
    config = deepcopy(config)
    text = config.get_text_config()
    text.num_hidden_layers = layers
    if getattr(text, "layer_types", None):
        text.layer_types = list(text.layer_types)[:layers]
    return config


def is_uniform(config: Any) -> bool:
    """Whether all layers of a model are of one kind, so that memory grows by the same with each."""
    text = config.get_text_config()
    kinds = set(getattr(text, "layer_types", None) or ("full_attention",))
    has_dense_start = bool(
        getattr(text, "first_k_dense_replace", 0) or getattr(text, "mlp_only_layers", None)
    )
    return len(kinds) == 1 and not has_dense_start


def _copy_tensor(tensor: Any, memo: dict[int, Any]) -> Any:
    """A copy of a fake tensor. Torch's own copies its mode too, and leaves memory corrupted (seen with torch 2.13:
    PPO's reference and PEFT's `modules_to_save` are copies)."""
    import torch

    if id(tensor) not in memo:
        copy = tensor.detach().clone()
        is_parameter = isinstance(tensor, torch.nn.Parameter)
        memo[id(tensor)] = (
            torch.nn.Parameter(copy, requires_grad=tensor.requires_grad) if is_parameter else copy
        )
    return memo[id(tensor)]


def _stay(module: Any, *args: Any, **kwargs: Any) -> Any:
    import torch

    types = [one for one in (*args, kwargs.get("dtype")) if isinstance(one, torch.dtype)]
    for p in (*module.parameters(), *module.buffers()) if types else ():
        if p.is_floating_point():
            p.data = p.data.to(types[0])
    return module


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Inside, an attribute of a class or module is another."""
    own: Mapping[str, Any] = vars(owner)
    before = own.get(name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if before is None:
            delattr(owner, name)
        else:
            setattr(owner, name, before)
