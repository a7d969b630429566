"""Adapters to training frameworks. Each module imports its framework, and nothing here imports a module of it."""
