"""Keys changed and added in YAML texts: what changes, and that nothing else does."""

from __future__ import annotations

import random
import re
from typing import Any

import pytest
import yaml

from ftrun.schemas.errors import FtrunError
from ftrun.schemas.nodes import dotted, plain
from ftrun.schemas.notation import as_yaml
from ftrun.schemas.patching import patch_text

COMMENT = re.compile(r"#\d+")

REPLACED = {
    "a plain value": ("a: 1\nb: 2\n", "a", 3, "a: 3\nb: 2\n"),
    "with a comment": ("a:   1   # one\nb: 2", "a", 3, "a:   3   # one\nb: 2"),
    "in quotes": ("a: {b: 'it''s', c: \"x\"}\n", "a.b", "new", 'a: {b: new, c: "x"}\n'),
    "of several lines": ('a: "one\n  two"  # c\nb: 1\n', "a", "x", "a: x  # c\nb: 1\n"),
    "a literal": ("a: |\n  one\n  two\n\n# c\nb: 1\n", "a", "x", "a: x\n\n# c\nb: 1\n"),
    "a literal at the end": ("b: 1\na: >-\n  one", "a", "x", "b: 1\na: x"),
    "below its key": ("a:\n  # c\n  old\nb: 1\n", "a", "new", "a:\n  # c\n  new\nb: 1\n"),
    "nothing": ("a:\nb: 1\n", "a", 2, "a: 2\nb: 1\n"),
    "nothing, with a comment": ("a:  # c\nb: 1\n", "a", 2, "a: 2  # c\nb: 1\n"),
    "nothing in a flow": ("x: {a: , b: 1}\n", "x.a", 2, "x: {a: 2 , b: 1}\n"),
    "null": ("a: ~\n", "a", False, "a: false\n"),
    "in a list of mappings": (
        "data:\n  train:\n    - path: a  # first\n      split: x\n    - path: b\n",
        "data.train.1.path",
        "c d",
        "data:\n  train:\n    - path: a  # first\n      split: x\n    - path: c d\n",
    ),
    "in a list at the margin": ("a:\n- 1\n- 2 # c\nb: 1\n", "a.1", 7, "a:\n- 1\n- 7 # c\nb: 1\n"),
    "in a flow list": ("a: [1, [2, 3], 4]\n", "a.1.0", 9, "a: [1, [9, 3], 4]\n"),
    "an entry that is a block": ("a:\n  - b: 1  # x\n    c: 2  # y\n  - 3\n", "a.0", {"d": 1}, None),
    "a flow by a flow": ("a: {b: 1} # c\n", "a", {"prompt": "question"}, "a: {prompt: question} # c\n"),
    "a flow of several lines": ("a: [\n  1,  # c\n  2,\n]  # d\nb: 1\n", "a", [3], "a: [3]  # d\nb: 1\n"),
    "a block mapping": (
        "x:\n  a:  # names\n    b: 1\n    c: 2\n\n  # about d\n  d: 1\n",
        "x.a",
        {"e": 1},
        "x:\n  a: {e: 1}  # names\n\n  # about d\n  d: 1\n",
    ),
    "a block list": ("a:\n- b: 1\n- c\nd: 2\n", "a", [], "a: []\nd: 2\n"),
    "a block at the end": ("d: 2\na:\n  # c\n  b: 1", "a", 4, "d: 2\na: 4\n  # c"),
    "a key in quotes": ("\"a\" : 'b'\n", "a", "c", '"a" : c\n'),
    "under a key that is true": ("on: 1\n", "on", 2, "on: 2\n"),
    "what is there already": ("a: {b:   1}\n", "a.b", 1, "a: {b:   1}\n"),
    "with line ends of Windows": ("a: 1\r\nb:\r\n  c: 2\r\n", "b", 3, "a: 1\r\nb: 3\r\n"),
    "beside an anchor that is not its own": (
        "a: &x {b: 1}\nc: *x\nd: 1\n",
        "d",
        2,
        "a: &x {b: 1}\nc: *x\nd: 2\n",
    ),
    "after wide characters": ("a: {b: '😀é', c: 1}\n", "a.c", 2, "a: {b: '😀é', c: 2}\n"),
}

