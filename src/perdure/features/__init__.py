"""What the server can do: one folder per kind of execution or resource, with the same file names in each."""
