"""`python -m sdeverify`, the same as `sdeverify`."""

from sdeverify.cli import main

if __name__ == "__main__":
    main()
