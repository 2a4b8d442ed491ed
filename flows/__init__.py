"""Order of steps, parameters, artifacts and the command; no logic and no types of its own."""
