"""What manydb costs, measured: `python -m benchmarks`.

__main__.py    BENCHMARKS, the command line
comparing.py   two runs, of one commit and another; baseline.json is what to compare with
profiling.py   where a call's time goes
measuring.py   times of works that take turns, memory of a process
reporting.py   figures and their goals, as a table and as JSON
lab.py         databases of our own, manydb in memory and as a process
clients.py     callers who cost next to nothing, so that what is timed is the server
proxy.py       a database further away, and the round trips to it
items.py       the table of rows that most of them read
drivers.py     the floors below us: the databases' drivers without us, and SQLAlchemy Core
floor.py       the floor beside us: a FastMCP server whose tool does nothing

Ratios come first and carry the goals: milliseconds are those of one machine, and what is compared takes turns in one
run, so that a machine that slows down slows down both.

`--quick --compare FILE` says which ratio is not what it was (`make bench-compare`). To compare two commits, store a
baseline of the one on the machine that measures the other: `make bench-baseline BASELINE=FILE`.
"""
