"""Training of dense experts, and contribution of models and adapters."""
