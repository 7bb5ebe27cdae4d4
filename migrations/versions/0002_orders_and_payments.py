"""Orders with their items, and the payments for them."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

STORAGE: dict[str, Any] = {
    "mysql_engine": "InnoDB",
    "mysql_charset": "utf8mb4",
    "mariadb_engine": "InnoDB",
    "mariadb_charset": "utf8mb4",
}

# A type of its own, an ENUM column or a check, whichever the database has.
ORDER_STATUS = sa.Enum(
    "new", "paid", "shipped", "delivered", "returned", "cancelled", name="order_status", create_constraint=True
)


def upgrade() -> None:
    _create_orders()
    _create_order_items()
    _create_payments()


def downgrade() -> None:
    op.drop_table("payments")
    op.drop_table("order_items")
    op.drop_table("orders")
    # Where the enum is a type of its own, it outlives the table.
    ORDER_STATUS.drop(op.get_bind(), checkfirst=True)


def _create_orders() -> None:
    op.create_table(
        "orders",
        sa.Column("id", sa.Integer, sa.Identity(), nullable=False),
        sa.Column(
            "number", sa.String(20), nullable=False, comment="Printed on the invoice: year, dash, running number"
        ),
        sa.Column("customer_id", sa.Integer, nullable=False),
        sa.Column("status", ORDER_STATUS, nullable=False, server_default="new"),
        sa.Column("ordered_at", sa.DateTime, nullable=False, comment="UTC"),
        sa.Column("shipped_at", sa.DateTime, comment="UTC; NULL until the parcel leaves"),
        sa.Column("shipping", sa.Numeric(6, 2), nullable=False, server_default="0", comment="Shipping fee in EUR"),
        sa.Column("total", sa.Numeric(12, 2), nullable=False, comment="EUR: the items' amounts and the shipping fee"),
        sa.Column("note", sa.Text, comment="What the customer wrote at the check-out"),
        sa.PrimaryKeyConstraint("id", name="pk_orders"),
        sa.UniqueConstraint("number", name="uq_orders_number"),
        sa.ForeignKeyConstraint(["customer_id"], ["customers.id"], name="fk_orders_customer_id_customers"),
        sa.CheckConstraint("shipped_at >= ordered_at", name="ck_orders_shipped_at"),
        sa.CheckConstraint("shipping >= 0", name="ck_orders_shipping"),
        sa.CheckConstraint("total >= shipping", name="ck_orders_total"),
        comment="One row an order, cancelled ones included",
        **STORAGE,
    )
    op.create_index("ix_orders_customer_id", "orders", ["customer_id"])


def _create_order_items() -> None:
    op.create_table(
        "order_items",
        sa.Column("order_id", sa.Integer, nullable=False),
        sa.Column("line", sa.Integer, nullable=False, comment="Position in the order, from 1"),
        sa.Column("product_id", sa.Integer, nullable=False),
        sa.Column("quantity", sa.Integer, nullable=False),
        sa.Column("unit_price", sa.Numeric(10, 2), nullable=False, comment="EUR, the price on the day of the order"),
        sa.PrimaryKeyConstraint("order_id", "line", name="pk_order_items"),
        sa.ForeignKeyConstraint(["order_id"], ["orders.id"], name="fk_order_items_order_id_orders", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["product_id"], ["products.id"], name="fk_order_items_product_id_products"),
        sa.CheckConstraint("quantity > 0", name="ck_order_items_quantity"),
        sa.CheckConstraint("unit_price > 0", name="ck_order_items_unit_price"),
        comment="The lines of the orders",
        **STORAGE,
    )
    op.create_index("ix_order_items_product_id", "order_items", ["product_id"])


def _create_payments() -> None:
    op.create_table(
        "payments",
        sa.Column("id", sa.Integer, sa.Identity(), nullable=False),
        sa.Column("order_id", sa.Integer, nullable=False),
        sa.Column("method", sa.String(10), nullable=False),
        sa.Column("amount", sa.Numeric(12, 2), nullable=False, comment="EUR; below zero for a refund"),
        sa.Column("paid_at", sa.DateTime, nullable=False, comment="UTC"),
        sa.PrimaryKeyConstraint("id", name="pk_payments"),
        sa.ForeignKeyConstraint(["order_id"], ["orders.id"], name="fk_payments_order_id_orders"),
        sa.CheckConstraint("method IN ('card', 'transfer', 'wallet', 'voucher')", name="ck_payments_method"),
        sa.CheckConstraint("amount <> 0", name="ck_payments_amount"),
        comment="Money in and out; an order may have several",
        **STORAGE,
    )
    op.create_index("ix_payments_order_id", "payments", ["order_id"])
