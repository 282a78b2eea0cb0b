"""`ftrun export`: a result as a plain model folder, proven to be the model that was trained.

Merging is done in float32, whatever the base's type, and rounded once to the type that is written. Merging in
bfloat16 would lose nothing that can be measured (weights off by 1.6e-3 of their norm either way, logits alike,
on Llama and GPT-2 shapes of 2 to 48 layers): what float32 buys is the proof. There merged and unmerged agree to
a millionth of the largest logit, so that a fault shows which the rounding of bfloat16 would hide. It costs 4 bytes
of main memory a parameter while merging and up to 6 while the folder is read back, and no GPU.

The folder is written beside its destination and moved there once everything is proven.
"""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftrun.runner.adapters import untie
from ftrun.runner.libraries import require_training, settle_libraries, silence_bars
from ftrun.runner.printing.text import make_console
from ftrun.runner.proof import (
    Behaviour,
    find_end_of_turn,
    observe,
    prove_behaviour,
    prove_merge,
    prove_padding,
    prove_stop,
    prove_tokenizer,
    prove_weights,
)
from ftrun.runner.result import (
    Result,
    describe_result,
    find_result,
    find_stop_ids,
    load_result,
    load_tokenizer,
)
from ftrun.schemas.errors import ModelError, NotProven, TrackingError, first_line

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

DONE, UNUSABLE = 0, 2
GENERATION = "generation_config.json"
TYPES = ("float32", "bfloat16", "float16")


def export(
    reference: str,
    destination: Path,
    *,
    dtype: str | None = None,
    base: str | None = None,
    force: bool = False,
    uri: str | None = None,
) -> int:
    """Write the result to `destination`, print a line for each proof, and return the exit code.

    `dtype` is one of TYPES, or None for the type that the model has. Exit code 2, with one sentence on stderr,
    where there is no such result or the destination is taken. Raises NotProven where the written folder is not
    the trained model; nothing is at the destination then but what was there before.
    """
    require_training("export")
    settle_libraries()
    silence_bars()
    out = make_console()
    target = destination.expanduser().absolute()
    try:
        result = find_result(reference, base=base, uri=uri)
        _require_plain_weights(result)
        _require_free(target, result, force=force)
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as scratch:
            built = Path(scratch, target.name)
            write_proven(result, built, dtype or _own_type(result), out)
            _move(built, target, Path(scratch, "before"))
    except (ModelError, TrackingError) as error:
        make_console(stderr=True).print(f"ftrun: {error}")
        return UNUSABLE
    except OSError as error:
        make_console(stderr=True).print(f"ftrun: {target} cannot be written: {first_line(error)}")
        return UNUSABLE
    out.print(f"the model is in {target}")
    return DONE


def _require_plain_weights(result: Result) -> None:
    """Raise ModelError where the weights lie on disk in a quantised form, into which nothing can be merged."""
    if getattr(result.plain.config, "quantization_config", None):
        raise ModelError(
            f"{result.plain.source} is stored quantised, and an export is not; "
            + (
                "name the same model unquantised with --base"
                if result.adapter
                else "there is nothing to merge"
            )
        )


def _require_free(target: Path, result: Result, *, force: bool) -> None:
    """Raise ModelError where writing to `target` would lose something."""
    if target.exists() and not target.is_dir():
        raise ModelError(f"{target} is a file; name a folder")
    for source in {result.source, result.plain.source}:
        if Path(source).is_dir() and Path(source).resolve().is_relative_to(target.resolve()):
            raise ModelError(f"{target} holds {source}, which is read; export to another folder")
    if target.is_dir() and any(target.iterdir()) and not force:
        raise ModelError(f"{target} is not empty; name another folder, or replace it with --force")


def _own_type(result: Result) -> str:
    """The type of the model's weights as its config says, else float32."""
    named = str(getattr(result.plain.config.get_text_config(), "dtype", None)).removeprefix("torch.")
    return named if named in TYPES else "float32"


def _move(built: Path, target: Path, before: Path) -> None:
    """Rename `built` to `target`; what stood there goes to `before`, and comes back if that fails."""
    if target.exists():
        target.rename(before)
    try:
        built.rename(target)
    except OSError:
        if before.exists():
            before.rename(target)
        raise


def write_proven(result: Result, folder: Path, dtype: str, out: Console) -> None:
    """Write `folder` in `dtype` and print each proof as it succeeds.

    Raises ModelError where the result does not load or does not merge, and NotProven.
    """
    out.print(f"exporting {describe_result(result)} as {dtype}", style="dim")
    tokenizer = load_tokenizer(result)
    loaded = load_result(result, dtype="float32")
    trained = observe(loaded, tokenizer, scores=result.scores)
    model, line = _merge(loaded, result, tokenizer, trained)
    if line is not None:
        out.print(line)
    write_folder(model, tokenizer, result, folder, dtype)
    for line in prove_folder(folder, result, tokenizer, model, trained, dtype):
        out.print(line)


