"""The built-in model: its folder, its tokenizer and its chat template."""

import hashlib
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from ftrun.runner import tiny
from ftrun.schemas.errors import ModelError

TEXTS = (
    "Plain English, with punctuation; and 1,234.50 numbers.",
    "  two spaces, a tab\t, new lines\r\n\n and a trailing space ",
    "def f(x: int) -> str:\n\treturn f'{x!r}' if x <= 3 else \"π\"\n",
    "Größe, façade, naïve, Ελληνικά, Русский, עברית, العربية, हिन्दी, ไทย, 日本語, 한국어",
    "👍🏽 👩‍👩‍👧‍👦 🇪🇺 e\u0301 ≠ é \u200b\ufeff\u2028 \x00\x1b",
    "".join(chr(point) for point in range(0x20, 0x2000)),
)

TOOLS = [
    {
        "type": "function",
        "function": {"name": "find_order", "parameters": {"type": "object", "properties": {}}},
    }
]

CHAT: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Where is order 4821? 📦"},
    {
        "role": "assistant",
        "content": "Let me look.",
        "tool_calls": [
            {"type": "function", "function": {"name": "find_order", "arguments": {"order": 4821}}}
        ],
    },
    {"role": "tool", "content": '{"state": "sent"}'},
    {"role": "assistant", "content": "It is on its way – one day.\n"},
    {"role": "user", "content": "Thanks"},
    {"role": "assistant", "content": "You are welcome 🙂"},
]

ANSWERS = [
    'Let me look.\n<tool_call>{"name": "find_order", "arguments": {"order": 4821}}</tool_call><|im_end|>',
    "It is on its way – one day.\n<|im_end|>",
    "You are welcome 🙂<|im_end|>",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    tiny.build(folder)
    return folder


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(folder)


def test_two_builds_are_the_same_bytes_and_leave_random_states_alone(folder: Path, tmp_path: Path) -> None:
    torch.manual_seed(7)
    states = torch.get_rng_state(), random.getstate()
    tiny.build(tmp_path)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    digests = [
        {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in place.iterdir()}
        for place in (folder, tmp_path)
    ]
    assert digests[0] == digests[1]
    assert set(digests[0]) == {*tiny.MODEL_FILES, *tiny.TOKENIZER_FILES}


def test_the_folder_is_an_ordinary_model(folder: Path, tokenizer: Any) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert model.config.vocab_size == len(tokenizer)
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        assert (
            getattr(model.config, name) == getattr(tokenizer, name) == getattr(model.generation_config, name)
        )
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    assert tokenizer.eos_token == "<|im_end|>"
    inputs = tokenizer(["Hello", "Hello there"], return_tensors="pt", padding=True)
    logits = model(**inputs).logits
    assert logits.shape == (2, inputs["input_ids"].shape[1], len(tokenizer))
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_any_text_comes_back_as_it_was(tokenizer: Any, text: str) -> None:
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids) == text
    assert ids == tokenizer(text, add_special_tokens=False)["input_ids"]


def test_exactly_the_answers_and_their_ends_are_marked(tokenizer: Any) -> None:
    chat = tokenizer.apply_chat_template(
        CHAT, tools=TOOLS, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    spans: list[list[int]] = []
    before = 0
    for token, marked in zip(chat["input_ids"], chat["assistant_masks"], strict=True):
        if marked and not before:
            spans.append([])
        if marked:
            spans[-1].append(token)
        before = marked
    assert [tokenizer.decode(span) for span in spans] == ANSWERS


def test_a_chat_renders_as_written(tokenizer: Any) -> None:
    text = tokenizer.apply_chat_template(CHAT[:4], tools=TOOLS, tokenize=False, add_generation_prompt=True)
    assert text == (
        "<|im_start|>system\nBe brief.\n\nTools, one a line:\n"
        '{"type": "function", "function": {"name": "find_order", '
        '"parameters": {"type": "object", "properties": {}}}}<|im_end|>\n'
        "<|im_start|>user\nWhere is order 4821? 📦<|im_end|>\n"
        f"<|im_start|>assistant\n{ANSWERS[0]}\n"
        '<|im_start|>tool\n{"state": "sent"}<|im_end|>\n'
        "<|im_start|>assistant\n"
    )


@pytest.mark.parametrize("tools", [None, TOOLS], ids=["plain", "tools"])
@pytest.mark.parametrize("start", [0, 1], ids=["system", "no system"])
def test_the_prompt_of_each_answer_begins_the_whole_chat(tokenizer: Any, tools: Any, start: int) -> None:
    chat = CHAT[start:]
    whole = tokenizer.apply_chat_template(chat, tools=tools, tokenize=False)
    for index, turn in enumerate(chat):
        if turn["role"] == "assistant":
            prompt = tokenizer.apply_chat_template(
                chat[:index], tools=tools, tokenize=False, add_generation_prompt=True
            )
            ids = tokenizer(prompt)["input_ids"]
            assert whole.startswith(prompt)
            assert tokenizer(whole)["input_ids"][: len(ids)] == ids


def test_an_unknown_role_is_refused(tokenizer: Any) -> None:
    with pytest.raises(Exception, match="role critic"):
        tokenizer.apply_chat_template([{"role": "critic", "content": "No."}], tokenize=False)


def test_processes_that_start_together_share_one_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", ":".join(sys.path))
    command = [sys.executable, "-c", "from ftrun.runner import tiny; print(tiny.locate())"]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    folders = {process.communicate(timeout=120)[0].strip() for process in processes}
    assert [process.returncode for process in processes] == [0, 0]
    assert folders == {str(tiny.locate())}
    assert [path.name for path in (tmp_path / "ftrun").iterdir()] == [tiny.locate().name]


def test_a_damaged_folder_is_built_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = tiny.locate()
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").unlink()
    assert tiny.locate() == folder
    assert (folder / "model.safetensors").read_bytes() == whole


def test_a_cache_that_cannot_be_written_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cache").write_text("a file where a folder should be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert tiny.locate().is_relative_to(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "cache"))
    with pytest.raises(ModelError, match="XDG_CACHE_HOME"):
        tiny.locate()
