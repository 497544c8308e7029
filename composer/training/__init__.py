"""Training of a mix: data, warm start, fine-tune."""
