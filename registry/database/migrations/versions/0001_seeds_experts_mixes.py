"""Seeds, experts and mixes, and the blobs that they refer to."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "blobs",
        sa.Column("digest", sa.String(length=71), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("digest", name="pk_blobs"),
    )
    op.create_table(
        "seeds",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("name_key", sa.String(length=400), nullable=False),
        sa.Column("license", sa.Text(), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("model_type", sa.String(length=100), nullable=False),
        sa.Column("config", sa.JSON(), nullable=False),
        sa.Column("dtype", sa.String(length=20), nullable=False),
        sa.Column("parameters", sa.BigInteger(), nullable=False),
        sa.Column("ffn", sa.String(length=71), nullable=False),
        sa.Column("trunk", sa.String(length=71), nullable=False),
        sa.Column("sample", sa.String(length=71), nullable=True),
        sa.Column("held_out", sa.String(length=71), nullable=True),
        sa.Column("chunk_vectors", sa.String(length=71), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["chunk_vectors"], ["blobs.digest"], name="fk_seeds_chunk_vectors_blobs"),
        sa.ForeignKeyConstraint(["ffn"], ["blobs.digest"], name="fk_seeds_ffn_blobs"),
        sa.ForeignKeyConstraint(["held_out"], ["blobs.digest"], name="fk_seeds_held_out_blobs"),
        sa.ForeignKeyConstraint(["sample"], ["blobs.digest"], name="fk_seeds_sample_blobs"),
        sa.ForeignKeyConstraint(["trunk"], ["blobs.digest"], name="fk_seeds_trunk_blobs"),
        sa.PrimaryKeyConstraint("id", name="pk_seeds"),
        sa.UniqueConstraint("name_key", name="uq_seeds_name_key"),
    )
    op.create_table(
        "experts",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("name_key", sa.String(length=400), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("seed_id", sa.Integer(), nullable=False),
        sa.Column("license", sa.Text(), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("dtype", sa.String(length=20), nullable=False),
        sa.Column("parameters", sa.BigInteger(), nullable=False),
        sa.Column("ffn_width", sa.Integer(), nullable=False),
        sa.Column("ffn", sa.String(length=71), nullable=False),
        sa.Column("trunk", sa.String(length=71), nullable=False),
        sa.Column("anchored", sa.Boolean(), nullable=False),
        sa.Column("sample", sa.String(length=71), nullable=True),
        sa.Column("held_out", sa.String(length=71), nullable=True),
        sa.Column("chunk_vectors", sa.String(length=71), nullable=True),
        sa.Column("provenance", sa.JSON(), nullable=False),
        sa.Column("withdrawn", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["chunk_vectors"], ["blobs.digest"], name="fk_experts_chunk_vectors_blobs"),
        sa.ForeignKeyConstraint(["ffn"], ["blobs.digest"], name="fk_experts_ffn_blobs"),
        sa.ForeignKeyConstraint(["held_out"], ["blobs.digest"], name="fk_experts_held_out_blobs"),
        sa.ForeignKeyConstraint(["sample"], ["blobs.digest"], name="fk_experts_sample_blobs"),
        sa.ForeignKeyConstraint(["seed_id"], ["seeds.id"], name="fk_experts_seed_id_seeds"),
        sa.ForeignKeyConstraint(["trunk"], ["blobs.digest"], name="fk_experts_trunk_blobs"),
        sa.PrimaryKeyConstraint("id", name="pk_experts"),
        sa.UniqueConstraint("name_key", "version", name="uq_experts_name_key_version"),
    )
    op.create_index("ix_experts_seed_id", "experts", ["seed_id"])

    op.create_table(
        "mixes",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("name_key", sa.String(length=400), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("seed_id", sa.Integer(), nullable=False),
        sa.Column("parent_id", sa.Integer(), nullable=True),
        sa.Column("manifest", sa.String(length=71), nullable=False),
        sa.Column("lock", sa.String(length=71), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["lock"], ["blobs.digest"], name="fk_mixes_lock_blobs"),
        sa.ForeignKeyConstraint(["manifest"], ["blobs.digest"], name="fk_mixes_manifest_blobs"),
        sa.ForeignKeyConstraint(["parent_id"], ["mixes.id"], name="fk_mixes_parent_id_mixes"),
        sa.ForeignKeyConstraint(["seed_id"], ["seeds.id"], name="fk_mixes_seed_id_seeds"),
        sa.PrimaryKeyConstraint("id", name="pk_mixes"),
        sa.UniqueConstraint("name_key", "version", name="uq_mixes_name_key_version"),
    )
    op.create_table(
        "seed_files",
        sa.Column("seed_id", sa.Integer(), nullable=False),
        sa.Column("filename", sa.String(length=255), nullable=False),
        sa.Column("digest", sa.String(length=71), nullable=False),
        sa.ForeignKeyConstraint(["digest"], ["blobs.digest"], name="fk_seed_files_digest_blobs"),
        sa.ForeignKeyConstraint(["seed_id"], ["seeds.id"], name="fk_seed_files_seed_id_seeds"),
        sa.PrimaryKeyConstraint("seed_id", "filename", name="pk_seed_files"),
    )
    op.create_table(
        "embeddings",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("expert_id", sa.Integer(), nullable=False),
        sa.Column("embedder_name", sa.Text(), nullable=False),
        sa.Column("embedder_revision", sa.Text(), nullable=False),
        sa.Column("dimension", sa.Integer(), nullable=False),
        sa.Column("pooling", sa.String(length=50), nullable=False),
        sa.Column("mean", sa.LargeBinary(), nullable=False),
        sa.Column("centroids", sa.LargeBinary(), nullable=False),
        sa.Column("weights", sa.LargeBinary(), nullable=False),
        sa.Column("chunk_count", sa.Integer(), nullable=False),
        sa.Column("sample_sha256", sa.String(length=71), nullable=False),
        sa.ForeignKeyConstraint(["expert_id"], ["experts.id"], name="fk_embeddings_expert_id_experts"),
        sa.PrimaryKeyConstraint("id", name="pk_embeddings"),
        sa.UniqueConstraint("expert_id", name="uq_embeddings_expert_id"),
    )
    op.create_table(
        "evaluations",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("mix_id", sa.Integer(), nullable=False),
        sa.Column("result", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["mix_id"], ["mixes.id"], name="fk_evaluations_mix_id_mixes"),
        sa.PrimaryKeyConstraint("id", name="pk_evaluations"),
    )
    op.create_index("ix_evaluations_mix_id", "evaluations", ["mix_id"])

    op.create_table(
        "mix_blobs",
        sa.Column("mix_id", sa.Integer(), nullable=False),
        sa.Column("digest", sa.String(length=71), nullable=False),
        sa.ForeignKeyConstraint(["digest"], ["blobs.digest"], name="fk_mix_blobs_digest_blobs"),
        sa.ForeignKeyConstraint(["mix_id"], ["mixes.id"], name="fk_mix_blobs_mix_id_mixes"),
        sa.PrimaryKeyConstraint("mix_id", "digest", name="pk_mix_blobs"),
    )
    op.create_table(
        "mix_experts",
        sa.Column("mix_id", sa.Integer(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("expert_id", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["expert_id"], ["experts.id"], name="fk_mix_experts_expert_id_experts"),
        sa.ForeignKeyConstraint(["mix_id"], ["mixes.id"], name="fk_mix_experts_mix_id_mixes"),
        sa.PrimaryKeyConstraint("mix_id", "position", name="pk_mix_experts"),
    )
    op.create_index("ix_mix_experts_expert_id", "mix_experts", ["expert_id"])


def downgrade() -> None:
    tables = (
        "mix_experts",
        "mix_blobs",
        "evaluations",
        "embeddings",
        "seed_files",
        "mixes",
        "experts",
        "seeds",
        "blobs",
    )
    for table in tables:
        op.drop_table(table)
