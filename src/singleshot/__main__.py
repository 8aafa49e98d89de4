"""`python -m singleshot`."""

from singleshot.cli import main

if __name__ == "__main__":
    main()
