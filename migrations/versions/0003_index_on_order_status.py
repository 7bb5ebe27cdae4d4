"""An index for the daily question: which orders are open, oldest first?"""

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.create_index("ix_orders_status_ordered_at", "orders", ["status", "ordered_at"])


def downgrade() -> None:
    op.drop_index("ix_orders_status_ordered_at", "orders")
