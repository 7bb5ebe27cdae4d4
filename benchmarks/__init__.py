"""What manydb costs, measured: `python -m benchmarks`.

__main__.py    BENCHMARKS, the command line
measuring.py   times of works that take turns, memory of a process
reporting.py   figures and their goals, as a table and as JSON
lab.py         databases of our own, manydb in memory and as a process
items.py       the table of rows that million and calls read
drivers.py     the floor below us: the databases' drivers without us
floor.py       the floor beside us: a FastMCP server whose tool does nothing

Ratios come first and carry the goals: milliseconds are those of one machine, and what is compared takes turns in one
run, so that a machine that slows down slows down both.
"""
