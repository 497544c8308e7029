"""The web app's pages, one per file; each has a `render` function and contains no model code."""