ADDED = {
    "to a block": (
        "a:\n    b: 1  # one\n    # more\n\nc: 1\n",
        "a.d",
        2,
        "a:\n    b: 1  # one\n    d: 2\n    # more\n\nc: 1\n",
    ),
    "after a nested block": ("a:\n  b:\n    c: 1\nd: 1\n", "a.e", 2, "a:\n  b:\n    c: 1\n  e: 2\nd: 1\n"),
    "after a list": ("a:\n  b:\n  - 1\nd: 1\n", "a.e", 2, "a:\n  b:\n  - 1\n  e: 2\nd: 1\n"),
    "after nothing": ("a:\n  b:\nd: 1\n", "a.e", 2, "a:\n  b:\n  e: 2\nd: 1\n"),
    "after a literal": ("a:\n  b: |\n    x\n\nd: 1\n", "a.e", 2, "a:\n  b: |\n    x\n  e: 2\n\nd: 1\n"),
    "after an alias": ("x: &x 1\na:\n  b: *x\n", "a.e", 2, "x: &x 1\na:\n  b: *x\n  e: 2\n"),
    "beside merged keys": (
        "x: &x {b: 1}\na:\n  <<: *x\n",
        "a.b",
        2,
        "x: &x {b: 1}\na:\n  <<: *x\n  b: 2\n",
    ),
    "to an entry of a list": ("a:\n  - b: 1\n  - b: 2\n", "a.0.c", 3, "a:\n  - b: 1\n    c: 3\n  - b: 2\n"),
    "to a flow": ("a: {b: 1}\n", "a.c", 2, "a: {b: 1, c: 2}\n"),
    "to a flow with air": ("a: { b: [1] } # c\n", "a.c", 2, "a: { b: [1], c: 2 } # c\n"),
    "to a flow with a last comma": ("a: {b: 1,}\n", "a.c", 2, "a: {b: 1, c: 2,}\n"),
    "to a flow of several lines": (
        "a: {\n  b: 1  # }\n}\n",
        "a.c",
        "x, y",
        'a: {\n  b: 1, c: "x, y"  # }\n}\n',
    ),
    "to a flow in a list": ("a: [{b: 1}, {b: 2}]\n", "a.1.c", 3, "a: [{b: 1}, {b: 2, c: 3}]\n"),
    "to an empty flow": ("a: {}  # c\n", "a.b", 1, "a: {b: 1}  # c\n"),
    "to an empty section": ("a:  # c\n  # d\nb: 1\n", "a.c", 2, "a:  # c\n  c: 2\n  # d\nb: 1\n"),
    "to an empty section at the end": ("b:\n   x: 1\na:", "a.c", 2, "b:\n   x: 1\na:\n   c: 2"),
    "to a section that is null": ("a: null  # c\n", "a.b.c", 1, "a: {b: {c: 1}}  # c\n"),
    "to an entry that is empty": ("a:\n  -\n  - 1\n", "a.0.b", 1, "a:\n  - {b: 1}\n  - 1\n"),
    "two levels to a block": ("a:\n  b: 1\n", "a.lora.r", 16, "a:\n  b: 1\n  lora: {r: 16}\n"),
    "a section": ("a: 1\n# end\n", "b.c", 2, "a: 1\n# end\nb:\n  c: 2\n"),
    "a section, apart": ("a: 1\n\nb:\n    x: 1\n", "c.d.e", 2, "a: 1\n\nb:\n    x: 1\n\nc:\n    d: {e: 2}\n"),
    "a section without a last line end": ("a: 1", "b.c", 2, "a: 1\nb:\n  c: 2"),
    "a section with line ends of Windows": (
        "a: 1\r\n\r\nb: 1\r\n",
        "c.d",
        2,
        "a: 1\r\n\r\nb: 1\r\n\r\nc:\r\n  d: 2\r\n",
    ),
    "at the top": ("a: 1\n", "output", "runs", "a: 1\noutput: runs\n"),
    "at the top of a flow": ("{a: 1}\n", "b.c", 2, "{a: 1, b: {c: 2}}\n"),
}

REFUSED = {
    "an anchor that is used": ("a: &x 1\nb: *x\n", "a", 2),
    "an alias": ("a: &x 1\nb: *x\n", "b", 2),
    "inside an alias": ("a: &x {c: 1}\nb: *x\n", "b.c", 2),
    "to an alias": ("a: &x {c: 1}\nb: *x\n", "b.d", 2),
    "inside what is merged": ("x: &x {b: {c: 1, d: 1}}\na:\n  <<: *x\n", "a.b.c", 2),
    "below a value": ("a: 1\n", "a.b", 2),
    "an entry that is not there": ("a: [1]\n", "a.1", 2),
    "an entry of a list that is not there": ("a: {}\n", "a.train.0.path", "x"),
    "a named entry of a list": ("a: [1]\n", "a.b", 2),
    "in a file that not every reader takes": ("a:\t1\nb: 1\n", "b", 2),
    "behind the end of the document": ("a: 1\n...\n", "b.c", 2),
}


