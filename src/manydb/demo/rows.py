"""Every row of the shop: the same ones in each build, whatever the database, the machine and the Python."""

import random
import unicodedata
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from itertools import count, islice, product
from math import sqrt
from typing import Any, TypeVar

# Parents before children: the order of the inserts.
TABLES = ("categories", "products", "customers", "orders", "order_items", "payments")

CUSTOMERS_PER_SCALE = 300
ORDERS_PER_SCALE = 4_000

_BATCH_ROWS = 1_000

# The shop's calendar is fixed, so that today's build equals tomorrow's.
_OPENED = datetime(2022, 1, 3)  # noqa: DTZ001  the columns hold UTC without a zone
_FIRST_ORDER = datetime(2024, 1, 2)  # noqa: DTZ001  as above
_TODAY = datetime(2026, 6, 30, 18)  # noqa: DTZ001  as above
_LAST_SALE = date(2025, 7, 1)  # of the products that are discontinued
_PRICE_LEVEL = {2024: Decimal("0.92"), 2025: Decimal("0.96"), 2026: Decimal(1)}

Row = dict[str, Any]
T = TypeVar("T")


def generate(scale: int) -> Iterator[tuple[str, list[Row]]]:
    """Yield (table, batch) pairs, parents before children; of the orders only one batch is in memory at a time."""
    dice = _Dice()
    categories = _categories()
    products = list(_products(dice, categories))
    customers = list(_customers(dice, CUSTOMERS_PER_SCALE * scale))
    yield "categories", categories
    yield "products", products
    for batch in _batches(customers):
        yield "customers", batch
    for orders in _batches(_orders(dice, ORDERS_PER_SCALE * scale, customers, products)):
        yield "orders", [each.order for each in orders]
        yield "order_items", [item for each in orders for item in each.items]
        yield "payments", [payment for each in orders for payment in each.payments]


class _Dice:
    """Repeatable chance, whatever the Python and the machine.

    Of `random.Random` only random() is promised to stay as it is, and of the roots and powers only sqrt() is exact.
    """

    def __init__(self) -> None:
        self._random = random.Random("shop").random  # noqa: S311  a demo needs no secrets

    def roll(self) -> float:
        """At least 0, below 1."""
        return self._random()

    def between(self, low: int, high: int) -> int:
        """A whole number from *low* to *high*, both included."""
        return low + int(self._random() * (high - low + 1))

    def pick(self, choices: Sequence[T]) -> T:
        return choices[int(self._random() * len(choices))]

    def pick_early(self, choices: Sequence[T], length: int) -> T:
        """One of the first *length* choices, the earlier the likelier: good customers, well-sold products."""
        chance = self._random()
        return choices[int(chance * sqrt(sqrt(chance)) * length)]


@dataclass(frozen=True, slots=True)
class _Order:
    """An order's row and the rows that hang on it."""

    order: Row
    items: list[Row]
    payments: list[Row]


def _batches(rows: Iterable[T]) -> Iterator[list[T]]:
    remaining = iter(rows)
    while batch := list(islice(remaining, _BATCH_ROWS)):
        yield batch


def _categories() -> list[Row]:
    departments = list(_VAT)
    top: list[tuple[str, int | None, str]] = [(name, None, vat) for name, vat in _VAT.items()]
    below = [(line.category, departments.index(line.department) + 1, _VAT[line.department]) for line in _LINES]
    return [
        {"id": number, "name": name, "parent_id": parent, "VAT rate": Decimal(vat)}
        for number, (name, parent, vat) in enumerate([*top, *below], 1)
    ]


def _products(dice: _Dice, categories: list[Row]) -> Iterator[Row]:
    ids = {category["name"]: category["id"] for category in categories}
    # Dealt in rounds over the categories, so that the well-sold first products come from all of them.
    for number, (noun, pack, line) in enumerate(product(range(5), (1, 3), _LINES), 1):
        name = line.nouns.split(", ")[noun]
        cents = dice.pick(("0.00", "0.50", "0.90"))
        yield {
            "id": number,
            "sku": f"{line.category[:3].upper()}-{1000 + 7 * number}",
            "name": name if pack == 1 else f"{name}, pack of {pack}",
            "category_id": ids[line.category],
            "price": dice.between(*line.euros) * pack + Decimal(cents),
            "weight_kg": Decimal(line.kilograms) * pack if line.kilograms else None,
            "discontinued": dice.roll() < 0.08,
            "added_on": dice.pick((_OPENED.date(), date(2023, 9, 1), date(2025, 3, 1))),
        }


