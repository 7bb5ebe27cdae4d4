-- Acceptance corpus, MariaDB >= 10.6 (verified on 10.11.19). "-- mysql8:" notes say what differs on MySQL 8.
-- Load with a client that splits on ";" outside quotes, or on one connection with MULTI_STATEMENTS:
-- For an empty throw-away database, whose name stands for {database}.
SET NAMES utf8mb4;
SET SESSION sql_mode = 'STRICT_TRANS_TABLES,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION';
SET SESSION time_zone = '+00:00';

CREATE TABLE customers (
  id INT PRIMARY KEY, name VARCHAR(100) NOT NULL, email VARCHAR(100) UNIQUE, country CHAR(2) NOT NULL,
  created_at DATETIME NOT NULL, attrs JSON NOT NULL, credit DECIMAL(20,4) NULL,
  flags SET('vip','early','new','eu') NOT NULL DEFAULT '', `update` INT NOT NULL DEFAULT 0, `select` VARCHAR(10) NULL
) ENGINE=InnoDB;
INSERT INTO customers VALUES
 (1,'Ada Lovelace','ada@example.com','GB','2025-01-05 10:00:00','{"plan":"pro","seats":5,"flags":["beta","ai"],"addr":{"city":"London"}}',1000.5000,'vip,early',1,'a'),
 (2,'Grace Hopper','grace@example.com','US','2025-01-20 11:30:00','{"plan":"team","seats":20,"flags":[]}',250.2500,'vip',2,'b'),
 (3,'Linus T.','linus@example.com','FI','2025-02-11 08:15:00','{"plan":"free","seats":1}',0.0000,'',3,NULL),
 (4,'Margaret H.',NULL,'US','2025-02-28 23:59:59','{"plan":"pro","seats":3,"note":"drop table; -- not really"}',NULL,'new',4,'d'),
 (5,'Zoë Ünïcode','zoe@example.com','DE','2025-03-15 12:00:00','{"plan":"free","seats":1,"flags":["eu"]}',99.9900,'new,eu',5,'e'),
 (6,'O''Brien; DROP','ob@example.com','IE','2025-03-31 00:00:00','{}',12345678901234.5678,'',6,'f');

CREATE TABLE products (
  id INT PRIMARY KEY, sku VARCHAR(20) UNIQUE NOT NULL, name VARCHAR(100) NOT NULL, category VARCHAR(30) NOT NULL, price DECIMAL(12,2) NOT NULL, discontinued BOOLEAN NOT NULL DEFAULT FALSE
) ENGINE=InnoDB;
INSERT INTO products VALUES (1,'KB-1','Keyboard','hardware',79.90,FALSE),(2,'MS-1','Mouse','hardware',29.90,FALSE),(3,'SW-1','Editor licence','software',199.00,FALSE),(4,'SW-2','Old licence','software',49.00,TRUE),(5,'BK-1','SQL Handbook','books',39.50,FALSE);

CREATE TABLE `order` (
  id INT PRIMARY KEY, customer_id INT NOT NULL, status ENUM('new','paid','shipped','cancelled') NOT NULL, placed_at DATETIME NOT NULL, shipped_at DATETIME NULL,
  total DECIMAL(12,2) NOT NULL, `group` VARCHAR(5) NULL, `limit` INT NULL, FOREIGN KEY (customer_id) REFERENCES customers(id)
) ENGINE=InnoDB;
INSERT INTO `order` VALUES
 (101,1,'shipped','2025-02-01 09:00:00','2025-02-03 09:00:00',189.70,'A',10),(102,1,'paid','2025-02-15 10:00:00',NULL,199.00,'A',20),
 (103,2,'shipped','2025-02-20 12:00:00','2025-02-21 12:00:00',59.80,'B',30),(104,3,'cancelled','2025-03-01 08:00:00',NULL,39.50,'B',NULL),
 (105,5,'new','2025-03-16 18:45:00',NULL,79.90,NULL,NULL),(106,2,'shipped','2025-03-20 07:00:00','2025-03-25 07:00:00',398.00,'A',40),
 (107,4,'paid','2025-04-01 00:00:00',NULL,29.90,'C',50),(108,1,'shipped','2025-04-10 16:20:00','2025-04-11 16:20:00',39.50,'A',60);

CREATE TABLE order_items (order_id INT NOT NULL, line INT NOT NULL, product_id INT NOT NULL, qty INT NOT NULL, unit_price DECIMAL(12,2) NOT NULL, PRIMARY KEY (order_id, line)) ENGINE=InnoDB;
INSERT INTO order_items VALUES (101,1,1,2,79.90),(101,2,2,1,29.90),(102,1,3,1,199.00),(103,1,2,2,29.90),(104,1,5,1,39.50),(105,1,1,1,79.90),(106,1,3,2,199.00),(107,1,2,1,29.90),(108,1,5,1,39.50);

CREATE TABLE employees (id INT PRIMARY KEY, name VARCHAR(50) NOT NULL, manager_id INT NULL, dept VARCHAR(20) NOT NULL, salary INT NOT NULL, hired DATE NOT NULL) ENGINE=InnoDB;
INSERT INTO employees VALUES (1,'Root',NULL,'exec',300000,'2015-01-01'),(2,'Ann',1,'eng',200000,'2016-03-01'),(3,'Bob',1,'sales',150000,'2017-05-10'),(4,'Cid',2,'eng',160000,'2018-07-20'),(5,'Dee',2,'eng',160000,'2019-09-30'),(6,'Eve',3,'sales',90000,'2020-11-11'),(7,'Fay',4,'eng',120000,'2021-12-31');

