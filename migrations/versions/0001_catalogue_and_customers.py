"""The catalogue (categories, products) and the customers."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

# Foreign keys need InnoDB, and people's names need every letter. Spelled twice, as the URL may use either name.
STORAGE: dict[str, Any] = {
    "mysql_engine": "InnoDB",
    "mysql_charset": "utf8mb4",
    "mariadb_engine": "InnoDB",
    "mariadb_charset": "utf8mb4",
}


def upgrade() -> None:
    _create_categories()
    _create_products()
    _create_customers()


def downgrade() -> None:
    op.drop_table("customers")
    op.drop_table("products")
    op.drop_table("categories")


def _create_categories() -> None:
    op.create_table(
        "categories",
        sa.Column("id", sa.Integer, sa.Identity(), nullable=False),
        sa.Column("name", sa.String(60), nullable=False),
        sa.Column("parent_id", sa.Integer, comment="NULL for the departments at the top"),
        # Named as in the spreadsheet that the shop grew from: this one has to be quoted on every database.
        sa.Column("VAT rate", sa.Numeric(4, 2), nullable=False, comment="Percent, contained in the prices"),
        sa.PrimaryKeyConstraint("id", name="pk_categories"),
        sa.UniqueConstraint("name", name="uq_categories_name"),
        sa.ForeignKeyConstraint(["parent_id"], ["categories.id"], name="fk_categories_parent_id_categories"),
        sa.CheckConstraint(sa.column("VAT rate", sa.Numeric) >= 0, name="ck_categories_vat_rate"),
        comment="Departments and the categories in them",
        **STORAGE,
    )


def _create_products() -> None:
    op.create_table(
        "products",
        sa.Column("id", sa.Integer, sa.Identity(), nullable=False),
        sa.Column("sku", sa.String(12), nullable=False, comment="Stock keeping unit, printed on the label"),
        sa.Column("name", sa.String(80), nullable=False),
        sa.Column("category_id", sa.Integer, nullable=False),
        sa.Column("price", sa.Numeric(10, 2), nullable=False, comment="Today's list price in EUR"),
        sa.Column("weight_kg", sa.Numeric(8, 3), comment="NULL where nothing is shipped"),
        sa.Column("discontinued", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("added_on", sa.Date, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_products"),
        sa.UniqueConstraint("sku", name="uq_products_sku"),
        sa.ForeignKeyConstraint(["category_id"], ["categories.id"], name="fk_products_category_id_categories"),
        sa.CheckConstraint("price > 0", name="ck_products_price"),
        sa.CheckConstraint("weight_kg > 0", name="ck_products_weight_kg"),
        comment="What the shop sells or has sold",
        **STORAGE,
    )
    op.create_index("ix_products_category_id", "products", ["category_id"])


def _create_customers() -> None:
    op.create_table(
        "customers",
        sa.Column("id", sa.Integer, sa.Identity(), nullable=False),
        sa.Column("name", sa.String(80), nullable=False, comment="As the customer writes it"),
        sa.Column("company", sa.String(80), comment="NULL for private persons"),
        sa.Column("email", sa.String(120), nullable=False),
        sa.Column("phone", sa.String(20), nullable=False),
        sa.Column("city", sa.String(60), nullable=False),
        sa.Column("country", sa.CHAR(2), nullable=False, comment="ISO 3166-1 alpha-2"),
        sa.Column("tier", sa.String(10), nullable=False, server_default="standard"),
        sa.Column("registered_at", sa.DateTime, nullable=False, comment="UTC"),
        sa.PrimaryKeyConstraint("id", name="pk_customers"),
        sa.UniqueConstraint("email", name="uq_customers_email"),
        sa.CheckConstraint("tier IN ('standard', 'silver', 'gold')", name="ck_customers_tier"),
        comment="Everybody who ever registered",
        **STORAGE,
    )
