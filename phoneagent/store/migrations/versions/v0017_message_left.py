"""Whether the message of a call that the app made was left on a machine."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"


def upgrade() -> None:
    op.add_column("outbound_calls", sa.Column("message_left", sa.Boolean))


def downgrade() -> None:
    op.drop_column("outbound_calls", "message_left")
