-- What values.jsonl and tests/dialects/test_execution.py select from.
CREATE EXTENSION IF NOT EXISTS hstore;
CREATE EXTENSION IF NOT EXISTS citext;
CREATE TYPE order_status AS ENUM ('new', 'paid', 'shipped', 'cancelled');
CREATE TABLE customers (id integer PRIMARY KEY, name text);
INSERT INTO customers VALUES (1, 'Ada'), (2, NULL);

CREATE SCHEMA other;
CREATE TYPE other.mood AS ENUM ('sad', 'ok');
CREATE DOMAIN other.large AS bigint;
CREATE DOMAIN other.positive AS integer CHECK (VALUE > 0);
CREATE TYPE other.timerange AS RANGE (subtype = time);
CREATE TYPE other.alone AS (only_one text);
CREATE TYPE other.pair AS (a bigint, b text, c bytea, d other.mood, e integer[], f jsonb, g tstzrange, h hstore, i other.positive);
CREATE TYPE other.nest AS (inner_pair other.pair, pairs other.pair[]);
CREATE TABLE other.rooms (
  id uuid PRIMARY KEY, day date, at timestamp, at_zone timestamptz, clock time, lasts interval, price numeric(12,2), factor real,
  ratio double precision, seats bigint, open boolean, photo bytea, tags text[], days date[], prices numeric[], grid integer[],
  extra jsonb, mood other.mood, address inet, during tstzrange, pair other.pair, prefs hstore, photos bytea[], large other.large
);
