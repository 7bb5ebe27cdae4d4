"""The demo: the schema "shop" with believable data, to try every tool on."""
