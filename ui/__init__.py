"""The screens: the command line (`ui.cli`) and the web app (`ui.app`). They hold no model code."""
