"""Proofs that a written model folder is the model that was trained.

Each returns the line that says what was proven, or raises NotProven with what differs and what to do. They read
the folder from disk, as whoever loads it will.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftrun.schemas.errors import NotProven, first_line

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

ANSWER = "Öffne 'Konto', then *Billing*: 3 invoices, 1,250.75 € each."
QUESTION = {"role": "user", "content": "  Where are my invoices?\n\n\tThey cost 你好 🙂 < 1e-5 & more… "}
GOLDEN: Sequence[Mapping[str, str]] = (
    {"role": "system", "content": "You answer customers, in one line."},
    QUESTION,
    {"role": "assistant", "content": ANSWER},
    {"role": "user", "content": "And in def f(x):\n    return x?"},
)
"""A conversation in which tokenizers and templates that differ, differ: white space, accents, digits, emoji,
code, a system turn, several turns."""

MERGE_TOLERANCE = 1024
"""Largest difference between merged and unmerged in float32, in units of float32's epsilon times the largest
logit. Both compute the same sums in another order, and rounding errors grow with depth: 3 to 18 units were
measured on Llama and GPT-2 shapes of 2 to 48 layers, 62 and 370 on two whose adapters outweighed their base. An
adapter's own effect is a hundred thousand units and more."""

ROUNDING_TOLERANCE = 16
"""What comes on top where weights are rounded to the written type, in units of that type's epsilon. 0.2 to 1.8 were
measured on the same shapes, 6 on the one with the strong adapter. It is coarse in bfloat16 (an eighth of the
largest logit), which is why the merge is proven in float32 and the weights bit for bit; it tells overflow, and
weights that the type cannot hold."""


@dataclass(frozen=True)
class Behaviour:
    """What a model says of the golden conversation, in float32 on the CPU.

    `values` are the logits (tokens × vocabulary) of a language model, or the scores (one a text) of a reward
    model. `together` are the scores of the same texts as one padded batch.
    """

    values: torch.Tensor
    together: torch.Tensor | None = None


def render(tokenizer: PreTrainedTokenizerBase, turns: Sequence[Mapping[str, str]], *, ask: bool) -> list[int]:
    """Ids of a conversation, or of its contents as plain text where there is no template."""
    if tokenizer.chat_template is None:
        return list(tokenizer("\n".join(turn["content"] for turn in turns))["input_ids"])
    text = tokenizer.apply_chat_template(list(turns), tokenize=False, add_generation_prompt=ask)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def golden_ids(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], ...]:
    """The golden conversation, whole and in parts, with and without a system turn, as this tokenizer has them.

    A part that the template refuses is left out: many take no system turn, some only turns in pairs.
    Raises NotProven where it takes none.
    """
    parts = ((GOLDEN, True), (GOLDEN[1:], True), (GOLDEN[1:3], False), ([QUESTION], True))
    rendered = []
    problem = ""
    for turns, ask in parts:
        try:
            rendered.append(render(tokenizer, turns, ask=ask))
        except Exception as error:  # templates are programs of their own, and raise what they like
            problem = first_line(error)
    if not rendered:
        raise NotProven(f"the chat template renders no conversation: {problem}")
    return tuple(rendered)


def find_end_of_turn(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The token that the template puts behind an answer; None without a template, or where text follows."""
    if tokenizer.chat_template is None:
        return None
    turns = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": ANSWER}]
    try:
        text: Any = tokenizer.apply_chat_template(turns, tokenize=False)
    except Exception:  # told by `golden_ids`, which renders more
        return None
    behind = str(text).rpartition(ANSWER)[2]
    ids = tokenizer(behind, add_special_tokens=False)["input_ids"] if behind else []
    added = tokenizer.added_tokens_decoder
    return int(ids[0]) if ids and ids[0] in added else None


def observe(model: Any, tokenizer: PreTrainedTokenizerBase, *, scores: bool) -> Behaviour:
    """What the model says of the golden conversation, as much of it as its context takes.

    Raises NotProven where the tokenizer has ids that the model does not know.
    """
    import torch

    room = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    texts = tuple(ids[:room] for ids in golden_ids(tokenizer))
    known, largest = model.get_input_embeddings().weight.shape[0], max(map(max, texts))
    if largest >= known:
        raise NotProven(f"the tokenizer has the id {largest}, and the model knows only the first {known}")
    with torch.no_grad():
        if not scores:
            return Behaviour(model(input_ids=torch.tensor([texts[0]])).logits[0].float())
        alone = [model(input_ids=torch.tensor([ids])).logits[0].float() for ids in texts]
        width = max(map(len, texts))
        pad = tokenizer.pad_token_id or 0
        ids = torch.tensor([[*one, *[pad] * (width - len(one))] for one in texts])
        mask = torch.tensor([[1] * len(one) + [0] * (width - len(one)) for one in texts])
        together = model(input_ids=ids, attention_mask=mask).logits.float()
    return Behaviour(torch.stack(alone), together)


def prove_merge(unmerged: Behaviour, merged: Behaviour, effect: float | None = None) -> str:
    """Base with adapter and the merged model agree in float32; `effect` is how far the adapter moves the base."""
    difference, tolerance = _compare(unmerged, merged, "float32", 0)
    if not difference <= tolerance:
        raise NotProven(
            f"merged and unmerged differ by {difference:.3g} in float32, where {tolerance:.2g} is allowed: "
            "this adapter cannot be merged into a plain model; use it as it is, with PEFT"
        )
    moved = "" if effect is None else f"; the adapter moves the base by up to {effect:.2g}"
    return f"merge: merged and unmerged differ by at most {difference:.2g} in float32 (allowed {tolerance:.2g}{moved})"


def prove_weights(written: PreTrainedModel, info: Mapping[str, Any], meant: PreTrainedModel) -> str:
    """The folder's weights, loaded, are those in memory bit for bit, none missing and none more."""
    import torch

    astray = [
        str(key) for name in ("missing", "unexpected", "mismatched") for key in info.get(f"{name}_keys", ())
    ]
    theirs, ours = written.state_dict(), meant.state_dict()
    astray += sorted(theirs.keys() ^ ours.keys())
    astray += [
        name
        for name in ours.keys() & theirs.keys()
        if not torch.equal(ours[name].float(), theirs[name].float())
    ]
    if astray:
        raise NotProven(
            f"{len(astray)} of {len(ours)} tensors in the folder are not those that were to be written, such as "
            f"{astray[0]}; is the disk full or failing?"
        )
    types = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in theirs.values()})
    return f"weights: {len(ours)} tensors read back bit for bit, in {' and '.join(types)}"


