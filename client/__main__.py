"""``python -m client``: the smartfrz command line."""

from client.cli import main

main()
