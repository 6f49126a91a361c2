"""A paper account in plain files: it decides on every new bar and trades with the spec's costs, without a broker.

`account_journal.py` writes and reads the journal, which is the whole state. `book.py` is the journal in memory.
`incoming.py` compares a file of bars with the book. `ledger.py` moves the account from bar to bar by the functions of
`p3kit.env`. `taking_in.py` is one call. `standing.py` computes the status, which anyone can delete.
"""
