"""Each format becomes one of TRL's shapes, and a row that cannot is told by its column and the reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ftrun.checks.rows import SourceRows
from ftrun.runner.data.conversion import make_converter
from ftrun.runner.data.sources import load_source
from ftrun.schemas.errors import DataError
from ftrun.schemas.sections import Source

USER = {"role": "user", "content": "Where?"}
ANSWER = {"role": "assistant", "content": "Here."}
TOOL = {"type": "function", "function": {"name": "find", "parameters": {}}}
CALL = {"type": "function", "function": {"name": "find", "arguments": {"thing": "lamp"}}}


def convert(format: str, row: dict[str, Any], has_template: bool = True) -> dict[str, Any]:
    (example,) = make_converter(format, has_template)(row)
    return example


GOOD: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("text", {"text": "a", "id": 7}, {"text": "a"}),
    ("prompt_completion", {"prompt": "", "completion": "b"}, {"prompt": "", "completion": "b"}),
    (
        "prompt_completion",
        {"prompt": [USER], "completion": [ANSWER], "tools": [TOOL]},
        {"prompt": [USER], "completion": [ANSWER], "tools": [TOOL]},
    ),
    ("messages", {"messages": [USER, ANSWER], "tools": []}, {"messages": [USER, ANSWER]}),
    ("messages", {"messages": json.dumps([USER, ANSWER])}, {"messages": [USER, ANSWER]}),
    (
        "messages",
        {"messages": [USER | {"name": None}, {"role": "assistant", "content": None, "tool_calls": [CALL]}]},
        {"messages": [USER, {"role": "assistant", "tool_calls": [CALL]}]},
    ),
    (
        "messages",
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}, ANSWER]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}, ANSWER]},
    ),
    (
        "messages",
        {
            "messages": [USER, ANSWER],
            "tools": json.dumps([TOOL]),
            "chat_template_kwargs": '{"enable_thinking": false}',
        },
        {"messages": [USER, ANSWER], "tools": [TOOL], "chat_template_kwargs": {"enable_thinking": False}},
    ),
    ("messages", {"messages": [USER, ANSWER], "tools": " "}, {"messages": [USER, ANSWER]}),
    (
        "sharegpt",
        {
            "conversations": [
                {"from": "human", "value": "Where?"},
                {"from": "function_call", "value": '{"name": "find", "arguments": {"thing": "lamp"}}'},
                {"from": "observation", "value": "12"},
                {"from": "gpt", "value": "Here."},
            ],
            "system": "Be brief.",
            "tools": json.dumps([TOOL]),
        },
        {
            "messages": [
                {"role": "system", "content": "Be brief."},
                USER,
                {"role": "assistant", "tool_calls": [CALL]},
                {"role": "tool", "content": "12"},
                ANSWER,
            ],
            "tools": [TOOL],
        },
    ),
    (
        "sharegpt",
        {
            "conversations": [
                {"from": "system", "value": "Be brief."},
                {"role": "user", "content": "Where?"},
            ],
            "system": "Be brief.",
        },
        {"messages": [{"role": "system", "content": "Be brief."}, USER]},
    ),
    (
        "sharegpt",
        {"conversations": '[{"from": "human", "value": "Where?"}]', "system": " "},
        {"messages": [USER]},
    ),
]


@pytest.mark.parametrize(("format", "row", "example"), GOOD)
def test_good_rows(format: str, row: dict[str, Any], example: dict[str, Any]) -> None:
    before = json.dumps(row)
    assert convert(format, row) == example
    assert json.dumps(row) == before, "the row is left as it was read"


ALPACA = {
    "instruction": "Where?",
    "input": "The lamp.",
    "output": "Here.",
    "system": "Be brief.",
    "history": [["Who?", "Me."]],
}


def test_alpaca_with_a_template() -> None:
    assert convert("alpaca", ALPACA) == {
        "prompt": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Who?"},
            {"role": "assistant", "content": "Me."},
            {"role": "user", "content": "Where?\nThe lamp."},
        ],
        "completion": [ANSWER],
    }
    bare: dict[str, Any] = {
        "instruction": "Where?",
        "input": " ",
        "output": "Here.",
        "system": None,
        "history": [],
    }
    assert convert("alpaca", bare) == {"prompt": [USER], "completion": [ANSWER]}


def test_alpaca_without_a_template() -> None:
    assert convert("alpaca", ALPACA, has_template=False) == {
        "prompt": "Be brief.\n\n"
        "### Instruction:\nWho?\n\n### Response:\nMe.\n\n"
        "### Instruction:\nWhere?\n\n### Input:\nThe lamp.\n\n### Response:\n",
        "completion": "Here.",
    }
    bare = {"instruction": "Where?", "output": "Here."}
    assert convert("alpaca", bare, has_template=False) == {
        "prompt": "### Instruction:\nWhere?\n\n### Response:\n",
        "completion": "Here.",
    }


BAD: list[tuple[str, dict[str, Any], str]] = [
    ("text", {"text": None}, "column text is empty"),
    ("text", {"other": "a"}, "has no column text"),
    ("text", {"text": ["a"]}, "column text must be text, found list"),
    ("prompt_completion", {"prompt": "a", "completion": 3}, "column completion must be text, found int"),
    ("prompt_completion", {"prompt": "a"}, "has no column completion"),
    (
        "prompt_completion",
        {"prompt": "a", "completion": [ANSWER]},
        "column prompt is text and column completion a list",
    ),
    (
        "prompt_completion",
        {"prompt": [USER], "completion": "a"},
        "column completion is text and column prompt a list",
    ),
    (
        "prompt_completion",
        {"prompt": [USER], "completion": []},
        "column completion must be a list of messages, found an empty list",
    ),
    ("prompt_completion", {"prompt": None, "completion": [ANSWER]}, "column prompt is empty"),
    ("messages", {"messages": []}, "column messages must be a list of messages, found an empty list"),
    ("messages", {"messages": ""}, "column messages is empty"),
    ("messages", {"messages": "Hello"}, "column messages is text that is not JSON: Expecting value"),
    ("messages", {"messages": '"Hello"'}, "column messages must be a list of messages, found str"),
    ("messages", {"messages": {"role": "user"}}, "column messages must be a list of messages, found dict"),
    ("messages", {"messages": ["Hello"]}, "column messages holds a message without a role"),
    ("messages", {"messages": [{"content": "a"}]}, "column messages holds a message without a role"),
    ("messages", {"messages": [USER, {"role": "assistant"}]}, "a message of assistant without content"),
    ("messages", {"messages": [{"role": "user", "content": 5}]}, "of user whose content is no text but int"),
    (
        "messages",
        {"messages": [{"role": "user", "content": [{"type": "image", "path": "a.png"}]}]},
        "column messages holds a part of type image in a message; ftrun trains on text alone",
    ),
    ("messages", {"messages": [USER], "tools": "find"}, "column tools is text that is not JSON"),
    ("messages", {"messages": [USER], "tools": TOOL}, "column tools must be a list of function schemas"),
    (
        "messages",
        {"messages": [USER], "chat_template_kwargs": [1]},
        "column chat_template_kwargs must be a mapping",
    ),
    ("sharegpt", {"conversations": ["Hello"]}, "column conversations holds a turn that is not an object"),
    ("sharegpt", {"conversations": []}, "column conversations must be a list of turns, found an empty list"),
    (
        "sharegpt",
        {"conversations": [{"from": "narrator", "value": "a"}]},
        "a turn from 'narrator'; known are human, user, gpt",
    ),
    ("sharegpt", {"conversations": [{"value": "a"}]}, "a turn from None"),
    ("sharegpt", {"conversations": [{"from": "gpt", "value": None}]}, "a turn from 'gpt' without text"),
    ("sharegpt", {"conversations": [{"from": "function_call", "value": "find"}]}, "text that is not JSON"),
    ("sharegpt", {"conversations": [{"from": "function_call", "value": "[]"}]}, "that names no function"),
    (
        "sharegpt",
        {"conversations": [{"from": "system", "value": "Be brief."}], "system": "Be long."},
        "starts with a system turn, and column system holds another",
    ),
    ("alpaca", {"instruction": "a"}, "has no column output"),
    ("alpaca", {"instruction": "a", "output": "b", "input": ["c"]}, "column input must be text, found list"),
    ("alpaca", {"instruction": "a", "output": "b", "history": "c"}, "column history must be a list of pairs"),
    (
        "alpaca",
        {"instruction": "a", "output": "b", "history": [["c"]]},
        "something else than a pair of question and answer",
    ),
    ("alpaca", {"instruction": "a", "output": "b", "history": [["c", None]]}, "something else than a pair"),
]


@pytest.mark.parametrize(("format", "row", "said"), BAD)
@pytest.mark.parametrize("has_template", [True, False])
def test_bad_rows(format: str, row: dict[str, Any], said: str, has_template: bool) -> None:
    with pytest.raises(DataError) as caught:
        convert(format, row, has_template)
    assert said in str(caught.value)


# A source as a whole


def load(
    folder: Path, rows: list[Any], *, has_template: bool = True, can_mark: bool = True, **keys: Any
) -> SourceRows:
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    loss_on = keys.pop("loss_on", None)
    source = Source(path="a.jsonl", **keys)
    return load_source(
        source,
        "data.train.0",
        folder,
        method="sft",
        loss_on=loss_on,
        has_template=has_template,
        can_mark_turns=can_mark,
    )


def test_every_row_is_an_example_or_told(tmp_path: Path) -> None:
    rows = [
        {"question": "a", "answer": "b"},
        3,
        {"question": None, "answer": "b"},
        {"answer": "b", "question": "c"},
    ]
    found = load(tmp_path, rows, columns={"prompt": "question", "completion": "answer"})
    assert found.format == "prompt_completion" and found.columns == ("question", "answer")
    assert list(found.examples) == [{"prompt": "a", "completion": "b"}, {"prompt": "c", "completion": "b"}]
    assert list(found.numbers) == [1, 4]
    assert [(bad.row, bad.reason) for bad in found.bad] == [
        (2, "a row must be an object with named columns, found a number"),
        (3, "column prompt is empty"),
    ]


def test_a_column_that_only_later_rows_have(tmp_path: Path) -> None:
    rows = [{"messages": [USER, ANSWER]}] * 200 + [{"messages": [USER, ANSWER], "functions": [TOOL]}]
    found = load(tmp_path, rows, columns={"tools": "functions"})
    assert found.columns == ("messages", "functions")
    assert "tools" not in found.examples[0] and found.examples[-1]["tools"] == [TOOL]


def test_rows_without_one_example_are_no_error_here(tmp_path: Path) -> None:
    found = load(tmp_path, [{"text": None}, {"text": 3}])
    assert not found.examples and len(found.bad) == 2


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({}, "a.jsonl: no format fits the columns question, answer"),
        (
            {"columns": {"prompt": "query"}},
            "there is no column query, which `columns` names; there is question, answer",
        ),
        ({"format": "alpaca"}, r"there is no column instruction, output, which format alpaca needs"),
        ({"format": "alpaca"}, r"Rename with `columns: {instruction: <its name there>}`"),
    ],
)
def test_columns_that_fit_no_format(keys: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        load(tmp_path, [{"question": "a", "answer": "b"}], **keys)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("row", "can_mark", "loss_on", "chosen"),
    [
        ({"text": "a"}, True, None, "all"),
        ({"prompt": "a", "completion": "b"}, True, None, "completion"),
        ({"instruction": "a", "output": "b"}, True, None, "completion"),
        ({"messages": [USER, ANSWER]}, True, None, "assistant"),
        ({"messages": [USER, ANSWER]}, False, None, "completion"),
        ({"messages": [USER, ANSWER]}, True, "all", "all"),
    ],
)
def test_what_is_trained(
    row: dict[str, Any], can_mark: bool, loss_on: str | None, chosen: str, tmp_path: Path
) -> None:
    found = load(tmp_path, [row], can_mark=can_mark, loss_on=loss_on)
    assert found.loss_on == chosen
    assert (found.loss_reason == "as the recipe says") == (loss_on is not None)
