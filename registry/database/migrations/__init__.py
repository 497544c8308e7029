"""Alembic migrations of the registry's database; they ship with the package and run by themselves."""
