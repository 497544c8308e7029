"""Vectors of cards, and indexes for lists that are filtered or sorted."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

INDEXES = {
    "ix_experts_seed_id_name_key": ("seed_id", "name_key", "version"),
    "ix_experts_license_name_key": ("license", "name_key", "version"),
    "ix_experts_seed_id_created_at": ("seed_id", "created_at", "id"),
    "ix_experts_license_created_at": ("license", "created_at", "id"),
    "ix_experts_seed_id_parameters": ("seed_id", "parameters", "id"),
    "ix_experts_license_parameters": ("license", "parameters", "id"),
    "ix_experts_created_at": ("created_at", "id"),
    "ix_experts_parameters": ("parameters", "id"),
}


def upgrade() -> None:
    op.add_column("embeddings", sa.Column("card", sa.LargeBinary(), nullable=True))
    for name, columns in INDEXES.items():
        op.create_index(name, "experts", list(columns))


def downgrade() -> None:
    for name in INDEXES:
        op.drop_index(name, table_name="experts")
    op.drop_column("embeddings", "card")
