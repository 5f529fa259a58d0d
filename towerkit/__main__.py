"""`python -m towerkit` is `towerkit`."""

from towerkit.cli import main

main()