def prove_behaviour(trained: Behaviour, written: Behaviour, dtype: str, *, scores: bool) -> str:
    """The folder, loaded, says what the trained model says, up to the rounding of its weights to `dtype`."""
    kind = "scores" if scores else "logits"
    difference, tolerance = _compare(trained, written, dtype, ROUNDING_TOLERANCE)
    if not difference <= tolerance:
        raise NotProven(
            f"the {kind} of the written folder differ by {difference:.3g} from the trained model's, where "
            f"{tolerance:.2g} is allowed: {dtype} does not hold these weights; write another type with --dtype"
        )
    return f"{kind}: written and trained differ by at most {difference:.2g} (allowed in {dtype}: {tolerance:.2g})"


def _compare(a: Behaviour, b: Behaviour, dtype: str, roundings: int) -> tuple[float, float]:
    """The largest difference, and how large it may be, at the largest value or at 1.

    That is what float32 allows a merge, and `roundings` epsilons of `dtype` for weights rounded to it. Logits and
    scores are logarithms of odds, so that what is small beside 1 is small. A padded batch is compared with the
    texts one by one.
    """
    import torch

    pairs = [(a.values, b.values), *([] if b.together is None else [(a.values, b.together)])]
    if any(one.shape != other.shape for one, other in pairs):
        return float("inf"), 0.0
    difference = max(float((one - other).abs().max()) for one, other in pairs)
    scale = max(1.0, float(a.values.abs().max()))
    kinds = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    allowed = MERGE_TOLERANCE * torch.finfo(torch.float32).eps + roundings * torch.finfo(kinds[dtype]).eps
    return difference, allowed * scale


def prove_tokenizer(folder: Path, trained: PreTrainedTokenizerBase, **kwargs: Any) -> str:
    """The folder's tokenizer has the same tokens and renders the golden conversation to the same ids."""
    written = _load_tokenizer(folder, **kwargs)
    ours, theirs = golden_ids(trained), golden_ids(written)
    if ours != theirs:
        raise NotProven(
            "the tokenizer in the folder renders the golden conversation to other ids than the one of training"
        )
    for name in ("chat_template", "eos_token_id", "pad_token_id", "bos_token_id"):
        if getattr(trained, name) != getattr(written, name):
            raise NotProven(
                f"{name} of the tokenizer in the folder is {getattr(written, name)!r}, and was "
                f"{getattr(trained, name)!r} in training"
            )
    if trained.get_vocab() != written.get_vocab():
        raise NotProven("the vocabulary of the tokenizer in the folder is not the one of training")
    kind = "plain text" if trained.chat_template is None else "conversation"
    return f"tokenizer: a golden {kind} gives the same {sum(map(len, ours))} ids in {len(ours)} renderings"


def prove_stop(folder: Path, trained: PreTrainedTokenizerBase, stop_ids: frozenset[int]) -> str:
    """Generation from the folder stops where training taught it to.

    That is at the tokenizer's end-of-text token, at the token that the template puts behind an answer, and at
    `stop_ids`.
    """
    from transformers import GenerationConfig

    taught = {id for id in (trained.eos_token_id, find_end_of_turn(trained), *stop_ids) if id is not None}
    try:
        declared = GenerationConfig.from_pretrained(folder).eos_token_id
    except (OSError, ValueError) as error:
        raise NotProven(f"the generation config in the folder cannot be read: {first_line(error)}") from error
    stops = set() if declared is None else {declared} if isinstance(declared, int) else set(declared)
    lacking = sorted(taught - stops)
    if lacking:
        raise NotProven(
            f"training stops at {_name(lacking, trained)}, and generation from the folder would not: "
            f"its eos_token_id is {declared}"
        )
    if not stops:
        return (
            "stop: neither tokenizer nor template has an end of text; answers end at the length limit alone"
        )
    return f"stop: generation ends at {_name(sorted(stops), trained)}, as in training"


def prove_padding(folder: Path, trained: PreTrainedTokenizerBase, **kwargs: Any) -> str:
    """A written reward model knows the padding of its tokenizer, without which it scores the wrong token."""
    from transformers import AutoConfig

    declared = AutoConfig.from_pretrained(folder, **kwargs).pad_token_id
    if declared is None or declared != trained.pad_token_id:
        raise NotProven(
            f"the config in the folder pads with {declared} and the tokenizer with {trained.pad_token_id}: batches "
            "would be scored at the wrong token; give the tokenizer the model's pad token and export again"
        )
    return (
        f"padding: model and tokenizer pad with {_name([declared], trained)}; a padded batch scores the same"
    )


def _load_tokenizer(folder: Path, **kwargs: Any) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, **kwargs)
    except Exception as error:  # a build boundary
        raise NotProven(f"the tokenizer in the folder cannot be loaded: {first_line(error)}") from error


def _name(ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> str:
    return ", ".join(f"{tokenizer.convert_ids_to_tokens(id)} ({id})" for id in ids)
