"""Every SQL statement. Nothing here commits: the caller owns the transaction."""
