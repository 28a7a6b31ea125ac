"""`python -m sentimoe`: the `sentimoe` command."""

from sentimoe_cli import main

main()
