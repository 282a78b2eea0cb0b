"""`python -m ftrun`, the same as `ftrun`."""

from ftrun.runner.cli import main

main()
