"""The model and its tokenizer, loaded as the recipe says, through the `from_pretrained` that users run."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ftrun.checks.machine import Machine
from ftrun.checks.stages import AtData, AtModel, widen
from ftrun.runner.adapters import find_base, find_tokenizer, merge_adapter
from ftrun.runner.ranks import share
from ftrun.runner.tuning.batches import SORTED, sort_updates
from ftrun.schemas.errors import ModelError, first_line
from ftrun.schemas.sections import BaseRecipe, Model

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase, Trainer


def locate_model(recipe: BaseRecipe, folder: Path, key: str = "path") -> str:
    """What `from_pretrained` is given for a key of `model:`: a folder, or a hub id as it stands.

    Raises ModelError where the key names a path that is no folder, or a run without a model.
    """
    path: str = getattr(recipe.model, key)
    if path.startswith("run:"):
        from ftrun.runner.tracking.lookup import find_model
        from ftrun.runner.tracking.store import resolve_uri

        uri = resolve_uri(recipe.tracking.uri, Path(recipe.output))
        return str(find_model(path.removeprefix("run:"), uri))
    if path == "tiny":
        from ftrun.runner.tiny import locate

        return str(locate())
    local = folder / Path(path).expanduser()
    if local.is_dir():
        return str(local)
    if local.is_file() or path.startswith((".", "/", "~")):
        raise ModelError(f"model.{key} {path} is not a folder (looked at {local})")
    return path


def load_tokenizer(model: Model, source: str, folder: Path, eos_token: str | None) -> PreTrainedTokenizerBase:
    """The tokenizer, with the recipe's chat template and end-of-sequence token.

    Raises ModelError where there is none, or where the recipe names a template or token that is not there.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            find_tokenizer(source), revision=model.revision, trust_remote_code=model.trust_remote_code
        )
    except Exception as error:  # a build boundary: tokenizers fail in as many ways as there are of them
        raise ModelError(f"the tokenizer of {model.path} cannot be loaded: {first_line(error)}") from error
    if model.chat_template is not None:
        tokenizer.chat_template = read_chat_template(model.chat_template, folder)
    if eos_token is not None:
        if eos_token not in tokenizer.get_vocab():
            raise ModelError(f"training.eos_token {eos_token!r} is not in the tokenizer of {model.path}")
        tokenizer.eos_token = eos_token
    if tokenizer.pad_token is None:
        # As TRL does; what it costs is told by the checks.
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def read_chat_template(name: str, folder: Path) -> str:
    """The text of a Jinja file relative to `folder`, or of a template that TRL ships, by its name."""
    path = folder / Path(name).expanduser()
    if path.is_file():
        return path.read_text(encoding="utf-8")
    shipped = {Path(one.name).stem: one for one in files("trl").joinpath("chat_templates").iterdir()}
    if name in shipped:
        return shipped[name].read_text(encoding="utf-8")
    import difflib

    near = difflib.get_close_matches(name, shipped, n=3)
    hint = (
        f"did you mean {' or '.join(near)}?" if near else "see `ftrun explain` of MODEL checks for the names"
    )
    raise ModelError(
        f"model.chat_template {name} is neither a file (looked for {path}) nor one that TRL ships; {hint}"
    )


def load_config(model: Model, source: str) -> PretrainedConfig:
    """The model's configuration, without its weights; of an adapter folder that of its base."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(
            find_base(source), revision=model.revision, trust_remote_code=model.trust_remote_code
        )
    except Exception as error:  # a build boundary
        raise ModelError(f"model.path {model.path} cannot be loaded: {first_line(error)}") from error


def read_stop_ids(
    model: Model, source: str, config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase
) -> frozenset[int]:
    """Ids at which generation stops after training.

    Those of the generation config (else of the model config), and the tokenizer's, which transformers'
    `align_special_tokens` adds to them when training starts.
    """
    from transformers import GenerationConfig

    try:
        generation = GenerationConfig.from_pretrained(find_base(source), revision=model.revision)
    except OSError:
        generation = GenerationConfig.from_model_config(config)
    declared = generation.eos_token_id
    ids = [] if declared is None else [declared] if isinstance(declared, int) else list(declared)
    return frozenset(id for id in [*ids, tokenizer.eos_token_id] if id is not None)


def choose_dtype(model: Model, machine: Machine) -> str:
    """The type that weights are loaded in.

    Weights that are trained whole stay in float32, since bfloat16 keeps 8 bits of a weight and rounds small
    updates away; a base that is frozen under LoRA loses nothing in bfloat16.
    """
    if model.dtype != "auto":
        return model.dtype
    if model.lora is not None and machine.devices and all(device.bf16 for device in machine.devices):
        return "bfloat16"
    return "float32"


def is_classifier(config: PretrainedConfig) -> bool:
    """Whether a checkpoint with this configuration has a head that scores whole texts."""
    return any(name.endswith("ForSequenceClassification") for name in config.architectures or ())


def load_model(
    recipe: BaseRecipe, source: str, machine: Machine, *, head: Literal["language", "score"] = "language"
) -> tuple[PreTrainedModel, Mapping[str, tuple[str, ...]]]:
    """The causal language model, and the names of weights that were missing, unexpected or of another shape.

    With `head="score"`, the classifier with one score: its head is drawn where the source is no classifier,
    and is then not among the missing. An adapter folder is loaded as the plain model that it merges to
    (`ftrun.runner.adapters`).
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    model = recipe.model
    plain, trusted = source, model.trust_remote_code
    # transformers writes a model in the first of several processes alone.
    source = share(lambda: merge_adapter(plain, Path(recipe.output), trust_remote_code=trusted))
    kwargs: dict[str, Any] = {
        "revision": model.revision,
        "dtype": getattr(torch, choose_dtype(model, machine)),
        "trust_remote_code": model.trust_remote_code,
        "output_loading_info": True,
        **(recipe.training.get("model_init_kwargs") or {}),
    }
    if model.attention != "auto":
        kwargs["attn_implementation"] = model.attention
    if model.quantization is not None:
        kwargs["quantization_config"] = _quantization_config(model, machine)
    auto: Any = AutoModelForCausalLM
    new_head = head == "score" and not is_classifier(load_config(model, source))
    if head == "score":
        auto, kwargs["num_labels"] = AutoModelForSequenceClassification, 1
    try:
        with _unreported_head() if new_head else nullcontext():
            loaded, info = auto.from_pretrained(source, **kwargs)
    except Exception as error:  # a build boundary
        raise ModelError(f"model.path {model.path} cannot be loaded: {first_line(error)}") from error
    report = {
        name: tuple(sorted(str(key) for key in info.get(f"{name}_keys", ())))
        for name in ("missing", "unexpected", "mismatched")
    }
    return loaded, _without_heads(report, loaded.base_model_prefix) if new_head else report


