"""The whole product in one process, under a seeded scheduler, in virtual time, with faults.

| file | is |
|---|---|
| `scheduler` | virtual time, and the one who decides which actor goes on |
| `database` | SQLite whose commits can be the last thing a process does |
| `broker` | queues that drop, double, delay and reorder |
| `workers`, `beats`, `users` | the actors: what the product's processes, and the people, do |
| `nemesis` | kills, freezes, empties, takes away |
| `ledger` | what was delivered, as the targets saw it: outside the database |
| `judge` | what must hold in the end |
| `world` | one seed, from the first trigger to the verdict |
| `mutants` | the product, broken: each must be found |

What is real: the tick, planning, every transition of a delivery, the courier's and the recorder's
transactions, the changes of triggers, retention, the audit, and every statement, on SQLite. What stands in:
the broker, beat, the courier's event loop and the targets.
"""
