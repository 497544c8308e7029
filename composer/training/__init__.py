"""Training of a mix: training data, warm start and fine-tune."""
