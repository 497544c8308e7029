"""The database's id, which identifies it to a blob store."""

from uuid import uuid4

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    table = op.create_table(
        "database_id",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_database_id"),
    )
    op.bulk_insert(table, [{"id": uuid4().hex}])


def downgrade() -> None:
    op.drop_table("database_id")