def _customers(dice: _Dice, number: int) -> Iterator[Row]:
    for index in range(number):
        land = dice.pick(_LANDS)
        first, last = dice.pick(land.first.split()), dice.pick(land.last.split())
        luck = dice.roll()
        yield {
            "id": index + 1,
            "name": f"{first} {last}",
            "company": f"{last} & Co" if dice.roll() < 0.15 else None,
            "email": f"{_ascii(first, last)}{index + 1}@example.{dice.pick(('com', 'org', 'net'))}",
            "phone": f"{land.prefix} 5550 {dice.between(0, 9999):04}" if dice.roll() < 0.85 else None,
            "city": dice.pick(land.cities.split()),
            "country": land.country,
            "tier": "gold" if luck < 0.05 else "silver" if luck < 0.25 else "standard",
            "registered_at": _moment(_OPENED, (index + dice.roll()) / number),
        }


def _ascii(*names: str) -> str:
    """The local part of an e-mail address: what is left of *names* in plain letters, else "customer"."""
    plain = (unicodedata.normalize("NFKD", name.translate(_LETTERS)).encode("ascii", "ignore") for name in names)
    return ".".join(part.decode().lower() for part in plain if part) or "customer"


def _moment(start: datetime, fraction: float) -> datetime:
    """The whole second at *fraction* (0 to 1) of the time from *start* until the shop's today."""
    return start + timedelta(seconds=int((_TODAY - start).total_seconds() * fraction))


def _orders(dice: _Dice, number: int, customers: list[Row], products: list[Row]) -> Iterator[_Order]:
    registered = [customer["registered_at"] for customer in customers]
    payment_ids = count(1)
    for index in range(number):
        moment = (index + dice.roll()) / number
        # The exponent 3/4 makes business grow: the later, the denser.
        ordered_at = _moment(_FIRST_ORDER, sqrt(moment * sqrt(moment)))
        customer = dice.pick_early(customers, bisect_right(registered, ordered_at))
        items = _items(dice, index + 1, ordered_at.date(), products)
        order = _order(dice, index + 1, customer["id"], ordered_at, items)
        payments = [{"id": next(payment_ids), **payment} for payment in _payments(dice, order)]
        yield _Order(order, items, payments)


def _order(dice: _Dice, order_id: int, customer_id: int, ordered_at: datetime, items: list[Row]) -> Row:
    goods = sum((item["quantity"] * item["unit_price"] for item in items), Decimal(0))
    shipping = Decimal("0.00") if goods >= 50 else Decimal("4.90")
    status = _status(dice, _TODAY - ordered_at)
    on_the_shelf = timedelta(minutes=dice.between(24 * 60, 72 * 60))
    return {
        "id": order_id,
        "number": f"{ordered_at.year}-{order_id:06}",
        "customer_id": customer_id,
        "status": status,
        "ordered_at": ordered_at,
        "shipped_at": ordered_at + on_the_shelf if status in {"shipped", "delivered", "returned"} else None,
        "shipping": shipping,
        "total": goods + shipping,
        "note": dice.pick(_NOTES) if dice.roll() < 0.06 else None,
    }


def _items(dice: _Dice, order_id: int, day: date, products: list[Row]) -> list[Row]:
    """One to four different products that were on sale on *day*, at the price of that year."""
    wanted = dice.pick((1, 1, 2, 2, 2, 3, 3, 4, 4))
    chosen: dict[int, Row] = {}
    while len(chosen) < wanted:
        candidate = dice.pick_early(products, len(products))
        if candidate["added_on"] <= day and not (candidate["discontinued"] and day >= _LAST_SALE):
            chosen[candidate["id"]] = candidate
    return [
        {
            "order_id": order_id,
            "line": line,
            "product_id": product_id,
            "quantity": dice.pick((1, 1, 1, 1, 2, 2, 3, 6)),
            "unit_price": (chosen[product_id]["price"] * _PRICE_LEVEL[day.year]).quantize(Decimal("0.01")),
        }
        for line, product_id in enumerate(chosen, 1)
    ]


def _status(dice: _Dice, age: timedelta) -> str:
    """What has become of an order of that age: the old ones are settled, the last days' are under way."""
    luck = dice.roll()
    if luck < 0.04:
        return "cancelled"
    if age < timedelta(days=4):
        return "new" if luck < 0.30 else "paid"
    if age < timedelta(days=9):
        return "shipped"
    return "returned" if luck < 0.07 and age > timedelta(days=30) else "delivered"


