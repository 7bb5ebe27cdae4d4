"""A phone number is optional now, and long enough for an extension."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

COMMENT = "International form; NULL where the customer gave none"


def upgrade() -> None:
    # SQLite cannot alter a column: there the batch copies the table, elsewhere it is one ALTER TABLE.
    with op.batch_alter_table("customers") as customers:
        customers.alter_column(
            "phone",
            existing_type=sa.String(20),
            existing_nullable=False,
            type_=sa.String(32),
            nullable=True,
            comment=COMMENT,
        )
    op.execute("UPDATE customers SET phone = NULL WHERE phone = ''")


def downgrade() -> None:
    # What NULL says now, an empty string said before; a number that has become too long loses its end.
    op.execute("UPDATE customers SET phone = COALESCE(SUBSTR(phone, 1, 20), '')")
    with op.batch_alter_table("customers") as customers:
        customers.alter_column(
            "phone",
            existing_type=sa.String(32),
            existing_nullable=True,
            existing_comment=COMMENT,
            type_=sa.String(20),
            nullable=False,
            comment=None,
        )
