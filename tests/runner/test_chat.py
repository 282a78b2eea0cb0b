"""Talking to results: answers are those of the model, and what cannot be talked to is one sentence."""

from __future__ import annotations

import contextlib
import io
import os
import pty
import select
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow import MlflowClient
from peft import AutoPeftModelForCausalLM
from rich.console import Console
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForSequenceClassification

from ftrun.checks.testing import World, sft_chat, sft_lora
from ftrun.runner import tiny
from ftrun.runner.chat import chat, converse
from ftrun.runner.printing.text import make_console
from ftrun.runner.result import find_result
from ftrun.runner.run import run_recipe
from ftrun.runner.speakers import Settings, Speaker, answer, encode, prepare_speakers

QUESTION = "What colour is the lamp?"
SHORT = Settings(max_new_tokens=8)


def train(world: World) -> Path:
    console = make_console()
    sets = ["training.max_steps=2", "training.learning_rate=0.01"]
    ignore = {"TRAIN001": "two steps are to be felt"}
    assert run_recipe(world.write(), sets=sets, ignore=ignore, out=console, err=console) == 0
    return world.folder / "runs" / "healthy-1"


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(sft_chat(tmp_path_factory.mktemp("full")))


@pytest.fixture(scope="module")
def lora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(sft_lora(tmp_path_factory.mktemp("lora")))


def store(run: Path) -> str:
    return f"sqlite:///{run.parent / 'mlflow.db'}"


