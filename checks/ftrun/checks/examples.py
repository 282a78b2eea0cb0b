"""Examples as people wrote them: their texts, which of these the labels should hold, and samples of rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ftrun.checks.rows import LossOn, Rows

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

BLANK = "\u200b\u200c\u200d\u2060\ufeff"
"""Characters without width or ink that `str.strip` leaves."""


@dataclass(frozen=True)
class Part:
    """One text of an example."""

    role: str
    text: str
    answer: bool
    """Whether training on the source's `loss_on` is to train it."""


def is_chat(example: Mapping[str, Any]) -> bool:
    """Whether a chat template renders the example."""
    return "messages" in example or isinstance(example.get("prompt"), list)


def messages_of(example: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The messages of a conversation in their order; none for plain text."""
    if "messages" in example:
        return list(example["messages"])
    return [*example["prompt"], *example.get("completion", ())] if is_chat(example) else []


def parts_of(example: Mapping[str, Any], loss_on: LossOn) -> tuple[Part, ...]:
    """The texts of an example in their order."""
    if "text" in example:
        return (Part("text", example["text"], True),)
    if not is_chat(example):
        prompt = Part("prompt", example["prompt"], loss_on == "all")
        return (
            (prompt, Part("completion", example["completion"], True))
            if "completion" in example
            else (prompt,)
        )
    messages = messages_of(example)
    first = len(example["prompt"]) if "prompt" in example else len(messages) - 1
    return tuple(
        Part(message["role"], text, _is_answer(message["role"], index >= first, "prompt" in example, loss_on))
        for index, message in enumerate(messages)
        for text in texts_of(message)
    )


def _is_answer(role: str, in_completion: bool, is_pair: bool, loss_on: LossOn) -> bool:
    if loss_on == "completion":
        # What a pair calls its completion is one; of a conversation the last turn is, if it is an answer.
        return in_completion and (is_pair or role == "assistant")
    return loss_on == "all" or (loss_on == "assistant" and role == "assistant")


def texts_of(message: Mapping[str, Any]) -> Iterator[str]:
    """The texts of a message, whose content is text or a list of parts."""
    content = message.get("content")
    if isinstance(content, str):
        yield content
    elif isinstance(content, Sequence):
        yield from (str(part["text"]) for part in content if isinstance(part, Mapping) and part.get("text"))


def last_exchange(example: Mapping[str, Any]) -> tuple[str, str]:
    """What is asked last, by whoever is no system, and what is answered last; empty where there is none."""
    parts = parts_of(example, "completion")
    asked = (part.text for part in reversed(parts) if not part.answer and part.role != "system")
    answered = (part.text for part in reversed(parts) if part.answer)
    return next(asked, "").strip(), next(answered, "").strip()


def squeeze(text: str) -> str:
    """The text without white space, in which templates and tokenizers differ harmlessly."""
    return "".join(text.split())


def clip(text: str, most: int = 160) -> str:
    """The text on one line, shortened in the middle."""
    line = text if len(text) <= most else f"{text[: most * 2 // 3]} … {text[-most // 3 :]}"
    return repr(line)


def cut_rows(rows: Rows) -> NDArray[np.bool_]:
    """Which rows lost tokens to `max_length`: shape (rows,)."""
    cut: NDArray[np.bool_] = rows.full_lengths > rows.lengths
    return cut


def margins_of(rows: Rows) -> NDArray[np.float64]:
    """By how much the chosen side of each pair is the better one, as its file says; NaN where it does not: shape
    (pairs,)."""
    import numpy as np

    pairs = (rows.examples[number] for number in range(0, len(rows), 2))
    told = (pair.get("margin") for pair in pairs)
    return np.fromiter((np.nan if one is None else one for one in told), np.float64, len(rows) // 2)


def spread(count: int, most: int) -> NDArray[np.int64]:
    """Up to `most` of the numbers below `count`, evenly spread, from the first to the last."""
    import numpy as np

    return np.arange(count) if count <= most else np.linspace(0, count - 1, most).astype(np.int64)


def sample(rows: Rows, allowed: NDArray[np.bool_], most: int = 256) -> NDArray[np.int64]:
    """About `most` of the allowed rows, evenly spread within each source; small sources have 16 at least."""
    import numpy as np

    share = max(16, most // len(rows.sources))
    found = []
    for source in range(len(rows.sources)):
        own = np.flatnonzero(allowed & (rows.origins[:, 0] == source))
        found.append(own[spread(len(own), share)])
    return np.concatenate(found)