def _payments(dice: _Dice, order: Row) -> Iterator[Row]:
    """Payments for *order*, without ids: none yet, the total, a voucher and the rest; for a return the refund too."""
    if order["status"] in {"new", "cancelled"}:
        return
    paid = {
        "order_id": order["id"],
        "method": dice.pick(("card", "card", "card", "wallet", "wallet", "transfer")),
        "amount": order["total"],
        "paid_at": order["ordered_at"] + timedelta(seconds=dice.between(5, 600)),
    }
    if order["total"] > 20 and dice.roll() < 0.05:
        voucher = Decimal("10.00")
        yield paid | {"method": "voucher", "amount": voucher}
        paid["amount"] -= voucher
    yield paid
    if order["status"] == "returned":
        back_at = order["shipped_at"] + timedelta(hours=dice.between(5 * 24, 20 * 24))
        yield paid | {"amount": order["shipping"] - order["total"], "paid_at": back_at}


# ---- the words the rows are made of --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Line:
    """Ten products of one category: each noun sold singly, from *euros* low to high, and as a pack of three."""

    department: str
    category: str
    nouns: str
    euros: tuple[int, int]
    kilograms: str | None


@dataclass(frozen=True, slots=True)
class _Land:
    """Where customers live; names in the order in which they are written there."""

    country: str
    prefix: str
    cities: str
    first: str
    last: str


_VAT = {"Food": "7.00", "Kitchen": "19.00", "Garden": "19.00", "Gifts": "0.00"}
_LINES = (
    _Line("Food", "Coffee", "Arabica beans, Robusta beans, House blend, Decaf, Espresso blend", (6, 12), "0.290"),
    _Line("Food", "Tea", "Earl Grey, Darjeeling, Sencha, Rooibos, Peppermint", (5, 14), "0.130"),
    _Line("Food", "Chocolate", "Dark 70 %, Milk, Hazelnut, Sea salt, Crème brûlée", (3, 6), "0.105"),
    _Line("Kitchen", "Pans", "Iron pan, Steel pan, Copper pan, Grill pan, Crêpe pan", (35, 80), "1.650"),
    _Line("Kitchen", "Knives", "Chef's knife, Paring knife, Bread knife, Cleaver, Oyster knife", (18, 60), "0.240"),
    _Line("Kitchen", "Mugs", "Enamel mug, Stoneware mug, Glass mug, Travel mug, Espresso cup", (8, 19), "0.310"),
    _Line("Garden", "Tools", "Spade, Rake, Secateurs, Trowel, Dibber", (12, 40), "0.900"),
    _Line("Garden", "Seeds", "Tomato seeds, Basil seeds, Wildflowers, Pumpkin seeds, Lavender", (2, 5), "0.015"),
    _Line("Gifts", "Gift cards", "Birthday card, Wedding card, Thanks card, Moving card, Plain card", (20, 50), None),
    _Line("Gifts", "Courses", "Barista evening, Sharpening, Bread baking, Pruning, Tea tasting", (39, 89), None),
)
_LANDS = (
    _Land("DE", "+49 30", "Berlin Köln München", "Jürgen Anna Sören Lena Käthe", "Müller Weiß Çelik Köhler Vogel"),
    _Land("FR", "+33 1", "Paris Lyon Orléans", "Zoë François Chloé Noël Luc", "Lefèvre Dubois Benoît Moreau Garçon"),
    _Land("GB", "+44 20", "London Leeds Cardiff", "Olivia George Siân Amir Owen", "O'Brien Smith Patel Taylor Reid"),
    _Land("ES", "+34 91", "Madrid Málaga Cádiz", "José Lucía Íñigo Begoña Sofía", "Muñoz García Núñez Peña Ruiz"),
    _Land("PL", "+48 22", "Łódź Gdańsk Kraków", "Łukasz Paweł Zofia Jan Kinga", "Wójcik Król Zieliński Nowak Bąk"),
    _Land("SE", "+46 8", "Stockholm Malmö Umeå", "Åsa Björn Elin Göran Nils", "Lindström Åkesson Sjöberg Holm Ek"),
    _Land("CY", "+357 22", "Λευκωσία Λεμεσός Πάφος", "Ελένη Γιώργος Μαρία Νίκος", "Παππάς Δήμου Ρήγα Βλάχου"),
    _Land("JP", "+81 3", "東京 大阪 京都 札幌", "佐藤 鈴木 高橋 田中 渡辺 伊藤", "花子 健 美咲 翔太 葵 陽菜"),
)
_LETTERS = str.maketrans({"ß": "ss", "ł": "l", "Ł": "L", "'": None})
_NOTES = (
    "Please ring twice.",
    "Leave it with the neighbour, thank you!",
    "It's a gift: no invoice in the parcel, please 🎁",
    "Lieferung bitte erst nach 17 Uhr",
    'Second order, see "the blue ones" of last week\nand send both together.',
    "100 % compostable packing, if possible",
)
