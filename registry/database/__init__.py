"""Tables, engines, migrations, and the conversion of rows to records."""