CREATE TABLE events (id BIGINT PRIMARY KEY, customer_id INT NULL, kind VARCHAR(20) NOT NULL, at DATETIME NOT NULL, payload JSON NOT NULL, KEY events_at (at)) ENGINE=InnoDB;
INSERT INTO events
SELECT n, 1 + n % 6, ELT(1 + n % 3, 'click','view','purchase'), TIMESTAMPADD(HOUR, 6*n, '2025-01-01 00:00:00'), JSON_OBJECT('n', n, 'ok', n % 2 = 0, 'tags', JSON_ARRAY(CONCAT('t', n % 4), 'x'))
FROM (WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < 200) SELECT n FROM s) q;

CREATE TABLE metrics (day DATE PRIMARY KEY, visits INT, revenue DECIMAL(12,2)) ENGINE=InnoDB;
INSERT INTO metrics
SELECT DATE_ADD('2025-01-01', INTERVAL n DAY), 100 + ((n + 1) * 7) % 40, ROUND((n + 1) * 13.37, 2)
FROM (WITH RECURSIVE s(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM s WHERE n < 30) SELECT n FROM s) q;

CREATE TABLE docs (id INT PRIMARY KEY, title VARCHAR(100), body TEXT, FULLTEXT KEY docs_ft (title, body)) ENGINE=InnoDB;
INSERT INTO docs VALUES (1,'Delete old rows','How to DELETE FROM a table safely; use WHERE.'),(2,'Indexes','CREATE INDEX speeds up reads'),(3,'Window functions','ROW_NUMBER() OVER (ORDER BY x)');

-- rows for values.jsonl (zero dates need a session without NO_ZERO_DATE / NO_ZERO_IN_DATE, as set above)
CREATE TABLE zerodates (id INT PRIMARY KEY, d DATE, dt DATETIME) ENGINE=InnoDB;
INSERT INTO zerodates VALUES (1,'0000-00-00','0000-00-00 00:00:00'),(2,'2025-00-00','2025-01-00 00:00:00');
CREATE TABLE types1 (id INT PRIMARY KEY, y YEAR, s SET('a','b','c'), e ENUM('x','y'), b8 BIT(8), b1 BIT(1), f FLOAT, j JSON, bl BLOB, tx TEXT, g GEOMETRY, ts TIMESTAMP NULL, u UUID, i6 INET6) ENGINE=InnoDB;   -- mysql8: no UUID, INET6 types
INSERT INTO types1 VALUES (1,2025,'a,c','y',b'00000101',b'1',0.1,'{"a": 12345678901234567890}',x'00FF','Zoë',ST_GeomFromText('POINT(1 2)'),'2025-01-05 10:00:00','550e8400-e29b-41d4-a716-446655440000','2001:db8::1');
INSERT INTO types1 (id, y) VALUES (2,0);

-- targets for the must_reject proofs
CREATE TABLE accounts (id INT PRIMARY KEY, owner VARCHAR(20) NOT NULL, balance DECIMAL(14,2) NOT NULL) ENGINE=InnoDB;
INSERT INTO accounts VALUES (1,'alice',1000.00),(2,'bob',500.00),(3,'carol',0.00);
CREATE TABLE accounts_myisam (id INT PRIMARY KEY, owner VARCHAR(20) NOT NULL, balance DECIMAL(14,2) NOT NULL) ENGINE=MyISAM;
INSERT INTO accounts_myisam SELECT * FROM accounts;
CREATE TABLE audit_log (id BIGINT AUTO_INCREMENT PRIMARY KEY, at DATETIME DEFAULT CURRENT_TIMESTAMP, msg VARCHAR(200)) ENGINE=InnoDB;
CREATE TABLE scratch (n INT) ENGINE=InnoDB;
CREATE VIEW v_customer_totals AS SELECT c.id, c.name, COALESCE(SUM(o.total),0) AS total FROM customers c LEFT JOIN `order` o ON o.customer_id = c.id GROUP BY c.id, c.name;
CREATE SEQUENCE hit_seq;                      -- mysql8: no sequences
CREATE PROCEDURE p_purge() DELETE FROM {database}.accounts;
CREATE PROCEDURE p_read() SELECT COUNT(*) AS n FROM {database}.customers;
CREATE FUNCTION f_double(n DECIMAL(12,2)) RETURNS DECIMAL(14,2) DETERMINISTIC NO SQL RETURN n * 2;
EXECUTE IMMEDIATE 'CREATE FUNCTION f_hit(m VARCHAR(100)) RETURNS INT DETERMINISTIC MODIFIES SQL DATA BEGIN INSERT INTO {database}.audit_log(msg) VALUES (m); RETURN 1; END';   -- mysql8: use DELIMITER
EXECUTE IMMEDIATE 'CREATE FUNCTION f_hit_myisam(m VARCHAR(100)) RETURNS INT DETERMINISTIC MODIFIES SQL DATA BEGIN UPDATE {database}.accounts_myisam SET balance = 0; RETURN 1; END';
CREATE TRIGGER accounts_audit AFTER UPDATE ON accounts FOR EACH ROW INSERT INTO {database}.audit_log(msg) VALUES ('update');

CREATE USER IF NOT EXISTS 'sec_reader'@'%' IDENTIFIED BY 'sec_reader';
CREATE USER IF NOT EXISTS 'sec_writer'@'%' IDENTIFIED BY 'sec_writer';
GRANT SELECT, SHOW VIEW ON {database}.* TO 'sec_reader'@'%';
GRANT SELECT, SHOW VIEW, INSERT, UPDATE, DELETE ON {database}.* TO 'sec_writer'@'%';
