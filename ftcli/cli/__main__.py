"""`python -m ftcli.cli`, for ranks and tests: the same as `ftcli`."""

from ftcli.cli.app import main

if __name__ == "__main__":
    main()
