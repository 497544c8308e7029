"""Text and JSON shapes shared by the command line, the pages and the worker; imports no user interface."""