def _unreported_head() -> AbstractContextManager[None]:
    """While loading, transformers does not print that a score head is new and a language head unused."""
    from trl.trainer.reward_trainer import suppress_seqcls_warning

    silence: AbstractContextManager[None] = suppress_seqcls_warning()
    return silence


def _without_heads(report: Mapping[str, tuple[str, ...]], body: str) -> dict[str, tuple[str, ...]]:
    """The report without what differs by the task: the new head, and the language head of the checkpoint."""
    return {
        "missing": tuple(name for name in report["missing"] if name.startswith(f"{body}.")),
        "unexpected": tuple(
            name for name in report["unexpected"] if not name.startswith(("lm_head.", "embed_out."))
        ),
        "mismatched": report["mismatched"],
    }


def _quantization_config(model: Model, machine: Machine) -> Any:
    import torch
    from transformers import BitsAndBytesConfig
    from transformers.utils import is_bitsandbytes_available

    if model.lora is None:
        raise ModelError(
            "model.quantization freezes the base weights: add model.lora, or remove model.quantization"
        )
    if not is_bitsandbytes_available():
        raise ModelError("model.quantization needs bitsandbytes: pip install bitsandbytes")
    if not machine.devices:
        raise ModelError(
            "model.quantization needs a GPU that torch can use, and there is none: see `ftrun doctor`"
        )
    if model.quantization == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    # NF4 with double quantisation, as in QLoRA (arXiv 2305.14314).
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16 if machine.devices[0].bf16 else torch.float16,
    )


def make_peft_config(lora: Mapping[str, Any], task: Literal["CAUSAL_LM", "SEQ_CLS"] = "CAUSAL_LM") -> Any:
    """PEFT's LoraConfig; for a classifier PEFT trains the head beside the adapters.

    Raises ModelError where PEFT refuses the values.
    """
    from peft import LoraConfig

    try:
        # A copy: PEFT adds the names of a classifier's head to the list of `modules_to_save`.
        return LoraConfig(**{**deepcopy(dict(lora)), "task_type": task})
    except (TypeError, ValueError) as error:
        raise ModelError(f"model.lora: {first_line(error)}") from error


def make_ready(at: AtData, trainer: Trainer, load_report: Mapping[str, tuple[str, ...]]) -> AtModel:
    """The model stage around a trainer that is built: with its optimizer, and without its own printing."""
    from transformers import PrinterCallback

    trainer.remove_callback(PrinterCallback)  # it prints every log as a dictionary; ftrun has its own lines
    # Training makes its own scheduler; this one tells early where its settings do not fit.
    trainer.create_optimizer_and_scheduler(at.steps)
    if any(one.key == SORTED for one in at.choices):
        # Where a loss is a mean over each micro-batch, the rows of a smaller one weigh more: those are as drawn.
        sort_updates(trainer, whole_only=at.recipe.method != "sft")
    return widen(
        at,
        AtModel,
        trainer=trainer,
        model=trainer.model,
        load_report=load_report,
        checkpoint_bytes=_checkpoint_bytes(trainer.model, full=at.recipe.model.lora is None),
    )


def _checkpoint_bytes(model: PreTrainedModel, *, full: bool) -> int:
    """Bytes of the weights that are saved, and of two moments in the type of each trainable weight (AdamW)."""
    sizes = [(p.numel() * p.element_size(), p.requires_grad) for p in model.parameters()]
    return sum((full or trained) * size + 2 * trained * size for size, trained in sizes)
