"""Examples become text, with the characters whose tokens are trained.

The rules are those of TRL 1.16's SFTTrainer (`_prepare_dataset`), so that the same tokens and labels come
out: plain text and plain completions end with the end-of-sequence token, conversations are rendered by the
chat template, and a completion starts where prompt and whole part ways.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from ftrun.checks.examples import is_chat, messages_of
from ftrun.checks.rows import LossOn
from ftrun.schemas.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Example = Mapping[str, Any]
Span = tuple[int, int]


class Rendered(NamedTuple):
    """The text of a row and what of it is trained."""

    text: str
    special_tokens: bool
    """Whether the tokenizer adds its own special tokens: it does for plain text, not for a rendered chat."""

    prompt: str | None = None
    """The text before the completion. None: no completion, `spans` decides."""

    spans: tuple[Span, ...] | None = None
    """Characters of the assistant's turns. None: all of them are trained."""

    problem: str | None = None
    """Why there is no text."""


@dataclass(frozen=True)
class Template:
    """How conversations are rendered: the tokenizer's template, or the variant of it that marks turns."""

    text: str
    text_with_tools: str
    """The same, for rows with tools: some tokenizers name another template for those."""

    variables: Mapping[str, Any]
    """Special tokens and the like, which templates refer to by name."""


def read_template(tokenizer: PreTrainedTokenizerBase, loss_on: LossOn) -> Template | None:
    """The template that renders rows trained on `loss_on`; None where the tokenizer has none.

    For `assistant`, a template without `{% generation %}` markers is replaced by TRL's training variant of
    it. Raises DataError where TRL knows none.
    """
    from trl.chat_template_utils import get_training_chat_template, has_generation_markers

    if tokenizer.chat_template is None:
        return None
    named = tokenizer.chat_template if isinstance(tokenizer.chat_template, dict) else {}
    if named and "default" not in named:
        raise DataError(
            f"the tokenizer names chat templates ({', '.join(named)}), and none of them is `default`"
        )
    text = named.get("default", tokenizer.chat_template)
    if loss_on != "assistant" or has_generation_markers(text):
        return Template(text, named.get("tool_use", text), tokenizer.special_tokens_map)
    try:
        text = get_training_chat_template(tokenizer)
    except ValueError as error:
        raise DataError(
            "the chat template has no {% generation %} markers, so it cannot tell the assistant's turns, "
            "and TRL ships no training variant of it; set data.loss_on: completion, or "
            "model.chat_template to one with markers"
        ) from error
    return Template(text, text, tokenizer.special_tokens_map)


def render(
    examples: Sequence[Example], loss_on: LossOn, template: Template | None, eos_token: str | None
) -> list[Rendered]:
    """The text of each example, or its problem where the template refuses a conversation."""
    chats = [example for example in examples if is_chat(example)]
    rendered = iter(_render_chats(chats, loss_on, template) if chats else ())
    ending = eos_token or ""
    return [
        next(rendered) if is_chat(example) else _render_text(example, loss_on, ending) for example in examples
    ]


def _render_text(example: Example, loss_on: LossOn, ending: str) -> Rendered:
    if "text" in example:
        return Rendered(_ended(example["text"], ending), special_tokens=True)
    prompt = example["prompt"]
    if "completion" not in example:
        return Rendered(prompt, special_tokens=True, spans=())
    text = prompt + _ended(example["completion"], ending)
    return Rendered(text, special_tokens=True, prompt=prompt if loss_on == "completion" else None)


def _ended(text: str, ending: str) -> str:
    return text if text.endswith(ending) else text + ending


def _render_chats(examples: Sequence[Example], loss_on: LossOn, template: Template | None) -> list[Rendered]:
    if template is None:
        problem = (
            "the tokenizer has no chat template, so conversations cannot be rendered; "
            "set model.chat_template to a name that TRL ships or to a Jinja file"
        )
        return [Rendered("", False, problem=problem)] * len(examples)
    if loss_on == "nothing":
        heads = _apply([one["prompt"] for one in examples], examples, template, add_generation_prompt=True)
        return [head._replace(spans=()) for head in heads]
    wholes = _apply([messages_of(one) for one in examples], examples, template, mark=loss_on == "assistant")
    if loss_on != "completion":
        return wholes
    prompts = [one["messages"][:-1] if "messages" in one else one["prompt"] for one in examples]
    heads = _apply(prompts, examples, template, add_generation_prompt=True)
    return [
        whole._replace(prompt=head.text, problem=whole.problem or head.problem)
        for whole, head in zip(wholes, heads, strict=True)
    ]


def _apply(
    conversations: Sequence[list[Any]],
    examples: Sequence[Example],
    template: Template,
    *,
    add_generation_prompt: bool = False,
    mark: bool = False,
) -> list[Rendered]:
    """Render a conversation of each example: those without tools or settings of their own in one call."""
    how = {"add_generation_prompt": add_generation_prompt, "return_assistant_tokens_mask": mark}
    # A template is not asked for the text before a first message.
    done = {i: Rendered("", False) for i, conversation in enumerate(conversations) if not conversation}
    alike = [
        i
        for i, one in enumerate(examples)
        if i not in done and "tools" not in one and "chat_template_kwargs" not in one
    ]
    together = _call([conversations[i] for i in alike], {}, template, how)
    if not any(one.problem for one in together):
        done |= zip(alike, together, strict=True)
    for i, example in enumerate(examples):
        if i not in done:
            [done[i]] = _call([conversations[i]], example, template, how)
    return [done[i] for i in range(len(examples))]


def _call(
    conversations: Sequence[list[Any]], example: Example, template: Template, how: Mapping[str, bool]
) -> list[Rendered]:
    from transformers.utils.chat_template_utils import render_jinja_template

    tools = example.get("tools")
    try:
        texts, spans = render_jinja_template(
            conversations,
            tools=tools,
            chat_template=template.text_with_tools if tools else template.text,
            **how,
            **{**template.variables, **example.get("chat_template_kwargs", {})},
        )
    except Exception as error:  # a template is a program that came with the model, and may raise anything
        problem = f"the chat template refuses the conversation: {error}"
        return [Rendered("", False, problem=problem)] * len(conversations)
    if not how["return_assistant_tokens_mask"]:
        return [Rendered(text, False) for text in texts]
    return [
        Rendered(text, False, spans=tuple((start, end) for start, end in marks))
        for text, marks in zip(texts, spans, strict=True)
    ]
