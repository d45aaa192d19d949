"""Search attributes: which ones a namespace has, and which values they take."""
