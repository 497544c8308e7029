"""Parts that the verbs share: options, output, exit codes, tables of results."""
