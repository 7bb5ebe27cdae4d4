-- What values.jsonl and tests/dialects/test_execution.py select from. Zero dates need a session without NO_ZERO_DATE.
SET SESSION sql_mode = 'STRICT_TRANS_TABLES';
CREATE TABLE zerodates (id INT PRIMARY KEY, d DATE, dt DATETIME);
INSERT INTO zerodates VALUES (1, '0000-00-00', '0000-00-00 00:00:00'), (2, '2025-00-00', '2025-01-00 00:00:00');
CREATE TABLE types1 (id INT PRIMARY KEY, y YEAR, s SET('a','b','c'), e ENUM('x','y'), b8 BIT(8), b1 BIT(1), f FLOAT, j JSON, bl BLOB, tx TEXT, g GEOMETRY, ts TIMESTAMP NULL);
INSERT INTO types1 VALUES (1, 2025, 'a,c', 'y', b'00000101', b'1', 0.1, '{"a": 12345678901234567890}', x'00FF', 'Zoë', ST_GeomFromText('POINT(1 2)'), '2025-01-05 10:00:00');
INSERT INTO types1 (id, y) VALUES (2, 0);
CREATE TABLE rooms (id CHAR(36) PRIMARY KEY, day DATE, at DATETIME(6), price DECIMAL(12,2), seats BIGINT UNSIGNED, photo BLOB, tags JSON);
