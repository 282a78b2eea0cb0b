"""Responses cannot end: no stop token is one that the model writes at the end of an answer.

Symptom: every response runs to `training.response_length`, and goes on with turns of the user; the missing-end
penalty falls on all of them alike.
Cause: the tokenizer's end-of-sequence token is not the one that the chat template ends a turn with, or there is none.
Fix: name the token that ends a turn in `training.stop_tokens`.
Prevention: let the generation config of the model that you start from name it.
Source: trl#2012, trl#2033, trl#5338.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ftrun.checks.check import check
from ftrun.checks.finding import Finding, Patch
from ftrun.checks.stages import AtData

if TYPE_CHECKING:
    from ftrun.checks.testing import World

KEY = "training.stop_tokens"
ANSWER = "yes"
"""Stands for the answer where the template renders one."""


@check("PPO004", title="responses end where an answer ends", methods=("ppo",))
def response_cannot_end(at: AtData) -> Iterator[Finding]:
    """Look whether there are stop tokens, and whether the template's end of a turn is one of them."""
    size = at.model_config.get_text_config().vocab_size
    stops = sorted(id for id in at.stop_ids if 0 <= id < size)
    if not stops:
        told = f"those that are named ({sorted(at.stop_ids)}) are beyond its vocabulary of {size}"
        yield Finding(
            f"{at.recipe.model.path} has no token to end a response with"
            + (f": {told}." if at.stop_ids else "."),
            f"Name one in {KEY}.",
            at.where(KEY),
        )
        return
    end = _end_of_turn(at)
    if end is not None and end not in at.stop_ids:
        token = at.tokenizer.convert_ids_to_tokens(end)
        known = ", ".join(repr(at.tokenizer.convert_ids_to_tokens(id)) for id in stops)
        yield Finding(
            f"The chat template ends an answer with {token!r}, and responses are ended by {known} alone.",
            f"Add {token!r} to {KEY}.",
            at.where(KEY),
            patch=Patch(KEY, [*(at.recipe.training["stop_tokens"] or []), token]),
        )


def _end_of_turn(at: AtData) -> int | None:
    """The first special token behind an answer to the first conversation; None where there is none."""
    prompt = next(
        (row.example["prompt"] for row in at.train if not isinstance(row.example["prompt"], str)), None
    )
    if prompt is None or at.tokenizer.chat_template is None:
        return None
    messages: list[Any] = [*prompt, {"role": "assistant", "content": ANSWER}]
    text: str = at.tokenizer.apply_chat_template(messages, tokenize=False)
    rest = text[text.rindex(ANSWER) + len(ANSWER) :]
    special = set(at.tokenizer.all_special_ids) | {
        id for id, token in at.tokenizer.added_tokens_decoder.items() if token.special
    }
    ids = at.tokenizer(rest, add_special_tokens=False)["input_ids"]
    return next((id for id in ids if id in special), None)


@response_cannot_end.fault
def no_token_ends_a_response(world: World) -> None:
    from dataclasses import replace

    world.after(AtData, lambda at: replace(at, stop_ids=frozenset()))


@response_cannot_end.fault
def the_token_is_beyond_the_vocabulary(world: World) -> None:
    from dataclasses import replace

    world.after(AtData, lambda at: replace(at, stop_ids=frozenset({50_256})))


@response_cannot_end.fault
def the_template_ends_a_turn_with_another_token(world: World) -> None:
    from dataclasses import replace

    for row in world.rows:
        row["prompt"] = [{"role": "user", "content": row["prompt"]}]

    def damage(at: AtData) -> AtData:
        others = set(at.tokenizer.all_special_ids) - at.stop_ids - {at.tokenizer.pad_token_id}
        token = at.tokenizer.convert_ids_to_tokens(min(others))
        at.tokenizer.chat_template = (
            "{% for message in messages %}{{ message['content'] }}" + token + "{% endfor %}"
        )
        return replace(at, stop_ids=at.stop_ids)

    world.after(AtData, damage)
