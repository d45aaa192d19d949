"""What the server can do: one package per kind of execution or resource, each registered in one place."""
