-- What values.jsonl and tests/dialects/test_execution.py select from.
CREATE TABLE customers (id INTEGER PRIMARY KEY, credit NUMERIC);
INSERT INTO customers VALUES (1, 1000.5), (6, 12345678901234.5);
CREATE TABLE rooms (id TEXT PRIMARY KEY, day TEXT, price NUMERIC, seats INTEGER, photo BLOB, tags TEXT);
