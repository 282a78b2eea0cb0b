"""Examples become text, with the characters whose tokens are trained.

The rules are those of TRL 1.16's SFTTrainer (`_prepare_dataset`), so that the same tokens and labels come
out: plain text and plain completions end with the end-of-sequence token, conversations are rendered by the
chat template, and a completion starts where prompt and whole part ways.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ftrun.checks.rows import LossOn
from ftrun.schemas.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Span = tuple[int, int]


@dataclass(frozen=True)
class Rendered:
    """The text of a row and what of it is trained."""

    text: str
    special_tokens: bool
    """Whether the tokenizer adds its own special tokens: it does for plain text, not for a rendered chat."""

    prompt: str | None = None
    """The text before the completion. None: no completion, `spans` decides."""

    spans: tuple[Span, ...] | None = None
    """Characters of the assistant's turns. None: all of them are trained."""


@dataclass(frozen=True)
class Template:
    """How conversations are rendered: the tokenizer's template, or the variant of it that marks turns."""

    text: str
    variables: Mapping[str, Any]
    """Special tokens and the like, which templates refer to by name."""

    marks_assistant: bool


def read_template(tokenizer: PreTrainedTokenizerBase, loss_on: LossOn) -> Template | None:
    """The template that renders rows trained on `loss_on`; None where the tokenizer has none.

    For `assistant`, a template without `{% generation %}` markers is replaced by TRL's training variant of
    it. Raises DataError where TRL knows none.
    """
    from trl.chat_template_utils import get_training_chat_template, has_generation_markers

    text = tokenizer.chat_template
    if text is None:
        return None
    if isinstance(text, dict):
        text = tokenizer.get_chat_template()
    marks = has_generation_markers(text)
    if loss_on == "assistant" and not marks:
        try:
            text = get_training_chat_template(tokenizer) or text
        except ValueError as error:
            raise DataError(
                "the chat template has no {% generation %} markers, so it cannot tell the assistant's turns, "
                "and TRL ships no training variant of it; set data.loss_on: completion, or "
                "model.chat_template to one with markers"
            ) from error
        marks = True
    return Template(text, tokenizer.special_tokens_map, marks)


def render(
    example: Mapping[str, Any], loss_on: LossOn, template: Template | None, eos_token: str | None
) -> Rendered:
    """The text of one example. Raises DataError for a conversation that the template refuses."""
    ending = eos_token or ""
    if "text" in example:
        return Rendered(_ended(example["text"], ending), special_tokens=True)
    if "messages" in example:
        messages = example["messages"]
        if loss_on == "completion":
            return _render_pair(example, messages[:-1], messages[-1:], loss_on, template)
        return _render_chat(example, messages, loss_on, template)
    prompt, completion = example["prompt"], example["completion"]
    if isinstance(prompt, list):
        return _render_pair(example, prompt, completion, loss_on, template)
    text = prompt + _ended(completion, ending)
    return Rendered(text, special_tokens=True, prompt=prompt if loss_on == "completion" else None)


def _ended(text: str, eos_token: str) -> str:
    return text if text.endswith(eos_token) else text + eos_token


def _render_pair(
    example: Mapping[str, Any],
    prompt: list[dict[str, Any]],
    completion: list[dict[str, Any]],
    loss_on: LossOn,
    template: Template | None,
) -> Rendered:
    whole = _render_chat(example, prompt + completion, loss_on, template)
    if loss_on != "completion":
        return whole
    head = _apply(example, prompt, template, add_generation_prompt=True)[0] if prompt else ""
    return Rendered(whole.text, special_tokens=False, prompt=head)


def _render_chat(
    example: Mapping[str, Any], messages: list[dict[str, Any]], loss_on: LossOn, template: Template | None
) -> Rendered:
    text, spans = _apply(example, messages, template, mark=loss_on == "assistant")
    return Rendered(text, special_tokens=False, spans=spans if loss_on == "assistant" else None)


def _apply(
    example: Mapping[str, Any],
    messages: list[dict[str, Any]],
    template: Template | None,
    *,
    add_generation_prompt: bool = False,
    mark: bool = False,
) -> tuple[str, tuple[Span, ...]]:
    from jinja2 import TemplateError
    from transformers.utils.chat_template_utils import render_jinja_template

    if template is None:
        raise DataError(
            "the tokenizer has no chat template, so conversations cannot be rendered; "
            "set model.chat_template to a name that TRL ships or to a Jinja file"
        )
    try:
        texts, spans = render_jinja_template(
            [messages],
            tools=example.get("tools"),
            chat_template=template.text,
            return_assistant_tokens_mask=mark,
            add_generation_prompt=add_generation_prompt,
            **{**template.variables, **example.get("chat_template_kwargs", {})},
        )
    except (TemplateError, TypeError, KeyError, ValueError) as error:
        raise DataError(f"the chat template refuses the conversation: {error}") from error
    return texts[0], tuple((start, end) for start, end in spans[0]) if mark else ()
