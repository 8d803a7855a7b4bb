"""``python -m tensorcell`` is the command line."""

from tensorcell.cli import main

if __name__ == "__main__":
    main()
