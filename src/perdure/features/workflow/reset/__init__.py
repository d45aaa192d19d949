"""A run begun again from a point of its history, and what is carried over; resume from a failure."""
