"""Examples become the text that the tokenizer's template writes, and what it refuses is told by row."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import AutoTokenizer

from ftrun.checks.rows import LossOn, SourceRows
from ftrun.runner.data.encoding import encode_split
from ftrun.runner.data.rendering import Rendered, Template, read_template, render
from ftrun.runner.data.splits import split_rows
from ftrun.runner.tiny import locate
from ftrun.schemas.errors import DataError

USER = {"role": "user", "content": "Where?"}
ANSWER = {"role": "assistant", "content": "Here."}
TOOLS = [{"type": "function", "function": {"name": "find", "parameters": {}}}]
MARKED = (
    "{% for m in messages %}[{{ m.role }}]"
    "{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}"
    "{% else %}{{ m.content }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
)
PICKY = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system, please') }}{% endif %}"
    "{{ m.content }}{% endfor %}"
)


def tokenizer_with(template: Any) -> Any:
    tokenizer = AutoTokenizer.from_pretrained(locate())
    tokenizer.chat_template = template
    return tokenizer


def written(text: str) -> Template:
    return Template(text, text, {"eos_token": "</s>"})


def test_texts_and_pairs_end_with_the_end_token() -> None:
    rows = [{"text": "a"}, {"text": "a</s>"}, {"prompt": "a", "completion": "b"}]
    assert render(rows, "completion", None, "</s>") == [
        Rendered("a</s>", True),
        Rendered("a</s>", True),
        Rendered("ab</s>", True, prompt="a"),
    ]
    assert render(rows[:1], "all", None, None) == [Rendered("a", True)]


def test_kinds_of_rows_keep_their_order() -> None:
    rows: list[dict[str, Any]] = [
        {"messages": [USER, ANSWER]},
        {"text": "a"},
        {"prompt": [USER], "completion": [ANSWER]},
        {"messages": [ANSWER]},
    ]
    found = render(rows, "completion", written(MARKED), None)
    assert [row.text for row in found] == [
        "[user]Where?[assistant]Here.",
        "a",
        "[user]Where?[assistant]Here.",
        "[assistant]Here.",
    ]
    assert [row.prompt for row in found] == ["[user]Where?[assistant]", None, "[user]Where?[assistant]", ""]


def test_spans_are_those_of_the_assistant() -> None:
    rows = [{"messages": [USER, ANSWER, USER, ANSWER]}, {"messages": [USER]}]
    first, second = render(rows, "assistant", written(MARKED), None)
    assert [first.text[start:end] for start, end in first.spans or ()] == ["Here.", "Here."]
    assert second.spans == ()


def test_tools_and_settings_of_a_row_reach_its_template_alone() -> None:
    text = "{{ style }}{{ tools | length if tools else 'none' }}{{ eos_token }}"
    chat: dict[str, Any] = {"messages": [USER, ANSWER]}
    rows = [
        chat,
        chat | {"tools": TOOLS},
        chat | {"chat_template_kwargs": {"style": "short", "eos_token": "!"}},
        chat,
    ]
    assert [row.text for row in render(rows, "all", written(text), None)] == [
        "none</s>",
        "1</s>",
        "shortnone!",
        "none</s>",
    ]


def test_refused_rows_are_told_and_the_others_rendered() -> None:
    rows: list[dict[str, Any]] = [
        {"messages": [USER, ANSWER]},
        {"messages": [{"role": "system", "content": "Be brief."}, ANSWER]},
        {"messages": [USER, ANSWER], "chat_template_kwargs": {"add_generation_prompt": True}},
    ]
    good, refused, twice = render(rows, "all", written(PICKY), None)
    assert (good.text, good.problem) == ("Where?Here.", None)
    assert refused.problem == "the chat template refuses the conversation: no system, please"
    assert "multiple values" in str(twice.problem)


@pytest.mark.parametrize("template", [PICKY, None])
def test_a_source_with_refused_rows_is_told_by_row(template: str | None) -> None:
    rows = [
        {"messages": [{"role": role, "content": "a"}, ANSWER]}
        for role in ("user", "system", "user", "system")
    ]
    source = SourceRows(
        "a.jsonl", "data.train.0", "messages", ("messages",), rows, [1, 2, 5, 9], (), "all", ""
    )
    part, _ = split_rows((source,), [1.0], (), [], None, 0)
    with pytest.raises(DataError) as caught:
        encode_split(
            part.origins,
            part.sources,
            tokenizer_with(template),
            max_length=None,
            truncation_mode="keep_start",
        )
    if template is None:
        assert "a.jsonl: 4 of 4 rows cannot be rendered. row 1: the tokenizer has no chat template" in str(
            caught.value
        )
    else:
        assert "a.jsonl: 2 of 4 rows cannot be rendered. row 2: the chat template refuses" in str(
            caught.value
        )
        assert "row 9: " in str(caught.value)


def test_named_templates() -> None:
    tokenizer = tokenizer_with({"default": "plain", "tool_use": "tools"})
    template = read_template(tokenizer, "all")
    assert template is not None
    chat = {"messages": [USER, ANSWER]}
    assert [row.text for row in render([chat, chat | {"tools": TOOLS}], "all", template, None)] == [
        "plain",
        "tools",
    ]
    for row in (chat, chat | {"tools": TOOLS}):
        expected = tokenizer.apply_chat_template(row["messages"], tools=row.get("tools"), tokenize=False)
        assert render([row], "all", template, None)[0].text == expected
    with pytest.raises(DataError, match="none of them is `default`"):
        read_template(tokenizer_with({"rag": "a"}), "all")


@pytest.mark.parametrize("loss_on", ["all", "completion", "assistant"])
def test_templates_with_markers_stay(loss_on: LossOn) -> None:
    template = read_template(tokenizer_with(MARKED), loss_on)
    assert template is not None and template.text == MARKED
    assert read_template(tokenizer_with(None), loss_on) is None


def test_a_template_that_cannot_tell_the_assistant_is_refused() -> None:
    with pytest.raises(DataError, match=r"no \{% generation %\} markers"):
        read_template(tokenizer_with(PICKY), "assistant")
