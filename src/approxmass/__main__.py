"""`python -m approxmass` is the command `approxmass`."""

from .cli.main import main

main()
