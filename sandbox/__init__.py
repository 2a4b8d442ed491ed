"""The offline clouds and the live guest that demo, rehearsals and tests run against."""
