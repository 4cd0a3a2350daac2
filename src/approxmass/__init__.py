"""Tell, for one input, whether a model has any business with it."""
