"""`ftrun chat`: talk to a result on the terminal, and see its base answer beside it.

Answers go to stdout, everything else to stderr, so that `--prompt` and piped prompts can be piped on.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from ftrun.runner.libraries import require_training, settle_libraries, silence_bars
from ftrun.runner.printing.text import make_console
from ftrun.runner.proof import find_end_of_turn
from ftrun.runner.result import describe_result, find_result
from ftrun.runner.speakers import Answer, Settings, Speaker, Turn, answer, prepare_speakers, uses_template
from ftrun.schemas.errors import FtrunError, ModelError

if TYPE_CHECKING:
    from rich.console import Console

DONE, UNUSABLE, INTERRUPTED = 0, 2, 130
HELP = "/reset forgets the conversation · Ctrl-C stops an answer · /exit or Ctrl-D leaves"


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


def _complain_early(speakers: Sequence[Speaker], settings: Settings, err: Console) -> None:
    """Raise ModelError for a system turn without a template, and tell of answers that cannot end."""
    for one in speakers:
        if not uses_template(one, settings):
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
        if not uses_template(one, settings):
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
