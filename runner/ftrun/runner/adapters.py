"""Adapter folders as models: an adapter folder stands for the plain model that it merges to.

That model is a folder on disk, because more than the weights in memory is read from where a model came from:
TRL builds a reference from `name_or_path`, and PEFT writes it into a new adapter as its base. A model that is
merged in memory alone would carry the name of the old base into both, in silence.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftrun.runner.references import ADAPTER, CONFIG, read_adapter
from ftrun.runner.weights import NOT_THE_MODEL, digest_model
from ftrun.schemas.errors import ModelError, first_line

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ADAPTER_WEIGHTS = "adapter_model.safetensors"


def is_adapter(source: str) -> bool:
    """Whether this is a folder that holds an adapter alone, as PEFT saves it."""
    folder = Path(source)
    return (folder / ADAPTER).is_file() and not (folder / CONFIG).is_file()


def find_base(source: str) -> str:
    """The model whose config a source has: for an adapter folder the base that it names, else the source.

    Raises ModelError where an adapter names no base.
    """
    while is_adapter(source):
        source = _base_of(source)
    return source


def find_tokenizer(source: str) -> str:
    """Where the tokenizer of a source is: an adapter folder may hold none, and has that of its base.

    Raises ModelError where an adapter names no base.
    """
    while is_adapter(source) and not (Path(source) / "tokenizer_config.json").is_file():
        source = _base_of(source)
    return source


def merge_adapter(source: str, output: Path, *, trust_remote_code: bool = False) -> str:
    """A plain model folder for a source: `<output>/merged/<digest>` for an adapter folder, else the source.

    The folder is written once for each content of the adapter and its base, and found again later. It has to
    stay as long as an adapter that was trained on it is used. Raises ModelError where base and adapter do not
    load, do not fit or cannot be written.
    """
    if not is_adapter(source):
        return source
    base = merge_adapter(_base_of(source), output, trust_remote_code=trust_remote_code)
    known = digest_model(Path(base)) if Path(base).is_dir() else base
    name = hashlib.sha256(f"{digest_model(Path(source))} {known}".encode()).hexdigest()[:16]
    target = output.absolute() / "merged" / name
    if target.is_dir():
        return str(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=target.parent) as scratch:
            written = Path(scratch, name)
            write_merged(source, base, written, trust_remote_code=trust_remote_code)
            if not target.is_dir():  # another process may have been faster, with the same model
                written.rename(target)
    except OSError as error:
        raise ModelError(f"the merged model of {source} cannot be written to {target}: {error}") from error
    return str(target)


def write_merged(source: str, base: str, target: Path, *, trust_remote_code: bool = False) -> None:
    """Write base and adapter as one plain model, in the type of the base's weights, with the adapter folder's
    tokenizer and chat template where it has them. Torch's random state is as it was before, so that a run draws
    the same whether or not it is the one that merges."""
    import torch
    from peft import PeftModel
    from transformers import AutoTokenizer

    try:
        with torch.random.fork_rng():
            model = _load_base(Path(source), base, trust_remote_code)
            merged: Any = PeftModel.from_pretrained(model, source)
        _require_whole(merged, Path(source))
        untie(merged)
        merged.merge_and_unload(safe_merge=True).save_pretrained(target)
        has_tokenizer = (Path(source) / "tokenizer_config.json").is_file()
        tokenizer = AutoTokenizer.from_pretrained(
            source if has_tokenizer else base, trust_remote_code=trust_remote_code
        )
        tokenizer.save_pretrained(target)
    except ModelError:
        raise
    except Exception as error:  # a build boundary: weights fail to load and to fit in many ways
        raise ModelError(f"the adapter {source} cannot be merged into {base}: {first_line(error)}") from error
    for file in Path(source).iterdir():
        ours = file.name.startswith("adapter_") or file.name in NOT_THE_MODEL
        if file.is_file() and not ours and not (target / file.name).exists():
            shutil.copyfile(file, target / file.name)


def _require_whole(loaded: Any, source: Path) -> None:
    """Raise ModelError where the weights of a LoRA adapter have no place in the model, or lack their other halves: PEFT
    leaves the ones out and starts the others as if they had never been trained. Whole layers may be missing."""
    from peft import get_peft_model_state_dict
    from safetensors import safe_open

    if not (source / ADAPTER_WEIGHTS).is_file():
        return
    with safe_open(source / ADAPTER_WEIGHTS, framework="pt") as weights:
        held = {name for name in weights.keys() if ".lora_" in name}  # noqa: SIM118
    own = {
        name for name in get_peft_model_state_dict(loaded, save_embedding_layers=False) if ".lora_" in name
    }
    modules = {name.partition(".lora_")[0] for name in held}
    strange = sorted(held - own)
    halves = sorted(name for name in own - held if name.partition(".lora_")[0] in modules)
    if own and not held:
        raise ModelError(f"{source / ADAPTER_WEIGHTS} holds no LoRA weights")
    if strange:
        raise ModelError(
            f"{len(strange)} of the {len(held)} LoRA weights in {source / ADAPTER_WEIGHTS}, such as {strange[0]}, have "
            f"no place in the model, where they are called {min(own, default='nothing')}"
        )
    if halves:
        raise ModelError(f"{source / ADAPTER_WEIGHTS} lacks {len(halves)} LoRA weights, such as {halves[0]}")


def untie(loaded: Any) -> None:
    """Give embeddings and head weights of their own where they are one tensor and the adapter changes one of them.

    Merged into the shared tensor, what was trained for one would change the other.
    """
    import torch

    model = loaded.get_base_model()
    ends = [model.get_input_embeddings(), model.get_output_embeddings()]
    if None in ends or not any(hasattr(end, "base_layer") for end in ends):
        return
    into, head = (end.base_layer if hasattr(end, "base_layer") else end for end in ends)
    if into.weight is head.weight:
        head.weight = torch.nn.Parameter(into.weight.detach().clone())
        model.config.get_text_config().tie_word_embeddings = False
        model.config.tie_word_embeddings = False


def _load_base(source: Path, base: str, trust_remote_code: bool) -> PreTrainedModel:
    from safetensors import safe_open
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
    from trl.trainer.reward_trainer import suppress_seqcls_warning

    settings = read_adapter(str(source), None) or {}
    kwargs: dict[str, Any] = {
        "dtype": "auto",
        "trust_remote_code": trust_remote_code,
        "revision": settings.get("revision"),
    }
    model: PreTrainedModel
    if settings.get("task_type") != "SEQ_CLS":
        model = AutoModelForCausalLM.from_pretrained(base, **kwargs)
        return model
    with safe_open(source / ADAPTER_WEIGHTS, framework="pt") as weights:
        heads = [name for name in weights.keys() if name.endswith("score.weight")]  # noqa: SIM118
        labels = [weights.get_slice(name).get_shape()[0] for name in heads]
    if len(labels) != 1:
        raise ModelError(f"{source} is an adapter of a classifier and holds no `score` head")
    with suppress_seqcls_warning():  # the head that the base lacks is the adapter's
        model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=labels[0], **kwargs)
    # A classifier scores the last token that is no padding, and the adapter folder holds no config to say which.
    model.config.pad_token_id = AutoTokenizer.from_pretrained(find_tokenizer(str(source))).pad_token_id
    return model


def _base_of(source: str) -> str:
    base = (read_adapter(source, None) or {}).get("base_model_name_or_path")
    if not isinstance(base, str) or not base or base == source:
        raise ModelError(f"{Path(source) / ADAPTER} names no base model; write it there")
    if Path(base).is_absolute() and not Path(base).is_dir():
        raise ModelError(
            f"{source} is an adapter of the model in {base}, and there is no such folder here; put the model there, or "
            f"write its place into {Path(source) / ADAPTER} as base_model_name_or_path"
        )
    return base
