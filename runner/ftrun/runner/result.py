"""What training leaves, found and loaded again: a full model or an adapter, its tokenizer, its stop tokens.

A result is named by its run, by a folder (of the run, of a model, of a checkpoint) or by a hub id.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftrun.runner.model import is_classifier, read_stop_ids
from ftrun.runner.references import RECORD, locate, read_adapter
from ftrun.schemas.errors import ModelError, TrackingError, first_line
from ftrun.schemas.sections import Model

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Result:
    """A trained model.

    `source` is a folder or a hub id. `adapter` is PEFT's own config where the weights are an adapter's, None
    for a full model. `trained_as` is `model:` of the recipe that the run folder holds, empty without one.
    `base` is what an adapter sits on; of a full model it is known only when it was asked for.
    """

    source: str
    revision: str | None
    config: PretrainedConfig
    scores: bool
    adapter: Mapping[str, Any] | None
    trained_as: Mapping[str, Any]
    base: Result | None = None

    @property
    def trust_remote_code(self) -> bool:
        """Whether the recipe trusted the code of the model's repository."""
        return bool(self.trained_as.get("trust_remote_code", False))

    @property
    def plain(self) -> Result:
        """The full model whose config and generation settings apply: the base of an adapter, else itself."""
        return self if self.adapter is None or self.base is None else self.base


def find_result(
    reference: str, *, base: str | None = None, uri: str | None = None, needs_base: bool = False
) -> Result:
    """The result that `reference` names.

    That is a run (its name, `run:NAME`, `run:ID`, an id or the start of one, in the store at `uri`), a folder,
    `tiny`, or a hub id. `base` overrules the base that an adapter or the run's record names; with `needs_base`
    a full model's is found too. Raises ModelError or TrackingError, which say what was looked for and what
    to do.
    """
    source = locate(reference, uri)
    adapter = read_adapter(source, None)
    trained_as = _read_record(source)
    beneath = None
    if adapter is not None or needs_base:
        beneath = _find_base(source, adapter, trained_as, base, uri)
    trust = bool(trained_as.get("trust_remote_code", False))
    if adapter is None or beneath is None:
        config = _read_config(source, None, trust)
        scores = is_classifier(config)
    else:
        config = beneath.config
        scores = adapter.get("task_type") == "SEQ_CLS" or beneath.scores
    return Result(source, None, config, scores, adapter, trained_as, beneath)


def _read_record(source: str) -> Mapping[str, Any]:
    """`model:` of the recipe beside `model/`, or above a checkpoint; empty where there is none."""
    import yaml

    folder = Path(source)
    if not folder.is_dir():
        return {}
    for place in list(folder.absolute().parents)[:2]:
        if (place / RECORD).is_file():
            content = yaml.safe_load((place / RECORD).read_text(encoding="utf-8"))
            model = content.get("model") if isinstance(content, dict) else None
            return model if isinstance(model, dict) else {}
    return {}


def _find_base(
    source: str,
    adapter: Mapping[str, Any] | None,
    trained_as: Mapping[str, Any],
    asked: str | None,
    uri: str | None,
) -> Result:
    """The model under an adapter, or that a full one was trained from."""
    named, revision = _base_names(adapter, trained_as) if asked is None else ([asked], None)
    problems = []
    for name in named:
        try:
            place = locate(name, uri)
        except (ModelError, TrackingError) as error:
            problems.append(str(error))
            continue
        if read_adapter(place, revision) is not None:
            raise ModelError(
                f"the base of {source} is itself an adapter, {place}; write it out with `ftrun export {place} "
                "DEST` and name that folder with --base"
            )
        local = Path(place).is_dir()
        trust = bool(trained_as.get("trust_remote_code", False))
        config = _read_config(place, None if local else revision, trust)
        return Result(
            place,
            None if local else revision,
            config,
            is_classifier(config),
            None,
            {"trust_remote_code": trust},
        )
    reason = problems[0] if problems else "no record names it"
    raise ModelError(f"the base model of {source} is not to be found ({reason}); name it with --base")


