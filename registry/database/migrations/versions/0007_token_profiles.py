"""Token profiles of experts whose text stays private."""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # One statement for both databases: SQLite adds a constraint with its column only.
    op.execute(
        "ALTER TABLE experts ADD COLUMN profile VARCHAR(71) "
        "CONSTRAINT fk_experts_profile_blobs REFERENCES blobs (digest)"
    )


def downgrade() -> None:
    op.drop_column("experts", "profile")
