-- Acceptance corpus, PostgreSQL >= 13 (verified on 15.18).
-- Load as a superuser into a throw-away database of the tests:
-- send the whole file in one simple-protocol message (asyncpg: conn.execute(text)).
-- Idempotent. Needs the contrib extensions hstore, dblink, citext, pg_trgm, tablefunc.
SET client_min_messages = warning;
DO $$ BEGIN
  IF current_database() NOT LIKE 'manydb_test_%' THEN
    RAISE EXCEPTION 'refusing to run: current database % is not one of the tests', current_database();
  END IF;
END $$;
DROP SCHEMA IF EXISTS public CASCADE;
DROP SCHEMA IF EXISTS app CASCADE;
CREATE SCHEMA public;
CREATE SCHEMA app;
SET search_path = public;
CREATE EXTENSION IF NOT EXISTS hstore SCHEMA public;
CREATE EXTENSION IF NOT EXISTS dblink SCHEMA public;
CREATE EXTENSION IF NOT EXISTS citext SCHEMA public;
CREATE EXTENSION IF NOT EXISTS pg_trgm SCHEMA public;
CREATE EXTENSION IF NOT EXISTS tablefunc SCHEMA public;

DO $$ BEGIN
  IF NOT EXISTS (SELECT 1 FROM pg_roles WHERE rolname = 'sec_reader') THEN
    CREATE ROLE sec_reader LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE PASSWORD 'sec_reader';
  END IF;
  IF NOT EXISTS (SELECT 1 FROM pg_roles WHERE rolname = 'sec_writer') THEN
    CREATE ROLE sec_writer LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE PASSWORD 'sec_writer';
  END IF;
END $$;

CREATE TYPE order_status AS ENUM ('new', 'paid', 'shipped', 'cancelled');
CREATE TYPE address AS (street text, city text, zip text);
CREATE DOMAIN positive_int AS integer CHECK (VALUE > 0);

CREATE TABLE customers (
  id          integer PRIMARY KEY,
  name        text NOT NULL,
  email       citext UNIQUE,
  country     char(2) NOT NULL,
  created_at  timestamptz NOT NULL,
  tags        text[] NOT NULL DEFAULT '{}',
  attrs       jsonb NOT NULL DEFAULT '{}',
  prefs       hstore,
  home        address,
  credit      numeric(20,4),
  "update"    integer NOT NULL DEFAULT 0,      -- column named like a keyword
  "select"    text                             -- column named like a keyword
);
INSERT INTO customers VALUES
 (1,'Ada Lovelace','ada@example.com','GB','2025-01-05 10:00:00+00','{vip,early}','{"plan":"pro","seats":5,"flags":["beta","ai"],"addr":{"city":"London"}}','lang=>en,theme=>dark',ROW('1 Dorset St','London','W1'),1000.5000,1,'a'),
 (2,'Grace Hopper','grace@example.com','US','2025-01-20 11:30:00+00','{vip}','{"plan":"team","seats":20,"flags":[]}','lang=>en',ROW('2 Navy Rd','Arlington','22201'),250.2500,2,'b'),
 (3,'Linus T.','linus@example.com','FI','2025-02-11 08:15:00+00','{}','{"plan":"free","seats":1}',NULL,NULL,0.0000,3,NULL),
 (4,'Margaret H.',NULL,'US','2025-02-28 23:59:59+00','{new}','{"plan":"pro","seats":3,"note":"drop table; -- not really"}',NULL,NULL,NULL,4,'d'),
 (5,'Zoë Ünïcode','zoe@example.com','DE','2025-03-15 12:00:00+00','{new,eu}','{"plan":"free","seats":1,"flags":["eu"]}','lang=>de',ROW('5 Allee','Berlin','10115'),99.9900,5,'e'),
 (6,'O''Brien; DROP','ob@example.com','IE','2025-03-31 00:00:00+00','{}','{}',NULL,NULL,12345678901234.5678,6,'f');

CREATE TABLE products (
  id integer PRIMARY KEY, sku text UNIQUE NOT NULL, name text NOT NULL, category text NOT NULL,
  price numeric(12,2) NOT NULL, discontinued boolean NOT NULL DEFAULT false, dims double precision[]
);
INSERT INTO products VALUES
 (1,'KB-1','Keyboard','hardware',79.90,false,'{45.0,15.5,3.2}'),
 (2,'MS-1','Mouse','hardware',29.90,false,'{10.1,6.2,3.9}'),
 (3,'SW-1','Editor licence','software',199.00,false,NULL),
 (4,'SW-2','Old licence','software',49.00,true,NULL),
 (5,'BK-1','SQL Handbook','books',39.50,false,'{24,17,4}');

