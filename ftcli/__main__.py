"""`python -m ftcli`, the same as the command `ftcli`."""

from ftcli.cli.app import main

main()
