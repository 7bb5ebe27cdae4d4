"""A view: what each customer has brought in, also those who never bought."""

from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.execute("""
        CREATE VIEW customer_revenue AS
        SELECT c.id AS customer_id, c.name, c.country,
               COUNT(o.id) AS order_count,
               ROUND(COALESCE(SUM(o.total), 0), 2) AS revenue,
               MAX(o.ordered_at) AS last_ordered_at
        FROM customers c
        LEFT JOIN orders o ON o.customer_id = c.id AND o.status NOT IN ('returned', 'cancelled')
        GROUP BY c.id, c.name, c.country
    """)


def downgrade() -> None:
    op.execute("DROP VIEW customer_revenue")
