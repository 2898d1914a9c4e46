"""`python -m sdeverify`, the same as `sdeverify`."""

from sdeverify.cli.app import main

if __name__ == "__main__":
    main()
