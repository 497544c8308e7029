"""The user interfaces: the command line (`ui.cli`) and the web app (`ui.web`). They contain no model code."""
