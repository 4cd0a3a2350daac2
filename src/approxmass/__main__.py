"""`python -m approxmass` is the command `approxmass`."""

from .cli import main

main()
