"""Words and JSON that the command line, the pages and the worker share; nothing here loads a screen."""