@pytest.mark.parametrize("case", [*REPLACED.values(), *ADDED.values()], ids=[*REPLACED, *ADDED])
def test_a_change_is_made_and_nothing_else(case: tuple[str, str, Any, str | None]) -> None:
    text, key, value, wanted = case
    patched = patch_text(text, [(key, value)])
    assert _at(plain(patched, "").value, key) == value
    assert wanted is None or patched == wanted


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED)
def test_what_would_change_other_keys_is_left_to_the_hand(case: tuple[str, str, Any]) -> None:
    text, key, value = case
    with pytest.raises(FtrunError, match="by hand"):
        patch_text(text, [(key, value)])


def test_changes_build_on_one_another() -> None:
    changes = [("training.seed", 1), ("training.max_length", 256), ("training.seed", 2)]
    assert patch_text("name: x\n", changes) == "name: x\ntraining:\n  seed: 2\n  max_length: 256\n"


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (2e-5, "2.0e-5"),
        (1.25e-6, "1.25e-6"),
        (0.0002, "2.0e-4"),
        (1e22, "1.0e+22"),
        (0.05, "0.05"),
        (5.0, "5.0"),
        (-0.0, "-0.0"),
        (float("inf"), ".inf"),
        (16, "16"),
        (True, "true"),
        (None, "null"),
        ("epoch", "epoch"),
        ("no", '"no"'),
        ("1e-5", '"1e-5"'),
        ("2026-13-01", '"2026-13-01"'),
        ("1:30", '"1:30"'),
        ("", '""'),
        ("a: b", '"a: b"'),
        ("a, b", "a, b"),
        ("data/my rows.jsonl", "data/my rows.jsonl"),
        ("<|im_end|>", "<|im_end|>"),
        ("{{ x }}", '"{{ x }}"'),
        ("*", '"*"'),
        (" x", '" x"'),
        ("\u2028\x7f😀\n", '"\\U00002028\\U0000007f😀\\n"'),
        ({"prompt": "question", "on": "a, b"}, '{prompt: question, "on": "a, b"}'),
        ([{"path": "x"}, 1e-8, []], "[{path: x}, 1.0e-8, []]"),
    ],
)
def test_values_are_written_as_recipes_write_them(value: Any, written: str) -> None:
    assert as_yaml(value) == written
    read = plain(f"x: {written}\n", "").value["x"]
    assert read == value and type(read) is type(value)


def test_random_recipes_keep_all_but_the_changed_key() -> None:
    random_ = random.Random(20)
    for _ in range(400):
        text = _document(random_)
        tree = yaml.safe_load(text)
        path = random_.choice(list(_paths(tree)))
        value = random_.choice([2e-5, 7, True, "no", "a # b", {"prompt": "question"}, [1, {"x": "y"}], {}])
        is_new = isinstance(_at(tree, path), dict | None) and random_.random() < 0.6
        patched = patch_text(text, [(f"{path}.fresh" if is_new else path, value)])
        expected = _set(tree, [*path.split("."), *(["fresh"] if is_new else [])], value)
        told = f"{text}\n→ {path} = {value!r}\n{patched}"
        assert yaml.safe_load(patched) == expected, told
        assert (_is_insertion if is_new else _is_within)(text, patched, path), told


def _is_insertion(before: str, after: str, path: str) -> bool:
    """Whether no character is lost, but for a `~` in whose place a section begins."""
    head = _count_alike(before, after)
    return len(before) - head - _count_alike(before[head:][::-1], after[head:][::-1]) <= 1


def _count_alike(one: str, other: str) -> int:
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (left, right) in pairs if left != right), min(len(one), len(other)))


def _is_within(before: str, after: str, path: str) -> bool:
    """Whether the lines before the key and from the next one on are kept, and every comment that does not
    stand inside the value that went."""
    places = {dotted(keys): where.line or 0 for keys, where in plain(before, "").keys.items()}
    inside = [line for key, line in places.items() if key == path or key.startswith(f"{path}.")]
    lines = before.splitlines(keepends=True)
    following = min([line for line in places.values() if line > max(inside)], default=len(lines) + 1)
    kept = set(COMMENT.findall(after))
    lost = [index for index, line in enumerate(lines, 1) if not set(COMMENT.findall(line)) <= kept]
    is_block_entry = path[-1].isdecimal() and path[-2:-1] in ("", ".") and len(inside) > 1
    return (
        after.startswith("".join(lines[: places[path] - 1]))
        and after.endswith("".join(lines[following - 1 :]))
        and all(places[path] - is_block_entry < line <= max(inside) for line in lost)
    )


