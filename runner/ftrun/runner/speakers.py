"""Models that answer: a result, and beside it the base that it was trained from."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ftrun.runner.interruption import Interruption, watch_signals
from ftrun.runner.result import Result, find_stop_ids, load_result, load_tokenizer
from ftrun.schemas.errors import ModelError, first_line

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, TextStreamer

Turn = Mapping[str, str]
"""A message: `role` and `content`."""

Show = Callable[[str], None]

TUNED, BASE = "tuned", "base"


@dataclass(frozen=True)
class Settings:
    """How answers are made. A temperature of 0 takes the likeliest token each time; `plain` uses no template."""

    system: str | None = None
    max_new_tokens: int = 512
    temperature: float = 0.0
    plain: bool = False


@dataclass(frozen=True)
class Speaker:
    """A model that answers, with its own tokenizer, template and stop ids.

    `scope` is entered around each answer: it turns an adapter off where the base speaks.
    """

    name: str
    model: Any
    tokenizer: PreTrainedTokenizerBase
    stop_ids: frozenset[int]
    scope: Callable[[], AbstractContextManager[Any]] = nullcontext


@dataclass(frozen=True)
class Answer:
    """What a speaker said; `stopped` when Ctrl-C cut it off."""

    text: str
    stopped: bool = False


def prepare_speakers(result: Result, *, compare: bool) -> tuple[Speaker, ...]:
    """The tuned model, and before it its base where both are compared.

    The base of an adapter is the same model with the adapter off. A base has its own tokenizer, template and
    stop ids, and the tuned model's template where it has none. Raises ModelError.
    """
    import torch

    if result.scores:
        raise ModelError(f"{result.source} is a reward model: it scores texts and writes none")
    device = "auto" if torch.cuda.is_available() else None
    tokenizer = load_tokenizer(result)
    model = load_result(result, device=device)
    tuned = Speaker(TUNED, model, tokenizer, find_stop_ids(result, tokenizer))
    if not compare or result.base is None:
        return (tuned,)
    own = load_tokenizer(result.base)
    own.chat_template = own.chat_template or tokenizer.chat_template
    stop_ids = find_stop_ids(result.base, own)
    if result.adapter is not None:
        return Speaker(BASE, model, own, stop_ids, model.disable_adapter), tuned
    return Speaker(BASE, load_result(result.base, device=device), own, stop_ids), tuned


def uses_template(speaker: Speaker, settings: Settings) -> bool:
    """Whether conversations are rendered by the tokenizer's chat template."""
    return speaker.tokenizer.chat_template is not None and not settings.plain


def encode(speaker: Speaker, turns: Sequence[Turn], settings: Settings) -> list[int]:
    """Ids of the conversation up to where the answer begins; of the last turn's text where there is no template.

    Raises ModelError where the template refuses the conversation or it fills the model's context.
    """
    if uses_template(speaker, settings):
        system = [] if settings.system is None else [{"role": "system", "content": settings.system}]
        try:
            text = speaker.tokenizer.apply_chat_template(
                [*system, *turns], tokenize=False, add_generation_prompt=True
            )
        except Exception as error:  # templates are programs of their own, and raise what they like
            raise ModelError(f"the chat template refuses this conversation: {first_line(error)}") from error
        ids = speaker.tokenizer(text, add_special_tokens=False)["input_ids"]
    else:
        ids = speaker.tokenizer(turns[-1]["content"])["input_ids"]
    room = _context_length(speaker)
    if not ids or len(ids) >= room:
        raise ModelError(
            f"the conversation has {len(ids):,} tokens, and the model takes from 1 to {room - 1:,} before an answer"
        )
    return list(ids)


def _context_length(speaker: Speaker) -> int:
    return int(getattr(speaker.model.config.get_text_config(), "max_position_embeddings", None) or 2**31)


def answer(speaker: Speaker, turns: Sequence[Turn], settings: Settings, show: Show) -> Answer:
    """Let a speaker answer; `show` is given the text piece by piece as it is written.

    Sampling draws from the whole distribution at the temperature: the model's own top-k and top-p are not used.
    Ctrl-C ends the answer at the token under way; a second one, or SIGTERM, raises KeyboardInterrupt.
    """
    import torch
    from transformers import StoppingCriteriaList

    ids = encode(speaker, turns, settings)
    device = speaker.model.get_input_embeddings().weight.device
    prompt = torch.tensor([ids], device=device)
    sampling: dict[str, Any] = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    if settings.temperature > 0:
        sampling = {"do_sample": True, "temperature": settings.temperature, "top_p": 1.0, "top_k": 0}
    pad = speaker.tokenizer.pad_token_id
    pieces: list[str] = []
    stop = Interruption()
    with watch_signals(stop), torch.inference_mode(), speaker.scope():
        speaker.model.generate(
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=min(settings.max_new_tokens, _context_length(speaker) - len(ids)),
            num_beams=1,
            eos_token_id=sorted(speaker.stop_ids) or None,
            pad_token_id=min(speaker.stop_ids, default=0) if pad is None else pad,
            streamer=_make_streamer(speaker.tokenizer, pieces, show),
            stopping_criteria=StoppingCriteriaList(
                [lambda ids, scores: torch.tensor([stop.asked], device=device)]
            ),
            **sampling,
        )
    if stop.signal == signal.SIGTERM:
        raise KeyboardInterrupt
    return Answer("".join(pieces), stopped=stop.asked)


def _make_streamer(tokenizer: PreTrainedTokenizerBase, pieces: list[str], show: Show) -> TextStreamer:
    """A streamer that keeps and shows each piece of text once no later token can change it."""
    from transformers import TextStreamer

    class Pieces(TextStreamer):  # type: ignore[misc, unused-ignore]  # transformers is untyped here
        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
            if text:
                pieces.append(text)
                show(text)

    return Pieces(tokenizer, skip_prompt=True, skip_special_tokens=True)
