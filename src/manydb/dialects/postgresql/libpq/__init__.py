"""PostgreSQL through psycopg, by the libpq that it brings: commands in pipelines, results as the server's text."""
