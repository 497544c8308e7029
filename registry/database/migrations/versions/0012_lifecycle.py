"""Drafts, purged versions, and tags, authors and README of experts."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("experts", sa.Column("draft", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.add_column("experts", sa.Column("purged_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("experts", sa.Column("purged", sa.JSON(), nullable=True))
    op.add_column("experts", sa.Column("readme", sa.Text(), nullable=True))
    op.create_table(
        "expert_labels",
        sa.Column("expert_id", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(10), nullable=False),
        sa.Column("value", sa.String(100), nullable=False),
        sa.ForeignKeyConstraint(
            ["expert_id"], ["experts.id"], name=op.f("fk_expert_labels_expert_id_experts")
        ),
        sa.PrimaryKeyConstraint("expert_id", "kind", "value", name=op.f("pk_expert_labels")),
    )
    op.create_index("ix_expert_labels_kind_value", "expert_labels", ["kind", "value", "expert_id"])


def downgrade() -> None:
    op.drop_table("expert_labels")
    for column in ("draft", "purged_at", "purged", "readme"):
        op.drop_column("experts", column)
