"""Training of dense experts, and contribution of checkpoints and adapters."""
