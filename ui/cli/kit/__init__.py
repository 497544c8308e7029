"""Parts shared by the commands: options, output, exit codes and result tables."""
