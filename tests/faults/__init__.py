"""Real processes under faults: `python -m tests.faults`, or `make faults`.

| file | is |
|---|---|
| `lane.py` | one running installation, and who restarts those of its processes that died |
| `proxy.py` | between them and their servers: falls silent, cuts connections, loses replies |
| `workload.py` | what is planned meanwhile, and the client that goes on creating triggers |
| `catalogue.py` | what a fault is; `processes.py`, `brokers.py`, `databases.py`, `others.py` have them |
| `ledger.py` | what arrived at the targets, in their own record |
| `judge.py` | joins the schedule, the events and the ledger, and measures recovery |
| `nemesis.py` | lets the faults loose on a lane, one after another |
"""
