"""The web app's screens, one a file; each has a `render` function and holds no model code."""
