"""The one training loop, and what runs in it."""
