"""Aliases: words such as `stable` that refer to one version of an expert and may be moved."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "aliases",
        sa.Column("name_key", sa.String(length=400), nullable=False),
        sa.Column("alias", sa.String(length=32), nullable=False),
        sa.Column("expert_id", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["expert_id"], ["experts.id"], name="fk_aliases_expert_id_experts"),
        sa.PrimaryKeyConstraint("name_key", "alias", name="pk_aliases"),
    )


def downgrade() -> None:
    op.drop_table("aliases")
