"""`python -m benchmarks`, which `make bench` runs: all of it."""

from benchmarks.all import main

main()
