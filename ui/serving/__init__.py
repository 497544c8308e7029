"""The API server: one mix behind the protocol of OpenAI's chat and completions."""