def _document(random_: random.Random) -> str:
    newline = random_.choice(["\n", "\n", "\r\n"])
    lines = [_comment(random_), *_mapping(random_, 0, 0)]
    if random_.random() < 0.3:
        lines.append(_comment(random_))
    return newline.join(lines) + (newline if random_.random() < 0.8 else "")


def _comment(random_: random.Random) -> str:
    """A comment that no other is equal to."""
    return f"#{random_.randrange(10**12)} why: {{x}}"


def _mapping(random_: random.Random, depth: int, column: int) -> list[str]:
    """Lines of a block mapping in block and flow style, with comments and blank lines."""
    lines: list[str] = []
    margin = " " * column
    for index in range(random_.randint(1, 4)):
        key = random_.choice(["key", '"key"', "'key'"]).replace("key", f"k{index}")
        comment = random_.choice(["", "", f"  {_comment(random_)}"])
        kind = random_.choice(["scalar", "flow", "empty", "literal", "mapping", "list"])
        if random_.random() < 0.2:
            lines += random_.choice([[""], [f"{margin}{_comment(random_)}"], ["", _comment(random_)]])
        if kind == "mapping" and depth < 3:
            step = random_.choice([2, 2, 4])
            lines += [f"{margin}{key}:{comment}", *_mapping(random_, depth + 1, column + step)]
        elif kind == "list" and depth < 3:
            lines += [f"{margin}{key}:{comment}", *_list(random_, depth, column + random_.choice([0, 2]))]
        elif kind == "literal":
            lines += [
                f"{margin}{key}: {random_.choice('|>')}-",
                f"{margin}  some # text",
                "",
                f"{margin}  more",
            ]
        elif kind == "flow":
            lines.append(f"{margin}{key}: {_flow(random_, 0)}{comment}")
        elif kind == "empty":
            lines.append(f"{margin}{key}:{comment}")
        else:
            lines.append(f"{margin}{key}: {_scalar(random_)}{comment}")
    return lines


def _list(random_: random.Random, depth: int, column: int) -> list[str]:
    lines: list[str] = []
    for _ in range(random_.randint(1, 3)):
        if random_.random() < 0.5:
            lines.append(f"{' ' * column}- {_flow(random_, 1)}")
            continue
        entry = _mapping(random_, depth + 1, column + 2)
        while not entry[0].startswith(" " * (column + 2)) or entry[0].lstrip().startswith("#"):
            entry.pop(0)  # a dash stands before a key
        lines += [f"{' ' * column}- {entry[0][column + 2 :]}", *entry[1:]]
    return lines


def _flow(random_: random.Random, depth: int) -> str:
    kind = random_.choice(["scalar", "mapping", "list"])
    count = random_.randint(0, 3)
    if kind == "mapping" and depth < 3:
        pairs = (f"f{index}: {_flow(random_, depth + 1)}" for index in range(count))
        return random_.choice(["{%s}", "{ %s }", "{%s }"]) % ", ".join(pairs)
    if kind == "list" and depth < 3:
        return random_.choice(["[%s]", "[ %s]"]) % ", ".join(_flow(random_, depth + 1) for _ in range(count))
    return _scalar(random_)


def _scalar(random_: random.Random) -> str:
    return random_.choice(["1", "2.0e-5", "true", "~", "text", "'it''s # no'", '"é \\n x: y"', "two words"])


def _paths(value: Any, above: tuple[str, ...] = ()) -> Any:
    children = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    for name, child in children:
        yield ".".join((*above, str(name)))
        yield from _paths(child, (*above, str(name)))


def _at(tree: Any, path: str) -> Any:
    for name in path.split("."):
        tree = tree[int(name)] if isinstance(tree, list) else tree[name]
    return tree


def _set(tree: Any, names: list[str], value: Any) -> Any:
    if not names:
        return value
    if isinstance(tree, list):
        return [_set(one, names[1:], value) if i == int(names[0]) else one for i, one in enumerate(tree)]
    holder = tree or {}
    return {**holder, names[0]: _set(holder.get(names[0]), names[1:], value)}
