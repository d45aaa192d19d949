"""What a run has to do with others: its children, its parent, and runs that it signals or cancels."""
