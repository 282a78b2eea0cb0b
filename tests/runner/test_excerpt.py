"""Excerpts of batches: short rows around the beginning of their answers, whole where they cannot be cut."""

from __future__ import annotations

from typing import Any

import torch

from ftrun.runner.excerpt import make_excerpt
from ftrun.runner.trial import SHORT


def make_batch(*rows: tuple[int, int]) -> dict[str, Any]:
    """Rows of so many prompt and answer tokens: the row's number, and above 100 in the answer."""
    width = max(prompt + answer for prompt, answer in rows)
    ids, mask, labels = (torch.full((len(rows), width), value) for value in (0, 0, -100))
    for number, (prompt, answer) in enumerate(rows, 1):
        place = ids[number - 1]
        place[:prompt], place[prompt : prompt + answer] = number, 100 + number
        mask[number - 1, : prompt + answer] = 1
        labels[number - 1, prompt : prompt + answer] = 100 + number
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def test_rows_are_cut_around_the_beginning_of_their_answers() -> None:
    excerpt = make_excerpt("sft", make_batch((200, 90), (5, 3), (40, 100)))
    assert excerpt["input_ids"].shape == (2, SHORT)
    long, short = excerpt["input_ids"].tolist()
    assert long == [1] * (SHORT // 2) + [101] * (SHORT // 2)
    assert short[:8] == [2] * 5 + [102] * 3
    assert excerpt["attention_mask"].sum(1).tolist() == [SHORT, 8]
    assert (excerpt["labels"] != -100).sum(1).tolist() == [SHORT // 2, 3]


def test_a_row_at_the_end_of_the_table_is_filled_with_padding() -> None:
    excerpt = make_excerpt("sft", make_batch((60, 4), (60, 70)))
    assert excerpt["attention_mask"].sum(1).tolist() == [36, SHORT]
    assert excerpt["labels"][0, 36:].tolist() == [-100] * (SHORT - 36)


def test_the_second_row_is_unlike_the_first() -> None:
    batch = make_batch((4, 4), (4, 4), (4, 4))
    for value in batch.values():
        value[1] = value[0]
    assert set(make_excerpt("sft", batch)["input_ids"][1].tolist()) == {3, 103, 0}


def test_pairs_keep_their_sides_and_numbers() -> None:
    batch = make_batch((70, 5), (9, 6), (70, 7), (9, 8))
    batch["completion_mask"] = (batch.pop("labels") != -100).long()
    batch["margin"] = torch.tensor([0.5, 2.0])
    excerpt = make_excerpt("dpo", batch)
    assert excerpt["input_ids"].shape == (4, SHORT)
    assert excerpt["completion_mask"].sum(1).tolist() == [5, 6, 7, 8]
    assert excerpt["margin"].tolist() == [0.5, 2.0]


def test_what_the_reference_said_of_whole_answers_keeps_them_whole() -> None:
    batch = make_batch((70, 5), (9, 6)) | {"ref_chosen_logps": torch.zeros(1)}
    assert make_excerpt("dpo", batch) is batch


def test_documents_in_one_row_are_cut_behind_their_first_answer() -> None:
    batch = make_batch((300, 400))
    batch["position_ids"] = torch.arange(700)[None]
    del batch["attention_mask"]
    excerpt = make_excerpt("sft", batch)
    assert excerpt["input_ids"].shape == excerpt["position_ids"].shape == (1, 299 + SHORT)
    assert (excerpt["labels"] != -100).sum() == SHORT - 1
