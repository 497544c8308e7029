"""The screens: the command line (`ui.cli`) and the web app (`ui.frame`, `ui.pages`). They contain no model code."""