CREATE TABLE "order" (                           -- table named like a keyword
  id integer PRIMARY KEY, customer_id integer NOT NULL REFERENCES customers(id),
  status order_status NOT NULL, placed_at timestamptz NOT NULL, shipped_at timestamptz,
  total numeric(12,2) NOT NULL, "group" text, "limit" integer
);
INSERT INTO "order" VALUES
 (101,1,'shipped','2025-02-01 09:00+00','2025-02-03 09:00+00',189.70,'A',10),
 (102,1,'paid','2025-02-15 10:00+00',NULL,199.00,'A',20),
 (103,2,'shipped','2025-02-20 12:00+00','2025-02-21 12:00+00',59.80,'B',30),
 (104,3,'cancelled','2025-03-01 08:00+00',NULL,39.50,'B',NULL),
 (105,5,'new','2025-03-16 18:45+00',NULL,79.90,NULL,NULL),
 (106,2,'shipped','2025-03-20 07:00+00','2025-03-25 07:00+00',398.00,'A',40),
 (107,4,'paid','2025-04-01 00:00+00',NULL,29.90,'C',50),
 (108,1,'shipped','2025-04-10 16:20+00','2025-04-11 16:20+00',39.50,'A',60);

CREATE TABLE order_items (
  order_id integer NOT NULL REFERENCES "order"(id), line integer NOT NULL, product_id integer NOT NULL REFERENCES products(id),
  qty positive_int NOT NULL, unit_price numeric(12,2) NOT NULL, PRIMARY KEY (order_id, line)
);
INSERT INTO order_items VALUES
 (101,1,1,2,79.90),(101,2,2,1,29.90),(102,1,3,1,199.00),(103,1,2,2,29.90),(104,1,5,1,39.50),
 (105,1,1,1,79.90),(106,1,3,2,199.00),(107,1,2,1,29.90),(108,1,5,1,39.50);

CREATE TABLE employees (
  id integer PRIMARY KEY, name text NOT NULL, manager_id integer REFERENCES employees(id), dept text NOT NULL, salary integer NOT NULL, hired date NOT NULL
);
INSERT INTO employees VALUES
 (1,'Root',NULL,'exec',300000,'2015-01-01'),(2,'Ann',1,'eng',200000,'2016-03-01'),(3,'Bob',1,'sales',150000,'2017-05-10'),
 (4,'Cid',2,'eng',160000,'2018-07-20'),(5,'Dee',2,'eng',160000,'2019-09-30'),(6,'Eve',3,'sales',90000,'2020-11-11'),(7,'Fay',4,'eng',120000,'2021-12-31');

CREATE TABLE events (
  id bigint PRIMARY KEY, customer_id integer, kind text NOT NULL, at timestamptz NOT NULL, payload jsonb NOT NULL
);
INSERT INTO events
SELECT g, 1 + g % 6, (ARRAY['click','view','purchase'])[1 + g % 3], timestamptz '2025-01-01 00:00:00+00' + g * interval '6 hours',
       jsonb_build_object('n', g, 'ok', g % 2 = 0, 'tags', jsonb_build_array('t' || g % 4, 'x'))
FROM generate_series(1, 200) g;
CREATE INDEX events_at ON events (at);

CREATE TABLE metrics (day date PRIMARY KEY, visits integer, revenue numeric(12,2));
INSERT INTO metrics SELECT d::date, 100 + (extract(day from d)::int * 7) % 40, round((extract(day from d) * 13.37)::numeric, 2)
FROM generate_series('2025-01-01'::date, '2025-01-31', '1 day') d;

CREATE TABLE bookings (id integer PRIMARY KEY, room text, during tstzrange);
INSERT INTO bookings VALUES (1,'A','[2025-01-01 10:00+00,2025-01-01 12:00+00)'),(2,'A','[2025-01-01 12:00+00,2025-01-01 13:00+00)'),(3,'B','[2025-01-01 09:00+00,)');

CREATE TABLE docs (id integer PRIMARY KEY, title text, body text, tsv tsvector);
INSERT INTO docs SELECT id, title, body, to_tsvector('english', title || ' ' || body) FROM (VALUES
 (1,'Delete old rows','How to DELETE FROM a table safely; use WHERE.'),(2,'Indexes','CREATE INDEX speeds up reads'),(3,'Window functions','ROW_NUMBER() OVER (ORDER BY x)')) v(id,title,body);
