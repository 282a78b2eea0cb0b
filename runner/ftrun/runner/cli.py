"""The entry point: run a command, and turn what goes wrong into one line and an exit code."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from ftrun.runner.launching.surroundings import settle_ranks
from ftrun.runner.ranks import is_told
from ftrun.schemas.errors import FtrunError


def main() -> None:
    """Run the command line.

    A FtrunError is one line on stderr and exit code 1, and so is a path that the system refuses; anything else
    is told to be ftrun's own fault.
    """
    # pydantic would look for plugins in the metadata of every installed package; recipes use none.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    try:
        settle_ranks()
        sys.exit(_run(sys.argv[1:]))
    except FtrunError as error:
        if not is_told(error):
            print(f"ftrun: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # The reader of the pipe has seen enough; Python would complain once more when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as error:
        if isinstance(error, OSError) and error.filename is not None:  # a path that is given leads nowhere
            print(f"ftrun: {str(error.filename)[:200]}: {error.strerror}", file=sys.stderr)
            sys.exit(1)
        import traceback

        traceback.print_exc()
        print(
            f"ftrun: this is a fault of ftrun, not yours: {type(error).__name__}: {error}\n"
            "Please report it with the lines above, and the recipe if you can share it.",
            file=sys.stderr,
        )
        sys.exit(1)


def _run(words: list[str]) -> int:
    if words[:1] == ["validate"] and len(words) > 1 and not any(word.startswith("-") for word in words):
        # Without options there is nothing to parse, and a hook that validates on every commit need not wait
        # for typer to be imported.
        from ftrun.runner.validate import validate_recipes

        return validate_recipes([Path(word) for word in words[1:]], sets=(), ignore={}, format="text")
    from ftrun.runner.commands import app

    app()
    return 0
