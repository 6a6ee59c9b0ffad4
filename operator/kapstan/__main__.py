"""``python -m kapstan``: the command line."""

from kapstan.cli import main

main()
