"""What talks to the outside: one package per system; each implements ports of the engine."""
