"""`python -m cluster` is `rloop`, for where the console script is not on PATH."""

from cluster.cli import main

main()