def _merge(
    loaded: Any, result: Result, tokenizer: PreTrainedTokenizerBase, trained: Behaviour
) -> tuple[PreTrainedModel, str | None]:
    """The plain model, and what was proven of merging; a full model is one already."""
    if result.adapter is None:
        return loaded, None
    if not hasattr(loaded, "merge_and_unload"):
        raise ModelError(
            f"the adapter {result.source} cannot be merged: {result.adapter.get('peft_type')} adds tokens and "
            "changes no weights; use it as it is, with PEFT"
        )
    effect = None
    if not result.scores:  # without its adapter a reward model has no head
        with loaded.disable_adapter():
            base = observe(loaded, tokenizer, scores=False)
        effect = float((base.values - trained.values).abs().max())
    untie(loaded)
    try:
        merged = loaded.merge_and_unload(safe_merge=True)
    except Exception as error:  # a build boundary: not every adapter can be merged, and some hold NaN
        raise ModelError(f"the adapter {result.source} cannot be merged: {first_line(error)}") from error
    return merged, prove_merge(trained, observe(merged, tokenizer, scores=result.scores), effect)


def write_folder(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, result: Result, folder: Path, dtype: str
) -> None:
    """Write weights (rounded to `dtype`, in place), config, generation config, tokenizer and template.

    The end of text and the padding in both configs become the tokenizer's, as transformers aligns them when
    training starts: the config of an adapter's base was never told.
    """
    _convert(model, dtype)
    text_config = model.config.get_text_config()
    for name in ("eos_token_id", "pad_token_id"):
        if getattr(tokenizer, name) is not None:
            setattr(text_config, name, getattr(tokenizer, name))
    try:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    except OSError:
        raise
    except Exception as error:  # a build boundary: configs of the hub that transformers refuses to write
        raise ModelError(f"{result.source} cannot be written: {first_line(error)}") from error
    if result.scores:
        return
    end_of_turn = find_end_of_turn(tokenizer)
    ids = find_stop_ids(result, tokenizer) | (set() if end_of_turn is None else {end_of_turn})
    # Edited as text: transformers writes a published config back as it was, but once changed only if its sampling
    # settings pass checks that published ones often fail.
    path = folder / GENERATION
    config = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    config.pop("_from_model_config", None)
    config["eos_token_id"] = sorted(ids) if len(ids) > 1 else next(iter(ids), None)
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _convert(model: PreTrainedModel, dtype: str) -> None:
    """Round each saved tensor to `dtype`, but those that their architecture keeps in float32 (routers, mostly)."""
    import torch

    kind = getattr(torch, dtype)
    kept = {*(model._keep_in_fp32_modules_strict or ())}
    if kind is torch.float16:
        kept |= {*(model._keep_in_fp32_modules or ())}
    pattern = re.compile("|".join(rf"(^|\.){one}($|\.)" for one in kept)) if kept else None
    saved = model.state_dict().keys()
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if name in saved and tensor.is_floating_point() and not (pattern and pattern.search(name)):
            tensor.data = tensor.data.to(kind)


def prove_folder(
    folder: Path,
    result: Result,
    tokenizer: PreTrainedTokenizerBase,
    meant: PreTrainedModel,
    trained: Behaviour,
    dtype: str,
) -> Iterator[str]:
    """Every proof of a written folder, read from disk; the first that fails raises NotProven."""
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    kwargs = {"trust_remote_code": result.trust_remote_code}
    auto = AutoModelForSequenceClassification if result.scores else AutoModelForCausalLM
    try:
        written, info = auto.from_pretrained(folder, dtype="auto", output_loading_info=True, **kwargs)
    except Exception as error:  # a build boundary
        raise NotProven(f"the written folder cannot be loaded: {first_line(error)}") from error
    yield prove_weights(written, info, meant)
    # In float32, so that only the rounding of the weights is measured and not that of another machine's kernels.
    said = observe(written.float().eval(), tokenizer, scores=result.scores)
    yield prove_behaviour(trained, said, dtype, scores=result.scores)
    yield prove_tokenizer(folder, load_tokenizer(result), **kwargs)
    if result.scores:
        yield prove_padding(folder, tokenizer, **kwargs)
    else:
        yield prove_stop(folder, tokenizer, find_stop_ids(result, tokenizer))
