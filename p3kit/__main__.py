"""`python -m p3kit` is `p3kit`."""

from p3kit.cli import main

if __name__ == "__main__":
    main(prog_name="p3kit")
