"""The shop's database: one SQLite file, which builds itself on first use. Amounts are stored in cents."""

from __future__ import annotations

import os
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

from support_desk.shop import Order, OrderStatus, Refund, Reply

DEFAULT_PATH = ".perdure/support_desk.db"
BUSY_TIMEOUT_MS = 10_000
LOAD_CUSTOMERS = 100
"""Customers `customer-001@example.com` and so on, with one order each, for runs by the dozen."""

_SCHEMA = """
CREATE TABLE customers (email TEXT PRIMARY KEY, name TEXT NOT NULL);
CREATE TABLE orders (
  order_id TEXT PRIMARY KEY, email TEXT NOT NULL REFERENCES customers, item TEXT NOT NULL, cents INTEGER NOT NULL,
  status TEXT NOT NULL, ordered_at TEXT NOT NULL, delivered_at TEXT
);
-- Two refunds of one key are possible here, as at a payment provider that knows no idempotency keys.
CREATE TABLE refunds (
  id INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL, order_id TEXT NOT NULL REFERENCES orders,
  cents INTEGER NOT NULL, reason TEXT NOT NULL, refunded_at TEXT NOT NULL
);
CREATE INDEX refunds_by_key ON refunds (key);
CREATE INDEX refunds_by_order ON refunds (order_id);
CREATE TABLE replies (
  id INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL UNIQUE, email TEXT NOT NULL, text TEXT NOT NULL,
  sent_at TEXT NOT NULL
);
"""

_ORDERS = """
SELECT orders.*, customers.name, coalesce(sum(refunds.cents), 0) AS refunded
FROM orders JOIN customers USING (email) LEFT JOIN refunds USING (order_id)
WHERE {where} GROUP BY order_id ORDER BY order_id
"""


def database_path() -> Path:
    """Return where the database is: `SUPPORT_DESK_DB`, or a file under the working directory."""
    return Path(os.environ.get("SUPPORT_DESK_DB") or DEFAULT_PATH)


@contextmanager
def connect() -> Iterator[sqlite3.Connection]:
    """Open the database for one transaction: committed at the end of the block, rolled back if it raises."""
    path = database_path()
    if not path.exists():
        _build(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.row_factory = sqlite3.Row
        connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")


def orders_of(connection: sqlite3.Connection, email: str) -> list[Order]:
    """Return a customer's orders."""
    rows = connection.execute(_ORDERS.format(where="email = ?"), [email.strip().lower()])
    return [_order(row) for row in rows]


def find_order(connection: sqlite3.Connection, order_id: str) -> Order | None:
    """Return an order, if there is one of that id."""
    row = connection.execute(_ORDERS.format(where="order_id = ?"), [order_id]).fetchone()
    return None if row is None else _order(row)


def add_refund(connection: sqlite3.Connection, *, key: str, order_id: str, amount: Decimal, reason: str) -> Refund:
    """Record that money was paid back."""
    row = connection.execute(
        "INSERT INTO refunds (key, order_id, cents, reason, refunded_at) VALUES (?, ?, ?, ?, ?) RETURNING *",
        [key, order_id, int(amount * 100), reason, _now()],
    ).fetchone()
    return _refund(row)


def find_refund(connection: sqlite3.Connection, key: str) -> Refund | None:
    """Return the refund that a call made, if it made one."""
    row = connection.execute("SELECT * FROM refunds WHERE key = ? ORDER BY id", [key]).fetchone()
    return None if row is None else _refund(row)


def add_reply(connection: sqlite3.Connection, *, key: str, email: str, text: str) -> Reply:
    """Record a reply, or return the one that a call of this key has sent already."""
    connection.execute(
        "INSERT INTO replies (key, email, text, sent_at) VALUES (?, ?, ?, ?) ON CONFLICT (key) DO NOTHING",
        [key, email, text, _now()],
    )
    row = connection.execute("SELECT * FROM replies WHERE key = ?", [key]).fetchone()
    return Reply(reply_id=f"M-{row['id']:04}", to=row["email"], sent_at=row["sent_at"])


def _build(path: Path) -> None:
    """Build the file beside its place and put it there in one step: several workers may start at once, or die."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=path.name) as folder:
        unfinished = Path(folder) / path.name
        with closing(sqlite3.connect(unfinished)) as connection:
            connection.executescript(_SCHEMA)
            _fill(connection)
            connection.commit()
            connection.execute("PRAGMA journal_mode = WAL")
        try:
            path.hardlink_to(unfinished)
        except FileExistsError:
            return  # another process was first


def _fill(connection: sqlite3.Connection) -> None:
    customers = [("ann@example.com", "Ann Archer"), ("bob@example.com", "Bob Baker"), ("cid@example.com", "Cid Cole")]
    orders = [
        ("A-1001", "ann@example.com", "Espresso machine", 24_900, OrderStatus.DELIVERED, 12, 9),
        ("A-1002", "ann@example.com", "Milk jug", 1_995, OrderStatus.SHIPPED, 2, None),
        ("A-1003", "bob@example.com", "Coffee grinder", 8_950, OrderStatus.DELIVERED, 80, 75),
        ("A-1004", "cid@example.com", "Moka pot", 3_450, OrderStatus.PAID, 1, None),
    ]
    for number in range(1, LOAD_CUSTOMERS + 1):
        email = f"customer-{number:03}@example.com"
        customers.append((email, f"Customer {number}"))
        orders.append((f"A-{2000 + number}", email, "Coffee beans, 1 kg", 2_500, OrderStatus.DELIVERED, 10, 7))
    connection.executemany("INSERT INTO customers VALUES (?, ?)", customers)
    connection.executemany(
        "INSERT INTO orders VALUES (?, ?, ?, ?, ?, ?, ?)",
        [
            (*order, _days_ago(ordered), None if delivered is None else _days_ago(delivered))
            for *order, ordered, delivered in orders
        ],
    )


def _order(row: sqlite3.Row) -> Order:
    return Order(
        order_id=row["order_id"],
        customer=row["name"],
        item=row["item"],
        amount=_euros(row["cents"]),
        status=row["status"],
        ordered_at=row["ordered_at"],
        delivered_at=row["delivered_at"],
        refunded=_euros(row["refunded"]),
    )


def _refund(row: sqlite3.Row) -> Refund:
    return Refund(
        refund_id=f"R-{row['id']:04}",
        order_id=row["order_id"],
        amount=_euros(row["cents"]),
        reason=row["reason"],
        refunded_at=row["refunded_at"],
    )


def _euros(cents: int) -> Decimal:
    return Decimal(cents).scaleb(-2)


def _now() -> str:
    return datetime.now(UTC).isoformat()


def _days_ago(days: int) -> str:
    return (datetime.now(UTC) - timedelta(days=days)).isoformat()
