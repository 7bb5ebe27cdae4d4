"""``python -m manydb`` is the command line."""

from manydb.cli import main

if __name__ == "__main__":
    main()