def _base_names(
    adapter: Mapping[str, Any] | None, trained_as: Mapping[str, Any]
) -> tuple[list[str], str | None]:
    """Where the base may be, the likeliest first, and its revision on the hub.

    An adapter knows the folder that it was trained on, which another machine need not have; the recipe knows
    the name that led there.
    """
    names = [(adapter or {}).get("base_model_name_or_path"), trained_as.get("path")]
    revision = (adapter or {}).get("revision") or trained_as.get("revision")
    return [name for name in dict.fromkeys(names) if isinstance(name, str) and name], revision


def _read_config(source: str, revision: str | None, trust_remote_code: bool) -> PretrainedConfig:
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(source, revision=revision, trust_remote_code=trust_remote_code)
    except Exception as error:  # a build boundary
        raise ModelError(f"{source} is not a model that can be loaded: {first_line(error)}") from error


def load_result(result: Result, *, dtype: str | torch.dtype = "auto", device: str | None = None) -> Any:
    """The model in evaluation mode: a full one, or PEFT's model of base and adapter, not merged.

    `dtype` is that of the full or base weights; adapters stay in float32. `device` is what transformers takes
    as `device_map`. Raises ModelError where weights do not load or are not all there.
    """
    from peft import PeftModel

    model = _load_full(result.plain, result, dtype, device)
    if result.adapter is None:
        return model.eval()
    try:
        return PeftModel.from_pretrained(model, result.source, revision=result.revision).eval()
    except Exception as error:  # a build boundary: adapters fail to fit in many ways
        raise ModelError(
            f"the adapter {result.source} does not fit {result.plain.source} ({first_line(error)}); "
            "name its base with --base"
        ) from error


def _load_full(
    plain: Result, result: Result, dtype: str | torch.dtype, device: str | None
) -> PreTrainedModel:
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification
    from transformers.utils import logging

    kwargs: dict[str, Any] = {
        "revision": plain.revision,
        "dtype": dtype,
        "device_map": device,
        "trust_remote_code": result.trust_remote_code,
        "output_loading_info": True,
    }
    new_head = result.scores and not plain.scores
    if new_head:
        kwargs["num_labels"] = 1  # a reward model has one score, and the adapter brings its head
    auto = AutoModelForSequenceClassification if result.scores else AutoModelForCausalLM
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # transformers' table of missing weights, which are judged below
    try:
        model, info = auto.from_pretrained(plain.source, **kwargs)
    except Exception as error:  # a build boundary
        raise ModelError(f"{plain.source} cannot be loaded: {first_line(error)}") from error
    finally:
        logging.set_verbosity(verbosity)
    missing = sorted(str(key) for key in info.get("missing_keys", ()))
    if missing and not new_head:
        raise ModelError(f"{plain.source} lacks weights of its model: {', '.join(missing[:3])}")
    if result.scores and model.config.pad_token_id is None:
        # A classifier scores the last token that is no padding; a base's config need not know which that is.
        model.config.pad_token_id = load_tokenizer(result).pad_token_id
    loaded: PreTrainedModel = model
    return loaded


def load_tokenizer(result: Result) -> PreTrainedTokenizerBase:
    """The tokenizer that was saved with the result, else its base's, as it is on disk."""
    from transformers import AutoTokenizer

    owner = result
    folder = Path(result.source)
    if folder.is_dir() and not any(
        (folder / one).is_file() for one in ("tokenizer_config.json", "tokenizer.json")
    ):
        owner = result.plain
    try:
        return AutoTokenizer.from_pretrained(
            owner.source, revision=owner.revision, trust_remote_code=result.trust_remote_code
        )
    except Exception as error:  # a build boundary: tokenizers fail in as many ways as there are of them
        raise ModelError(f"the tokenizer of {owner.source} cannot be loaded: {first_line(error)}") from error


def find_stop_ids(result: Result, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Ids at which the result stops when it is asked, as training took them."""
    plain = result.plain
    return read_stop_ids(
        Model(path=plain.source, revision=plain.revision), plain.source, plain.config, tokenizer
    )


def describe_result(result: Result) -> str:
    """What it is in a few words: where, and for an adapter on what."""
    if result.adapter is None:
        return result.source
    kind = str(result.adapter.get("peft_type", "adapter"))
    return f"{result.source} ({kind} on {result.plain.source})"