CREATE INDEX docs_tsv ON docs USING gin (tsv);

-- ---- targets for the must_reject proofs -------------------------------------------------
CREATE TABLE accounts (id integer PRIMARY KEY, owner text NOT NULL, balance numeric(14,2) NOT NULL);
INSERT INTO accounts VALUES (1,'alice',1000.00),(2,'bob',500.00),(3,'carol',0.00);
CREATE TABLE audit_log (id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, at timestamptz DEFAULT now(), msg text);
CREATE SEQUENCE hit_seq;
CREATE UNLOGGED TABLE scratch (n integer);
CREATE TABLE parts (id integer, at date) PARTITION BY RANGE (at);
CREATE TABLE parts_2025 PARTITION OF parts FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
INSERT INTO parts VALUES (1,'2025-06-01');
CREATE VIEW v_customer_totals AS SELECT c.id, c.name, coalesce(sum(o.total),0) AS total FROM customers c LEFT JOIN "order" o ON o.customer_id = c.id GROUP BY c.id, c.name;
CREATE MATERIALIZED VIEW mv_daily AS SELECT placed_at::date AS day, count(*) AS n, sum(total) AS total FROM "order" GROUP BY 1;

CREATE FUNCTION app.hit(m text) RETURNS integer LANGUAGE plpgsql VOLATILE AS $f$ BEGIN INSERT INTO public.audit_log(msg) VALUES (m); RETURN 1; END $f$;
CREATE FUNCTION app.hit_definer(m text) RETURNS integer LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = public AS $f$ BEGIN INSERT INTO public.audit_log(msg) VALUES (m); RETURN 1; END $f$;
CREATE FUNCTION app.run_sql(q text) RETURNS void LANGUAGE plpgsql VOLATILE AS $f$ BEGIN EXECUTE q; END $f$;
CREATE FUNCTION app.lying_stable(m text) RETURNS integer LANGUAGE sql STABLE AS $f$ SELECT app.hit(m) $f$;       -- STABLE, but calls a volatile writer
CREATE FUNCTION app.double_it(n numeric) RETURNS numeric LANGUAGE sql IMMUTABLE AS $f$ SELECT n * 2 $f$;         -- an honest read-only helper
CREATE FUNCTION app.customer_orders(cid integer) RETURNS TABLE(order_id integer, total numeric) LANGUAGE sql STABLE AS $f$ SELECT id, total FROM public."order" WHERE customer_id = cid $f$;
CREATE PROCEDURE app.purge() LANGUAGE plpgsql AS $f$ BEGIN DELETE FROM public.audit_log; DELETE FROM public.accounts; END $f$;
CREATE PROCEDURE app.commit_inside() LANGUAGE plpgsql AS $f$ BEGIN COMMIT; SET TRANSACTION READ WRITE; DELETE FROM public.accounts; COMMIT; END $f$;
CREATE FUNCTION app.plus_hit(a integer, b text) RETURNS integer LANGUAGE plpgsql VOLATILE AS $f$ BEGIN INSERT INTO public.audit_log(msg) VALUES (b); RETURN a; END $f$;
CREATE OPERATOR public.@+ (LEFTARG = integer, RIGHTARG = text, FUNCTION = app.plus_hit);                          -- an operator that writes
CREATE FUNCTION app.trg_hit() RETURNS trigger LANGUAGE plpgsql AS $f$ BEGIN INSERT INTO public.audit_log(msg) VALUES (TG_OP); RETURN NULL; END $f$;
CREATE TRIGGER accounts_audit AFTER INSERT OR UPDATE OR DELETE ON accounts FOR EACH STATEMENT EXECUTE FUNCTION app.trg_hit();
CREATE RULE scratch_rule AS ON INSERT TO scratch DO ALSO INSERT INTO audit_log(msg) VALUES ('rule');
SELECT lo_create(424242) WHERE NOT EXISTS (SELECT 1 FROM pg_largeobject_metadata WHERE oid = 424242);
SELECT lo_put(424242, 0, 'large object payload'::bytea);

GRANT USAGE ON SCHEMA public, app TO sec_reader, sec_writer;
GRANT SELECT ON ALL TABLES IN SCHEMA public TO sec_reader, sec_writer;
GRANT INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO sec_writer;
GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO sec_writer;
ANALYZE;
