"""`python -m approxmass_onnx`."""

from .command import main

main()
