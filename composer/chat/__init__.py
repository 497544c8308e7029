"""Chat: which template a mix uses, its rendering in a limited process, and replies to conversations."""
