"""Favourites of each user."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "favourites",
        sa.Column("actor", sa.String(200), nullable=False),
        sa.Column("kind", sa.String(10), nullable=False),
        sa.Column("name_key", sa.String(400), nullable=False),
        sa.PrimaryKeyConstraint("actor", "kind", "name_key", name=op.f("pk_favourites")),
    )


def downgrade() -> None:
    op.drop_table("favourites")
