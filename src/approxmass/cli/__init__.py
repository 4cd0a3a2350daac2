"""The command `approxmass`: parsing and printing."""
