"""Experts that are stored as a low-rank difference from their seed."""

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # One statement for both databases: SQLite adds a constraint with its column only.
    op.execute(
        "ALTER TABLE experts ADD COLUMN difference VARCHAR(71) "
        "CONSTRAINT fk_experts_difference_blobs REFERENCES blobs (digest)"
    )


def downgrade() -> None:
    op.drop_column("experts", "difference")
