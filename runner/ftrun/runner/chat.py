"""`ftrun chat`: talk to a result on the terminal, and see its base answer beside it.

Answers go to stdout, everything else to stderr, so that `--prompt` and piped prompts can be piped on.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ftrun.runner.interruption import Interruption, watch_signals
from ftrun.runner.libraries import require_training, settle_libraries, silence_bars
from ftrun.runner.printing.text import make_console
from ftrun.runner.proof import find_end_of_turn
from ftrun.runner.result import (
    Result,
    describe_result,
    find_result,
    find_stop_ids,
    load_result,
    load_tokenizer,
)
from ftrun.schemas.errors import FtrunError, ModelError, first_line

if TYPE_CHECKING:
    from rich.console import Console
    from transformers import PreTrainedTokenizerBase, TextStreamer

Turn = Mapping[str, str]
Show = Callable[[str], None]

DONE, UNUSABLE, INTERRUPTED = 0, 2, 130
TUNED, BASE = "tuned", "base"
HELP = "/reset forgets the conversation · Ctrl-C stops an answer · /exit or Ctrl-D leaves"


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


def chat(
    reference: str,
    settings: Settings,
    *,
    prompt: str | None = None,
    compare: bool = False,
    base: str | None = None,
    uri: str | None = None,
) -> int:
    """Answer `prompt`, else each line of a piped stdin by itself, else converse; return the exit code.

    What cannot be talked to is one sentence on stderr and exit code 2.
    """
    require_training("chat")
    settle_libraries()
    silence_bars()
    err = make_console(stderr=True)
    try:
        result = find_result(reference, base=base, uri=uri, needs_base=compare)
        speakers = prepare_speakers(result, compare=compare)
        _complain_early(speakers, settings, err)
        if prompt is not None:
            return _answer_once(speakers, prompt, settings)
        if not sys.stdin.isatty():
            return _answer_lines(speakers, settings)
    except FtrunError as error:
        err.print(f"ftrun: {error}")
        return UNUSABLE
    err.print(f"talking to {describe_result(result)}\n{HELP}", style="dim")
    return converse(speakers, settings, _read_line, make_console(), err)


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


def _complain_early(speakers: Sequence[Speaker], settings: Settings, err: Console) -> None:
    """Raise ModelError for a system turn without a template, and tell of answers that cannot end."""
    for one in speakers:
        if not _uses_template(one, settings):
            if settings.system is not None:
                raise ModelError(
                    "there is no chat template to put a system turn into; write it into the prompt instead of --system"
                )
            continue
        end = find_end_of_turn(one.tokenizer)
        if end is not None and end not in one.stop_ids:
            err.print(
                f"{one.name}: the template ends an answer with {one.tokenizer.convert_ids_to_tokens(end)}, and "
                "generation does not stop there; a folder that `ftrun export` writes does",
                style="dim",
            )


def _uses_template(speaker: Speaker, settings: Settings) -> bool:
    return speaker.tokenizer.chat_template is not None and not settings.plain


def encode(speaker: Speaker, turns: Sequence[Turn], settings: Settings) -> list[int]:
    """Ids of the conversation up to where the answer begins; of the last turn's text where there is no template.

    Raises ModelError where the template refuses the conversation or it fills the model's context.
    """
    if _uses_template(speaker, settings):
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


def _answer_once(speakers: Sequence[Speaker], prompt: str, settings: Settings) -> int:
    turns = [{"role": "user", "content": prompt}]
    for one in speakers:
        if len(speakers) > 1:
            _write(f"{one.name}: ")
        given = answer(one, turns, settings, _write)
        _write("\n")
        if given.stopped:
            return INTERRUPTED
    return DONE


def _answer_lines(speakers: Sequence[Speaker], settings: Settings) -> int:
    """Answer every line that is not blank, each as the first of a conversation."""
    for line in sys.stdin:
        text = line.strip()
        if text == "/exit":
            break
        if text and text != "/reset" and _answer_once(speakers, text, settings) == INTERRUPTED:
            return INTERRUPTED
    return DONE


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _read_line() -> str:
    import readline  # noqa: F401  # gives input() its editing and history

    return input("› ")


def converse(
    speakers: Sequence[Speaker], settings: Settings, read: Callable[[], str], out: Console, err: Console
) -> int:
    """A conversation: `read` gives each of the user's turns, and EOFError or KeyboardInterrupt to leave.

    Each speaker remembers its own answers. A turn that cannot be answered is told and forgotten.
    """
    for one in speakers:
        if not _uses_template(one, settings):
            err.print(f"{one.name}: no chat template, so each turn is continued as plain text", style="dim")
    remembered: dict[str, list[Turn]] = {one.name: [] for one in speakers}
    while True:
        try:
            text = read().strip()
        except (EOFError, KeyboardInterrupt):
            out.print()
            return DONE
        if text == "/exit":
            return DONE
        if text == "/reset":
            remembered = {one.name: [] for one in speakers}
            err.print("the conversation is forgotten", style="dim")
        elif text.startswith("/") and len(text.split()) == 1:
            err.print(f"there is no {text}: {HELP}", style="dim")
        elif text:
            try:
                _take_turn(speakers, remembered, text, settings, out)
            except ModelError as error:
                err.print(f"{error}; /reset begins anew", style="dim")


def _take_turn(
    speakers: Sequence[Speaker],
    remembered: dict[str, list[Turn]],
    text: str,
    settings: Settings,
    out: Console,
) -> None:
    asked: Turn = {"role": "user", "content": text}
    given: dict[str, Answer] = {}
    for one in speakers:
        turns = [*remembered[one.name], asked]
        if len(speakers) == 1:
            given[one.name] = answer(
                one, turns, settings, lambda piece: out.print(piece, end="", soft_wrap=True)
            )
            out.print()
        else:
            with out.status(f"{one.name} …"):
                given[one.name] = answer(one, turns, settings, lambda piece: None)
    if len(speakers) > 1:
        _print_beside(given, out)
    for name, said in given.items():
        if said.text or not said.stopped:
            remembered[name] += [asked, {"role": "assistant", "content": said.text}]


def _print_beside(given: Mapping[str, Answer], out: Console) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, expand=True, padding=(0, 2, 0, 0))
    for name in given:
        table.add_column(name, ratio=1, header_style="bold")
    table.add_row(*(Text(said.text) for said in given.values()))
    out.print(table)
