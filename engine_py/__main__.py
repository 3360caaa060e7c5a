"""python -m engine_py: the command line."""

from engine_py.cli import main

main()