def expected(model: Any, folder: Path | str, turns: list[dict[str, str]], tokens: int = 8) -> str:
    """What transformers alone answers, greedily."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    asked = tokenizer.apply_chat_template(
        turns, add_generation_prompt=True, return_dict=True, return_tensors="pt"
    )
    written = model.eval().generate(**asked, do_sample=False, max_new_tokens=tokens)
    return str(tokenizer.decode(written[0, asked["input_ids"].shape[1] :], skip_special_tokens=True))


def turn(content: str, role: str = "user") -> dict[str, str]:
    return {"role": role, "content": content}


def test_one_prompt_is_answered_as_the_model_answers_it(
    full: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = expected(AutoModelForCausalLM.from_pretrained(full / "model"), full / "model", [turn(QUESTION)])
    for reference in (str(full), str(full / "model"), "healthy-1", "run:healthy"):
        assert chat(reference, SHORT, prompt=QUESTION, uri=store(full)) == 0
        assert capsys.readouterr().out == f"{told}\n"


def test_a_system_turn_is_part_of_the_question(full: Path, capsys: pytest.CaptureFixture[str]) -> None:
    turns = [turn("Answer in one word.", "system"), turn(QUESTION)]
    told = expected(AutoModelForCausalLM.from_pretrained(full / "model"), full / "model", turns)
    assert chat(str(full), Settings("Answer in one word.", 8), prompt=QUESTION) == 0
    assert capsys.readouterr().out == f"{told}\n"


def test_an_adapter_is_compared_with_its_base(lora: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = lora / "model"
    tuned = expected(AutoPeftModelForCausalLM.from_pretrained(model), model, [turn(QUESTION)])
    base = expected(AutoModelForCausalLM.from_pretrained(tiny.locate()), model, [turn(QUESTION)])
    assert tuned != base
    assert chat(str(lora), SHORT, prompt=QUESTION, compare=True) == 0
    assert capsys.readouterr().out == f"base: {base}\ntuned: {tuned}\n"


def test_a_full_model_is_compared_with_what_its_run_began_from(
    full: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = expected(AutoModelForCausalLM.from_pretrained(tiny.locate()), full / "model", [turn(QUESTION)])
    assert chat(str(full), SHORT, prompt=QUESTION, compare=True) == 0
    assert capsys.readouterr().out.startswith(f"base: {base}\ntuned: ")
    (tmp_path / "alone").symlink_to(full / "model")
    alone = str(tmp_path / "alone")
    assert chat(alone, SHORT, prompt=QUESTION, compare=True) == 2
    assert "--base" in capsys.readouterr().err
    assert chat(alone, SHORT, prompt=QUESTION, compare=True, base="tiny") == 0
    assert capsys.readouterr().out.startswith(f"base: {base}\ntuned: ")


def test_lines_of_a_pipe_are_prompts_of_their_own(
    full: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = AutoModelForCausalLM.from_pretrained(full / "model")
    told = [expected(model, full / "model", [turn(text)]) for text in (QUESTION, "And the chair?")]
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{QUESTION}\n\nAnd the chair?\n/exit\nnever\n"))
    assert chat(str(full), SHORT) == 0
    assert capsys.readouterr().out == "".join(f"{one}\n" for one in told)


def test_a_conversation_is_remembered_until_it_is_reset(full: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(full / "model")
    first = expected(model, full / "model", [turn(QUESTION)])
    turns = [turn(QUESTION), turn(first, "assistant"), turn("Why?")]
    second = expected(model, full / "model", turns)
    fresh = expected(model, full / "model", [turn("Why?")])
    assert second != fresh
    said, noted = talk(full, [QUESTION, "Why?", "/reset", "Why?", "/what", "", "/exit"])
    assert said == f"{first}\n{second}\n{fresh}\n"
    assert "forgotten" in noted and "there is no /what" in noted


def talk(
    run: Path, lines: list[str], settings: Settings = SHORT, *, compare: bool = False
) -> tuple[str, str]:
    """What a conversation prints on stdout and on stderr."""
    speakers = prepare_speakers(find_result(str(run), needs_base=compare), compare=compare)
    out, err = Console(file=io.StringIO(), width=200), Console(file=io.StringIO(), width=200)
    rest: Iterator[str] = iter(lines)

    def read() -> str:
        try:
            return next(rest)
        except StopIteration:
            raise EOFError from None

    assert converse(speakers, settings, read, out, err) == 0
    assert isinstance(out.file, io.StringIO) and isinstance(err.file, io.StringIO)
    return out.file.getvalue(), err.file.getvalue()


def test_a_compared_conversation_keeps_each_its_own_answers(lora: Path) -> None:
    said, _ = talk(lora, [QUESTION, "Why?"], Settings(max_new_tokens=4), compare=True)
    base = AutoModelForCausalLM.from_pretrained(tiny.locate())
    first = expected(base, lora / "model", [turn(QUESTION)], 4)
    second = expected(base, lora / "model", [turn(QUESTION), turn(first, "assistant"), turn("Why?")], 4)
    heads = [line.split() for line in said.splitlines() if line.startswith("base")]
    assert heads == [["base", "tuned"]] * 2
    assert all(word in said for word in (*first.split(), *second.split()))


def test_a_conversation_longer_than_the_context_is_told_and_goes_on(full: Path) -> None:
    said, noted = talk(full, ["word " * 3000, QUESTION])
    assert "tokens" in noted and "/reset" in noted
    assert len(said.splitlines()) == 2


def test_ctrl_c_keeps_what_was_said(full: Path) -> None:
    (speaker,) = prepare_speakers(find_result(str(full)), compare=False)
    pieces: list[str] = []

    def interrupt_once(piece: str) -> None:
        pieces.append(piece)
        if len(pieces) == 2:
            os.kill(os.getpid(), signal.SIGINT)

    given = answer(speaker, [turn(QUESTION)], Settings(max_new_tokens=200), interrupt_once)
    whole = answer(speaker, [turn(QUESTION)], Settings(max_new_tokens=200), lambda piece: None)
    assert given.stopped and not whole.stopped
    assert given.text and len(given.text) < len(whole.text) and whole.text.startswith(given.text)


def test_temperature_samples_from_the_whole_distribution(full: Path) -> None:
    (speaker,) = prepare_speakers(find_result(str(full)), compare=False)
    settings = Settings(max_new_tokens=12, temperature=5.0)
    torch.manual_seed(1)
    said = answer(speaker, [turn(QUESTION)], settings, lambda piece: None).text
    ids = torch.tensor([encode(speaker, [turn(QUESTION)], settings)])
    torch.manual_seed(1)
    written = speaker.model.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=True, temperature=5.0, top_k=0, max_new_tokens=12
    )
    assert said == speaker.tokenizer.decode(written[0, ids.shape[1] :], skip_special_tokens=True)
    assert said != answer(speaker, [turn(QUESTION)], SHORT, lambda piece: None).text


def test_without_a_template_the_text_is_continued(full: Path) -> None:
    (speaker,) = prepare_speakers(find_result(str(full)), compare=False)
    turns = [turn("forgotten"), turn("too", "assistant"), turn("The lamp")]
    plain = encode(speaker, turns, Settings(plain=True))
    speaker.tokenizer.chat_template = None
    assert plain == encode(speaker, turns, Settings()) == speaker.tokenizer("The lamp")["input_ids"]


def test_generation_stops_where_training_stopped(full: Path) -> None:
    (speaker,) = prepare_speakers(find_result(str(full)), compare=False)
    assert speaker.stop_ids == {3}
    settings = Settings(max_new_tokens=40)
    whole = answer(speaker, [turn(QUESTION)], settings, lambda piece: None).text
    first = speaker.model.generate(
        torch.tensor([encode(speaker, [turn(QUESTION)], settings)]), do_sample=False, max_new_tokens=1
    )[0, -1]
    at_once = Speaker("tuned", speaker.model, speaker.tokenizer, frozenset({int(first)}))
    said = answer(at_once, [turn(QUESTION)], settings, lambda piece: None).text
    assert len(said) < len(whole) and said == speaker.tokenizer.decode([int(first)], skip_special_tokens=True)


def test_a_template_that_ends_where_generation_does_not_is_told(
    full: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in (full / "model").iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    (copy / "generation_config.json").write_text('{"eos_token_id": 1}')
    config = (copy / "tokenizer_config.json").read_text()
    (copy / "tokenizer_config.json").write_text(config.replace("<|im_end|>", "<|im_start|>"))
    assert chat(str(copy), SHORT, prompt=QUESTION) == 0
    assert "ends an answer with <|im_end|>" in capsys.readouterr().err
    assert chat(str(full), SHORT, prompt=QUESTION) == 0
    assert capsys.readouterr().err == ""


def test_what_cannot_be_talked_to_is_one_sentence(
    full: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "empty").mkdir()
    (tmp_path / "hollow").mkdir()
    (tmp_path / "hollow" / "config.json").write_text((full / "model" / "config.json").read_text())
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "unfinished" / "recipe.resolved.yaml").write_text("name: x\n")
    scorer = LlamaForSequenceClassification(LlamaConfig(**{**tiny.CONFIG, "num_labels": 1}))
    scorer.save_pretrained(tmp_path / "scorer")
    cases = {
        "nonesuch": "no store at",
        "./nowhere": "no folder nowhere",
        "empty/nowhere": "no folder empty/nowhere",
        "nobody/nothing": "the hub has no model nobody/nothing",
        "empty": "holds no model",
        "hollow": "holds no weights",
        "unfinished": "training has not ended",
        "scorer": "is a reward model",
        "hollow/config.json": "is a file",
    }
    for reference, reason in cases.items():
        assert chat(reference, SHORT, prompt=QUESTION) == 2, reference
        told = capsys.readouterr()
        assert told.out == "" and reason in told.err and told.err.count("\n") == 1, told.err
    assert chat("nonesuch", SHORT, prompt=QUESTION, uri=store(full)) == 2
    assert "no finished run is called nonesuch" in capsys.readouterr().err
    assert chat(str(full), Settings("Be kind.", 8, plain=True), prompt=QUESTION) == 2
    assert "no chat template" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_a_run_is_found_by_the_start_of_its_id(full: Path, tmp_path: Path) -> None:
    client = MlflowClient(store(full))
    (run,) = client.search_runs([one.experiment_id for one in client.search_experiments()])
    for name in (run.info.run_id, run.info.run_id[:8], f"run:{run.info.run_id[:4]}"):
        assert find_result(name, uri=store(full)).source == str(full / "model")


def test_the_start_of_several_ids_is_not_guessed_at(tmp_path: Path) -> None:
    from ftrun.runner.tracking.lookup import find_model
    from ftrun.runner.tracking.store import prepare_store
    from ftrun.schemas.errors import TrackingError

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    prepare_store(uri)
    client = MlflowClient(uri)
    runs = [client.create_run("0", run_name=f"run-{i}").info.run_id for i in range(2)]
    for run in runs:
        client.set_terminated(run)
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        for i, run in enumerate(runs):
            database.execute("UPDATE runs SET run_uuid = ? WHERE run_uuid = ?", (f"abcdef{i:026}", run))
    with pytest.raises(TrackingError, match=r"several runs start with abcdef: .*run-"):
        find_model("abcdef", uri)


def test_on_a_terminal_ctrl_c_stops_the_answer_and_a_second_one_leaves(full: Path) -> None:
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "ftrun", "chat", str(full), "--max-new-tokens", "1900"]
    # Whoever runs the tests in the background has them ignore Ctrl-C, which their children would inherit.
    process = subprocess.Popen(
        command,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    os.close(slave)
    try:
        read_until(master, "› ")
        os.write(master, f"{QUESTION}\n".encode())
        read_until(master, f"{QUESTION}\r\n")
        assert os.read(master, 4096)  # the first words of an answer that takes several seconds
        process.send_signal(signal.SIGINT)
        read_until(master, "› ")
        assert interrupt_until_it_ends(process) == 0
    finally:
        process.kill()
        process.wait()
        os.close(master)


def interrupt_until_it_ends(process: subprocess.Popen[bytes]) -> int:
    """The exit code. A signal that comes just before readline begins to wait is only seen at the next one."""
    for _ in range(5):
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(timeout=10)
    raise AssertionError("Ctrl-C does not end it")


def read_until(terminal: int, text: str, seconds: float = 120.0) -> None:
    seen = b""
    deadline = time.monotonic() + seconds
    while text.encode() not in seen:
        ready, _, _ = select.select([terminal], [], [], max(0.0, deadline - time.monotonic()))
        assert ready, f"waited for {text!r}, saw {seen!r}"
        seen += os.read(terminal, 4096)
