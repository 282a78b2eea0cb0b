from __future__ import annotations

import json

import pytest

from ftrun.runner.tracking.params import LEFT_OUT, clean_key, flatten_params
from ftrun.runner.tracking.secrets import redact, redact_text

HF = "hf_" + "aB3" * 11
GH = "ghp_" + "x9Y" * 12


def test_leaves_carry_the_keys_of_the_recipe() -> None:
    recipe = {
        "training": {"learning_rate": 2e-05, "bf16": True, "seed": 42, "resume": None},
        "data": {"train": [{"path": "a.jsonl"}, {"path": "b.jsonl"}], "eval": []},
    }
    assert flatten_params(recipe) == {
        "training.learning_rate": "2e-05",
        "training.bf16": "true",
        "training.seed": "42",
        "training.resume": "null",
        "data.train.0.path": "a.jsonl",
        "data.train.1.path": "b.jsonl",
        "data.eval": "[]",
    }


def test_flattening_twice_changes_nothing() -> None:
    flat = flatten_params({"a": {"b": "x" * 501, "hub_token": "abc", "c": 0.1}})
    assert flatten_params(flat) == flat


def test_a_long_value_is_named_by_its_digest() -> None:
    flat = flatten_params({"kept": "x" * 500, "long": "x" * 501, "other": "x" * 502})
    assert flat["kept"] == "x" * 500
    assert flat["long"].startswith("sha256:")
    assert flat["long"].endswith("(see recipe.resolved.yaml)")
    assert flat["long"] != flat["other"]


def test_more_than_a_thousand_leaves_are_counted() -> None:
    flat = flatten_params({"many": list(range(1200))})
    assert len(flat) == 1000
    assert flat[LEFT_OUT] == "201 (see recipe.resolved.yaml)"
    assert len(flatten_params({"many": list(range(1000))})) == 1000


@pytest.mark.parametrize("name", ["a@b(c)[d]=e", "../../etc", "a//b", "/a/", "x" * 400, "", "a:b", "é/ü"])
def test_a_clean_key_is_one_that_mlflow_takes(name: str) -> None:
    from mlflow.utils.validation import _validate_metric_name, _validate_param_name

    key = clean_key(name)
    _validate_metric_name(key)
    _validate_param_name(key)
    assert 0 < len(key) <= 250


def test_keys_that_become_equal_keep_both_values() -> None:
    assert sorted(flatten_params({"a(b": 1, "a)b": 2}).values()) == ["1", "2"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("training.hub_token", "abc"),
        ("tracking.tags.db_password", "12345"),
        ("reward.api_key", "k3"),
        ("a.secret", "s3"),
        ("a.token.0", "abc"),
        ("model.path", HF),
        ("x", f"Bearer {GH}"),
        ("x", "AKIA" + "ABCD1234EFGH5678"),
        ("x", "sk-proj-" + "a1b2" * 8),
        ("url", "https://someone:hunter2@example.org/x"),
    ],
)
def test_a_secret_does_not_leave(name: str, text: str) -> None:
    assert "<secret>" in redact(name, text)
    assert text not in redact(name, text)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("training.eos_token", "<|im_end|>"),
        ("training.pad_token", "[PAD]"),
        ("training.hub_token", "null"),
        ("training.hub_token", "${env:HF_TOKEN}"),
        ("model.add_eos_token", "true"),
        ("loss.per_token", "0.5"),
        ("url", "git@github.com:someone/repo.git"),
        ("url", "ssh://git@example.org/repo.git"),
        ("path", "sk-learn-is-not-a-key-at-all"),
        ("digest", "0123456789abcdef" * 4),
    ],
)
def test_what_only_sounds_like_a_secret_stays(name: str, text: str) -> None:
    assert redact(name, text) == text


def test_secrets_in_text_go_and_the_rest_stays() -> None:
    text = f"""
training:
  hub_token: abc123def   # mine
  eos_token: <|im_end|>
  api_key: "q w e"
  learning_rate: 1.0e-5
{json.dumps({"password": "p4ss", "step": 1, "secret": "t0p"})}
HF_TOKEN=zzz
clone https://user:pw@example.org/a.git with {HF}
-----BEGIN PRIVATE KEY-----
MIIE
-----END PRIVATE KEY-----
"""
    clean = redact_text(text)
    for secret in ("abc123def", "q w e", "p4ss", "t0p", "zzz", "user:pw", HF, "MIIE"):
        assert secret not in clean
    for kept in (
        "eos_token: <|im_end|>",
        "learning_rate: 1.0e-5",
        '"step": 1',
        "# mine",
        "example.org/a.git",
    ):
        assert kept in clean
    assert redact_text(clean) == clean


def test_a_patch_still_applies_after_redaction() -> None:
    patch = """
+    token: str = "x"
+    def step(self, token: Tensor, next_token: torch.Tensor) -> None:
+        if token: return
+        token = tokenizer.encode(text)
+        eos_token = tokenizer.eos_token
+        model(token=token, pad_token="[PAD]")
+        weights = {"next_token": 0.5, 'token': None}
"""
    kept = patch.replace('"x"', "")
    assert redact_text(kept) == kept


def test_long_lines_take_no_quadratic_time() -> None:
    text = "a-" * 500_000 + "token"
    assert redact_text(text) == text
