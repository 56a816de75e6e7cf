"""`python -m fewer`: the command line, where the `fewer` script is not on the path."""

from fewer.cli.main import main

main()
