"""How long `ftrun validate` takes: one recipe from the shell, and 500 recipes at once.

    python benchmarks/validate.py [--pairs 15]

The first figure is the wall time of `ftrun validate recipes/sft.yaml` against that of importing what it is
built on, `python -c "import pydantic, yaml, typer, rich"`, run in turn: medians, and the median of the ratios.
pydantic and typer import lazily, so that line is less than what using them costs; the second line, which
defines and uses one model, shows by how much.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RECIPE = ROOT / "recipes" / "sft.yaml"
IMPORTS = "import pydantic, yaml, typer, rich"
MODEL = f"{IMPORTS}\nclass A(pydantic.BaseModel): x: int\nA(x=1)"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=15)
    pairs = parser.parse_args().pairs
    validate = [str(Path(sys.executable).with_name("ftrun")), "validate", str(RECIPE)]
    for name, code in (("imports alone", IMPORTS), ("imports and one model", MODEL)):
        timed = [(measure(validate), measure([sys.executable, "-c", code])) for _ in range(pairs)]
        ours, theirs = (statistics.median(column) for column in zip(*timed, strict=True))
        ratio = statistics.median(one / other for one, other in timed)
        print(
            f"ftrun validate {ours:.3f} s, {name} {theirs:.3f} s: {ratio:.2f} times (median of {pairs} pairs)"
        )
    print(f"500 recipes at once: {measure_many(validate[:2], 500) * 1000:.2f} ms for each further one")


def measure(command: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - began


def measure_many(command: list[str], count: int) -> float:
    """Seconds for each recipe beyond the first, in a folder of copies with the data beside them."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "data").symlink_to(RECIPE.parent / "data")
        paths = [Path(folder) / f"recipe-{number}.yaml" for number in range(count)]
        for path in paths:
            path.write_text(RECIPE.read_text(encoding="utf-8"), encoding="utf-8")
        one = min(measure([*command, str(paths[0])]) for _ in range(5))
        many = min(measure([*command, *map(str, paths)]) for _ in range(3))
    return (many - one) / (count - 1)


if __name__ == "__main__":
    main()
