"""A search for statements that pass as reads and are none: `python -m tests.fuzz`.

__main__.py   the command line
campaign.py   the search on one database: propose, let the text judge, run what passed, look what changed, minimise
hostile.py    where proposals come from
words.py      what they are made of
grounds.py    the databases: private, loaded with the corpus, no wall but the text around them, every change visible
"""
