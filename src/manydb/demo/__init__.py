"""The demo: the schema "shop" with believable data, to try every tool on, and a tour through it."""

from manydb.demo.shop import build, settings, shop_url
from manydb.demo.tour import tour

__all__ = ["build", "settings", "shop_url", "tour"]
