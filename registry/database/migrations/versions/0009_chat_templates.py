"""Chat templates of experts that came with one."""

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # One statement for both databases: SQLite adds a constraint with its column only.
    op.execute(
        "ALTER TABLE experts ADD COLUMN chat_template VARCHAR(71) "
        "CONSTRAINT fk_experts_chat_template_blobs REFERENCES blobs (digest)"
    )


def downgrade() -> None:
    op.drop_column("experts", "chat_template")
