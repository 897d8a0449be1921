"""`python -m triggers.cli`, where the script is not on the path."""

from triggers.cli import main

main()
