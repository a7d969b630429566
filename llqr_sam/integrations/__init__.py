"""Adapters to other libraries' training loops, one module a library; each is imported only where it is used."""
