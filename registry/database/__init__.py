"""Tables, engines, migrations, and the records read from rows."""
