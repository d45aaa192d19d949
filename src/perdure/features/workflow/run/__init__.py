"""A run from its start to its end and to the run that follows; what may be changed, signaled or attached while it is open."""
